//! Rows of whole steps: training steps of an SAE, and the language model's forward pass up to the
//! hook that activations are read at. Their work is that of the operations they consist of.

use super::encode::{sparse_bias, BIAS_DEVIATION};
use super::*;
use crate::backend::*;
use crate::bench::data::{normal, tokens};
use crate::config::NormalizeActivations;
use crate::formats::tensors::{Tensor, TensorFile};
use crate::lm::{Checkpoint, LanguageModel, ModelConfig, Processing};
use crate::sae::architecture::ArchitectureConfig;
use crate::sae::init::initial_weights;
use crate::sae::standard::StandardConfig;
use crate::sae::step::{StepSettings, TrainingConfig, TrainingSae};
use crate::sae::topk::TopKConfig;
use crate::sae::weights::HostTensor;
use std::path::Path;

pub(super) fn steps<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    let rank = Rank::Value;
    let topk = TopKConfig { k: s.k, rank, aux_loss_coefficient: 1.0, rescale_acts_by_decoder_norm: true };
    let standard = || ArchitectureConfig::Standard(StandardConfig { lp_norm: 1.0 });
    let active = s.active();
    let sparse_work =
        vec![encode::encode_relu(s), decode::decode_sparse(s, active, false), decode::sparsity_lp(s, active)];
    let dense_work = vec![
        encode::encode_relu_dense(s),
        decode::decode_dense(s, false),
        decode::sparsity_lp_dense(s),
        gradient::gradient_dense(s, false),
        lists::update_firing_dense(s),
    ];
    // Work space in numbers: index, value, gradient and place of every entry; or features and gradient.
    let (by_lists, room) = (|stride: usize| 5 * s.rows * stride, s.d_sae / 4);
    vec![
        step("step topk", s.size_k(s.k), s, ArchitectureConfig::TopK(topk), 0.0, by_lists(s.k))
            .consists_of(vec![encode::encode_topk(s), decode::decode_sparse(s, s.k, false)])
            .consists_of(of_lists(s, s.k)),
        step("step standard", format!("{}, L0 about {active}", s.size()), s, standard(), sparse_bias(), by_lists(room))
            .consists_of(sparse_work)
            .consists_of(of_lists(s, active)),
        step("step standard dense", format!("{}, half active", s.size()), s, standard(), 0.0, 2 * s.dense())
            .consists_of(dense_work)
            .consists_of(of_written_gradients(s)),
    ]
}

/// What a step on lists does after decoding, and where gradients are not written.
fn of_lists<B: Backend>(s: SaeSizes, k: usize) -> Vec<Row<B>> {
    let sums = [listed::gradient_squares(s, k, false), listed::adam_sparse(s, k, false)];
    [lists::transpose_lists(s, k), lists::update_firing(s)].into_iter().chain(sums).chain(of_every_step(s)).collect()
}

/// The other steps' clip and Adam.
fn of_written_gradients<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    let written = [optimizer::adam(s), optimizer::adam(s), optimizer::clip_scale(s), matrix::row_norms(s)];
    written.into_iter().chain(of_every_step(s)).collect()
}

fn of_every_step<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    vec![matrix::prepare_input(s), gradient::gradient_b_dec(s)]
}

impl<B: Backend> Row<B> {
    /// Adds the work of other operations.
    fn consists_of(mut self, operations: Vec<Row<B>>) -> Self {
        self.parts.extend(operations.iter().map(Row::work));
        self
    }
}

