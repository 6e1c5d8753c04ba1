//! Speed of the language model's forward pass: GPT-2 small's shape with random weights, 4096 tokens
//! through eight blocks, which is what training an SAE on `blocks.8.hook_resid_pre` costs.

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use cusae::backend::Cpu;
use cusae::formats::tensors::{Tensor, TensorFile};
use cusae::lm::{Checkpoint, LanguageModel, ModelConfig, Processing};
use cusae::random::{Random, Stream};
use std::path::Path;
use std::time::Duration;

const TOKENS: usize = 4096;
const LAYERS: usize = 8;
const D_MODEL: usize = 768;
/// The embedding is only looked up: a small vocabulary costs the same.
const D_VOCAB: usize = 1000;

fn model() -> LanguageModel<Cpu> {
    let json =
        format!(r#"{{"model_type": "gpt2", "n_layer": {LAYERS}, "n_embd": {D_MODEL}, "vocab_size": {D_VOCAB}}}"#);
    let config = ModelConfig::parse(Path::new("config.json"), &json).unwrap();
    let mut random = Random::new(1, Stream::Weights, 0);
    let mut tensors = Vec::new();
    let mut tensor = |name: String, shape: &[usize]| {
        // Standard deviation 0.02, as GPT-2 is initialised; gains are 1.
        let gain = name.ends_with("ln_1.weight") || name.ends_with("ln_2.weight") || name.ends_with("ln_f.weight");
        let mut value = || if gain { 1.0f32 } else { (random.uniform() - 0.5) * 0.07 };
        let bytes: Vec<u8> = (0..shape.iter().product()).flat_map(|_| value().to_le_bytes()).collect();
        tensors.push((name, Tensor { bytes: bytes.into(), ..Tensor::f32(shape, &[]) }));
    };
    tensor("wte.weight".into(), &[D_VOCAB, D_MODEL]);
    tensor("wpe.weight".into(), &[1024, D_MODEL]);
    for layer in 0..LAYERS {
        for (name, input, output) in
            [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)]
        {
            tensor(format!("h.{layer}.{name}.weight"), &[input * D_MODEL, output * D_MODEL]);
            tensor(format!("h.{layer}.{name}.bias"), &[output * D_MODEL]);
        }
        for name in ["ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"] {
            tensor(format!("h.{layer}.{name}"), &[D_MODEL]);
        }
    }
    tensor("ln_f.weight".into(), &[D_MODEL]);
    tensor("ln_f.bias".into(), &[D_MODEL]);
    let bytes = safetensors::serialize(tensors, None).unwrap().leak();
    let weights = Checkpoint::from_file(TensorFile::from_static("random weights", bytes).unwrap());
    LanguageModel::from_parts(&Cpu, config, &weights, Processing::None).unwrap()
}

fn forward(criterion: &mut Criterion) {
    let model = model();
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7919 % D_VOCAB as u32).collect();
    let mut group = criterion.benchmark_group("forward to layer 8, GPT-2 small");
    group.sample_size(10).measurement_time(Duration::from_secs(30)).throughput(Throughput::Elements(TOKENS as u64));
    for context in [128, 1024] {
        let mut forward = model.forward(TOKENS / context, context).unwrap();
        group.bench_function(format!("context {context}"), |bencher| {
            bencher.iter(|| forward.run(&model, &tokens, &mut (), Some("blocks.7.hook_resid_post")).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
