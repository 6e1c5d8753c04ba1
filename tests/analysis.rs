//! Looking inside a model with SAEs spliced in: against SAELens' HookedSAETransformer and PyTorch's
//! gradients in float64 (`tests/data/analysis`).

use cusae::analysis::*;
use cusae::backend::{Backend, Cpu, Sampling};
use cusae::config::NormalizeActivations;
use cusae::error::Result;
use cusae::formats::{saelens, tensors::TensorFile};
use cusae::lm::{LanguageModel, Limits, LogitSum, Processing, Record, Visitor};
use cusae::sae::inference::Sae;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const SAES: [&str; 4] = ["trained-topk-resid", "random-standard-resid", "random-standard-hook_z", "layer_norm"];
const PARTS: [&str; 6] = ["input", "acts_pre", "acts_post", "recons", "error", "output"];
const FEATURES: [u32; 3] = [3, 100, 511];
const TARGET: u32 = 17;
const OTHER: u32 = 1234;

/// Twenty times the largest deviation found between f32 and the float64 of the files is below this, in
/// units of the largest value compared.
const TOLERANCE: f32 = 2e-5;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn expected() -> TensorFile {
    TensorFile::open(data("analysis/expected.safetensors")).unwrap()
}

fn tokens(file: &TensorFile) -> Vec<u32> {
    file.u32("tokens").unwrap()
}

fn model(processing: Processing) -> LanguageModel<Cpu> {
    LanguageModel::load(&Cpu, &data("gpt2-rand-tiny"), processing).unwrap()
}

/// `layer_norm` is random-standard-resid, told to normalise.
fn sae(name: &str) -> Sae<Cpu> {
    let folder = if name == "layer_norm" { "random-standard-resid" } else { name };
    let mut saved = saelens::load_folder(&data("evals").join(folder).join("sae")).unwrap();
    if name == "layer_norm" {
        saved.config.normalize_activations = NormalizeActivations::LayerNorm;
    }
    Sae::new(&Cpu, &saved.config, &saved.weights).unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error <= TOLERANCE * largest.max(1.0), "{what}: {error} of {largest}");
}

/// Logits after the last token with the SAEs spliced in.
fn logits(
    model: &LanguageModel<Cpu>,
    splices: &mut [Splice<Cpu>],
    tokens: &[u32],
    visitor: &mut dyn Visitor<Cpu>,
) -> Vec<f32> {
    let mut forward = model.forward(1, tokens.len()).unwrap();
    forward.run(model, tokens, &mut Splices { splices, visitor }, None).unwrap();
    forward.logits_of_rows(model, &[tokens.len() - 1]).unwrap()
}

/// Multiplies what is at one hook.
struct Halve(String);

impl Visitor<Cpu> for Halve {
    fn wants(&self, hook: &str) -> bool {
        hook == self.0
    }

    fn visit(&mut self, backend: &Cpu, _: &str, value: &mut Vec<f32>, shape: &[usize]) -> Result<()> {
        let len = shape.iter().product();
        let halved: Vec<f32> = backend.download(value)?[..len].iter().map(|x| 0.5 * x).collect();
        backend.write(value, 0, &halved)
    }
}

#[test]
fn every_value_inside_of_a_spliced_sae_is_saelens_and_can_be_edited() {
    let (file, model) = (expected(), model(Processing::None));
    let tokens = tokens(&file);
    for name in SAES {
        let sae = sae(name);
        for (error, key) in [(false, format!("{name}/plain")), (true, format!("{name}/error"))] {
            let mut splice = [Splice::new(&model, &sae, error, tokens.len()).unwrap()];
            let hook = splice[0].hook();
            let parts = PARTS.iter().filter(|&&part| error || part != "error");
            let names: Vec<(String, String)> =
                parts.map(|part| (format!("{hook}.hook_sae_{part}"), part.to_string())).collect();

            let mut record = Record::of(names.iter().map(|(name, _)| name.clone()));
            let found = logits(&model, &mut splice, &tokens, &mut record);
            assert_close(&found, &file.f32(&format!("{key}/logits")).unwrap(), &key);
            assert_eq!(record.values.len(), names.len());
            for (name, part) in &names {
                let (shape, found) = &record.values[name];
                let expected = format!("{key}/{part}");
                assert_eq!(shape, file.shape(&expected).unwrap(), "{expected}");
                assert_close(found, &file.f32(&expected).unwrap(), &expected);
            }
            for (name, part) in names {
                let found = logits(&model, &mut splice, &tokens, &mut Halve(name));
                let what = format!("{key}/halved_{part}");
                assert_close(&found, &file.f32(&what).unwrap(), &what);
            }
        }
    }
}

