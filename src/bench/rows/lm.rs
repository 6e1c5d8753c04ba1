//! Rows of the language model's operations.

use super::*;
use crate::backend::*;

pub(super) fn rows<B: Backend>(s: LmSizes) -> Vec<Row<B>> {
    let mut rows = vec![
        embed(s),
        layer_norm(s),
        linear(s.rows, [s.d_model, s.d_model], ActivationFunction::Identity, true),
        linear(s.rows, [s.d_model, s.d_mlp()], ActivationFunction::GeluTanh, false),
        linear(s.rows, [s.d_mlp(), s.d_model], ActivationFunction::Identity, true),
        linear_bf16(s.rows, [s.d_model, s.d_model], ActivationFunction::Identity, true),
        linear_bf16(s.rows, [s.d_model, s.d_mlp()], ActivationFunction::GeluTanh, false),
        linear_bf16(s.rows, [s.d_mlp(), s.d_model], ActivationFunction::Identity, true),
        activate(s),
    ];
    rows.extend(s.contexts.iter().flat_map(|&context| attention::rows(s, context)));
    rows.extend([add(s), unembed_cross_entropy(s), unembed_kl_divergence(s), sample_token(s)]);
    rows
}

fn size(s: LmSizes) -> String {
    format!("rows {}, D {}", s.rows, s.d_model)
}

pub(super) fn embed<B: Backend>(s: LmSizes) -> Row<B> {
    let LmSizes { rows, d_model, d_vocab, contexts, .. } = s;
    let context = contexts[0];
    Row::new("embed", size(s), Work::bytes(12 * rows * d_model), move |data| {
        let tokens = data.tokens(rows, d_vocab)?;
        let (w_e, w_pos) = (data.normal(d_vocab * d_model)?, data.normal(context * d_model)?);
        let mut resid = data.zeros(rows * d_model)?;
        Ok(Box::new(move |backend: &B| {
            backend.embed(Embed {
                tokens: &tokens,
                w_e: &w_e,
                w_pos: &w_pos,
                rows,
                context,
                past: 0,
                d_model,
                embed: None,
                pos_embed: None,
                resid: &mut resid,
            })
        }))
    })
}

pub(super) fn layer_norm<B: Backend>(s: LmSizes) -> Row<B> {
    let LmSizes { rows, d_model, .. } = s;
    Row::new("layer_norm", size(s), Work::bytes(8 * rows * d_model), move |data| {
        let x = data.normal(rows * d_model)?;
        let (gain, bias) = (data.positive(d_model)?, data.normal(d_model)?);
        let mut output = data.zeros(rows * d_model)?;
        Ok(Box::new(move |backend: &B| {
            backend.layer_norm(LayerNorm {
                x: &x,
                from: LayerNormFrom::Input,
                gain: Some(&gain),
                bias: Some(&bias),
                epsilon: 1e-5,
                rows,
                d_model,
                scale: None,
                normalized: None,
                output: &mut output,
            })
        }))
    })
}

/// A product with a bias, and with a residual or without.
pub(in crate::bench) fn linear<B: Backend>(
    rows: usize,
    dims: [usize; 2],
    function: ActivationFunction,
    with_residual: bool,
) -> Row<B> {
    let [d_input, d_output] = dims;
    let work = Work::product(rows, d_input, d_output) + of_residual(with_residual, rows * d_output);
    Row::new("linear", size_of_linear(rows, dims, function, with_residual), work, move |data| {
        let (x, w) = (data.normal(rows * d_input)?, data.scaled(d_input * d_output, 0.0, 0.02)?);
        let mut product = Product::new(data, rows, dims, function, with_residual)?;
        Ok(Box::new(move |backend: &B| product.run(backend, Matrix::F32(&x), Matrix::F32(&w), false)))
    })
}

/// The same with bf16 operands.
pub(in crate::bench) fn linear_bf16<B: Backend>(
    rows: usize,
    dims: [usize; 2],
    function: ActivationFunction,
    with_residual: bool,
) -> Row<B> {
    let [d_input, d_output] = dims;
    let work = Work::bf16_product(rows, d_input, d_output) + of_residual(with_residual, rows * d_output);
    Row::new("linear_bf16", size_of_linear(rows, dims, function, with_residual), work, move |data| {
        let x = data.scaled_bf16(rows * d_input, 0.0, 1.0)?;
        let w = data.scaled_bf16(d_input * d_output, 0.0, 0.02)?;
        let mut product = Product::new(data, rows, dims, function, with_residual)?;
        Ok(Box::new(move |backend: &B| product.run(backend, Matrix::Bf16(&x), Matrix::Bf16(&w), true)))
    })
}

/// What `linear` is given besides its operands.
struct Product<B: Backend> {
    rows: usize,
    dims: [usize; 2],
    function: ActivationFunction,
    bias: B::Buffer<f32>,
    residual: Option<B::Buffer<f32>>,
    out: B::Buffer<f32>,
}

