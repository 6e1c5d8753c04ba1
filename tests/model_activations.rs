//! Batches of the embedded model's activations: the rows that are wanted, from every pass over the
//! text, resumable at every batch.

use cusae::backend::Cpu;
use cusae::config::{Recipe, SeqposSlice, SpecialToken};
use cusae::data::store::StoredHook;
use cusae::data::{
    store_activations, ActivationSource, Documents, FromFiles, FromFilesSettings, FromModel, FromModelSettings,
    MixingSettings, Packing, Selection, StoreRequest, StoredActivations, TokenRows, Tokenizer,
};
use cusae::error::Result;
use cusae::formats::tensors::TensorFile;
use cusae::lm::{LanguageModel, Processing, Record};
use safetensors::Dtype;
use serde_json::Map;
use std::path::Path;
use std::sync::{Arc, OnceLock};

const CONTEXT: usize = 16;
const HOOK: &str = "blocks.1.hook_resid_pre";
const WIDTH: usize = 128;
const TEXT: &str = "It is a truth universally acknowledged, that a single man in possession of a good fortune must be \
                    in want of a wife. However little known the feelings or views of such a man may be on his first \
                    entering a neighbourhood, this truth is so well fixed in the minds of the surrounding families.";

fn model() -> Arc<LanguageModel<Cpu>> {
    static MODEL: OnceLock<Arc<LanguageModel<Cpu>>> = OnceLock::new();
    MODEL.get_or_init(|| Arc::new(LanguageModel::embedded(&Cpu, Processing::None).unwrap())).clone()
}

fn rows(folder: &Path) -> TokenRows {
    let path = folder.join("text.txt");
    std::fs::write(&path, TEXT).unwrap();
    let packing = Packing {
        context_size: CONTEXT,
        prepend_bos: true,
        sequence_separator_token: Some(SpecialToken::Bos),
        disable_concat_sequences: false,
    };
    let tokenizer = Arc::new(Tokenizer::embedded().unwrap());
    TokenRows::new(Documents::open(&[path], None).unwrap(), Some(tokenizer), &packing, 4096).unwrap()
}

/// Three prompts a pass, no mixing, one pass over the text.
fn plain() -> FromModelSettings {
    FromModelSettings {
        hook_names: vec![HOOK.to_string()],
        seqpos_slice: SeqposSlice::default(),
        excluded_ids: vec![],
        prompts: 3,
        mixing: MixingSettings { buffer_tokens: 16, batch_size: 8, mix_fraction: 0.0, seed: 9 },
        repeat: false,
    }
}

fn source(folder: &Path, settings: FromModelSettings) -> Result<FromModel<Cpu>> {
    FromModel::new(&Cpu, model(), rows(folder), settings)
}

fn batches(source: &mut impl ActivationSource<Cpu>, n: usize) -> Vec<Vec<f32>> {
    let next = |_| {
        let [width] = source.widths()[..] else { panic!("one hook is read") };
        let mut batch = [vec![f32::NAN; source.batch_size() * width]];
        source.next_batches(&mut batch).unwrap().then_some(batch.concat())
    };
    (0..n).map_while(next).collect()
}

/// All rows of tokens, and the hook's values `[rows, CONTEXT, ..]`, three rows a forward pass.
fn reference(folder: &Path, hook: &str) -> (Vec<u32>, Vec<f32>) {
    let mut rows = rows(folder);
    let tokens: Vec<u32> = std::iter::from_fn(|| rows.next_row().unwrap()).flatten().collect();
    let mut forward = model().forward(3, CONTEXT).unwrap();
    let mut values = Vec::new();
    for tokens in tokens.chunks(3 * CONTEXT) {
        let mut record = Record::of([hook]);
        forward.run(&model(), tokens, &mut record, Some(hook)).unwrap();
        values.extend(&record.values[hook].1);
    }
    (tokens, values)
}

#[test]
fn without_mixing_batches_are_the_activations_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    for hook in [HOOK, "blocks.2.attn.hook_z"] {
        let (tokens, values) = reference(folder.path(), hook);
        let mut source = source(folder.path(), FromModelSettings { hook_names: vec![hook.into()], ..plain() }).unwrap();
        assert_eq!(source.widths(), [WIDTH]);
        assert!(tokens.len() > 3 * CONTEXT && !tokens.len().is_multiple_of(3 * CONTEXT), "{}", tokens.len());
        assert!(batches(&mut source, 99).concat() == values, "{hook}");
        assert_eq!((source.tokens_read(), source.epochs()), (tokens.len() as u64, 0));
    }
}