#[test]
fn every_activation_function_makes_its_features_of_its_pre_activations() {
    for name in [
        "standard-none-bdec",
        "gated-layer_norm-bdec",
        "jumprelu-none-bdec",
        "topk-none-bdec-rescale",
        "abstopk-none-bdec-rescale",
    ] {
        let folder = data("saes").join(name);
        let saved = saelens::load_folder(&folder).unwrap();
        let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
        let io = TensorFile::open(folder.join("io.safetensors")).unwrap();
        let x = io.f32("x").unwrap();
        let rows = x.len() / saved.config.d_in;
        let mut pass = sae.pass(rows).unwrap();
        pass.encode(&sae, &x, rows).unwrap();
        let again = pass.activate(&sae, &pass.pre_activations(&sae).unwrap()).unwrap();
        assert_close(&again.to_dense(saved.config.d_sae), &io.f32("feature_acts").unwrap(), name);
    }
}

#[test]
fn with_the_error_term_and_no_edit_the_logits_are_the_clean_ones_to_the_last_bit() {
    let (file, model) = (expected(), model(Processing::None));
    let tokens = tokens(&file);
    let clean = logits(&model, &mut [], &tokens, &mut ());
    assert_close(&clean, &file.f32("none/logits").unwrap(), "clean");
    for name in SAES {
        let sae = sae(name);
        let mut splice = [Splice::new(&model, &sae, true, tokens.len()).unwrap()];
        assert_eq!(logits(&model, &mut splice, &tokens, &mut ()), clean, "{name}");
    }
}

#[test]
fn features_are_set_and_raised_as_in_saelens() {
    let (file, model) = (expected(), model(Processing::None));
    let tokens = tokens(&file);
    for name in SAES {
        let sae = sae(name);
        for (error, key) in [(false, format!("{name}/plain")), (true, format!("{name}/error"))] {
            let mut splice = [Splice::new(&model, &sae, error, tokens.len()).unwrap()];
            let all = |change, features: &[u32], rows: std::ops::Range<usize>| -> Vec<FeatureEdit> {
                let of_row = |row| features.iter().map(move |&feature| FeatureEdit { row, feature, change });
                rows.flat_map(of_row).collect()
            };
            for (edit, edits) in [
                ("without", all(Change::Set(0.0), &FEATURES, 0..tokens.len())),
                ("more", all(Change::Add(8.0), &FEATURES[..1], 2..tokens.len())),
            ] {
                splice[0].edits = edits;
                let found = logits(&model, &mut splice, &tokens, &mut ());
                let what = format!("{key}/{edit}");
                assert_close(&found, &file.f32(&what).unwrap(), &what);
            }
        }
    }
}

#[test]
fn excluded_tokens_pass_by_and_several_saes_work_together() {
    let (file, model) = (expected(), model(Processing::None));
    let tokens = tokens(&file);
    let [topk, at_z] = ["trained-topk-resid", "random-standard-hook_z"].map(sae);
    let mut splice = [Splice::new(&model, &topk, true, tokens.len()).unwrap()];
    splice[0].excluded = tokens.iter().map(|&token| token == 0).collect();
    let hook = splice[0].hook();
    let names = ["error", "output"].map(|part| (part, format!("{hook}.hook_sae_{part}")));
    let mut record = Record::of(names.iter().map(|(_, name)| name.clone()));
    logits(&model, &mut splice, &tokens, &mut record);
    for (part, name) in names {
        let what = format!("excluded/{part}");
        assert_close(&record.values[&name].1, &file.f32(&what).unwrap(), &what);
    }

    let mut pair = [&at_z, &topk].map(|sae| Splice::new(&model, sae, false, tokens.len()).unwrap());
    assert_close(&logits(&model, &mut pair, &tokens, &mut ()), &file.f32("pair/logits").unwrap(), "pair");
}

