//! GPT-2's forward pass against `transformers` and TransformerLens in float64: every hook read, and
//! every hook edited. What the files in tests/data/gpt2-rand-tiny are is told in its README.

use cusae::backend::{Backend, Cpu};
use cusae::data::Tokenizer;
use cusae::error::Result;
use cusae::formats::tensors::{self, Tensor, TensorFile};
use cusae::lm::{LanguageModel, Processing, Record, Visitor};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const BOTH: [Processing; 2] = [Processing::None, Processing::TransformerLens];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gpt2-rand-tiny")
}

fn file(name: &str) -> TensorFile {
    TensorFile::open(folder().join(name)).unwrap()
}

fn model(processing: Processing) -> LanguageModel<Cpu> {
    LanguageModel::load(&Cpu, &folder(), processing).unwrap()
}

fn tokens() -> Vec<u32> {
    file("tokens.safetensors").u32("tokens").unwrap()
}

/// Runs two sequences of 32 tokens and returns what was at the hooks.
fn record(model: &LanguageModel<Cpu>, hooks: &[&str], stop_after: Option<&str>) -> Record {
    let mut record = Record::of(hooks.iter().copied());
    model.forward(2, 32).unwrap().run(model, &tokens(), &mut record, stop_after).unwrap();
    record
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, x| max.max(x.abs()))
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |max, (a, b)| max.max((a - b).abs()))
}

/// An edit of the values at one hook.
struct Edit<F> {
    hook: &'static str,
    edit: F,
}

impl<F: FnMut(&mut f32)> Visitor<Cpu> for Edit<F> {
    fn wants(&self, hook: &str) -> bool {
        hook == self.hook
    }

    fn visit(&mut self, _: &Cpu, _: &str, value: &mut Vec<f32>, shape: &[usize]) -> Result<()> {
        value[..shape.iter().product()].iter_mut().for_each(&mut self.edit);
        Ok(())
    }
}

/// Loss per token of a whole run on sequences of `context` tokens while one hook is edited.
fn loss(model: &LanguageModel<Cpu>, tokens: &[u32], context: usize, visitor: &mut dyn Visitor<Cpu>) -> Vec<f32> {
    let mut forward = model.forward(tokens.len() / context, context).unwrap();
    forward.run(model, tokens, visitor, None).unwrap();
    forward.loss_per_token(model).unwrap()
}

/// The values of a hook as `expected*.safetensors` keeps them: of `logits` the last 4 positions.
fn kept(name: &str, shape: &[usize], values: &[f32]) -> Vec<f32> {
    if name != "logits_last" {
        return values.to_vec();
    }
    let rows: Vec<&[f32]> = values.chunks_exact(shape[2]).collect();
    rows.chunks_exact(shape[1]).flat_map(|sequence| &sequence[shape[1] - 4..]).flat_map(|row| row.to_vec()).collect()
}

#[test]
fn every_hook_agrees_with_transformers_and_transformer_lens_in_float64() {
    for (processing, name) in BOTH.into_iter().zip(["expected.safetensors", "expected_tl_processed.safetensors"]) {
        let (model, expected) = (model(processing), file(name));
        let hook_of = |name: &str| if name == "logits_last" { "logits".to_string() } else { name.to_string() };
        let hooks: Vec<String> = expected.names().iter().map(|name| hook_of(name)).collect();
        let record = record(&model, &hooks.iter().map(String::as_str).collect::<Vec<_>>(), None);
        for name in expected.names() {
            let (shape, values) = &record.values[&hook_of(&name)];
            let (found, wanted) = (kept(&name, shape, values), expected.f32(&name).unwrap());
            if name != "logits_last" {
                expected.expect_shape(&name, shape).unwrap();
            }
            // transformers' own float32 run is off by up to 4e-6 of the largest value, 3e-5 in logits.
            let tolerance = match name.as_str() {
                "logits_last" | "loss_per_token" => 1e-4,
                name if name.ends_with("hook_pattern") => 1e-5,
                _ => 1e-5 * largest(&wanted),
            };
            let error = difference(&found, &wanted);
            assert!(error <= tolerance, "{processing} {name}: {error:e} of {tolerance:e}");
        }
    }
}

