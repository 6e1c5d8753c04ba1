//! Features and reconstructions are those that SAELens computes from the same folder.
//!
//! Tolerances: SAELens' own float32 and float64 results differ by at most 4e-6 here; a second
//! float32 implementation gets 2e-5, and must find the same active latents. SAELens computes
//! float16 and bfloat16 SAEs in these formats, we compute their weights in f32: the difference is
//! SAELens' rounding of numbers up to 15.

use cusae::backend::{Backend, Cpu};
use cusae::formats::saelens::load_folder;
use cusae::formats::tensors::TensorFile;
use cusae::sae::features::SparseFeatures;
use cusae::sae::inference::{Pass, Sae};
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/saes").join(name)
}

const ROWS: usize = 32;
const D_IN: usize = 64;
const D_SAE: usize = 256;

/// What SAELens computed, and what we compute.
struct Compared {
    sae: Sae<Cpu>,
    pass: Pass<Cpu>,
    x: Vec<f32>,
    acts: Vec<f32>,
    expected_acts: Vec<f32>,
    expected_reconstruction: Vec<f32>,
}

impl Compared {
    fn of(name: &str) -> Compared {
        let saved = load_folder(&data(name)).unwrap();
        let io = TensorFile::open(data(name).join("io.safetensors")).unwrap();
        let x = io.f32("x").unwrap();
        let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
        let mut pass = sae.pass(ROWS).unwrap();
        pass.forward(&sae, &x, ROWS).unwrap();
        let acts = pass.features(&sae).unwrap().to_dense(D_SAE);
        let expected_acts = io.f32("feature_acts").unwrap();
        let expected_reconstruction = io.f32("reconstruction").unwrap();
        Compared { sae, pass, x, acts, expected_acts, expected_reconstruction }
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

const FOLDERS: &[&str] = &[
    "standard-none-bdec",
    "standard-layer_norm-bdec",
    "standard-constant_norm_rescale-nobdec",
    "standard-expected_average_only_in-bdec",
    "standard-hook_z",
    "standard-fold-before",
    "standard-fold-after",
    "standard-scalefold-before",
    "standard-scalefold-after",
    "topk-none-nobdec",
    "topk-none-bdec-k200",
    "topk-none-bdec-rescale",
    "topk-layer_norm-bdec-rescale",
    "topk-constant_norm_rescale-bdec",
    "training-topk-checkpoint",
    "training-topk-inference",
    "legacy-res-jb",
    "legacy-res-jb-no-scaling",
    "legacy-v3-topk",
    "legacy-v3-hook-z",
    "legacy-v3-standard-normbool",
    "gated-layer_norm-bdec",
    "gated-fold-after",
    "jumprelu-none-bdec",
    "jumprelu-constant_norm_rescale-nobdec",
    "abstopk-layer_norm-bdec",
    "abstopk-none-bdec-rescale",
    "transcoder-none",
    "skip_transcoder-layer_norm",
    "jumprelu_skip_transcoder-constant_norm_rescale",
    "legacy-v3-gated",
    "legacy-v3-jumprelu",
    "training-jumprelu-log_threshold-checkpoint",
];

#[test]
fn float32_folders_encode_and_decode_as_in_saelens() {
    for name in FOLDERS {
        let c = Compared::of(name);
        for (i, (found, expected)) in c.acts.iter().zip(&c.expected_acts).enumerate() {
            let (row, latent) = (i / D_SAE, i % D_SAE);
            assert_eq!(*found != 0.0, *expected != 0.0, "{name}: row {row}, latent {latent}: {found}, {expected}");
        }
        let acts = largest_difference(&c.acts, &c.expected_acts);
        assert!(acts <= 2e-5, "{name}: features differ by {acts}");
        let reconstruction = largest_difference(c.pass.reconstruction(), &c.expected_reconstruction);
        assert!(reconstruction <= 2e-5, "{name}: reconstructions differ by {reconstruction}");
    }
}

/// Each latent that is taken adds its rounding to what is left: SAELens' float32 and float64 differ by 3e-5.
#[test]
fn matching_pursuit_encodes_and_decodes_as_in_saelens() {
    for name in [
        "matching_pursuit-constant_norm_rescale-bdec",
        "matching_pursuit-none-nobdec",
        "training-matching_pursuit-checkpoint",
    ] {
        let c = Compared::of(name);
        let support = |acts: &[f32]| acts.iter().map(|&x| x != 0.0).collect::<Vec<_>>();
        assert!(support(&c.acts) == support(&c.expected_acts), "{name}: other latents are active");
        let acts = largest_difference(&c.acts, &c.expected_acts);
        assert!(acts <= 2e-4, "{name}: features differ by {acts}");
        let reconstruction = largest_difference(c.pass.reconstruction(), &c.expected_reconstruction);
        assert!(reconstruction <= 2e-4, "{name}: reconstructions differ by {reconstruction}");
    }
}

#[test]
fn half_precision_folders_agree_within_their_rounding() {
    for (name, tolerance) in
        [("standard-float16", 2e-2), ("topk-float16", 2e-2), ("standard-bfloat16", 1e-1), ("topk-bfloat16", 1e-1)]
    {
        let mut c = Compared::of(name);
        // Rounding makes ties, so that different latents may be selected: values are compared by rank.
        for acts in [&mut c.acts, &mut c.expected_acts] {
            acts.chunks_exact_mut(D_SAE).for_each(|row| row.sort_by(f32::total_cmp));
        }
        let acts = largest_difference(&c.acts, &c.expected_acts);
        assert!(acts <= tolerance, "{name}: features differ by {acts}");
        if name != "topk-bfloat16" {
            let reconstruction = largest_difference(c.pass.reconstruction(), &c.expected_reconstruction);
            assert!(reconstruction <= tolerance, "{name}: reconstructions differ by {reconstruction}");
        }
    }
}

#[test]
fn features_from_outside_decode_to_the_same_reconstruction() {
    for name in ["topk-none-bdec-rescale", "standard-layer_norm-bdec", "topk-constant_norm_rescale-bdec"] {
        let mut c = Compared::of(name);
        let normalization = c.pass.row_normalization(&c.sae).unwrap();
        let features = SparseFeatures::from_dense(&c.expected_acts, D_SAE);
        // In another pass, and not from the first row on.
        c.pass = c.sae.pass(ROWS).unwrap();
        let (first, rows) = (3, 20);
        let part = normalization.as_ref().map(|(scale, shift)| (&scale[first..][..rows], &shift[first..][..rows]));
        c.pass.set_features(&c.sae, &features, first, rows, part).unwrap();
        c.pass.decode(&c.sae).unwrap();
        let expected = &c.expected_reconstruction[first * D_IN..][..rows * D_IN];
        let difference = largest_difference(&c.pass.reconstruction()[..rows * D_IN], expected);
        assert!(difference <= 2e-5, "{name}: {difference}");
    }
}

#[test]
fn a_smaller_batch_in_larger_buffers_gives_the_same_rows() {
    let c = Compared::of("standard-none-bdec");
    let mut pass = c.sae.pass(100).unwrap();
    for rows in [32, 5] {
        pass.forward(&c.sae, &c.x, rows).unwrap();
        assert_eq!(pass.rows(), rows);
        assert_eq!(pass.features(&c.sae).unwrap().to_dense(D_SAE), c.acts[..rows * D_SAE]);
    }
}

#[test]
fn lists_grow_when_more_latents_are_active_than_expected() {
    // A bias of 100 makes all 256 latents active; the first room is for 128.
    let saved = load_folder(&data("standard-none-bdec")).unwrap();
    let mut weights = saved.weights.clone();
    let mut b_enc = weights.get("b_enc").clone();
    b_enc.values.iter_mut().for_each(|b| *b += 100.0);
    weights.insert("b_enc", b_enc);
    let sae = Sae::new(&Cpu, &saved.config, &weights).unwrap();
    let mut pass = sae.pass(ROWS).unwrap();
    pass.forward(&sae, &Cpu.zeros(ROWS * D_IN).unwrap(), ROWS).unwrap();
    assert_eq!(pass.features(&sae).unwrap().indices().len(), ROWS * D_SAE);
}

#[test]
fn what_does_not_fit_is_refused() {
    let saved = load_folder(&data("topk-none-nobdec")).unwrap();
    let mut config = saved.config.clone();
    config.d_sae = 255;
    let message = Sae::new(&Cpu, &config, &saved.weights).err().unwrap().to_string();
    assert!(message.contains("weights are") && message.contains("[255, 64]"), "{message}");

    let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
    let mut pass = sae.pass(4).unwrap();
    let message = pass.encode(&sae, &vec![0.0; 5 * D_IN], 5).unwrap_err().to_string();
    assert_eq!(message, "sae: 5 rows, the buffers were made for 4");
    let mut features = SparseFeatures::default();
    features.push_row(&[3, 256], &[1.0, 1.0]);
    let message = pass.set_features(&sae, &features, 0, 1, None).unwrap_err().to_string();
    assert_eq!(message, "decode: feature 256 is not below d_sae = 256");
}
