//! Settings that change what a step does: a decoder of norm 1, bf16 operands, resampling of dead latents, a `k`
//! that moves, and a coefficient that is moved for the sake of L0.

use cusae::backend::{Cpu, Rank};
use cusae::config::{NormalizeActivations, Recipe};
use cusae::formats::saelens::{self, SavedSae, TrainingNotes};
use cusae::formats::tensors::{self, Tensor, TensorFile};
use cusae::random::{Random, Stream};
use cusae::sae::architecture::ArchitectureConfig;
use cusae::sae::batchtopk::BatchTopKConfig;
use cusae::sae::init::initial_weights;
use cusae::sae::matryoshka::MatryoshkaConfig;
use cusae::sae::resample::Candidates;
use cusae::sae::standard::StandardConfig;
use cusae::sae::step::{StepSettings, TrainingConfig, TrainingSae};
use cusae::sae::topk::TopKConfig;
use cusae::sae::weights::Weights;
use cusae::train::{self, progress::Silent, Options};
use half::bf16;
use serde_json::Value;
use std::path::Path;

const ROWS: usize = 16;
const D_IN: usize = 6;
const D_SAE: usize = 12;
const SETTINGS: StepSettings = StepSettings { lr: 0.01, coefficient: 0.5 };

fn uniform(n: usize, substream: u32) -> Vec<f32> {
    let mut random = Random::new(3, Stream::Shuffle, substream);
    (0..n).map(|_| 4.0 * (2.0 * random.uniform() - 1.0)).collect()
}

/// A standard SAE whose decoder rows start with this norm.
fn standard(decoder_init_norm: f32) -> TrainingSae<Cpu> {
    let config = TrainingConfig {
        architecture: ArchitectureConfig::Standard(StandardConfig { lp_norm: 1.0 }),
        d_in: D_IN,
        d_sae: D_SAE,
        train_batch_size_tokens: ROWS,
        apply_b_dec_to_input: true,
        normalize_activations: NormalizeActivations::None,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: None,
        autocast: false,
        dead_feature_window: 5,
    };
    let weights = initial_weights([D_IN, D_SAE], &[("b_enc", 0.0)], Some(decoder_init_norm), 1);
    let mut sae = TrainingSae::new(&Cpu, config, &weights).unwrap();
    sae.write_all_gradients(true);
    sae
}

fn rows(matrix: &[f32]) -> Vec<Vec<f64>> {
    matrix.chunks_exact(D_IN).map(|row| row.iter().map(|&x| x.into()).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(row: &[f64]) -> f64 {
    dot(row, row).sqrt()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{found:?}, expected {expected:?}");
    }
}

/// From the gradient of the same step without it: `g - <g, w> w`; Adam's first step, `lr g / (|g| + eps)`;
/// and back to norm 1. In f64; the step's is f32.
#[test]
fn a_decoder_of_norm_one_follows_its_gradient_at_right_angles_to_its_rows() {
    let (mut free, mut kept) = (standard(1.0), standard(1.0));
    kept.keep_unit_norm().unwrap();
    let before = rows(kept.values.get("W_dec"));
    let batch = uniform(ROWS * D_IN, 0);
    free.step(&batch, &SETTINGS).unwrap();
    kept.step(&batch, &SETTINGS).unwrap();
    let gradient = rows(free.gradients().get("W_dec"));
    let (projected, after) = (rows(kept.gradients().get("W_dec")), rows(kept.values.get("W_dec")));
    let mut along_the_rows = 0.0f64;
    for latent in 0..D_SAE {
        let (g, w) = (&gradient[latent], &before[latent]);
        let along = dot(g, w);
        along_the_rows = along_the_rows.max(along.abs());
        let expected: Vec<f64> = g.iter().zip(w).map(|(g, w)| g - along * w).collect();
        assert_close(&projected[latent], &expected, 1e-5);
        let moved: Vec<f64> = w.iter().zip(&expected).map(|(w, g)| w - 0.01 * g / (g.abs() + 1e-8)).collect();
        let expected: Vec<f64> = moved.iter().map(|x| x / norm(&moved)).collect();
        assert_close(&after[latent], &expected, 1e-6);
    }
    assert!(along_the_rows > 1.0, "something was taken off");
    // The other parameters move as without it.
    let [found, expected] = [&kept, &free].map(|sae| sae.values.get("b_enc"));
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}, expected {expected:?}");
}

#[test]
fn an_sae_whose_training_has_ended_keeps_its_weights_and_counts_but_nothing_for_another_step() {
    let mut sae = standard(1.0);
    sae.step(&uniform(ROWS * D_IN, 0), &SETTINGS).unwrap();
    let (before, fired) = (sae.result().download(&Cpu, D_IN).unwrap(), sae.firing.fired_count.clone());
    sae.end_training();
    assert_eq!(sae.result().download(&Cpu, D_IN).unwrap(), before);
    assert_eq!((sae.firing.fired_count.clone(), sae.count_dead().unwrap()), (fired, 0));
    for left in [sae.gradients(), &sae.exp_avg, &sae.exp_avg_sq] {
        assert_eq!(left.iter().count(), 0);
    }
}