#[test]
fn gradients_of_logits_are_those_of_pytorch_at_every_hook_that_has_them() {
    let file = expected();
    let tokens = tokens(&file);
    let of = LogitSum { position: tokens.len() - 2, weights: vec![(TARGET, 1.0), (OTHER, -1.0)] };
    for processing in [Processing::None, Processing::TransformerLens] {
        let model = model(processing);
        for hook in [
            "hook_resid_pre",
            "attn.hook_z",
            "hook_attn_out",
            "hook_resid_mid",
            "mlp.hook_pre",
            "mlp.hook_post",
            "hook_mlp_out",
            "hook_resid_post",
        ]
        .map(|hook| format!("blocks.1.{hook}"))
        {
            let what = format!("gradient/{processing}/{hook}");
            let (found, expected) = (model.logit_gradient(&tokens, &hook, &of).unwrap(), file.f32(&what).unwrap());
            let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == expected.len() && error <= TOLERANCE * largest, "{what}: {error} of {largest}");
        }
        for (hook, start) in
            [("blocks.1.attn.hook_q", "hook_name: gradients can be taken at"), ("nope", "hook_name: nope")]
        {
            let refusal = model.logit_gradient(&tokens, hook, &of).unwrap_err().to_string();
            assert!(refusal.starts_with(start), "{refusal}");
        }
    }
}

#[test]
fn gradient_attribution_is_saelens_and_direct_attribution_is_the_logit_through_the_stream_alone() {
    let (file, model) = (expected(), model(Processing::None));
    let tokens = tokens(&file);
    let of = LogitSum { position: tokens.len() - 1, weights: vec![(TARGET, 1.0), (OTHER, -1.0)] };
    for name in SAES {
        let sae = sae(name);
        let found = attribute(&model, &sae, &tokens, &of, &[]).unwrap();
        let d_sae = sae.config().d_sae;
        let mut dense = vec![0.0; tokens.len() * d_sae];
        found.iter().for_each(|it| dense[it.position * d_sae + it.feature as usize] = it.gradient);
        let what = format!("{name}/error/attribution");
        assert_close(&dense, &file.f32(&what).unwrap(), &what);
        assert!(found.windows(2).all(|pair| pair[0].gradient.abs() >= pair[1].gradient.abs()));
        let in_stream = name != "random-standard-hook_z";
        assert!(found.iter().all(|it| it.direct.is_some() == (in_stream && it.position == of.position)));
    }
}

#[test]
fn direct_attribution_at_the_last_hook_sums_to_the_logits() {
    // After the last block nothing is between the stream and the logits: the features' and the rest's
    // direct attributions are the whole logit difference, because the LayerNorm's scale is the true one.
    let (file, model) = (expected(), model(Processing::None));
    let tokens = tokens(&file);
    let mut saved = saelens::load_folder(&data("evals/trained-topk-resid/sae")).unwrap();
    saved.config.metadata.insert("hook_name".into(), "blocks.3.hook_resid_post".into());
    let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
    let of = LogitSum { position: tokens.len() - 1, weights: vec![(TARGET, 1.0), (OTHER, -1.0)] };
    let found = attribute(&model, &sae, &tokens, &of, &[]).unwrap();
    let at_last: Vec<&Attribution> = found.iter().filter(|it| it.position == of.position).collect();
    assert!(!at_last.is_empty());
    // The direct path holds the scale fixed, so it is not the gradient; without the scale's part they
    // would be equal. Removing one feature changes the logits by its direct attribution once the scale is
    // held: checked by hand through the recorded scale.
    let scale_of = |visitor: &mut Record, splices: &mut [Splice<Cpu>]| {
        let found = logits(&model, splices, &tokens, visitor);
        let scale = *visitor.values["ln_final.hook_scale"].1.last().unwrap();
        (f64::from(found[TARGET as usize]) - f64::from(found[OTHER as usize]), f64::from(scale))
    };
    let hook = ["ln_final.hook_scale"];
    let (clean, scale) = scale_of(&mut Record::of(hook), &mut []);
    let most = at_last.iter().max_by(|a, b| a.activation.total_cmp(&b.activation)).unwrap();
    let mut splice = [Splice::new(&model, &sae, true, tokens.len()).unwrap()];
    splice[0].edits = vec![FeatureEdit { row: of.position, feature: most.feature, change: Change::Set(0.0) }];
    let (without, scale_without) = scale_of(&mut Record::of(hook), &mut splice);
    // logit = offset + stream / scale, and the offset is the LayerNorm's bias through the unembedding.
    let offset = logit_offset(&model);
    let direct = (clean - offset) - (without - offset) * scale_without / scale;
    assert!((direct - f64::from(most.direct.unwrap())).abs() < 2e-4, "{direct} {:?}", most.direct);
}