/// A row whose work is added afterwards.
fn whole<B: Backend>(
    operation: &'static str,
    size: String,
    tokens: usize,
    prepare: impl Fn(&mut Data<'_, B>) -> Result<Run<B>> + 'static,
) -> Row<B> {
    Row { operation, size, parts: Vec::new(), tokens: Some(tokens), prepare: Box::new(prepare) }
}

/// Stands in where bytes are only counted.
fn nothing<B: Backend>() -> Run<B> {
    Box::new(|_| Ok(()))
}

/// Norm of the rows of W_dec and W_enc; with inputs of deviation 1 it is also the deviation of a
/// pre-activation.
const ROW_NORM: f32 = 0.1;

fn step<B: Backend>(
    operation: &'static str,
    size: String,
    s: SaeSizes,
    architecture: ArchitectureConfig,
    bias: f32,
    work_space: usize,
) -> Row<B> {
    whole(operation, size, s.rows, move |data| {
        let parameters = 2 * s.weights() + s.d_sae + s.d_in;
        // Weights, gradients, two moments, and the weights on the host; then what a step works with.
        let numbers = 5 * parameters + 5 * s.batch() + work_space;
        let batch = data.normal(s.batch())?;
        let Some(mut sae) = data.made(4 * numbers, |backend| sae(backend, s, architecture.clone(), bias))? else {
            return Ok(nothing());
        };
        // The weights stay as they are, nearly.
        let settings = StepSettings { lr: 1e-9, coefficient: 1.0 };
        // `standard` goes over to lists after its first step.
        sae.step(&batch, &settings)?;
        Ok(Box::new(move |_| sae.step(&batch, &settings)))
    })
}

fn sae<B: Backend>(backend: &B, s: SaeSizes, architecture: ArchitectureConfig, bias: f32) -> Result<TrainingSae<B>> {
    let config = TrainingConfig {
        architecture,
        d_in: s.d_in,
        d_sae: s.d_sae,
        train_batch_size_tokens: s.rows,
        apply_b_dec_to_input: true,
        normalize_activations: NormalizeActivations::None,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: Some(1.0),
        autocast: false,
        // None dies while it is timed.
        dead_feature_window: u32::MAX,
    };
    let mut weights = initial_weights([s.d_in, s.d_sae], &[("b_enc", 0.0)], Some(ROW_NORM), 1);
    let b_enc = normal(1, s.d_sae, bias * ROW_NORM, BIAS_DEVIATION * ROW_NORM);
    weights.insert("b_enc", HostTensor { shape: vec![s.d_sae], values: b_enc });
    TrainingSae::new(backend, config, &weights)
}

pub(super) fn forward<B: Backend>(s: LmSizes, context: usize) -> Row<B> {
    let block = || {
        let projection = || lm::linear(s.rows, [s.d_model; 2], ActivationFunction::Identity, false);
        vec![
            lm::layer_norm(s),
            projection(),
            projection(),
            projection(),
            attention::attention(s, context),
            lm::linear(s.rows, [s.d_model; 2], ActivationFunction::Identity, true),
            lm::layer_norm(s),
            lm::linear(s.rows, [s.d_model, s.d_mlp()], ActivationFunction::GeluTanh, false),
            lm::linear(s.rows, [s.d_mlp(), s.d_model], ActivationFunction::Identity, true),
        ]
    };
    let size = format!("rows {}, T {context}, to layer {}", s.rows, s.layers);
    let row = whole("forward", size, s.rows, move |data| {
        let weights = s.layers * 12 * s.d_model * s.d_model + (VOCABULARY + context) * s.d_model;
        let streams = s.rows * (7 * s.d_model + s.d_mlp());
        let Some(model) = data.made(4 * (2 * weights + streams), |backend| model(backend, s, context))? else {
            return Ok(nothing());
        };
        let mut forward = model.forward(s.rows / context, context)?;
        let (tokens, hook) = (tokens(1, s.rows, VOCABULARY), format!("blocks.{}.hook_resid_post", s.layers - 1));
        Ok(Box::new(move |_| forward.run(&model, &tokens, &mut (), Some(&hook)).map(|_| ())))
    });
    (0..s.layers).fold(row.consists_of(vec![lm::embed(s)]), |row, _| row.consists_of(block()))
}

/// Of the forward pass: an embedding is only looked up, so that a small one costs the same.
const VOCABULARY: usize = 1000;

/// Random weights in GPT-2's shapes.
fn model<B: Backend>(backend: &B, s: LmSizes, context: usize) -> Result<LanguageModel<B>> {
    let LmSizes { layers, d_model, n_heads, .. } = s;
    let json = format!(
        r#"{{"model_type": "gpt2", "n_layer": {layers}, "n_embd": {d_model}, "n_head": {n_heads},
            "vocab_size": {VOCABULARY}, "n_positions": {context}}}"#
    );
    let config = ModelConfig::parse(Path::new("config.json of the bench"), &json)?;
    let mut shapes = vec![("wte.weight".to_string(), vec![VOCABULARY, d_model])];
    shapes.push(("wpe.weight".into(), vec![context, d_model]));
    let norm = |name: String| [(format!("{name}.weight"), vec![d_model]), (format!("{name}.bias"), vec![d_model])];
    for layer in 0..layers {
        for (name, input, output) in
            [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)]
        {
            shapes.push((format!("h.{layer}.{name}.weight"), vec![input * d_model, output * d_model]));
            shapes.push((format!("h.{layer}.{name}.bias"), vec![output * d_model]));
        }
        shapes.extend(norm(format!("h.{layer}.ln_1")).into_iter().chain(norm(format!("h.{layer}.ln_2"))));
    }
    shapes.extend(norm("ln_f".into()));
    let tensors = shapes.into_iter().enumerate().map(|(seed, (name, shape))| {
        // As GPT-2 is initialised: deviation 0.02, and gains of 1.
        let mean = if name.contains("ln_") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let values = normal(seed as u32, shape.iter().product(), mean, if mean > 0.0 { 0.0 } else { 0.02 });
        let bytes = bytemuck::cast_slice(&values).to_vec().into();
        (name, Tensor { bytes, ..Tensor::f32(&shape, &[]) })
    });
    let file = TensorFile::from_tensors("weights of the bench", tensors.collect())?;
    LanguageModel::from_parts(backend, config, &Checkpoint::from_file(file), Processing::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 2,048 latents 5 exceed the bias in the mean; half do without one.
    #[test]
    fn as_many_latents_are_active_as_the_row_says() {
        let s = SaeSizes { rows: 64, d_in: 48, d_sae: 2048, k: 4 };
        let settings = StepSettings { lr: 1e-9, coefficient: 1.0 };
        let l0 = |bias| {
            let architecture = ArchitectureConfig::Standard(StandardConfig { lp_norm: 1.0 });
            let mut sae = sae(&Cpu, s, architecture, bias).unwrap();
            sae.step(&normal(3, s.batch(), 0.0, 1.0), &settings).unwrap();
            sae.report(false).unwrap().l0
        };
        assert_eq!(s.active(), 5);
        assert!((3.5..6.5).contains(&l0(sparse_bias())), "{}", l0(sparse_bias()));
        assert!((900.0..1150.0).contains(&l0(0.0)), "{}", l0(0.0));
    }
}
