//! Generation against `transformers`, with a cache against without, and the sampling of tokens.
//! `tests/data/generation/cases.json` is made by `scripts/make_generation_cases.py`.

use cusae::backend::{Backend, Cpu, Native, SampleToken, Sampling};
use cusae::embedded;
use cusae::error::Result;
use cusae::formats::tensors::TensorFile;
use cusae::lm::{
    Checkpoint, End, Generated, Generation, LanguageModel, Limits, ModelConfig, Processing, Record, Visitor,
};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn cases() -> Value {
    serde_json::from_str(&std::fs::read_to_string(data("generation/cases.json")).unwrap()).unwrap()
}

fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

fn rows(value: &Value) -> Vec<Vec<u32>> {
    value.as_array().unwrap().iter().map(tokens).collect()
}

fn random_model<B: Backend>(backend: &B, processing: Processing) -> LanguageModel<B> {
    LanguageModel::load(backend, &data("gpt2-rand-tiny"), processing).unwrap()
}

fn emulated() -> Native {
    // SAFETY: the emulator's table is complete and constant.
    unsafe { Native::from_table(cusae_emu::table(), 1) }.unwrap()
}

fn limits(max_new_tokens: usize) -> Limits {
    Limits { max_new_tokens, stop_tokens: Vec::new() }
}

