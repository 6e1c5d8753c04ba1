//! Features and reconstructions are those that SAELens computes from the same folder.
//!
//! Tolerances: SAELens' own float32 and float64 results differ by at most 4e-6 here; a second
//! float32 implementation gets 2e-5, and must find the same active latents. SAELens computes
//! float16 and bfloat16 SAEs in these formats, we compute their weights in f32: the difference is
//! SAELens' rounding of numbers up to 15.

mod devices;

use cusae::backend::{Backend, Cpu};
use cusae::formats::saelens::load_folder;
use cusae::formats::tensors::TensorFile;
use cusae::sae::config::{InferenceArchitecture, SaeConfig};
use cusae::sae::features::SparseFeatures;
use cusae::sae::inference::{Pass, Sae};
use cusae::sae::weights::{HostTensor, Weights};
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
        let io = TensorFile::open(data(&computed_by_saelens(name)).join("io.safetensors")).unwrap();
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

/// A checkpoint of BatchTopK, Matryoshka's too, is read as what SAELens saves of it for inference.
fn computed_by_saelens(name: &str) -> String {
    match name.contains("batchtopk") {
        true => name.replace("-checkpoint", "-inference"),
        false => name.into(),
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// All folders but those that other tests are of.
fn folders() -> Vec<String> {
    let others = ["matching_pursuit", "temporal", "float16"];
    let all = std::fs::read_dir(data("")).unwrap().map(|entry| entry.unwrap());
    let folders = all.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    let mut folders: Vec<String> = folders.filter(|name| others.iter().all(|other| !name.contains(other))).collect();
    folders.sort();
    assert_eq!(folders.len(), 91);
    folders
}

#[test]
fn float32_folders_encode_and_decode_as_in_saelens() {
    for name in folders() {
        let c = Compared::of(&name);
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
        "matching_pursuit-none-bdec",
        "matching_pursuit-none-nobdec",
        "training-matching_pursuit-checkpoint",
        "training-matching_pursuit-inference",
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

/// Four sequences of eight rows. SAELens' float32 and float64 differ by 5e-7 here; features are below 0.06.
fn temporal_folders_agree_on<B: Backend>(backend: &B) {
    for name in ["temporal-relu-scalar", "temporal-topk-tied", "temporal-topk-untied"] {
        let saved = load_folder(&data(name)).unwrap();
        let io = TensorFile::open(data(name).join("io.safetensors")).unwrap();
        let agree = |what: &str, found: &[f32], tolerance: f32| {
            let difference = largest_difference(found, &io.f32(what).unwrap());
            assert!(difference <= tolerance, "{name}: {what} differs by {difference}");
        };
        let sae = Sae::new(backend, &saved.config, &saved.weights).unwrap();
        let x = backend.upload(&io.f32("x").unwrap()).unwrap();
        let mut pass = sae.pass(ROWS).unwrap();
        pass.set_context(8);
        pass.encode(&sae, &x, ROWS).unwrap();
        let (acts, expected) = (pass.features(&sae).unwrap().to_dense(D_SAE), io.f32("feature_acts").unwrap());
        assert!(acts.iter().zip(&expected).all(|(a, b)| (*a != 0.0) == (*b != 0.0)), "{name}: other latents");
        agree("feature_acts", &acts, 2e-7);
        agree("hidden_pre", &pass.pre_activations(&sae).unwrap(), 2e-7);
        agree("z_pred", &pass.predicted_codes(&sae).unwrap().unwrap(), 2e-5);
        pass.decode(&sae).unwrap();
        agree("decoded", &backend.download(pass.reconstruction()).unwrap(), 2e-5);
        pass.add_bypass(&sae, &x).unwrap();
        agree("reconstruction", &backend.download(pass.reconstruction()).unwrap(), 2e-5);
    }
}

#[test]
fn temporal_folders_encode_predict_and_decode_as_in_saelens() {
    temporal_folders_agree_on(&Cpu);
    devices::devices(&[1]).iter().for_each(temporal_folders_agree_on);
}

#[test]
fn a_temporal_sae_reads_whole_sequences() {
    let saved = load_folder(&data("temporal-topk-tied")).unwrap();
    let x = TensorFile::open(data("temporal-topk-tied").join("io.safetensors")).unwrap().f32("x").unwrap();
    let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
    let mut pass = sae.pass(ROWS).unwrap();
    let message = pass.encode(&sae, &x, ROWS).unwrap_err().to_string();
    assert_eq!(message, "sae: a temporal SAE reads whole sequences, and how many rows make one was not said");
    pass.set_context(5);
    let message = pass.encode(&sae, &x, ROWS).unwrap_err().to_string();
    assert_eq!(message, "sae: 32 rows are not whole sequences of 5, which a temporal SAE reads");
    // A token's features are those of the tokens up to it: the first row of a sequence sees none before.
    pass.set_context(8);
    pass.encode(&sae, &x, ROWS).unwrap();
    let of_sequence = pass.features(&sae).unwrap();
    pass.set_context(1);
    pass.encode(&sae, &x, ROWS).unwrap();
    let alone = pass.features(&sae).unwrap();
    assert_eq!(of_sequence.row(8), alone.row(8));
    assert_ne!(of_sequence.row(9), alone.row(9));
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

/// Half of 256 MB for lists of u32 and f32 that may hold every latent; never less than 256 rows nor more than 4,096.
#[test]
fn wide_saes_take_fewer_rows_at_once() {
    let rows_at_once = |architecture: InferenceArchitecture, d_sae: usize| {
        let config = SaeConfig::new(architecture, 1, d_sae);
        let mut weights = Weights::default();
        for (name, shape) in config.tensors() {
            let values = vec![1.0; shape.iter().product()];
            weights.insert(&name, HostTensor { shape, values });
        }
        Sae::new(&Cpu, &config, &weights).unwrap().rows_at_once()
    };
    let standard = || load_folder(&data("standard-layer_norm-bdec")).unwrap().config.architecture;
    assert_eq!([256, 24_576, 1 << 18].map(|d_sae| rows_at_once(standard(), d_sae)), [4096, 1365, 256]);
    let topk = load_folder(&data("topk-none-nobdec")).unwrap().config.architecture;
    assert_eq!(rows_at_once(topk, 1 << 18), 4096);
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