/// Somebody who looks at a hook changes how the model is computed, but not to what.
#[test]
fn hooks_that_are_read_together_give_the_bits_that_each_gives_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mixing = MixingSettings { buffer_tokens: 64, batch_size: 8, mix_fraction: 0.5, seed: 9 };
    let settings = |hooks: &[&str]| {
        let hook_names = hooks.iter().map(|hook| hook.to_string()).collect();
        FromModelSettings { hook_names, mixing, repeat: true, ..plain() }
    };
    let hooks = [
        "hook_embed",
        "hook_pos_embed",
        "blocks.0.ln1.hook_normalized",
        "blocks.0.attn.hook_q",
        "blocks.0.attn.hook_z",
        "blocks.0.hook_attn_out",
        "blocks.0.hook_resid_mid",
        "blocks.0.mlp.hook_pre",
        "blocks.0.mlp.hook_post",
        "blocks.0.hook_mlp_out",
        "blocks.1.hook_resid_pre",
        "blocks.3.hook_resid_post",
    ];
    let mut together = source(folder.path(), settings(&hooks)).unwrap();
    let mut all: Vec<Vec<f32>> = together.widths().iter().map(|width| vec![f32::NAN; 8 * width]).collect();
    let mut alone: Vec<_> = hooks.iter().map(|hook| source(folder.path(), settings(&[hook])).unwrap()).collect();
    for n in 0..10 {
        assert!(together.next_batches(&mut all).unwrap());
        for ((hook, alone), found) in hooks.iter().zip(&mut alone).zip(&all) {
            assert!(batches(alone, 1)[0] == *found, "{hook}, batch {n}");
        }
    }
}

/// What is done while a batch is trained on is only what will be needed, and changes no batch.
#[test]
fn a_source_that_prepares_gives_the_same_batches_from_as_many_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mixing = MixingSettings { buffer_tokens: 128, batch_size: 16, mix_fraction: 0.5, seed: 9 };
    let settings = || FromModelSettings { mixing, repeat: true, ..plain() };
    let mut prepared = 0;
    // Whatever is left in the buffer when they end.
    for n in 1..=12 {
        let [mut plain, mut preparing] = [(); 2].map(|()| source(folder.path(), settings()).unwrap());
        for i in 0..n {
            assert!(batches(&mut preparing, 1) == batches(&mut plain, 1), "batch {i} of {n}");
            preparing.prepare(n - i - 1).unwrap();
            prepared += u64::from(preparing.tokens_read() > plain.tokens_read());
        }
        assert_eq!(preparing.tokens_read(), plain.tokens_read(), "after {n}");
    }
    assert!(prepared > 12, "{prepared}");
}

#[test]
fn positions_outside_the_slice_and_excluded_tokens_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, values) = reference(folder.path(), HOOK);
    let excluded_ids = vec![tokens[5], tokens[20]];
    let seqpos_slice = SeqposSlice { start: Some(1), stop: Some(-2), step: Some(2) };
    let mut expected: Vec<f32> = Vec::new();
    for (n, token) in tokens.iter().enumerate() {
        if (1..14).step_by(2).any(|position| position == n % CONTEXT) && !excluded_ids.contains(token) {
            expected.extend(&values[n * WIDTH..][..WIDTH]);
        }
    }
    let mut source = source(folder.path(), FromModelSettings { excluded_ids, seqpos_slice, ..plain() }).unwrap();
    let read = batches(&mut source, 99).concat();
    assert!(expected.len() - read.len() < 8 * WIDTH);
    assert!(read == expected[..read.len()]);
    assert_eq!(source.tokens_read() as usize, expected.len() / WIDTH);
}

#[test]
fn the_text_begins_again_and_no_row_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, values) = reference(folder.path(), HOOK);
    let mut source = source(folder.path(), FromModelSettings { repeat: true, ..plain() }).unwrap();
    let two_passes = batches(&mut source, 2 * tokens.len() / 8).concat();
    assert_eq!(source.epochs(), 1 + u64::from(source.tokens_read() > 2 * tokens.len() as u64));
    // The second pass shares forward passes with the first, so sums may be taken in another order.
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(close(&two_passes[..values.len()], &values));
    assert!(close(&two_passes[values.len()..], &values));
}