impl<B: Backend> Product<B> {
    fn new(
        data: &mut Data<B>,
        rows: usize,
        dims: [usize; 2],
        function: ActivationFunction,
        with_residual: bool,
    ) -> Result<Self> {
        let len = rows * dims[1];
        let bias = data.normal(dims[1])?;
        let residual = if with_residual { Some(data.normal(len)?) } else { None };
        Ok(Product { rows, dims, function, bias, residual, out: data.zeros(len)? })
    }

    fn run(&mut self, backend: &B, x: Matrix<'_, B>, w: Matrix<'_, B>, w_is_transposed: bool) -> Result<()> {
        backend.linear(Linear {
            x,
            w,
            w_is_transposed,
            bias: Some(&self.bias),
            function: self.function,
            residual: self.residual.as_ref(),
            rows: self.rows,
            d_input: self.dims[0],
            d_output: self.dims[1],
            out: &mut self.out,
        })
    }
}

fn of_residual(with_residual: bool, len: usize) -> Work {
    Work::bytes(if with_residual { 4 * len } else { 0 })
}

fn size_of_linear(
    rows: usize,
    [d_input, d_output]: [usize; 2],
    function: ActivationFunction,
    with_residual: bool,
) -> String {
    let after = match (function, with_residual) {
        (ActivationFunction::Identity, false) => String::new(),
        (ActivationFunction::Identity, true) => " + residual".into(),
        (function, _) => format!(", {function:?}"),
    };
    format!("rows {rows}, {d_input} to {d_output}{after}")
}

fn activate<B: Backend>(s: LmSizes) -> Row<B> {
    let len = s.rows * s.d_mlp();
    Row::new("activate", format!("{len} numbers, GeluTanh"), Work::bytes(8 * len), move |data| {
        let mut to = data.normal(len)?;
        Ok(Box::new(move |backend: &B| {
            backend.activate(Activate { function: ActivationFunction::GeluTanh, to: &mut to, len })
        }))
    })
}

fn add<B: Backend>(s: LmSizes) -> Row<B> {
    let len = s.rows * s.d_model;
    Row::new("add", format!("{len} numbers"), Work::bytes(12 * len), move |data| {
        let (from, mut to) = (data.normal(len)?, data.zeros(len)?);
        Ok(Box::new(move |backend: &B| backend.add(Add { from: &from, to: &mut to, len })))
    })
}

fn size_v(s: LmSizes) -> String {
    format!("{}, V {}", size(s), s.d_vocab)
}

fn unembed_cross_entropy<B: Backend>(s: LmSizes) -> Row<B> {
    let LmSizes { rows, d_model, d_vocab, .. } = s;
    let work = Work::flops(2 * rows * d_model * d_vocab)
        + Work::bytes(4 * (rows * d_model + d_vocab * d_model + d_vocab) + 8 * rows);
    Row::new("unembed_cross_entropy", size_v(s), work, move |data| {
        let (x, w_u) = (data.normal(rows * d_model)?, data.scaled(d_vocab * d_model, 0.0, 0.1)?);
        let (b_u, targets) = (data.normal(d_vocab)?, data.tokens(rows, d_vocab)?);
        let mut loss = data.zeros(rows)?;
        Ok(Box::new(move |backend: &B| {
            backend.unembed_cross_entropy(UnembedCrossEntropy {
                x: &x,
                w_u: &w_u,
                b_u: Some(&b_u),
                targets: &targets,
                rows,
                d_model,
                d_vocab,
                loss: &mut loss,
            })
        }))
    })
}

fn unembed_kl_divergence<B: Backend>(s: LmSizes) -> Row<B> {
    let LmSizes { rows, d_model, d_vocab, .. } = s;
    let work = Work::flops(4 * rows * d_model * d_vocab)
        + Work::bytes(4 * (2 * rows * d_model + d_vocab * d_model + d_vocab) + 4 * rows);
    Row::new("unembed_kl_divergence", size_v(s), work, move |data| {
        let (x, y) = (data.normal(rows * d_model)?, data.normal(rows * d_model)?);
        let (w_u, b_u) = (data.scaled(d_vocab * d_model, 0.0, 0.1)?, data.normal(d_vocab)?);
        let mut kl = data.zeros(rows)?;
        Ok(Box::new(move |backend: &B| {
            backend.unembed_kl_divergence(UnembedKlDivergence {
                x: &x,
                y: &y,
                w_u: &w_u,
                b_u: Some(&b_u),
                rows,
                d_model,
                d_vocab,
                kl: &mut kl,
            })
        }))
    })
}

/// Nucleus sampling, which looks at every likelihood; a row holds one sequence's next token.
fn sample_token<B: Backend>(s: LmSizes) -> Row<B> {
    let LmSizes { d_vocab, .. } = s;
    let rows = 32;
    let sampling = crate::backend::Sampling { temperature: 1.0, top_k: 0, top_p: 0.9, seed: 1 };
    let size = format!("rows {rows}, V {d_vocab}");
    Row::new("sample_token", size, Work::bytes(4 * rows * d_vocab), move |data| {
        let (logits, mut tokens) = (data.normal(rows * d_vocab)?, data.zeros(rows)?);
        Ok(Box::new(move |backend: &B| {
            backend.sample_token(SampleToken { logits: &logits, rows, d_vocab, sampling, step: 0, tokens: &mut tokens })
        }))
    })
}
