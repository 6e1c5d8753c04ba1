//! Matching pursuit: of what is left of a row, again and again, the latent whose decoder row lies along it
//! most takes its part `v = ReLU(<r, d>)`, and `r -= v d` goes on. Source: Mallat and Zhang 1993; Costa et al.
//! 2025 (arXiv 2506.03093) as SAELens' `matching_pursuit_sae.py` has it.
//!
//! Which rows go on is decided on the host, so that a product with W_decᵀ is taken of those only. Backwards
//! the same steps are gone in reverse: with `q` the gradient of the reconstruction less that of what is
//! left, `a = <q, d>`, `d` gets `v q + a r`, and `q -= a d` goes on; `r` is put together again on the way.

use super::features::SparseFeatures;
use crate::backend::*;
use crate::error::Result;
use std::collections::BTreeMap;
use std::mem::swap;

/// When a row is finished.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PursuitConfig {
    /// The norm of what is left falls below this; 0 for never (`residual_threshold`).
    pub residual_threshold: f64,
    /// Latents taken at most; d_in where none is given (`max_iterations`).
    pub max_iterations: Option<usize>,
    /// A latent is taken that was taken before (`stop_on_duplicate_support`).
    pub stop_on_duplicate_support: bool,
}

/// A decoder `[F, D]`, which is the encoder, too.
pub struct Dictionary<'a, B: Backend> {
    /// Its device.
    pub backend: &'a B,
    /// `[F, D]`.
    pub w_dec: &'a B::Buffer<f32>,
    /// Width (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
}

/// The work space of a pursuit, and what the latest one left in it.
pub struct Pursuit<B: Backend> {
    config: PursuitConfig,
    max_rows: usize,
    no_bias: B::Buffer<f32>,
    /// What is left of every row.
    residual: B::Buffer<f32>,
    room: B::Buffer<f32>,
    squared_norm: B::Buffer<f32>,
    /// The rows that go on, by number and together.
    going_on: B::Buffer<u32>,
    gathered: B::Buffer<f32>,
    best: FeatureLists<B>,
    /// What was taken, one latent a row at most, and how many of these lists the latest pursuit filled.
    taken: Vec<FeatureLists<B>>,
    n_taken: usize,
}

impl<B: Backend> Pursuit<B> {
    /// Work space for batches of up to `max_rows` rows.
    pub fn new(backend: &B, config: PursuitConfig, max_rows: usize, [d_in, d_sae]: [usize; 2]) -> Result<Self> {
        Ok(Pursuit {
            config,
            max_rows,
            no_bias: backend.zeros(d_sae)?,
            residual: backend.zeros(max_rows * d_in)?,
            room: backend.zeros(max_rows * d_in)?,
            squared_norm: backend.zeros(max_rows)?,
            going_on: backend.zeros(max_rows)?,
            gathered: backend.zeros(max_rows * d_in)?,
            best: FeatureLists::new(backend, max_rows, 1)?,
            taken: Vec::new(),
            n_taken: 0,
        })
    }

    /// The features of `input [rows, D]`. Waits for the device after every latent.
    pub fn run(&mut self, of: &Dictionary<'_, B>, input: &B::Buffer<f32>, rows: usize) -> Result<SparseFeatures> {
        of.backend.copy(input, 0, &mut self.residual, 0, rows * of.d_in)?;
        self.n_taken = 0;
        let mut features = vec![BTreeMap::new(); rows];
        let mut going_on: Vec<u32> = (0..rows as u32).collect();
        while !going_on.is_empty() && self.n_taken < self.config.max_iterations.unwrap_or(of.d_in) {
            let best = self.best_latents(of, &going_on)?;
            let squared_norm = self.take(of, rows, &going_on, &best)?;
            let goes_on = best.iter().zip(&going_on).map(|(best, &row)| {
                let Some((latent, value)) = *best else { return false };
                let known = features[row as usize].insert(latent, value);
                if let Some(before) = known {
                    features[row as usize].insert(latent, before + value);
                }
                let is_small = f64::from(squared_norm[row as usize]).sqrt() < self.config.residual_threshold;
                !(is_small || known.is_some() && self.config.stop_on_duplicate_support)
            });
            let goes_on: Vec<bool> = goes_on.collect();
            let mut goes_on = goes_on.into_iter();
            going_on.retain(|_| goes_on.next() == Some(true));
        }
        let mut found = SparseFeatures::default();
        for row in features {
            let (latents, values): (Vec<u32>, Vec<f32>) = row.into_iter().unzip();
            found.push_row(&latents, &values);
        }
        Ok(found)
    }

    /// For each of some rows the latent that lies along what is left, with its value, if one does.
    fn best_latents(&mut self, of: &Dictionary<'_, B>, rows: &[u32]) -> Result<Vec<Option<(u32, f32)>>> {
        let (backend, n) = (of.backend, rows.len());
        backend.write(&mut self.going_on, 0, rows)?;
        backend.gather_rows(GatherRows {
            from: &self.residual,
            rows: &self.going_on,
            first: 0,
            n,
            columns: of.d_in,
            to: &mut self.gathered,
        })?;
        backend.encode_topk(EncodeTopk {
            encoder: Encoder {
                input: Matrix::F32(&self.gathered),
                w_enc: Matrix::F32(of.w_dec),
                b_enc: &self.no_bias,
                rows: n,
                d_in: of.d_in,
                d_sae: of.d_sae,
            },
            rank: Rank::Value,
            decoder_norm: None,
            k: 1,
            lists: &mut self.best,
        })?;
        let (mut counts, mut latents, mut values) = (vec![0; n], vec![0; n], vec![0.0; n]);
        backend.read(&self.best.counts, 0, &mut counts)?;
        backend.read(&self.best.indices, 0, &mut latents)?;
        backend.read(&self.best.values, 0, &mut values)?;
        let found = counts.into_iter().zip(latents.into_iter().zip(values));
        Ok(found.map(|(count, entry)| (count > 0).then_some(entry)).collect())
    }