fn topk(aux_loss_coefficient: f64) -> ArchitectureConfig {
    let (rank, rescale_acts_by_decoder_norm) = (Rank::Value, false);
    ArchitectureConfig::TopK(TopKConfig { k: 4, rank, aux_loss_coefficient, rescale_acts_by_decoder_norm })
}

/// A step of an SAE, of which the last latents are dead, on one row.
fn step(
    architecture: ArchitectureConfig,
    autocast: bool,
    writes_gradients: bool,
    weights: &Weights,
    row: &[f32],
) -> TrainingSae<Cpu> {
    let config =
        TrainingConfig { architecture, train_batch_size_tokens: 1, autocast, ..standard(1.0).config().clone() };
    let mut sae = TrainingSae::new(&Cpu, config, weights).unwrap();
    sae.write_all_gradients(writes_gradients);
    sae.firing.since_fired[D_SAE - 3..].fill(6);
    sae.step(&row.to_vec(), &SETTINGS).unwrap();
    sae
}

/// Weights of which bf16 holds W_enc, and an input that it holds, too: features are the same with it.
fn held_by_bf16() -> (Weights, Vec<f32>) {
    let mut weights = initial_weights([D_IN, D_SAE], &[("b_enc", 0.0)], Some(1.0), 1);
    let eighths = |x: &mut f32| *x = (*x * 8.0).round() / 8.0;
    weights.values_mut("W_enc").iter_mut().for_each(eighths);
    let mut row = uniform(D_IN, 0);
    row.iter_mut().for_each(eighths);
    (weights, row)
}

fn round_w_dec(weights: &Weights) -> Weights {
    let mut rounded = weights.clone();
    rounded.values_mut("W_dec").iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
    rounded
}

/// Those of the batch, of AuxK, and of Matryoshka's levels.
#[test]
fn with_autocast_lists_are_decoded_by_w_dec_in_bf16() {
    let (weights, row) = held_by_bf16();
    let batchtopk = BatchTopKConfig {
        k: 4.0,
        topk_threshold_lr: 0.01,
        aux_loss_coefficient: 0.0,
        rescale_acts_by_decoder_norm: false,
    };
    let matryoshka = ArchitectureConfig::Matryoshka(MatryoshkaConfig {
        batchtopk,
        matryoshka_widths: vec![D_SAE / 2, D_SAE],
        use_matryoshka_aux_loss: false,
    });
    for architecture in [topk(0.0), topk(1.0), matryoshka] {
        let step = |autocast, weights: &Weights| step(architecture.clone(), autocast, true, weights, &row);
        let (by_rounded, by_f32) = (step(false, &round_w_dec(&weights)), step(false, &weights));
        let in_bf16 = step(true, &weights);
        // What comes back through the decoder.
        for name in ["W_enc", "b_enc"] {
            assert_eq!(in_bf16.gradients().get(name), by_rounded.gradients().get(name), "{architecture:?} {name}");
            assert_ne!(in_bf16.gradients().get(name), by_f32.gradients().get(name), "{architecture:?} {name}");
        }
    }
    // AuxK had something to decode.
    let of_dead =
        |architecture| step(architecture, true, true, &weights, &row).gradients().get("b_enc")[D_SAE - 3..].to_vec();
    assert_ne!(of_dead(topk(1.0)), of_dead(topk(0.0)));
}

/// Where bf16 holds both matrices, W_enc's gradient has the same operands with it, and W_dec's another one: the
/// output's gradient, rounded by up to 2^-8 of it.
#[test]
fn with_autocast_the_gradients_operands_are_bf16_whether_they_are_written_or_not() {
    let (weights, row) = held_by_bf16();
    let weights = round_w_dec(&weights);
    let (in_f32, in_bf16) = (step(topk(0.0), false, true, &weights, &row), step(topk(0.0), true, true, &weights, &row));
    for name in ["W_enc", "b_enc"] {
        assert_eq!(in_f32.gradients().get(name), in_bf16.gradients().get(name), "{name}");
    }
    let [expected, found] = [&in_f32, &in_bf16].map(|sae| sae.gradients().get("W_dec"));
    let parts = expected.iter().zip(found).filter(|(a, _)| **a != 0.0).map(|(a, b)| f64::from(b / a - 1.0).abs());
    let largest = parts.fold(0.0, f64::max);
    assert!(1e-4 < largest && largest < 1.0 / 256.0 + 1e-6, "rounded by {largest}");

    let listed = step(topk(0.0), true, false, &weights, &row);
    for name in ["W_enc", "W_dec", "b_enc", "b_dec"] {
        assert_eq!(listed.values.get(name), in_bf16.values.get(name), "{name}");
    }
}

