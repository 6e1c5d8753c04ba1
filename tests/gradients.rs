//! Gradients of every architecture agree with finite differences of its loss, which is written down here a
//! second time, in f64 and by the definition: small shapes, every parameter.
//!
//! Tolerance: central differences of f64 are good to about 1e-9, the step's f32 to some 1e-6 of the
//! largest gradient; ten times that is allowed. What a step decides (which latents are active) is the
//! same on both sides of a difference: no number lies that close to its border.

use cusae::backend::{Backend, Cpu, JumpReluSparsity, Rank};
use cusae::config::NormalizeActivations;
use cusae::random::{Random, Stream};
use cusae::sae::architecture::ArchitectureConfig;
use cusae::sae::batchtopk::BatchTopKConfig;
use cusae::sae::jumprelu::JumpReluConfig;
use cusae::sae::matryoshka::MatryoshkaConfig;
use cusae::sae::pursuit::PursuitConfig;
use cusae::sae::standard::StandardConfig;
use cusae::sae::step::{StepSettings, TrainingConfig, TrainingSae};
use cusae::sae::topk::TopKConfig;
use cusae::sae::weights::{HostTensor, Weights};
use std::collections::BTreeMap;
use std::ops::Range;

const ROWS: usize = 7;
const D_IN: usize = 6;
const D_SAE: usize = 14;
const COEFFICIENT: f64 = 0.3;
/// Of `d_in / 2` that AuxK would count in full.
const DEAD: [usize; 2] = [3, 10];

type Matrix = Vec<Vec<f64>>;