/// Continuations, all tokens of all prompts, without a look inside.
fn generate<B: Backend>(
    model: &LanguageModel<B>,
    prompts: &[Vec<u32>],
    sampling: Sampling,
    limits: &Limits,
) -> Vec<Generated> {
    model.generate(prompts, sampling, limits, &mut (), &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn greedy_is_as_transformers<B: Backend>(model: &LanguageModel<B>, case: &Value, new: usize) {
    // Logits in float32 are within 1e-4 of those in float64 (tests/gpt2.rs).
    assert!(case["smallest_margin"].as_f64().unwrap() > 1e-3);
    let found = generate(model, &rows(&case["prompts"]), Sampling::GREEDY, &limits(new));
    for (found, expected) in found.into_iter().zip(rows(&case["tokens"])) {
        assert_eq!(found, Generated { tokens: expected[..new].to_vec(), end: End::MaxNewTokens });
    }
}

#[test]
fn greedy_generation_gives_the_tokens_of_transformers() {
    for processing in [Processing::None, Processing::TransformerLens] {
        greedy_is_as_transformers(&random_model(&Cpu, processing), &cases()["greedy"]["gpt2-rand-tiny"], 40);
        let embedded = LanguageModel::embedded(&Cpu, processing).unwrap();
        greedy_is_as_transformers(&embedded, &cases()["greedy"]["embedded"], 40);
    }
}

#[test]
fn greedy_generation_on_the_native_backend_gives_them_too() {
    let model = random_model(&emulated(), Processing::None);
    greedy_is_as_transformers(&model, &cases()["greedy"]["gpt2-rand-tiny"], 6);
}

const PLACES: [&str; 5] =
    ["blocks.0.attn.hook_k", "blocks.1.attn.hook_z", "blocks.2.mlp.hook_post", "blocks.3.hook_resid_post", "logits"];

/// What is seen at the last position of 2 sequences of 12 tokens, which come in runs of these lengths.
fn seen<B: Backend>(backend: &B, runs: &[usize]) -> Vec<Vec<f32>> {
    let model = random_model(backend, Processing::None);
    let all: Vec<u32> = (0..24).map(|i| i * 1009 % 4096).collect();
    let mut record = Record::of(PLACES);
    let mut generation = Generation::new(&model, 2, *runs.iter().max().unwrap(), 12).unwrap();
    let mut start = 0;
    for &length in runs {
        let run = [&all[start..start + length], &all[12 + start..12 + start + length]].concat();
        generation.next(&run, Sampling::GREEDY, &mut record).unwrap();
        start += length;
    }
    let last_position = |name: &str| {
        let (shape, values) = &record.values[name];
        let length = values.len() / shape[0];
        let width = length / shape[1];
        values.chunks(length).flat_map(|sequence| sequence[length - width..].to_vec()).collect()
    };
    PLACES.iter().map(|name| last_position(name)).collect()
}

/// The kernels add in the order of keys and of k, whatever else is in a run.
#[test]
fn with_a_cache_the_native_backend_gives_the_same_bits_as_without() {
    let device = emulated();
    let whole = seen(&device, &[12]);
    for runs in [vec![11, 1], vec![1; 12], vec![5, 4, 3]] {
        assert_eq!(seen(&device, &runs), whole, "{runs:?}");
    }
}

/// The CPU's matrix product adds in an order that depends on the number of rows: differences are those
/// of float32 against float64 in tests/gpt2.rs.
#[test]
fn with_a_cache_the_cpu_gives_the_same_as_without() {
    let whole = seen(&Cpu, &[12]);
    for runs in [vec![11, 1], vec![1; 12], vec![5, 4, 3]] {
        for ((found, expected), place) in seen(&Cpu, &runs).iter().zip(&whole).zip(PLACES) {
            let largest = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            let error = found.iter().zip(expected).fold(0.0f32, |max, (a, b)| max.max((a - b).abs()));
            assert!(error <= 1e-5 * largest, "{runs:?} {place}: {error:e} of {largest}");
        }
    }
}

#[test]
fn a_pattern_that_is_looked_at_covers_all_positions_and_changes_nothing() {
    let model = random_model(&Cpu, Processing::None);
    let logits = |hooks: &[&str]| {
        let mut record = Record::of(hooks.iter().copied());
        let mut generation = Generation::new(&model, 1, 4, 6).unwrap();
        generation.next(&[1, 2, 3, 4], Sampling::GREEDY, &mut record).unwrap();
        generation.next(&[5, 6], Sampling::GREEDY, &mut record).unwrap();
        record.values
    };
    let with = logits(&["blocks.1.attn.hook_pattern", "logits"]);
    let (shape, pattern) = &with["blocks.1.attn.hook_pattern"];
    assert_eq!(shape, &[1, 4, 2, 6]);
    for head in pattern.chunks(12) {
        assert_eq!(head[5], 0.0, "the first of the two does not see the second");
        for row in head.chunks(6) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
    let without = logits(&["logits"]);
    let difference = with["logits"].1.iter().zip(&without["logits"].1).map(|(a, b)| (a - b).abs());
    assert!(difference.fold(0.0, f32::max) < 1e-4);
}

/// Adds to the residual stream at every position, or writes logits.
struct Push {
    hook: &'static str,
    at: usize,
    value: f32,
    shapes: Vec<Vec<usize>>,
}

impl Visitor<Cpu> for Push {
    fn wants(&self, hook: &str) -> bool {
        hook == self.hook
    }

    fn visit(&mut self, _: &Cpu, _: &str, value: &mut Vec<f32>, shape: &[usize]) -> Result<()> {
        let (all, width) = (shape.iter().product(), shape[shape.len() - 1]);
        value[..all].chunks_mut(width).for_each(|row| row[self.at] += self.value);
        self.shapes.push(shape.to_vec());
        Ok(())
    }
}

#[test]
fn what_a_visitor_edits_decides_the_tokens() {
    let model = random_model(&Cpu, Processing::None);
    let prompts = [vec![1, 2, 3], vec![4, 5, 6]];
    let mut on_token = |_, _| ControlFlow::Continue(());
    let mut with = |hook, at, value| {
        let mut push = Push { hook, at, value, shapes: Vec::new() };
        let generated = model.generate(&prompts, Sampling::GREEDY, &limits(4), &mut push, &mut on_token).unwrap();
        (generated, push.shapes)
    };
    let (forced, shapes) = with("logits", 77, 1e6);
    assert!(forced.iter().all(|it| it.tokens == [77; 4]));
    assert_eq!(shapes, vec![vec![2, 1, 4096]; 4]);
    let (steered, shapes) = with("blocks.2.hook_resid_pre", 5, 60.0);
    assert_eq!(shapes, [vec![2, 3, 128], vec![2, 1, 128], vec![2, 1, 128], vec![2, 1, 128]]);
    assert_ne!(steered, generate(&model, &prompts, Sampling::GREEDY, &limits(4)));
    assert_eq!(with("blocks.2.hook_resid_pre", 5, 0.0).0, generate(&model, &prompts, Sampling::GREEDY, &limits(4)));
}

#[test]
fn a_sequence_ends_at_its_stop_token_while_others_go_on() {
    let (model, case) = (random_model(&Cpu, Processing::None), cases()["greedy"]["gpt2-rand-tiny"].clone());
    let (prompts, expected) = (rows(&case["prompts"]), rows(&case["tokens"]));
    let stop = expected[1][4];
    let position = |row: &Vec<u32>| row[..20].iter().position(|&token| token == stop).map(|at| at + 1);
    let mut streamed = vec![Vec::new(); prompts.len()];
    let mut on_token = |sequence: usize, token| {
        streamed[sequence].push(token);
        ControlFlow::Continue(())
    };
    let limits = Limits { max_new_tokens: 20, stop_tokens: vec![stop] };
    let found = model.generate(&prompts, Sampling::GREEDY, &limits, &mut (), &mut on_token).unwrap();
    assert!(found.iter().any(|it| it.end == End::StopToken) && found.iter().any(|it| it.end == End::MaxNewTokens));
    for ((found, expected), streamed) in found.iter().zip(&expected).zip(&streamed) {
        assert_eq!(found.tokens, expected[..position(expected).unwrap_or(20)]);
        assert_eq!(found.end, if position(expected).is_some() { End::StopToken } else { End::MaxNewTokens });
        assert_eq!(&found.tokens, streamed);
    }
}

#[test]
fn generation_ends_when_the_context_is_full() {
    let model = random_model(&Cpu, Processing::None);
    let n_ctx = model.config().n_ctx;
    for (prompt, new) in [(n_ctx, 1), (n_ctx - 2, 3)] {
        let found = generate(&model, &[vec![7; prompt]], Sampling::GREEDY, &limits(10));
        assert_eq!((found[0].tokens.len(), found[0].end), (new, End::Context));
    }
    let exactly = generate(&model, &[vec![7; n_ctx - 2]], Sampling::GREEDY, &limits(3));
    assert_eq!(exactly[0].end, End::MaxNewTokens);
    assert!(generate(&model, &[vec![7; 3]], Sampling::GREEDY, &limits(0))[0].tokens.is_empty());
}

#[test]
fn the_caller_can_end_it() {
    let model = random_model(&Cpu, Processing::None);
    let mut left = 3;
    let mut on_token = |_, _| {
        left -= 1;
        if left == 0 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let prompts = [vec![1, 2], vec![3, 4]];
    let found = model.generate(&prompts, Sampling::GREEDY, &limits(9), &mut (), &mut on_token).unwrap();
    let lengths: Vec<_> = found.iter().map(|it| (it.tokens.len(), it.end)).collect();
    assert_eq!(lengths, [(2, End::Interrupted), (1, End::Interrupted)]);
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let model = random_model(&Cpu, Processing::None);
    let refusal = |prompts: &[Vec<u32>], sampling| {
        let mut on_token = |_, _| ControlFlow::Continue(());
        model.generate(prompts, sampling, &limits(2), &mut (), &mut on_token).unwrap_err().to_string()
    };
    assert_eq!(refusal(&[], Sampling::GREEDY), "generate: there is no prompt");
    let sentence = |n| format!("generate: a prompt has {n} tokens, expected 1 to 256, the model's context");
    assert_eq!(refusal(&[vec![]], Sampling::GREEDY), sentence(0));
    assert_eq!(refusal(&[vec![1; 257]], Sampling::GREEDY), sentence(257));
    let sentence = "generate: prompts have 1 and 2 tokens, expected all of one length";
    assert_eq!(refusal(&[vec![1], vec![1, 2]], Sampling::GREEDY), sentence);
    assert!(refusal(&[vec![4096]], Sampling::GREEDY).starts_with("forward: token id 4096 is outside the vocabulary"));
    let hot = Sampling { temperature: -2.0, ..Sampling::GREEDY };
    assert_eq!(refusal(&[vec![1]], hot), "sample_token: temperature is -2, expected a number of at least 0");
    let mut generation = Generation::new(&model, 1, 3, 3).unwrap();
    generation.next(&[1, 2], Sampling::GREEDY, &mut ()).unwrap();
    let message = generation.next(&[1, 2], Sampling::GREEDY, &mut ()).unwrap_err().to_string();
    assert_eq!(message, "generate: 2 positions and 2 new ones are more than the 3 there is room for");
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    let model = random_model(&Cpu, Processing::None);
    let mut push = Push { hook: "blocks.3.hook_resid_post", at: 0, value: f32::NAN, shapes: Vec::new() };
    let mut on_token = |_, _| ControlFlow::Continue(());
    let result = model.generate(&[vec![1]], Sampling::GREEDY, &limits(2), &mut push, &mut on_token);
    assert_eq!(result.unwrap_err().to_string(), "generate: sequence 0's logits are not numbers");
}

#[test]
fn a_seed_gives_the_same_text_again_and_another_one_another() {
    let config = ModelConfig::parse(Path::new("config.json"), embedded::MODEL_CONFIG).unwrap();
    let weights = TensorFile::from_static("model.safetensors", embedded::MODEL_WEIGHTS).unwrap();
    let model = LanguageModel::from_parts(&Cpu, config, &Checkpoint::from_file(weights), Processing::None).unwrap();
    let with = |seed| {
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed };
        generate(&model, &[vec![5, 6], vec![5, 6]], sampling, &limits(20))
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
    assert_ne!(with(1)[0].tokens, with(1)[1].tokens, "each sequence has random numbers of its own");
}

/// How often each token is drawn from these logits in `draws` rows.
fn counts(logits: &[f32], sampling: Sampling, draws: usize) -> Vec<usize> {
    let all = logits.repeat(draws);
    let mut tokens = vec![0; draws];
    let op = SampleToken { logits: &all, rows: draws, d_vocab: logits.len(), sampling, step: 0, tokens: &mut tokens };
    Cpu.sample_token(op).unwrap();
    let mut counts = vec![0; logits.len()];
    tokens.iter().for_each(|&token| counts[token as usize] += 1);
    counts
}

/// The tokens that are left are drawn, no other is, and their frequencies fit their probabilities:
/// Σ (count - expected)² / expected is χ²-distributed; its mean is n - 1, its variance 2 (n - 1).
#[test]
fn the_tokens_that_transformers_leaves_are_drawn_as_often_as_they_should() {
    let cases = cases();
    for case in cases["kept"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap() as f32;
        let numbers = |key: &str| case[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        let logits: Vec<f32> = numbers("logits").iter().map(|&x| x as f32).collect();
        let top_k = case["top_k"].as_u64().unwrap() as usize;
        let sampling = Sampling { temperature: number("temperature"), top_k, top_p: number("top_p"), seed: 11 };
        let draws = 50_000;
        let counts = counts(&logits, sampling, draws);
        let (kept, probabilities) = (tokens(&case["tokens"]), numbers("probabilities"));
        let drawn: Vec<u32> = (0..counts.len() as u32).filter(|&token| counts[token as usize] > 0).collect();
        assert_eq!(drawn, kept, "{case}");
        let freedom = kept.len() as f64 - 1.0;
        let chi_square: f64 = kept
            .iter()
            .zip(&probabilities)
            .map(|(&token, probability)| {
                let expected = draws as f64 * probability;
                (counts[token as usize] as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square <= freedom + 4.0 * (2.0 * freedom).sqrt() + 1e-9, "{chi_square} of {freedom}: {case}");
    }
}

#[test]
fn of_equal_logits_greedy_takes_the_first_and_top_p_keeps_the_first() {
    assert_eq!(counts(&[0.0, 2.0, 2.0], Sampling::GREEDY, 3), [0, 3, 0]);
    let half = Sampling { temperature: 1.0, top_k: 0, top_p: 0.5, seed: 0 };
    // Two of four equal tokens make up the half that may be left out.
    let found = counts(&[1.0; 4], half, 1000);
    assert_eq!(found[2..], [0, 0]);
    assert!(found[..2].iter().all(|&count| count > 400));
    // All that tie with the k-th largest stay.
    let top_2 = Sampling { top_k: 2, top_p: 1.0, ..half };
    let found = counts(&[1.0, 0.0, 1.0, 1.0], top_2, 1000);
    assert_eq!(found[1], 0);
    assert!([0, 2, 3].iter().all(|&token| found[token] > 250));
}