    /// Takes these parts from what is left of the rows; gives the squared norms of what then is.
    fn take(
        &mut self,
        of: &Dictionary<'_, B>,
        rows: usize,
        going_on: &[u32],
        best: &[Option<(u32, f32)>],
    ) -> Result<Vec<f32>> {
        let backend = of.backend;
        if self.taken.len() == self.n_taken {
            self.taken.push(FeatureLists::new(backend, self.max_rows, 1)?);
        }
        let (mut counts, mut latents, mut values) = (vec![0u32; rows], vec![0u32; rows], vec![0.0f32; rows]);
        for (&row, &(latent, value)) in going_on.iter().zip(best).filter_map(|(row, best)| Some((row, best.as_ref()?)))
        {
            (counts[row as usize], latents[row as usize], values[row as usize]) = (1, latent, value);
        }
        let taken = &mut self.taken[self.n_taken];
        backend.write(&mut taken.counts, 0, &counts)?;
        backend.write(&mut taken.indices, 0, &latents)?;
        backend.write(&mut taken.values, 0, &values)?;
        subtract(of, taken, rows, &mut self.residual, &mut self.room, &mut self.squared_norm)?;
        self.n_taken += 1;
        let mut norms = vec![0.0; rows];
        backend.read(&self.squared_norm, 0, &mut norms)?;
        Ok(norms)
    }
}

/// The work space of the way back.
pub struct PursuitGradient<B: Backend> {
    back: FeatureLists<B>,
    by_latent: LatentLists<B>,
    /// What W_dec gets as the encoder.
    as_encoder: B::Buffer<f32>,
    of_bias: B::Buffer<f32>,
}

impl<B: Backend> PursuitGradient<B> {
    /// Work space for batches of `rows` rows.
    pub fn new(backend: &B, rows: usize, [d_in, d_sae]: [usize; 2]) -> Result<Self> {
        Ok(PursuitGradient {
            back: FeatureLists::new(backend, rows, 1)?,
            by_latent: LatentLists::new(backend, d_sae, rows)?,
            as_encoder: backend.zeros(d_sae * d_in)?,
            of_bias: backend.zeros(d_sae)?,
        })
    }

    /// Of the latest pursuit: writes W_dec's gradient, given that of the reconstruction `[rows, D]`, which
    /// becomes what is left of it: the gradient of the reconstruction less that of the input.
    pub fn run(
        &mut self,
        of: &Dictionary<'_, B>,
        pursuit: &mut Pursuit<B>,
        rows: usize,
        gradient: &mut B::Buffer<f32>,
        w_dec: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let &Dictionary { backend, d_in, d_sae, .. } = of;
        let PursuitGradient { back, by_latent, as_encoder, of_bias } = self;
        let Pursuit { residual, room, squared_norm, taken, n_taken, .. } = pursuit;
        backend.fill(as_encoder, 0.0)?;
        backend.fill(w_dec, 0.0)?;
        for taken in taken[..*n_taken].iter().rev() {
            backend.copy(&taken.counts, 0, &mut back.counts, 0, rows)?;
            backend.copy(&taken.indices, 0, &mut back.indices, 0, rows)?;
            backend.scale(Scale { from: &taken.values, factor: -1.0, len: rows, to: &mut back.values })?;
            subtract(of, back, rows, residual, room, squared_norm)?;
            backend.gradient_values(GradientValues {
                lists: taken,
                w_dec: Matrix::F32(of.w_dec),
                gradient,
                rows,
                d_in,
                value_gradient: &mut back.values,
            })?;
            backend.transpose_lists(TransposeLists { lists: taken, rows, d_sae, by_latent })?;
            backend.gradient_sparse(GradientSparse {
                lists: taken,
                by_latent,
                pre_gradient: &back.values,
                gradient: Matrix::F32(gradient),
                input: Matrix::F32(residual),
                norm: None,
                rows,
                d_in,
                d_sae,
                out: WeightGradients { w_enc: as_encoder, b_enc: of_bias, w_dec, accumulate: true, only_listed: false },
            })?;
            subtract(of, back, rows, gradient, room, squared_norm)?;
        }
        backend.add(Add { from: as_encoder, to: w_dec, len: d_sae * d_in })
    }
}

/// `x -= decoded lists` for every row, and the squared norms of what is left; `room` is as large as `x`.
pub(super) fn subtract<B: Backend>(
    of: &Dictionary<'_, B>,
    lists: &FeatureLists<B>,
    rows: usize,
    x: &mut B::Buffer<f32>,
    room: &mut B::Buffer<f32>,
    squared_norm: &mut B::Buffer<f32>,
) -> Result<()> {
    of.backend.decode_sparse(DecodeSparse {
        decoder: Decoder {
            w_dec: Matrix::F32(of.w_dec),
            b_dec: None,
            target: x,
            denormalize: None,
            gradient_scale: -1.0,
            rows,
            d_in: of.d_in,
            d_sae: of.d_sae,
            reconstruction: None,
            gradient: room,
            squared_error: squared_norm,
        },
        lists,
        dead_weight: None,
        value_gradient: None,
    })?;
    swap(x, room);
    Ok(())
}