/// Parameters in f64, by SAELens' names and in its shapes.
#[derive(Clone)]
struct Parameters(BTreeMap<&'static str, Vec<f64>>);

impl Parameters {
    fn random(architecture: &ArchitectureConfig) -> Self {
        let mut random = Random::new(5, Stream::Weights, 0);
        let mut uniform =
            |n: usize, size: f32| (0..n).map(|_| f64::from(size * (2.0 * random.uniform() - 1.0))).collect::<Vec<_>>();
        let mut values = BTreeMap::new();
        if !matches!(architecture, ArchitectureConfig::MatchingPursuit(_)) {
            values.insert("W_enc", uniform(D_IN * D_SAE, 0.6));
        }
        values.insert("W_dec", uniform(D_SAE * D_IN, 0.6));
        values.insert("b_dec", uniform(D_IN, 0.3));
        match architecture {
            ArchitectureConfig::Gated => {
                values.extend(["b_gate", "b_mag", "r_mag"].map(|name| (name, uniform(D_SAE, 0.3))));
            }
            ArchitectureConfig::MatchingPursuit(_) => {}
            _ => {
                values.insert("b_enc", uniform(D_SAE, 0.3));
            }
        }
        if let ArchitectureConfig::JumpRelu(_) = architecture {
            values.insert("threshold", uniform(D_SAE, 0.1).iter().map(|x| x.abs() + 0.05).collect());
        }
        Parameters(values)
    }

    fn get(&self, name: &str) -> &[f64] {
        &self.0[name]
    }

    fn decoder_row(&self, latent: usize) -> &[f64] {
        &self.get("W_dec")[latent * D_IN..][..D_IN]
    }

    fn norm(&self, latent: usize) -> f64 {
        self.decoder_row(latent).iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// `Σ f_i W_dec_i` over some latents.
    fn decoded(&self, features: &[f64], latents: Range<usize>) -> Vec<f64> {
        let of = |d: usize| latents.clone().map(|latent| features[latent] * self.decoder_row(latent)[d]).sum();
        (0..D_IN).map(of).collect()
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        for (&name, values) in &self.0 {
            let shape = match name {
                "W_enc" => vec![D_IN, D_SAE],
                "W_dec" => vec![D_SAE, D_IN],
                _ => vec![values.len()],
            };
            weights.insert(name, HostTensor { shape, values: values.iter().map(|&x| x as f32).collect() });
        }
        weights
    }
}

/// An architecture with a batch.
struct Case {
    architecture: ArchitectureConfig,
    normalize_activations: NormalizeActivations,
    /// Whether dead latents get ghost gradients.
    ghost: bool,
    x: Matrix,
}

/// What ghost gradients hold still: their scale in each row, and the weight of each element.
struct Ghost {
    scale: Vec<f64>,
    weight: Matrix,
}

/// A batch on the way through the definition.
struct Forward {
    /// Rows, and what undoes their normalisation: scale and shift.
    undo: Vec<[f64; 2]>,
    /// `input · W_enc`.
    products: Matrix,
    /// What multiplies the decoder's rows.
    features: Matrix,
}

fn relu(x: f64) -> f64 {
    x.max(0.0)
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// Keeps the `n` entries with the largest keys.
fn keep_largest(n: usize, entries: &mut [f64], keys: &[f64]) {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|&a, &b| keys[b].total_cmp(&keys[a]));
    order.into_iter().skip(n).for_each(|entry| entries[entry] = 0.0);
}

/// AuxK of some latents: fewer of them are dead than `d_in / 2`, so that all of these take part, whatever their
/// order.
fn auxk(p: &Parameters, products: &[f64], latents: Range<usize>, error: &[f64], coefficient: f64) -> f64 {
    let mut features = vec![0.0; D_SAE];
    let dead: Vec<usize> = DEAD.into_iter().filter(|latent| latents.contains(latent)).collect();
    dead.iter().for_each(|&latent| features[latent] = products[latent] + p.get("b_enc")[latent]);
    let weight = dead.len() as f64 / (D_IN / 2) as f64;
    coefficient * weight * squared(&p.decoded(&features, 0..D_SAE), error)
}

impl Case {
    fn new(architecture: ArchitectureConfig) -> Self {
        let mut random = Random::new(9, Stream::Shuffle, 0);
        let mut row = || (0..D_IN).map(|_| f64::from(3.0 * (2.0 * random.uniform() - 1.0))).collect();
        let x = (0..ROWS).map(|_| row()).collect();
        Case { architecture, normalize_activations: NormalizeActivations::None, ghost: false, x }
    }

    /// SAELens' normalisations: what undoes them, and the encoder's input.
    fn inputs(&self, p: &Parameters) -> (Vec<[f64; 2]>, Matrix) {
        let n = D_IN as f64;
        let of_row = |x: &Vec<f64>| {
            let undo @ [scale, shift] = match self.normalize_activations {
                NormalizeActivations::LayerNorm => {
                    let mean = x.iter().sum::<f64>() / n;
                    let deviation = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
                    [deviation, mean]
                }
                NormalizeActivations::ConstantNormRescale => [squared(x, &[0.0; D_IN]).sqrt() / n.sqrt(), 0.0],
                _ => [1.0, 0.0],
            };
            let epsilon = if self.normalize_activations == NormalizeActivations::LayerNorm { 1e-5 } else { 0.0 };
            (undo, x.iter().zip(p.get("b_dec")).map(|(x, b)| (x - shift) / (scale + epsilon) - b).collect())
        };
        self.x.iter().map(of_row).unzip()
    }

    fn products(&self, p: &Parameters, inputs: &Matrix) -> Matrix {
        let product = |input: &Vec<f64>, latent: usize| {
            (0..D_IN).map(|d| input[d] * p.get("W_enc")[d * D_SAE + latent]).sum::<f64>()
        };
        inputs.iter().map(|input| (0..D_SAE).map(|latent| product(input, latent)).collect()).collect()
    }

    /// Of one row, by the definition.
    fn pursue(config: &PursuitConfig, p: &Parameters, input: &[f64]) -> Vec<f64> {
        let (mut left, mut features) = (input.to_vec(), vec![0.0; D_SAE]);
        for _ in 0..config.max_iterations.unwrap_or(D_IN) {
            let along = |latent: usize| p.decoder_row(latent).iter().zip(&left).map(|(d, r)| d * r).sum::<f64>();
            let best = (0..D_SAE).max_by(|&a, &b| along(a).total_cmp(&along(b))).unwrap();
            let (value, known) = (relu(along(best)), features[best] != 0.0);
            features[best] += value;
            left.iter_mut().zip(p.decoder_row(best)).for_each(|(r, d)| *r -= value * d);
            let is_small = squared(&left, &[0.0; D_IN]).sqrt() < config.residual_threshold;
            if is_small || known && config.stop_on_duplicate_support {
                break;
            }
        }
        features
    }

    fn features(&self, p: &Parameters, inputs: &Matrix, products: &Matrix) -> Matrix {
        let h = |row: &Vec<f64>| row.iter().zip(p.get("b_enc")).map(|(u, b)| u + b).collect::<Vec<f64>>();
        let scaled = |h: &[f64], rescales: bool| -> Vec<f64> {
            h.iter().enumerate().map(|(latent, h)| if rescales { h * p.norm(latent) } else { *h }).collect()
        };
        match &self.architecture {
            ArchitectureConfig::MatchingPursuit(config) => {
                inputs.iter().map(|input| Self::pursue(config, p, input)).collect()
            }
            ArchitectureConfig::Standard(_) => {
                products.iter().map(|row| h(row).into_iter().map(relu).collect()).collect()
            }
            ArchitectureConfig::Gated => {
                let feature = |(latent, &u): (usize, &f64)| {
                    let magnitude = p.get("r_mag")[latent].exp() * u + p.get("b_mag")[latent];
                    if u + p.get("b_gate")[latent] > 0.0 {
                        relu(magnitude)
                    } else {
                        0.0
                    }
                };
                products.iter().map(|row| row.iter().enumerate().map(feature).collect()).collect()
            }
            ArchitectureConfig::JumpRelu(_) => {
                let feature = |(h, threshold): (f64, &f64)| if h > *threshold { h } else { 0.0 };
                products.iter().map(|row| h(row).into_iter().zip(p.get("threshold")).map(feature).collect()).collect()
            }
            ArchitectureConfig::TopK(config) => {
                let of_row = |row: &Vec<f64>| {
                    let mut features = h(row);
                    let mut keys = scaled(&features, config.rescale_acts_by_decoder_norm);
                    match config.rank {
                        Rank::Value => features.iter_mut().for_each(|h| *h = relu(*h)),
                        Rank::Magnitude => keys.iter_mut().for_each(|key| *key = key.abs()),
                    }
                    keep_largest(config.k, &mut features, &keys);
                    features
                };
                products.iter().map(of_row).collect()
            }
            ArchitectureConfig::BatchTopK(config)
            | ArchitectureConfig::Matryoshka(MatryoshkaConfig { batchtopk: config, .. }) => {
                let mut features: Vec<f64> = products.iter().flat_map(|row| h(row).into_iter().map(relu)).collect();
                let rescales = config.rescale_acts_by_decoder_norm;
                let keys: Vec<f64> = features.chunks(D_SAE).flat_map(|row| scaled(row, rescales)).collect();
                keep_largest((config.k * ROWS as f64) as usize, &mut features, &keys);
                features.chunks(D_SAE).map(<[f64]>::to_vec).collect()
            }
        }
    }

    fn forward(&self, p: &Parameters) -> Forward {
        let (undo, inputs) = self.inputs(p);
        let products = match self.architecture {
            ArchitectureConfig::MatchingPursuit(_) => vec![Vec::new(); ROWS],
            _ => self.products(p, &inputs),
        };
        Forward { features: self.features(p, &inputs, &products), undo, products }
    }

    /// The reconstruction of a row from its first latents.
    fn reconstruction(&self, p: &Parameters, forward: &Forward, row: usize, width: usize) -> Vec<f64> {
        let [scale, shift] = forward.undo[row];
        let decoded = p.decoded(&forward.features[row], 0..width);
        decoded.iter().zip(p.get("b_dec")).map(|(x, b)| scale * (x + b) + shift).collect()
    }

    /// `x - x_hat` of every row by the first latents, for every number of these: AuxK does not differentiate it.
    fn errors(&self, p: &Parameters) -> Vec<Matrix> {
        let forward = self.forward(p);
        let error = |row: usize, width: usize| {
            let reconstruction = self.reconstruction(p, &forward, row, width);
            self.x[row].iter().zip(reconstruction).map(|(x, x_hat)| x - x_hat).collect()
        };
        (0..=D_SAE).map(|width| (0..ROWS).map(|row| error(row, width)).collect()).collect()
    }

    /// SAELens' loss of the batch, with the dead latents [`DEAD`] and AuxK's targets held still.
    fn loss(&self, p: &Parameters, errors: &[Matrix]) -> f64 {
        let forward = self.forward(p);
        let of_row = |row: usize| {
            let to = |width| squared(&self.reconstruction(p, &forward, row, width), &self.x[row]);
            to(D_SAE) + self.own_terms(p, &forward, row, errors, &to)
        };
        (0..ROWS).map(of_row).sum::<f64>() / ROWS as f64
    }

    /// What dead latents decode to with `e^h`.
    fn ghosts(&self, p: &Parameters) -> Matrix {
        let of_row = |products: &Vec<f64>| {
            let mut features = vec![0.0; D_SAE];
            let pre_activation = |latent: usize| match self.architecture {
                ArchitectureConfig::Gated => p.get("r_mag")[latent].exp() * products[latent] + p.get("b_mag")[latent],
                _ => products[latent] + p.get("b_enc")[latent],
            };
            DEAD.iter().for_each(|&latent| features[latent] = pre_activation(latent).exp());
            p.decoded(&features, 0..D_SAE)
        };
        self.forward(p).products.iter().map(of_row).collect()
    }

    /// What they hold still, by their definition.
    fn held(&self, p: &Parameters, errors: &Matrix) -> Ghost {
        let norm = |row: &[f64]| squared(row, &[0.0; D_IN]).sqrt();
        let ghosts = self.ghosts(p);
        let scale: Vec<f64> = errors.iter().zip(&ghosts).map(|(r, g)| norm(r) / (1e-6 + 2.0 * norm(g))).collect();
        let of_row = |row: usize| {
            let of = |d: usize| {
                let r = errors[row][d];
                r * r / ((scale[row] * ghosts[row][d] - r).powi(2) + 1e-6)
            };
            (0..D_IN).map(of).collect()
        };
        Ghost { weight: (0..ROWS).map(of_row).collect(), scale }
    }

    /// The mean over all elements.
    fn ghost_loss(&self, p: &Parameters, errors: &Matrix, held: &Ghost) -> f64 {
        let ghosts = self.ghosts(p);
        let of =
            |row: usize, d: usize| held.weight[row][d] * (held.scale[row] * ghosts[row][d] - errors[row][d]).powi(2);
        (0..ROWS * D_IN).map(|i| of(i / D_IN, i % D_IN)).sum::<f64>() / (ROWS * D_IN) as f64
    }

    fn own_terms(
        &self,
        p: &Parameters,
        forward: &Forward,
        row: usize,
        errors: &[Matrix],
        squared_error: &dyn Fn(usize) -> f64,
    ) -> f64 {
        let (products, features) = (&forward.products[row], &forward.features[row]);
        let aux_of = |latents: Range<usize>, coefficient| {
            let error = &errors[latents.end][row];
            auxk(p, products, latents, error, coefficient)
        };
        let aux = |coefficient| aux_of(0..D_SAE, coefficient);
        match &self.architecture {
            ArchitectureConfig::Standard(StandardConfig { lp_norm }) => {
                let powers = (0..D_SAE).map(|latent| (features[latent] * p.norm(latent)).powf(*lp_norm));
                COEFFICIENT * powers.sum::<f64>().powf(1.0 / lp_norm)
            }
            ArchitectureConfig::Gated => {
                let gates: Vec<f64> = products.iter().zip(p.get("b_gate")).map(|(u, b)| relu(u + b)).collect();
                let penalty: f64 = (0..D_SAE).map(|latent| gates[latent] * p.norm(latent)).sum();
                let decoded = p.decoded(&gates, 0..D_SAE);
                let reconstruction: Vec<f64> = decoded.iter().zip(p.get("b_dec")).map(|(x, b)| x + b).collect();
                COEFFICIENT * penalty + squared(&reconstruction, &self.x[row])
            }
            ArchitectureConfig::JumpRelu(config) => {
                let below = |latent: usize| {
                    relu(p.get("threshold")[latent] - products[latent] - p.get("b_enc")[latent]) * p.norm(latent)
                };
                let pull = config.pre_act_loss_coefficient.unwrap_or(0.0) * DEAD.map(below).iter().sum::<f64>();
                let penalty: f64 = match config.sparsity {
                    JumpReluSparsity::Tanh { scale } => {
                        (0..D_SAE).map(|latent| (f64::from(scale) * features[latent] * p.norm(latent)).tanh()).sum()
                    }
                    // A number of latents does not change by a small step.
                    JumpReluSparsity::Step | JumpReluSparsity::Quadratic { .. } => 0.0,
                };
                COEFFICIENT * penalty + pull
            }
            ArchitectureConfig::MatchingPursuit(_) => 0.0,
            ArchitectureConfig::TopK(config) => aux(config.aux_loss_coefficient),
            ArchitectureConfig::BatchTopK(config) => aux(config.aux_loss_coefficient),
            ArchitectureConfig::Matryoshka(config) => {
                let (widths, coefficient) = (&config.matryoshka_widths, config.batchtopk.aux_loss_coefficient);
                let (_, inner) = widths.split_last().unwrap();
                let inner: f64 = inner.iter().map(|&width| squared_error(width)).sum();
                let before = std::iter::once(&0).chain(widths);
                inner
                    + match config.use_matryoshka_aux_loss {
                        true => before.zip(widths).map(|(&from, &to)| aux_of(from..to, coefficient)).sum(),
                        false => aux(coefficient),
                    }
            }
        }
    }

    /// What straight-through estimators give the threshold of each row's latents, by their formula. Where they
    /// reach the input, `h` gets the opposite.
    fn estimators(&self, config: &JumpReluConfig, p: &Parameters) -> Matrix {
        let (forward, errors, rows) = (self.forward(p), self.errors(p), ROWS as f64);
        let of_row = |row: usize| {
            let of_latent = |latent: usize| {
                let (threshold, norm) = (p.get("threshold")[latent], p.norm(latent));
                let h = forward.products[row][latent] + p.get("b_enc")[latent];
                if (h - threshold).abs() >= config.bandwidth / 2.0 {
                    return 0.0;
                }
                let along: f64 = errors[D_SAE][row].iter().zip(p.decoder_row(latent)).map(|(e, w)| e * w).sum();
                let active = forward.features[row].iter().filter(|&&f| f != 0.0).count() as f64;
                // The gradients of the value and of whether it is active.
                let (value, step) = match config.sparsity {
                    JumpReluSparsity::Tanh { scale } => {
                        let scale = f64::from(scale) * norm;
                        let slope = 1.0 - (scale * forward.features[row][latent]).tanh().powi(2);
                        (COEFFICIENT * scale * slope, 0.0)
                    }
                    JumpReluSparsity::Step => (0.0, COEFFICIENT),
                    JumpReluSparsity::Quadratic { target } => {
                        let target = f64::from(target);
                        (0.0, COEFFICIENT * 4.0 * (active - target) / target)
                    }
                };
                -(threshold * (value - 2.0 * along) + step) / config.bandwidth / rows
            };
            (0..D_SAE).map(of_latent).collect()
        };
        (0..ROWS).map(of_row).collect()
    }

    /// What the estimators add to a parameter's gradient.
    fn estimated(&self, config: &JumpReluConfig, p: &Parameters, name: &str) -> Vec<f64> {
        let (of_threshold, (_, inputs)) = (self.estimators(config, p), self.inputs(p));
        let over_rows = |of: &dyn Fn(usize) -> f64| (0..ROWS).map(of).sum::<f64>();
        let of_h = |row: usize, latent: usize| -of_threshold[row][latent];
        match name {
            "threshold" => (0..D_SAE).map(|latent| over_rows(&|row| of_threshold[row][latent])).collect(),
            _ if !config.ste_to_input => vec![0.0; p.get(name).len()],
            "b_enc" => (0..D_SAE).map(|latent| over_rows(&|row| of_h(row, latent))).collect(),
            "W_enc" => {
                let of = |d: usize, latent: usize| over_rows(&|row| inputs[row][d] * of_h(row, latent));
                (0..D_IN * D_SAE).map(|i| of(i / D_SAE, i % D_SAE)).collect()
            }
            "b_dec" => {
                let along = |row: usize, d: usize| -> f64 {
                    (0..D_SAE).map(|latent| of_h(row, latent) * p.get("W_enc")[d * D_SAE + latent]).sum()
                };
                (0..D_IN).map(|d| -over_rows(&|row| along(row, d))).collect()
            }
            _ => vec![0.0; p.get(name).len()],
        }
    }

    /// The gradients that the step computes.
    fn of_step(&self, p: &Parameters) -> Weights {
        let config = TrainingConfig {
            architecture: self.architecture.clone(),
            d_in: D_IN,
            d_sae: D_SAE,
            train_batch_size_tokens: ROWS,
            apply_b_dec_to_input: true,
            normalize_activations: self.normalize_activations,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: None,
            autocast: false,
            dead_feature_window: 5,
        };
        let mut sae = TrainingSae::new(&Cpu, config, &p.weights()).unwrap();
        sae.write_all_gradients(true);
        if self.ghost {
            sae.keep_ghost_gradients().unwrap();
        }
        DEAD.iter().for_each(|&latent| sae.firing.since_fired[latent] = 6);
        let x: Vec<f32> = self.x.iter().flatten().map(|&x| x as f32).collect();
        sae.step(&Cpu.upload(&x).unwrap(), &StepSettings { lr: 1e-3, coefficient: COEFFICIENT }).unwrap();
        sae.gradients().download(&Cpu, D_IN).unwrap()
    }

    fn agrees(&self) {
        let p = Parameters::random(&self.architecture);
        let (found, errors) = (self.of_step(&p), self.errors(&p));
        let held = self.ghost.then(|| self.held(&p, &errors[D_SAE]));
        // Where a ghost comes close to the error, its weight makes much of the difference's rounding.
        let tolerance = if self.ghost { 1e-4 } else { 1e-5 };
        for (&name, values) in &p.0 {
            let difference = |i: usize| {
                let step = 1e-5;
                let at = |x: f64| {
                    let mut moved = p.clone();
                    moved.0.get_mut(name).unwrap()[i] = x;
                    self.loss(&moved, &errors)
                        + held.as_ref().map_or(0.0, |held| self.ghost_loss(&moved, &errors[D_SAE], held))
                };
                (at(values[i] + step) - at(values[i] - step)) / (2.0 * step)
            };
            let mut expected: Vec<f64> = (0..values.len()).map(difference).collect();
            if let ArchitectureConfig::JumpRelu(config) = &self.architecture {
                expected.iter_mut().zip(self.estimated(config, &p, name)).for_each(|(sum, x)| *sum += x);
            }
            let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
            assert!(largest > 0.0, "{name} has no gradient");
            for (i, (&found, expected)) in found.get(name).values.iter().zip(&expected).enumerate() {
                let away = (f64::from(found) - expected).abs();
                assert!(away <= tolerance * largest, "{name}[{i}]: {found}, expected {expected}");
            }
        }
    }
}

fn topk(rank: Rank, rescale_acts_by_decoder_norm: bool) -> ArchitectureConfig {
    ArchitectureConfig::TopK(TopKConfig { k: 4, rank, aux_loss_coefficient: 0.5, rescale_acts_by_decoder_norm })
}

fn batchtopk(rescale_acts_by_decoder_norm: bool) -> BatchTopKConfig {
    BatchTopKConfig { k: 3.5, topk_threshold_lr: 0.01, aux_loss_coefficient: 0.5, rescale_acts_by_decoder_norm }
}

fn matryoshka(use_matryoshka_aux_loss: bool) -> MatryoshkaConfig {
    MatryoshkaConfig { batchtopk: batchtopk(true), matryoshka_widths: vec![4, 9, D_SAE], use_matryoshka_aux_loss }
}

fn jumprelu(sparsity: JumpReluSparsity, pre_act_loss_coefficient: Option<f64>) -> ArchitectureConfig {
    let (bandwidth, ste_to_input) = (0.4, false);
    ArchitectureConfig::JumpRelu(JumpReluConfig { bandwidth, sparsity, ste_to_input, pre_act_loss_coefficient })
}

#[test]
fn standard() {
    for lp_norm in [1.0, 2.0] {
        Case::new(ArchitectureConfig::Standard(StandardConfig { lp_norm })).agrees();
    }
}

#[test]
fn standard_on_normalised_rows() {
    for normalize_activations in [NormalizeActivations::LayerNorm, NormalizeActivations::ConstantNormRescale] {
        let case = Case::new(ArchitectureConfig::Standard(StandardConfig { lp_norm: 1.0 }));
        Case { normalize_activations, ..case }.agrees();
    }
}

#[test]
fn ghost_gradients_in_every_architecture_that_has_them() {
    for architecture in [
        ArchitectureConfig::Standard(StandardConfig { lp_norm: 1.0 }),
        jumprelu(JumpReluSparsity::Step, None),
        topk(Rank::Value, true),
        topk(Rank::Magnitude, false),
        ArchitectureConfig::BatchTopK(batchtopk(true)),
        ArchitectureConfig::Matryoshka(matryoshka(true)),
        ArchitectureConfig::Gated,
    ] {
        Case { ghost: true, ..Case::new(architecture) }.agrees();
    }
}

#[test]
fn gated() {
    Case::new(ArchitectureConfig::Gated).agrees();
}

#[test]
fn jumprelu_with_each_sparsity_term() {
    Case::new(jumprelu(JumpReluSparsity::Step, None)).agrees();
    Case::new(jumprelu(JumpReluSparsity::Quadratic { target: 5.0 }, None)).agrees();
    Case::new(jumprelu(JumpReluSparsity::Tanh { scale: 2.0 }, Some(0.7))).agrees();
}

#[test]
fn jumprelu_whose_estimators_reach_the_input() {
    let terms =
        [JumpReluSparsity::Step, JumpReluSparsity::Quadratic { target: 5.0 }, JumpReluSparsity::Tanh { scale: 2.0 }];
    for sparsity in terms {
        let pre_act_loss_coefficient = Some(0.7);
        let config = JumpReluConfig { bandwidth: 0.4, sparsity, ste_to_input: true, pre_act_loss_coefficient };
        Case::new(ArchitectureConfig::JumpRelu(config)).agrees();
    }
}

#[test]
fn topk_with_auxk() {
    [true, false].into_iter().for_each(|rescales| Case::new(topk(Rank::Value, rescales)).agrees());
}

#[test]
fn abstopk_with_auxk() {
    [true, false].into_iter().for_each(|rescales| Case::new(topk(Rank::Magnitude, rescales)).agrees());
}

#[test]
fn batchtopk_with_auxk() {
    [true, false]
        .into_iter()
        .for_each(|rescales| Case::new(ArchitectureConfig::BatchTopK(batchtopk(rescales))).agrees());
}

/// The dead latents are in the first level and in the last; the one between has none.
#[test]
fn matryoshka_with_auxk_on_the_whole_and_on_every_level() {
    for use_matryoshka_aux_loss in [false, true] {
        Case::new(ArchitectureConfig::Matryoshka(matryoshka(use_matryoshka_aux_loss))).agrees();
    }
}

#[test]
fn matching_pursuit_that_takes_latents_again_and_that_stops() {
    for (residual_threshold, stop_on_duplicate_support) in [(0.0, false), (1.2, true)] {
        let config = PursuitConfig { residual_threshold, max_iterations: Some(9), stop_on_duplicate_support };
        let case = Case::new(ArchitectureConfig::MatchingPursuit(config));
        let normalize_activations = NormalizeActivations::LayerNorm;
        Case { normalize_activations, ..Case::new(case.architecture.clone()) }.agrees();
        case.agrees();
    }
}