#[test]
fn hooks_that_processing_does_not_change_stay_the_same() {
    let (processed, expected) = (model(Processing::TransformerLens), file("expected.safetensors"));
    let hooks = [
        "blocks.3.attn.hook_q",
        "blocks.3.attn.hook_k",
        "blocks.3.attn.hook_pattern",
        "blocks.3.mlp.hook_pre",
        "blocks.3.mlp.hook_post",
        "blocks.3.ln2.hook_scale",
        "ln_final.hook_normalized",
    ];
    let record = record(&processed, &hooks, None);
    for hook in hooks {
        let (found, wanted) = (&record.values[hook].1, expected.f32(hook).unwrap());
        assert!(difference(found, &wanted) <= 1e-5 * largest(&wanted), "{hook}");
    }
}

#[test]
fn looking_changes_nothing() {
    for processing in BOTH {
        let model = model(processing);
        let names = model.hook_names();
        let looked = record(&model, &names.iter().map(String::as_str).collect::<Vec<_>>(), None);
        let alone = record(&model, &["loss_per_token"], None);
        assert_eq!(looked.values["loss_per_token"], alone.values["loss_per_token"]);
        assert_eq!(looked.values.len(), names.len());
    }
}

#[test]
fn stopping_early_gives_the_same_values_and_goes_no_further() {
    let model = model(Processing::None);
    let names = model.hook_names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let whole = record(&model, &names, None);
    for (i, stop) in names.iter().enumerate() {
        // Whoever wants everything sees everything up to the last hook, and nothing after it.
        let stopped = record(&model, &names, Some(stop));
        assert_eq!(stopped.values.len(), i + 1, "{stop}");
        // Whoever wants that hook alone sees the same there.
        let alone = record(&model, &[stop], Some(stop));
        assert_eq!(alone.values[*stop], whole.values[*stop], "{stop}");
    }
}

#[test]
fn an_edit_of_any_hook_has_the_effect_that_it_has_in_transformer_lens() {
    let expected = file("edits.safetensors");
    for processing in BOTH {
        let model = model(processing);
        let clean = loss(&model, &tokens(), 32, &mut ());
        for hook in model.hook_names() {
            let name = format!("{processing}/{hook}");
            if !expected.contains(&name) {
                continue;
            }
            let hook: &'static str = hook.leak();
            let wanted = expected.f32(&name).unwrap();
            let edited = loss(&model, &tokens(), 32, &mut Edit { hook, edit: |x: &mut f32| *x = 0.5 * *x + 0.1 });
            assert!(difference(&edited, &wanted) <= 1e-4, "{name}: {:e}", difference(&edited, &wanted));
            assert!(difference(&edited, &clean) > 1e-2, "{name} has no effect");
        }
    }
}

#[test]
fn layer_norm_outputs_can_be_edited_too() {
    // With folded LayerNorms the output is the normalised value: both edits must do the same.
    let model = model(Processing::TransformerLens);
    let pairs = [
        ("blocks.1.ln1.output", "blocks.1.ln1.hook_normalized"),
        ("blocks.2.ln2.output", "blocks.2.ln2.hook_normalized"),
        ("ln_final.output", "ln_final.hook_normalized"),
    ];
    for (output, normalized) in pairs {
        let edited = |hook| loss(&model, &tokens(), 32, &mut Edit { hook, edit: |x: &mut f32| *x *= 0.5 });
        assert_eq!(edited(output), edited(normalized), "{output}");
        assert_ne!(edited(output), loss(&model, &tokens(), 32, &mut ()), "{output}");
    }
}

#[test]
fn an_edit_that_changes_nothing_changes_nothing() {
    let model = model(Processing::None);
    let clean = loss(&model, &tokens(), 32, &mut ());
    for hook in model.hook_names() {
        let hook: &'static str = hook.leak();
        assert_eq!(loss(&model, &tokens(), 32, &mut Edit { hook, edit: |x: &mut f32| *x *= 1.0 }), clean, "{hook}");
    }
}

