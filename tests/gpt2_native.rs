//! GPT-2's forward pass on the native backend, in the emulator and on a GPU where there is one, against
//! the CPU backend, which `gpt2.rs` compares with `transformers`.

mod devices;

use cusae::backend::{Backend, Cpu};
use cusae::lm::{LanguageModel, Processing, Record};
use std::path::Path;

/// 3 sequences of 7 tokens, through every block; what was at the hooks.
fn run<B: Backend>(backend: &B, processing: Processing, hooks: &[&str]) -> Record {
    let folder = Path::new("tests/data/gpt2-rand-tiny");
    let model = LanguageModel::load(backend, folder, processing).unwrap();
    let tokens: Vec<u32> = (0..21).map(|i| i * 1009 % 4096).collect();
    let mut record = Record::of(hooks.iter().copied());
    model.forward(3, 7).unwrap().run(&model, &tokens, &mut record, None).unwrap();
    record
}

fn agrees_with_the_cpu(hooks: &[&str]) {
    for processing in [Processing::None, Processing::TransformerLens] {
        let expected = run(&Cpu, processing, hooks);
        assert_eq!(expected.values.len(), hooks.len());
        for device in devices::devices(&[1]) {
            let found = run(&device, processing, hooks);
            for (hook, (shape, wanted)) in &expected.values {
                let (found_shape, found) = &found.values[hook];
                assert_eq!(found_shape, shape, "{hook}");
                let largest = wanted.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                // The tolerance of gpt2.rs: float32 against float64.
                let tolerance = if hook.starts_with("lo") { 1e-4 } else { 1e-5 * largest };
                for (i, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                    let error = (wanted - found).abs();
                    assert!(error <= tolerance, "{} {processing} {hook}[{i}]: {error:e}", device.describe());
                }
            }
        }
    }
}

#[test]
fn activations_logits_and_losses_agree_with_the_cpu() {
    agrees_with_the_cpu(&[
        "hook_embed",
        "blocks.0.attn.hook_q",
        "blocks.1.attn.hook_z",
        "blocks.2.mlp.hook_post",
        "blocks.3.hook_resid_post",
        "ln_final.output",
        "logits",
        "loss_per_token",
    ]);
}

/// Where somebody looks at the pattern, attention is made in its two halves.
#[test]
fn attention_in_two_halves_agrees_with_the_cpu() {
    agrees_with_the_cpu(&[
        "blocks.0.attn.hook_pattern",
        "blocks.0.attn.hook_z",
        "blocks.3.attn.hook_pattern",
        "logits",
    ]);
}
