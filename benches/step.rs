//! One training step at the size of `gpt2-small-res-jb`: d_in 768, d_sae 24,576, batch 4,096.
//!
//! The floor is the encoder's product, 155 GFLOP; Adam moves 0.9 GB (see the README for the figures).
//! `standard` is measured twice: as it starts (half of all latents active) and with about 60 active.

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use cusae::backend::{Backend, Cpu};
use cusae::config::NormalizeActivations;
use cusae::random::{Random, Stream};
use cusae::sae::architecture::ArchitectureConfig;
use cusae::sae::init::initial_weights;
use cusae::sae::standard::StandardConfig;
use cusae::sae::step::{StepSettings, TrainingConfig, TrainingSae};
use cusae::sae::topk::TopKConfig;
use cusae::sae::weights::HostTensor;

const D_IN: usize = 768;
const D_SAE: usize = 24_576;
const BATCH: usize = 4_096;

fn sae(architecture: ArchitectureConfig, b_enc: f32) -> TrainingSae<Cpu> {
    let config = TrainingConfig {
        architecture,
        d_in: D_IN,
        d_sae: D_SAE,
        train_batch_size_tokens: BATCH,
        apply_b_dec_to_input: true,
        normalize_activations: NormalizeActivations::None,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: Some(1.0),
        dead_feature_window: 1000,
    };
    let mut weights = initial_weights(D_IN, D_SAE, Some(0.1), 1);
    weights.insert("b_enc", HostTensor { shape: vec![D_SAE], values: vec![b_enc; D_SAE] });
    TrainingSae::new(&Cpu, config, &weights).expect("the sizes fit")
}

/// Sums of twelve uniform numbers are close enough to N(0, 1) to time with.
fn activations() -> Vec<f32> {
    let mut random = Random::new(7, Stream::Shuffle, 0);
    (0..BATCH * D_IN).map(|_| (0..12).map(|_| random.uniform()).sum::<f32>() - 6.0).collect()
}

fn steps(c: &mut Criterion) {
    let batch = Cpu.upload(&activations()).expect("memory");
    let topk = TopKConfig { k: 32, aux_loss_coefficient: 1.0, rescale_acts_by_decoder_norm: true };
    let standard = || ArchitectureConfig::Standard(StandardConfig { lp_norm: 1.0 });
    let mut group = c.benchmark_group("step 768 x 24576, batch 4096");
    group.sample_size(10).throughput(Throughput::Elements(BATCH as u64));
    let cases = [
        ("topk k=32", ArchitectureConfig::TopK(topk), 0.0),
        // h is N(0, (0.1 |x|)²) with |x| = sqrt(768): 60 of 24,576 exceed 2.81 standard deviations.
        ("standard L0=60", standard(), -2.81 * 0.1 * 27.7),
        ("standard at the start", standard(), 0.0),
    ];
    for (name, architecture, b_enc) in cases {
        let mut sae = sae(architecture, b_enc);
        let settings = StepSettings { lr: 1e-9, coefficient: 1.0, with_variance: false };
        group.bench_function(name, |b| b.iter(|| sae.step(&batch, &settings).expect("a step")));
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