#[test]
fn ablating_a_hook_raises_loss_and_kl_as_in_saelens() {
    let model = model(Processing::None);
    let expected = file("ablation.safetensors");
    let tokens = expected.u32("tokens").unwrap();
    let mut forward = model.forward(2, 64).unwrap();
    forward.run(&model, &tokens, &mut (), None).unwrap();
    let clean = forward.loss_per_token(&model).unwrap();
    let output = Cpu.download(forward.final_output().unwrap()).unwrap();
    assert!(difference(&clean, &expected.f32("ce_loss_without_sae").unwrap()) <= 1e-4);
    assert!(forward.kl_divergence_from(&model, &output).unwrap().iter().all(|&kl| kl == 0.0));
    for hook in ["blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"] {
        forward.run(&model, &tokens, &mut Edit { hook, edit: |x: &mut f32| *x = 0.0 }, None).unwrap();
        let wanted = expected.f32(&format!("ce_loss_with_ablation/{hook}")).unwrap();
        assert!(difference(&forward.loss_per_token(&model).unwrap(), &wanted) <= 1e-4, "{hook}");
        let wanted = expected.f32(&format!("kl_div_with_ablation/{hook}")).unwrap();
        assert!(difference(&forward.kl_divergence_from(&model, &output).unwrap(), &wanted) <= 1e-4, "{hook}");
    }
}

#[test]
fn fewer_sequences_than_the_buffers_hold_give_the_same_values() {
    let model = model(Processing::None);
    let both = loss(&model, &tokens(), 32, &mut ());
    let mut forward = model.forward(2, 32).unwrap();
    // The second run is smaller: nothing of the first may be left in it.
    forward.run(&model, &tokens(), &mut (), None).unwrap();
    forward.run(&model, &tokens()[32..], &mut (), None).unwrap();
    assert_eq!(forward.loss_per_token(&model).unwrap(), both[31..]);
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let model = model(Processing::None);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| loss(&model, &tokens(), 32, &mut ()))
    };
    assert_eq!(run(1), run(5));
}

#[test]
fn shapes_and_widths_are_told_without_running() {
    let model = model(Processing::None);
    let record = record(&model, &model.hook_names().iter().map(String::as_str).collect::<Vec<_>>(), None);
    for (hook, (shape, values)) in &record.values {
        assert_eq!(model.hook_shape(hook, 32).unwrap(), shape[1..], "{hook}");
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{hook}");
    }
    let width = |hook| model.hook_width(hook);
    assert_eq!(width("blocks.0.hook_resid_pre").unwrap(), 128);
    assert_eq!(width("blocks.0.attn.hook_z").unwrap(), 128);
    assert_eq!(width("blocks.0.mlp.hook_post").unwrap(), 512);
    for hook in ["blocks.0.attn.hook_pattern", "blocks.0.ln1.hook_scale", "ln_final.hook_scale", "loss_per_token"] {
        let message = width(hook).unwrap_err().to_string();
        assert_eq!(message, format!("hook_name: {hook} does not hold one vector per token; choose another hook"));
    }
    assert_eq!(
        model.last_hook(&["blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out", "hook_embed"]).unwrap(),
        "blocks.2.hook_resid_pre"
    );
}

#[test]
fn the_embedded_model_is_trained() {
    let model = LanguageModel::embedded(&Cpu, Processing::None).unwrap();
    let text = "In the beginning God created the heaven and the earth. And the earth was without form, and void; and \
                darkness was upon the face of the deep.";
    let mut tokens = vec![model.config().bos_token_id.unwrap()];
    tokens.extend(Tokenizer::embedded().unwrap().encode(text).unwrap());
    let loss = loss(&model, &tokens, tokens.len(), &mut ());
    let mean = loss.iter().sum::<f32>() / loss.len() as f32;
    // An untrained model is at ln 4096 = 8.3.
    assert!(mean < 4.5, "{mean}");
}