/// The part of the logit difference that does not depend on the stream.
fn logit_offset(model: &LanguageModel<Cpu>) -> f64 {
    struct Zero;
    impl Visitor<Cpu> for Zero {
        fn wants(&self, hook: &str) -> bool {
            hook == "ln_final.hook_normalized"
        }
        fn visit(&mut self, backend: &Cpu, _: &str, value: &mut Vec<f32>, _: &[usize]) -> Result<()> {
            backend.fill(value, 0.0)
        }
    }
    let mut forward = model.forward(1, 1).unwrap();
    forward.run(model, &[5], &mut Zero, None).unwrap();
    let logits = forward.logits_of_rows(model, &[0]).unwrap();
    f64::from(logits[TARGET as usize]) - f64::from(logits[OTHER as usize])
}

#[test]
fn ablation_is_the_run_with_the_feature_set_to_zero() {
    let (file, model) = (expected(), model(Processing::None));
    let tokens = tokens(&file);
    let sae = sae("trained-topk-resid");
    let request = AblationRequest {
        features: Some(FEATURES.to_vec()),
        position: None,
        target: TARGET,
        use_error_term: false,
        exclude_tokens: Vec::new(),
    };
    let effects = ablate(&model, &sae, &tokens, &request).unwrap();
    let logit = |what: &str| f64::from(file.f32(what).unwrap()[TARGET as usize]);
    let close = |a: f64, b: f64| assert!((a - b).abs() < 2e-4, "{a} {b}");
    close(effects.model.logit, logit("none/logits"));
    close(effects.sae.logit, logit("trained-topk-resid/plain/logits"));
    close(effects.together.logit, logit("trained-topk-resid/plain/without"));
    let logits = file.f32("none/logits").unwrap();
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    close(effects.model.probability.ln(), (logit("none/logits").exp() / sum).ln());
    assert!(effects.each.windows(2).all(|pair| pair[0].outcome.logit <= pair[1].outcome.logit));

    // One after another is the same as many in one run, and every active feature is taken by default.
    let all = AblationRequest { features: None, position: Some(5), use_error_term: true, ..request.clone() };
    let effects = ablate(&model, &sae, &tokens, &all).unwrap();
    assert_eq!(effects.model, effects.sae);
    assert_eq!(effects.each.len(), 24);
    let first = effects.each[0];
    let alone = AblationRequest { features: Some(vec![first.feature]), ..all };
    let again = ablate(&model, &sae, &tokens, &alone).unwrap();
    close(again.each[0].outcome.logit, first.outcome.logit);
    close(again.together.loss, first.outcome.loss);
    assert!(first.activation > 0.0);
}

#[test]
fn steering_by_nothing_changes_nothing_and_by_much_changes_the_text() {
    let (file, model) = (expected(), model(Processing::None));
    let tokens = tokens(&file);
    let sae = sae("trained-topk-resid");
    let limits = Limits { max_new_tokens: 8, stop_tokens: Vec::new() };
    let generate = |changes: &[(u32, Change)], positions| {
        let steering = Steering { changes: changes.to_vec(), positions, exclude_tokens: vec![0] };
        let go_on = &mut |_| ControlFlow::Continue(());
        steer(&model, &sae, &tokens, &steering, Sampling::GREEDY, &limits, go_on).unwrap().tokens
    };
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let clean = model
        .generate(std::slice::from_ref(&tokens), Sampling::GREEDY, &limits, &mut (), go_on)
        .unwrap()
        .remove(0)
        .tokens;
    assert_eq!(generate(&[], Positions::All), clean);
    assert_eq!(generate(&[(3, Change::Add(0.0))], Positions::All), clean);

    // Without a cache: the prompt and all that came before is run anew for every token, steered as a whole.
    let change = (3, Change::Add(40.0));
    for positions in [Positions::All, Positions::Generated, Positions::These(vec![2, 13])] {
        let steered = generate(&[change], positions.clone());
        assert_ne!(steered, clean, "{positions:?}");
        let mut sequence = tokens.clone();
        for &token in &steered {
            let mut splice = [Splice::new(&model, &sae, true, sequence.len()).unwrap()];
            let steered = |row: &usize| match &positions {
                Positions::All => sequence[*row] != 0 || *row >= tokens.len(),
                Positions::Generated => *row >= tokens.len(),
                Positions::These(these) => these.contains(row),
            };
            let rows = (0..sequence.len()).filter(steered);
            splice[0].edits = rows.map(|row| FeatureEdit { row, feature: change.0, change: change.1 }).collect();
            let logits = logits(&model, &mut splice, &sequence, &mut ());
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(best as u32, token, "{positions:?}");
            sequence.push(token);
        }
    }
}