#[test]
fn a_saved_state_continues_bit_for_bit_after_every_batch() {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let settings = FromModelSettings {
        mixing: MixingSettings { buffer_tokens: 64, batch_size: 8, mix_fraction: 0.5, seed: 9 },
        repeat: true,
        ..plain()
    };
    let expected = batches(&mut source(folder.path(), settings.clone()).unwrap(), 30);
    let mut saving = source(folder.path(), settings.clone()).unwrap();
    for given in 0..30 {
        saving.save_state(state.path()).unwrap();
        let mut continued = source(folder.path(), settings.clone()).unwrap();
        continued.load_state(state.path()).unwrap();
        assert!(batches(&mut continued, 30 - given) == expected[given..], "after {given} batches");
        batches(&mut saving, 1);
    }
    assert!(saving.epochs() > 1);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |settings| source(folder.path(), settings).err().unwrap().to_string();
    assert!(error(FromModelSettings { hook_names: vec!["blocks.9.hook_resid_pre".into()], ..plain() })
        .contains("hook_name"));
    assert!(error(FromModelSettings { hook_names: vec!["blocks.0.attn.hook_pattern".into()], ..plain() })
        .contains("does not hold one vector per token"));
    assert!(error(FromModelSettings { prompts: 0, ..plain() }).contains("store_batch_size_prompts: 0 is too small"));
    let empty = SeqposSlice { start: Some(16), ..SeqposSlice::default() };
    assert!(error(FromModelSettings { seqpos_slice: empty, ..plain() }).contains("seqpos_slice: it leaves no position"));
    let mixing = MixingSettings { buffer_tokens: 4, ..plain().mixing };
    assert!(error(FromModelSettings { mixing, ..plain() }).contains("buffer_tokens: 4 is less than a batch"));

    let everything = FromModelSettings { excluded_ids: (0..4096).collect(), repeat: true, ..plain() };
    let mut source = source(folder.path(), everything).unwrap();
    let message = source.next_batches(&mut [vec![0.0; 8 * WIDTH]]).unwrap_err().to_string();
    assert_eq!(message, "exclude_special_tokens: it leaves no token of all the text");
}

#[test]
fn a_context_longer_than_the_models_is_refused() {
    let packing = Packing { context_size: 257, ..Packing::of(&Recipe::default()) };
    let tokenizer = Arc::new(Tokenizer::embedded().unwrap());
    let rows = TokenRows::new(Documents::embedded_heldout().unwrap(), Some(tokenizer), &packing, 4096).unwrap();
    let message = FromModel::new(&Cpu, model(), rows, plain()).err().unwrap().to_string();
    assert!(message.contains("context_size: 257 tokens, this model takes from 1 to 256"), "{message}");
}

#[test]
fn the_default_recipe_gives_batches_of_the_embedded_text() {
    let recipe = Recipe { buffer_tokens: 4096, ..Recipe::default() };
    let tokenizer = Arc::new(Tokenizer::embedded().unwrap());
    let documents = Documents::of(&recipe.dataset_path, None).unwrap();
    let rows = TokenRows::new(documents, Some(tokenizer.clone()), &Packing::of(&recipe), 4096).unwrap();
    let settings = FromModelSettings::of(&recipe, Some(&tokenizer)).unwrap();
    let mut source = FromModel::new(&Cpu, model(), rows, settings).unwrap();
    let batch = batches(&mut source, 1).concat();
    assert_eq!(batch.len(), recipe.train_batch_size_tokens * WIDTH);
    assert!(batch.iter().all(|value| value.is_finite()));
}

#[test]
fn stored_activations_are_those_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("activations");
    let hooks = ["blocks.2.attn.hook_z".to_string(), HOOK.to_string()];
    let request = |tokens| StoreRequest {
        hook_names: &hooks,
        selection: Selection::new(SeqposSlice { start: Some(1), ..SeqposSlice::default() }, vec![], CONTEXT).unwrap(),
        prompts: 3,
        tokens,
        dtype: Dtype::F32,
        shuffle: None,
        metadata: Map::new(),
    };
    let mut told = Vec::new();
    let store = |out: &Path, tokens, told: &mut Vec<usize>| {
        store_activations(&model(), &mut rows(folder.path()), out, request(tokens), &mut |n| told.push(n)).unwrap()
    };
    let index = store(&out, 50, &mut told);
    assert_eq!((index.rows, told), (50, vec![45, 50]));
    assert_eq!(index.hooks[1], StoredHook { hook_name: HOOK.into(), d_in: WIDTH });
    let file = TensorFile::open(out.join(&index.shards[0].file)).unwrap();
    for hook in &hooks {
        let (tokens, values) = reference(folder.path(), hook);
        let kept = (0..tokens.len()).filter(|n| n % CONTEXT > 0).flat_map(|n| &values[n * WIDTH..][..WIDTH]);
        let expected: Vec<f32> = kept.take(50 * WIDTH).copied().collect();
        assert!(file.f32_shaped(hook, &[50, WIDTH]).unwrap() == expected, "{hook}");
    }

    let stored = StoredActivations::open(out.to_str().unwrap(), HOOK).unwrap();
    let settings = FromFilesSettings { batch_size: 10, shuffle: false, seed: 0, repeat: false };
    let read = batches(&mut FromFiles::new(&Cpu, vec![stored], settings).unwrap(), 99).concat();
    assert!(read == file.f32(HOOK).unwrap());

    // The data ends before a million tokens.
    let all = store(&folder.path().join("all"), 1_000_000, &mut Vec::new());
    let (tokens, _) = reference(folder.path(), HOOK);
    assert_eq!(all.rows, tokens.len() / CONTEXT * (CONTEXT - 1));
}
