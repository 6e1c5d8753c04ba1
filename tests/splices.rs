//! Transcoders, and several SAEs at once, in the places of their hooks, on the CPU and on the native backend (in
//! the emulator, and on a GPU where there is one): against SAELens' HookedSAETransformer in float64
//! (`tests/data/analysis/make_transcoder.py`).

mod devices;
mod sines;

use cusae::analysis::*;
use cusae::backend::{Backend, Cpu, Sampling};
use cusae::error::Result;
use cusae::eval::{evaluate, EvalConfig};
use cusae::formats::{saelens, tensors::TensorFile};
use cusae::lm::{LanguageModel, Limits, LogitSum, Processing, Record, Visitor};
use cusae::sae::inference::Sae;
use cusae::sae::weights::HostTensor;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const PARTS: [&str; 6] = ["input", "acts_pre", "acts_post", "recons", "error", "output"];
const FEATURES: [u32; 3] = [3, 100, 511];

/// As in `analysis.rs`: of float32 against float64, in units of the largest value compared.
const TOLERANCE: f32 = 2e-5;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn sae<B: Backend>(backend: &B, folder: &str) -> Sae<B> {
    let saved = saelens::load_folder(&data(folder)).unwrap();
    Sae::new(backend, &saved.config, &saved.weights).unwrap()
}

/// The model, its tokens, and what SAELens computes.
struct Case<B: Backend> {
    device: String,
    model: LanguageModel<B>,
    tokens: Vec<u32>,
    expected: TensorFile,
    clean: Vec<f32>,
}

impl<B: Backend> Case<B> {
    fn new(backend: &B) -> Self {
        let model = LanguageModel::load(backend, &data("gpt2-rand-tiny"), Processing::None).unwrap();
        let tokens = TensorFile::open(data("analysis/expected.safetensors")).unwrap().u32("tokens").unwrap();
        let expected = TensorFile::open(data("analysis/transcoder.safetensors")).unwrap();
        let mut case = Case { device: backend.describe(), model, tokens, expected, clean: Vec::new() };
        case.clean = case.logits(&mut [], &mut ());
        case
    }

    /// Logits after the last token.
    fn logits(&self, splices: &mut [Splice<B>], visitor: &mut dyn Visitor<B>) -> Vec<f32> {
        let mut forward = self.model.forward(1, self.tokens.len()).unwrap();
        forward.run(&self.model, &self.tokens, &mut Splices { splices, visitor }, None).unwrap();
        forward.logits_of_rows(&self.model, &[self.tokens.len() - 1]).unwrap()
    }

    fn splice<'a>(&self, sae: &'a Sae<B>, error: bool) -> Splice<'a, B> {
        Splice::new(&self.model, sae, error, self.tokens.len()).unwrap()
    }

    fn assert_close(&self, found: &[f32], name: &str) {
        let expected = self.expected.f32(name).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(1.0f32, |most, x| most.max(x.abs()));
        let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= TOLERANCE * largest, "{}: {name}: {error} of {largest}", self.device);
    }

    fn changes(&self, features: &[u32], change: Change, first: usize) -> Vec<FeatureEdit> {
        let of_row = |row| features.iter().map(move |&feature| FeatureEdit { row, feature, change });
        (first..self.tokens.len()).flat_map(of_row).collect()
    }
}

/// Halves what is at one hook.
struct Halve(String);

impl<B: Backend> Visitor<B> for Halve {
    fn wants(&self, hook: &str) -> bool {
        hook == self.0
    }

    fn visit(&mut self, backend: &B, _: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        let mut values = vec![0.0; shape.iter().product()];
        backend.read(value, 0, &mut values)?;
        values.iter_mut().for_each(|x| *x *= 0.5);
        backend.write(value, 0, &values)
    }
}

