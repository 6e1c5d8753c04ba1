//! Rows of what stands between pre-activations and features: JumpReLU's gradients, gates.

use super::*;
use crate::backend::*;

pub(super) fn rows<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    vec![jumprelu_gradient(s), pre_act_loss(s), gate(s), gate_gradient(s)]
}

fn jumprelu_gradient<B: Backend>(s: SaeSizes) -> Row<B> {
    let (SaeSizes { rows, d_sae, k, .. }, entries) = (s, s.entries());
    let work = Work::bytes(24 * entries + 8 * d_sae + 12 * rows);
    Row::new("jumprelu_gradient", s.size_k(k), work, move |data| {
        let (lists, pre_activations) = (data.lists(rows, d_sae, k)?, data.positive(entries)?);
        let (threshold, decoder_norm) = (data.positive(d_sae)?, data.positive(d_sae)?);
        let mut value_gradient = data.normal(entries)?;
        let (mut threshold_gradient, mut norm_gradient) = (data.zeros(entries)?, data.zeros(entries)?);
        let (mut active, mut loss, scalars) = (data.zeros(rows)?, data.zeros(rows)?, data.scalars()?);
        Ok(Box::new(move |backend: &B| {
            backend.jumprelu_gradient(JumpReluGradient {
                lists: &lists,
                pre_activations: &pre_activations,
                threshold: &threshold,
                decoder_norm: &decoder_norm,
                bandwidth: 0.05,
                ste_to_input: false,
                sparsity: JumpReluSparsity::Step,
                scalars: &scalars,
                gradient_scale: 1.0 / rows as f32,
                rows,
                value_gradient: &mut value_gradient,
                threshold_gradient: &mut threshold_gradient,
                norm_gradient: &mut norm_gradient,
                active: &mut active,
                loss: &mut loss,
            })
        }))
    })
}

/// The product with the dead latents, and their rows of three weights' gradients.
fn pre_act_loss<B: Backend>(s: SaeSizes) -> Row<B> {
    let n_dead = s.dead();
    let work = Work::flops(2 * s.batch() * n_dead) + Work::bytes(4 * s.batch() + 24 * n_dead * s.d_in + 4 * s.d_sae);
    Row::new("pre_act_loss", format!("{}, {n_dead} dead", s.size()), work, move |data| {
        let operands = encode::Operands::new(data, s, 0.0)?;
        let (threshold, decoder_norm) = (data.positive(s.d_sae)?, data.positive(s.d_sae)?);
        let (w_dec, dead) = (data.normal(s.weights())?, data.dead(DEAD_PART, s.d_sae)?);
        let mut out = gradient::Out::new(data, s)?;
        let (mut threshold_gradient, mut loss) = (data.zeros(s.d_sae)?, data.zeros(s.d_sae)?);
        Ok(Box::new(move |backend: &B| {
            backend.pre_act_loss(PreActLoss {
                encoder: operands.encoder(),
                threshold: &threshold,
                decoder_norm: &decoder_norm,
                w_dec: &w_dec,
                dead: &dead,
                coefficient: 1e-3,
                gradient_scale: 1.0 / s.rows as f32,
                out: out.weights(true),
                threshold_gradient: &mut threshold_gradient,
                loss: &mut loss,
            })
        }))
    })
}

/// Biases of the gates and magnitudes.
struct Gates<B: Backend> {
    gates: FeatureLists<B>,
    b_gate: B::Buffer<f32>,
    b_mag: B::Buffer<f32>,
    r_mag: B::Buffer<f32>,
}

impl<B: Backend> Gates<B> {
    fn new(data: &mut Data<'_, B>, s: SaeSizes) -> Result<Self> {
        let gates = data.lists(s.rows, s.d_sae, s.k)?;
        let [b_gate, b_mag, r_mag] = [s.d_sae; 3].map(|len| data.scaled(len, 0.0, encode::BIAS_DEVIATION));
        Ok(Gates { gates, b_gate: b_gate?, b_mag: b_mag?, r_mag: r_mag? })
    }
}

fn gate<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_sae, k, .. } = s;
    let work = Work::bytes(16 * s.entries() + 12 * d_sae + 8 * rows);
    Row::new("gate", s.size_k(k), work, move |data| {
        let (of, mut features) = (Gates::new(data, s)?, data.empty_lists(rows, k)?);
        Ok(Box::new(move |backend: &B| {
            let Gates { gates, b_gate, b_mag, r_mag } = &of;
            backend.gate(Gate { gates, b_gate, b_mag, r_mag, rectifies: true, rows, features: &mut features })
        }))
    })
}

fn gate_gradient<B: Backend>(s: SaeSizes) -> Row<B> {
    let (SaeSizes { rows, d_sae, k, .. }, entries) = (s, s.entries());
    let work = Work::bytes(28 * entries + 8 * d_sae + 4 * rows);
    Row::new("gate_gradient", s.size_k(k), work, move |data| {
        let (of, features) = (Gates::new(data, s)?, data.lists(rows, d_sae, k)?);
        let mut value_gradient = data.normal(entries)?;
        let (mut b_mag_gradient, mut r_mag_gradient) = (data.zeros(entries)?, data.zeros(entries)?);
        Ok(Box::new(move |backend: &B| {
            backend.gate_gradient(GateGradient {
                gates: &of.gates,
                features: &features,
                b_gate: &of.b_gate,
                r_mag: &of.r_mag,
                rows,
                value_gradient: &mut value_gradient,
                b_mag_gradient: &mut b_mag_gradient,
                r_mag_gradient: &mut r_mag_gradient,
            })
        }))
    })
}