#[test]
fn dead_latents_start_again_in_the_direction_of_an_input() {
    let mut sae = standard(0.5);
    sae.keep_average(0.9).unwrap();
    let (dead, starts) = ([2usize, 7], [("b_enc", 0.25f32)]);
    let batch = uniform(ROWS * D_IN, 0);
    sae.step(&batch, &SETTINGS).unwrap();
    // The step's input is the batch, b_dec being 0 before it.
    dead.iter().for_each(|&latent| sae.firing.since_fired[latent] = 6);
    let [w_enc, w_dec] = ["W_enc", "W_dec"].map(|name| rows(sae.values.get(name)));
    let mut candidates = Candidates::default();
    sae.gather_candidates(&mut candidates, &mut Random::new(1, Stream::Resampling, 0)).unwrap();
    let resampled = sae.resample(&starts, &candidates).unwrap();
    assert_eq!((resampled, sae.count_dead().unwrap()), (2, 0));

    let living: Vec<f64> = (0..D_SAE).filter(|latent| !dead.contains(latent)).map(|i| norm(&w_enc[i])).collect();
    let encoder_norm = 0.2 * living.iter().sum::<f64>() / living.len() as f64;
    let directions: Vec<Vec<f64>> =
        rows(&batch).iter().map(|x| x.iter().map(|value| value / norm(x)).collect()).collect();
    let [new_enc, new_dec] = ["W_enc", "W_dec"].map(|name| rows(sae.values.get(name)));
    let mut taken = Vec::new();
    for latent in 0..D_SAE {
        if !dead.contains(&latent) {
            assert_eq!((&new_enc[latent], &new_dec[latent]), (&w_enc[latent], &w_dec[latent]));
            assert_ne!(sae.exp_avg.get("b_enc")[latent], 0.0);
            continue;
        }
        let input = directions.iter().position(|x| dot(x, &new_dec[latent]) > 1.0 - 1e-6).expect("an input");
        assert_close(&new_dec[latent], &directions[input], 1e-6);
        let encoder: Vec<f64> = directions[input].iter().map(|x| encoder_norm * x).collect();
        assert_close(&new_enc[latent], &encoder, 1e-6);
        assert_eq!(sae.values.get("b_enc")[latent], 0.25);
        let of_average = rows(sae.average.as_ref().unwrap().values.get("W_dec"));
        assert_eq!(of_average[latent], new_dec[latent]);
        for moments in [&sae.exp_avg, &sae.exp_avg_sq] {
            assert_eq!(moments.get("b_enc")[latent], 0.0);
            assert!(moments.get("W_enc")[latent * D_IN..][..D_IN].iter().all(|&x| x == 0.0));
            assert!(moments.get("W_dec")[latent * D_IN..][..D_IN].iter().all(|&x| x == 0.0));
        }
        taken.push(input);
    }
    assert_ne!(taken[0], taken[1], "no input is taken twice");
}

/// A run on 2048 rows of width 16, each a sum of three of 32 directions.
fn run(folder: &Path, name: &str, settings: &str) -> Vec<Value> {
    let mut random = Random::new(8, Stream::Shuffle, 0);
    let directions: Vec<f32> = (0..32 * 16).map(|_| 2.0 * random.uniform() - 1.0).collect();
    let mut row = || {
        let mut x = vec![0.0f32; 16];
        for _ in 0..3 {
            let (direction, size) = (random.below(32) as usize, 1.0 + 2.0 * random.uniform());
            x.iter_mut().zip(&directions[direction * 16..]).for_each(|(x, d)| *x += size * d);
        }
        x
    };
    let activations: Vec<f32> = (0..2048).flat_map(|_| row()).collect();
    let path = folder.join("x.safetensors");
    tensors::save(&path, vec![("x".into(), Tensor::f32(&[2048, 16], &activations))]).unwrap();
    let text = format!(
        "cached_activations_path = {path:?}\nd_sae = 64\nk = 4\ntrain_batch_size_tokens = 256\nlog_every = 1\n\
         dead_feature_window = 30\ntensorboard = false\n{settings}"
    );
    let recipe = Recipe::from_toml(Path::new("recipe.toml"), &text).unwrap();
    let options = Options { out: folder.join(name), ..Options::default() };
    train::run(&Cpu, &recipe, &options, &mut Silent).unwrap();
    let log = std::fs::read_to_string(options.out.join("metrics.jsonl")).unwrap();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

#[test]
fn every_architecture_keeps_its_decoder_at_norm_one() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in ["standard", "gated", "jumprelu", "topk", "batchtopk"] {
        let settings = "normalize_sae_decoder = true\ntraining_tokens = 12_800\nlr = 0.01\n";
        run(folder.path(), architecture, &format!("{settings}architecture = {architecture:?}\n"));
        let checkpoint = folder.path().join(architecture).join("checkpoints/50/sae_weights.safetensors");
        let w_dec = TensorFile::open(checkpoint).unwrap().f32("W_dec").unwrap();
        for row in w_dec.chunks_exact(16) {
            let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            assert!((norm - 1.0).abs() < 1e-6, "{architecture}: {norm}");
        }
    }
}