/// Puts zeros at one hook.
struct Zero(&'static str);

impl<B: Backend> Visitor<B> for Zero {
    fn wants(&self, hook: &str) -> bool {
        hook == self.0
    }

    fn visit(&mut self, backend: &B, _: &str, value: &mut B::Buffer<f32>, _: &[usize]) -> Result<()> {
        backend.fill(value, 0.0)
    }
}

fn a_transcoder_stands_in_for_its_output_hook<B: Backend>(backend: &B) {
    let (case, sae) = (Case::new(backend), sae(backend, "analysis/transcoder"));
    for (error, key) in [(false, "plain"), (true, "error")] {
        let mut splice = [case.splice(&sae, error)];
        assert_eq!(splice[0].hook(), "blocks.1.hook_mlp_out");
        let parts = PARTS.iter().filter(|&&part| error || part != "error");
        let names: Vec<String> = parts.map(|part| format!("blocks.1.hook_mlp_out.hook_sae_{part}")).collect();
        let part = |name: &str| format!("{key}/{}", name.split("hook_sae_").nth(1).unwrap());
        let mut record = Record::of(names.clone());
        let logits = case.logits(&mut splice, &mut record);
        case.assert_close(&logits, &format!("{key}/logits"));
        if error {
            let found = case.logits(&mut splice, &mut ());
            assert_eq!(found, case.clean, "with the error term and no edit, to the last bit");
        }
        for name in &names {
            let (shape, found) = &record.values[name];
            assert_eq!(shape, case.expected.shape(&part(name)).unwrap(), "{name}");
            case.assert_close(found, &part(name));
        }
        for name in &names {
            let found = case.logits(&mut splice, &mut Halve(name.clone()));
            case.assert_close(&found, &part(name).replace('/', "/halved_"));
        }
        for (edit, edits) in [
            ("without", case.changes(&FEATURES, Change::Set(0.0), 0)),
            ("more", case.changes(&FEATURES[..1], Change::Add(8.0), 2)),
        ] {
            splice[0].edits = edits;
            case.assert_close(&case.logits(&mut splice, &mut ()), &format!("{key}/{edit}"));
        }
    }
    let mut splice = [case.splice(&sae, true)];
    splice[0].excluded = case.tokens.iter().map(|&token| token == 0).collect();
    let parts = ["error", "output"].map(|part| (part, format!("blocks.1.hook_mlp_out.hook_sae_{part}")));
    let mut record = Record::of(parts.iter().map(|(_, name)| name.clone()));
    case.logits(&mut splice, &mut record);
    for (part, name) in parts {
        case.assert_close(&record.values[&name].1, &format!("excluded/{part}"));
    }
}

fn several_stand_in_at_once<B: Backend>(backend: &B) {
    let case = Case::new(backend);
    let saes = ["evals/random-standard-hook_z/sae", "analysis/transcoder", "evals/trained-topk-resid/sae"]
        .map(|folder| sae(backend, folder));
    for (error, key) in [(false, "plain"), (true, "error")] {
        let mut splices = saes.each_ref().map(|sae| case.splice(sae, error));
        let logits = case.logits(&mut splices, &mut ());
        case.assert_close(&logits, &format!("several/{key}"));
        if error {
            assert_eq!(logits, case.clean);
        }
        splices.iter_mut().for_each(|splice| splice.edits = case.changes(&FEATURES[..2], Change::Set(0.0), 0));
        case.assert_close(&case.logits(&mut splices, &mut ()), &format!("several/{key}_without"));
    }
}

fn attribution_ablation_and_steering_take_transcoders<B: Backend>(backend: &B) {
    let (case, sae) = (Case::new(backend), sae(backend, "analysis/transcoder"));
    let last = case.tokens.len() - 1;
    let of = LogitSum { position: last, weights: vec![(17, 1.0), (1234, -1.0)] };
    let found = attribute(&case.model, &sae, &case.tokens, &of, &[]).unwrap();
    let d_sae = sae.config().d_sae;
    let mut dense = vec![0.0; case.tokens.len() * d_sae];
    found.iter().for_each(|it| dense[it.position * d_sae + it.feature as usize] = it.gradient);
    case.assert_close(&dense, "error/attribution");
    assert!(found.iter().all(|it| it.direct.is_some() == (it.position == last)), "hook_mlp_out is in the stream");

    let request = AblationRequest {
        features: Some(FEATURES.to_vec()),
        position: None,
        target: 17,
        use_error_term: true,
        exclude_tokens: Vec::new(),
    };
    let effects = ablate(&case.model, &sae, &case.tokens, &request).unwrap();
    let logit = case.expected.f32("error/without").unwrap()[17];
    assert!((effects.together.logit - f64::from(logit)).abs() < 2e-4, "{effects:?} {logit}");

    let limits = Limits { max_new_tokens: 3, stop_tokens: Vec::new() };
    let text = |changes| {
        let steering = Steering { changes, positions: Positions::All, exclude_tokens: Vec::new() };
        let go_on = &mut |_| ControlFlow::Continue(());
        steer(&case.model, &sae, &case.tokens, &steering, Sampling::GREEDY, &limits, go_on).unwrap().tokens
    };
    let (clean, steered) = (text(Vec::new()), text(vec![(3, Change::Add(400.0))]));
    let mut splice = [case.splice(&sae, true)];
    splice[0].edits = case.changes(&[3], Change::Add(400.0), 0);
    let logits = case.logits(&mut splice, &mut ());
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    assert_eq!(steered[0] as usize, best);
    assert_ne!(clean, steered);
}

#[test]
fn a_transcoder_stands_in_for_its_output_hook_as_in_saelens() {
    a_transcoder_stands_in_for_its_output_hook(&Cpu);
    devices::devices(&[1]).iter().for_each(a_transcoder_stands_in_for_its_output_hook);
}

/// Against the model with SAELens' splice, and sums in f64 over what stands at the output hook and what SAELens puts
/// there. Losses differ in their last digits: the vocabulary's logits are added up in another order.
fn a_transcoder_is_evaluated_by_its_output<B: Backend>(backend: &B) {
    let (case, sae) = (Case::new(backend), sae(backend, "analysis/transcoder"));
    let config = EvalConfig {
        batch_size_prompts: 1,
        n_eval_reconstruction_batches: 1,
        n_eval_sparsity_variance_batches: 1,
        exclude_tokens: vec![],
        featurewise: true,
    };
    let mut rows = [Ok(case.tokens.clone()), Ok(case.tokens.clone())].into_iter();
    let report = evaluate(&case.model, &sae, &mut rows, &config).unwrap();

    let loss = |splices: &mut [Splice<B>], visitor: &mut dyn Visitor<B>| {
        let mut forward = case.model.forward(1, case.tokens.len()).unwrap();
        forward.run(&case.model, &case.tokens, &mut Splices { splices, visitor }, None).unwrap();
        let losses = forward.loss_per_token(&case.model).unwrap();
        losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len() as f64
    };
    let mut record = Record::of(["blocks.1.hook_mlp_out"]);
    let clean = loss(&mut [], &mut record);
    let with_sae = loss(&mut [case.splice(&sae, false)], &mut ());
    let ablated = loss(&mut [], &mut Zero("blocks.1.hook_mlp_out"));
    let found = &report.model_performance_preservation;
    for (found, expected) in [
        (found.ce_loss_without_sae, clean),
        (found.ce_loss_with_sae, with_sae),
        (found.ce_loss_with_ablation, ablated),
        (found.ce_loss_score, (ablated - with_sae) / (ablated - clean)),
    ] {
        assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{}: {found}, expected {expected}", case.device);
    }

    let y = &record.values["blocks.1.hook_mlp_out"].1;
    let y_hat = case.expected.f32("plain/output").unwrap();
    let n = case.tokens.len() as f64;
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>() / n;
    let mse = squares(&mut y.iter().zip(&y_hat).map(|(a, b)| f64::from(a - b)));
    let mean = |d: usize| y.chunks_exact(128).map(|row| f64::from(row[d])).sum::<f64>() / n;
    let variance = squares(&mut y.iter().map(|&x| x.into())) - (0..128).map(|d| mean(d).powi(2)).sum::<f64>();
    let found = &report.reconstruction_quality;
    assert!((found.mse / mse - 1.0).abs() < 1e-5, "{}, expected {mse}", found.mse);
    let expected = 1.0 - mse / variance;
    assert!((found.explained_variance - expected).abs() < 1e-5 * expected.abs(), "{found:?}, expected {expected}");
    let active = case.expected.f32("plain/acts_post").unwrap().iter().filter(|&&f| f != 0.0).count();
    assert!((report.sparsity.l0 - active as f64 / n).abs() < 1e-9, "{}", report.sparsity.l0);
}

#[test]
fn evaluation_takes_transcoders_on_every_device() {
    a_transcoder_is_evaluated_by_its_output(&Cpu);
    devices::devices(&[1]).iter().for_each(a_transcoder_is_evaluated_by_its_output);
}

#[test]
fn several_saes_and_a_transcoder_stand_in_at_once_as_in_saelens() {
    several_stand_in_at_once(&Cpu);
    devices::devices(&[1]).iter().for_each(several_stand_in_at_once);
}

#[test]
fn attribution_ablation_and_steering_take_transcoders_on_every_device() {
    attribution_ablation_and_steering_take_transcoders(&Cpu);
    devices::devices(&[1]).iter().for_each(attribution_ablation_and_steering_take_transcoders);
}

#[test]
fn what_a_skip_connection_carries_is_part_of_what_stands_in() {
    let case = Case::new(&Cpu);
    let mut saved = saelens::load_folder(&data("analysis/transcoder")).unwrap();
    let transcoder = saved.config.transcoder.as_mut().unwrap();
    transcoder.skip = true;
    let identity: Vec<f32> = (0..128 * 128).map(|i| if i % 129 == 0 { 1.0 } else { 0.0 }).collect();
    saved.weights.insert("W_skip", HostTensor { shape: vec![128, 128], values: identity });
    let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
    let [input, output] = ["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out.hook_sae_output"];
    let mut record = Record::of([input, output]);
    case.logits(&mut [case.splice(&sae, false)], &mut record);
    let mut pass = sae.pass(case.tokens.len()).unwrap();
    pass.forward(&sae, &record.values[input].1, case.tokens.len()).unwrap();
    assert_eq!(&record.values[output].1, pass.reconstruction());
    let logits = case.logits(&mut [case.splice(&sae, true)], &mut ());
    assert_eq!(logits, case.clean);
}

#[test]
fn a_temporal_sae_is_given_the_whole_prompt() {
    let case = Case::new(&Cpu);
    let (config, weights) = sines::temporal();
    let hook = "blocks.2.hook_resid_pre";
    let sae = Sae::new(&Cpu, &config, &weights).unwrap();
    let output = format!("{hook}.hook_sae_output");
    let mut record = Record::of([hook.to_string(), output.clone()]);
    case.logits(&mut [case.splice(&sae, false)], &mut record);
    let alone = |context: usize| {
        let mut pass = sae.pass(case.tokens.len()).unwrap();
        pass.set_context(context);
        pass.forward(&sae, &record.values[hook].1, case.tokens.len()).unwrap();
        pass.reconstruction().clone()
    };
    assert_eq!(record.values[&output].1, alone(case.tokens.len()));
    assert_ne!(alone(case.tokens.len()), alone(1), "the tokens before matter");
    let logits = case.logits(&mut [case.splice(&sae, true)], &mut ());
    assert_eq!(logits, case.clean);
}

#[test]
fn transcoders_that_do_not_fit_get_a_sentence() {
    let case = Case::new(&Cpu);
    let refusal = |key: &str, value: &str| {
        let mut saved = saelens::load_folder(&data("analysis/transcoder")).unwrap();
        match value {
            "" => saved.config.metadata.shift_remove(key),
            _ => saved.config.metadata.insert(key.into(), value.into()),
        };
        let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
        let splice = Splice::new(&case.model, &sae, true, case.tokens.len());
        let run = |mut splice: Splice<Cpu>| {
            let visitor = &mut Splices { splices: std::slice::from_mut(&mut splice), visitor: &mut () };
            case.model.forward(1, case.tokens.len()).unwrap().run(&case.model, &case.tokens, visitor, None)
        };
        splice.and_then(run).unwrap_err().to_string()
    };
    assert!(refusal("hook_name_out", "").starts_with("hook_name_out: the transcoder's cfg.json does not name one"));
    let found = refusal("hook_name_out", "blocks.1.mlp.hook_post");
    assert_eq!(
        found,
        "d_out: the SAE gives 128 values, blocks.1.mlp.hook_post of this model has 512; is it another model?"
    );
    let found = refusal("hook_name_out", "blocks.0.hook_mlp_out");
    assert_eq!(found, "hook_name_out: blocks.0.hook_mlp_out comes before blocks.1.hook_resid_mid, which is read");
}