/// Writes the tiny model again, its tensors changed by `change`, and loads it.
fn rewritten(change: impl Fn(&str, Vec<usize>, Vec<f32>) -> Vec<(String, Tensor<'static>)>) -> LanguageModel<Cpu> {
    rewritten_with("{}", change)
}

/// The same with some keys of config.json set.
fn rewritten_with(
    keys: &str,
    change: impl Fn(&str, Vec<usize>, Vec<f32>) -> Vec<(String, Tensor<'static>)>,
) -> LanguageModel<Cpu> {
    let folder_of_copy = tempfile::tempdir().unwrap();
    let source = file("model.safetensors");
    let tensors = source.names().into_iter().flat_map(|name| {
        let shape = source.shape(&name).unwrap().to_vec();
        change(&name, shape, source.f32(&name).unwrap())
    });
    tensors::save(&folder_of_copy.path().join("model.safetensors"), tensors.collect()).unwrap();
    let config = std::fs::read_to_string(folder().join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&config).unwrap();
    config.extend(serde_json::from_str::<Map<String, Value>>(keys).unwrap());
    std::fs::write(folder_of_copy.path().join("config.json"), Value::Object(config).to_string()).unwrap();
    LanguageModel::load(&Cpu, folder_of_copy.path(), Processing::None).unwrap()
}

fn owned(shape: &[usize], values: &[f32]) -> Tensor<'static> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    Tensor { bytes: bytes.into(), ..Tensor::f32(shape, &[]) }
}

#[test]
fn the_hubs_own_names_and_mask_buffers_are_understood() {
    let hub = rewritten(|name, shape, values| {
        let short = name.strip_prefix("transformer.").unwrap();
        let mut tensors = vec![(short.to_string(), owned(&shape, &values))];
        if let Some(layer) = short.strip_suffix(".attn.c_attn.bias") {
            tensors.push((format!("{layer}.attn.bias"), owned(&[1, 1, 2, 2], &[1.0, 0.0, 1.0, 1.0])));
            tensors.push((format!("{layer}.attn.masked_bias"), owned(&[], &[-1e4])));
        }
        tensors
    });
    assert_eq!(loss(&hub, &tokens(), 32, &mut ()), loss(&model(Processing::None), &tokens(), 32, &mut ()));
}

#[test]
fn a_head_of_its_own_is_used_and_a_copy_of_the_embedding_is_not_kept_twice() {
    let with_head = |factor: f32| {
        rewritten(move |name, shape, values| {
            let mut tensors = vec![(name.to_string(), owned(&shape, &values))];
            if name == "transformer.wte.weight" {
                let head: Vec<f32> = values.iter().map(|x| x * factor).collect();
                tensors.push(("lm_head.weight".into(), owned(&shape, &head)));
            }
            tensors
        })
    };
    let logits = |model: &LanguageModel<Cpu>| record(model, &["logits"], None).values["logits"].1.clone();
    let tied = logits(&model(Processing::None));
    assert_eq!(logits(&with_head(1.0)), tied);
    let doubled: Vec<f32> = tied.iter().map(|x| 2.0 * x).collect();
    assert_eq!(logits(&with_head(2.0)), doubled);
}

#[test]
fn attention_is_scaled_as_the_configuration_says() {
    // A factor on the scores is a factor on the queries: columns 0..128 of c_attn.
    let unscaled = |name: &str, shape: Vec<usize>, mut values: Vec<f32>| {
        if let Some(layer) = name.strip_prefix("transformer.h.").filter(|name| name.contains(".attn.c_attn.")) {
            let layer: f32 = layer[..1].parse().unwrap();
            for row in values.chunks_mut(3 * 128) {
                row[..128].iter_mut().for_each(|x| *x *= (layer + 1.0) * 32f32.sqrt());
            }
        }
        vec![(name.to_string(), owned(&shape, &values))]
    };
    let scaled_by_layer = r#"{"scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": true}"#;
    let not_scaled = r#"{"scale_attn_weights": false, "scale_attn_by_inverse_layer_idx": false}"#;
    let loss_of = |model: LanguageModel<Cpu>| loss(&model, &tokens(), 32, &mut ());
    let as_written = |name: &str, shape: Vec<usize>, values: Vec<f32>| vec![(name.to_string(), owned(&shape, &values))];
    let reference = loss_of(rewritten_with(not_scaled, as_written));
    let by_layer = loss_of(rewritten_with(scaled_by_layer, unscaled));
    assert!(difference(&reference, &by_layer) <= 1e-3, "{}", difference(&reference, &by_layer));
    assert!(difference(&reference, &loss_of(model(Processing::None))) > 0.1);
}