#[test]
fn an_sae_with_decoder_norms_folded_is_one_that_training_goes_on_with() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "first", "architecture = \"standard\"\ntraining_tokens = 2560\nlr = 0.01\n");
    let first = folder.path().join("first");
    let path = first.display().to_string();
    let from = format!("from_pretrained_path = {path:?}\nnormalize_sae_decoder = true\ntraining_tokens = 256\n");
    let log = run(folder.path(), "second", &format!("architecture = \"standard\"\nlr = 1e-30\n{from}"));
    let kept = run(
        folder.path(),
        "kept",
        &format!("architecture = \"standard\"\nlr = 1e-30\n{}", from.replace("true", "false")),
    );
    // The same features, each as much larger as its row is smaller: f32 rounds differently.
    let [found, expected] = [&log[0], &kept[0]].map(|line| number(line, "losses/mse_loss"));
    assert!((found - expected).abs() < 1e-4 * expected, "{found}, expected {expected}");
}

/// Half of the latents of an SAE are made dead; 50 steps after the last resampling as many as live count.
#[test]
fn resampling_leaves_fewer_dead_latents_and_a_smaller_error() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "first", "architecture = \"standard\"\ntraining_tokens = 25_600\nlr = 0.01\n");
    let first = folder.path().join("first");
    let SavedSae { config, mut weights, .. } = saelens::load_folder(&first).unwrap();
    weights.values_mut("b_enc")[..32].fill(-50.0);
    saelens::save_inference(&first, &config, &weights, TrainingNotes::default()).unwrap();
    let settings = format!(
        "architecture = \"standard\"\nlr = 0.01\nl1_coefficient = 2\ntraining_tokens = 76_800\n\
         from_pretrained_path = {:?}\n",
        first.display().to_string()
    );
    let without = run(folder.path(), "without", &settings);
    let with = run(folder.path(), "with", &format!("{settings}resample_every = 50\n"));
    assert_eq!(with[..49], without[..49], "nothing is different before the first time");
    let dead = |log: &[Value]| number(&log[299], "sparsity/dead_features");
    assert!(dead(&without) >= 32.0 && dead(&with) <= 8.0, "{} dead, {} without", dead(&with), dead(&without));
    let error = |log: &[Value]| log[250..].iter().map(|line| number(line, "losses/mse_loss")).sum::<f64>();
    assert!(error(&with) < 0.95 * error(&without), "{}, {} without", error(&with), error(&without));
}

#[test]
fn k_moves_from_its_start_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in ["topk", "abstopk", "batchtopk", "matryoshka_batchtopk"] {
        let expected = [12.0, 10.0, 8.0, 6.0, 4.0];
        let settings = "k_start = 12\nk_anneal_steps = 40\nmatryoshka_widths = [16]\ntraining_tokens = 12_800\n";
        let log = run(folder.path(), architecture, &format!("architecture = {architecture:?}\n{settings}"));
        let every_tenth = |key: &str| (0..5).map(|n| number(&log[10 * n], key)).collect::<Vec<_>>();
        assert_eq!(every_tenth("details/k"), expected, "{architecture}");
        assert_eq!(every_tenth("metrics/l0"), expected, "{architecture}");
        assert_eq!(number(&log[49], "metrics/l0"), 4.0);
    }
}

/// From factors that are far off, in 2000 steps; L0 is the mean of the last two hundred.
#[test]
fn the_coefficient_is_moved_until_l0_is_near_its_target() {
    let folder = tempfile::tempdir().unwrap();
    for (name, settings) in [
        ("standard", "architecture = \"standard\"\nl1_coefficient = 0.1\n"),
        ("gated", "architecture = \"gated\"\nl1_coefficient = 3.0\n"),
        ("jumprelu", "architecture = \"jumprelu\"\njumprelu_bandwidth = 0.5\nl0_coefficient = 0.1\n"),
    ] {
        let settings = format!("{settings}target_l0 = 6\nlr = 0.003\ntraining_tokens = 512_000\n");
        let log = run(folder.path(), name, &settings);
        let mean = log[1800..].iter().map(|line| number(line, "metrics/l0")).sum::<f64>() / 200.0;
        assert!((mean / 6.0 - 1.0).abs() < 0.1, "{name}: {mean}");
    }
}
