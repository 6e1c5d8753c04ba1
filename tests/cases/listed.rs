//! Cases of gradients that are summed where they are used: [`Backend::gradient_squares`] and
//! [`Backend::adam_sparse`]. Values are small integers, so that sums are exact in any order: what is left
//! is elementwise, with the same bits everywhere.

use super::sae::Lists;
use super::*;
use cusae::backend::*;

/// What is summed.
#[derive(Clone, Debug)]
pub struct ListedCase {
    pub lists: Lists,
    pub d_in: usize,
    /// Whether the loss has a term of the decoder's norms.
    pub norm: bool,
    /// Whether of every third latent a row is stored.
    pub stored: bool,
    /// Whether the batch's rows are bf16.
    pub bf16: bool,
}

/// See [`Lists::cases`], at widths that are and are not a multiple of 4, beyond a block's 1,024 columns; with and
/// without what may be missing; latents of many pieces of 128 entries, of one, of parts of two.
pub fn listed() -> Vec<ListedCase> {
    let case = |lists, d_in, norm, stored| ListedCase { lists, d_in, norm, stored, bf16: false };
    let everywhere = |rows: usize, d_sae: u32| Lists {
        rows: vec![(0..d_sae).collect(); rows],
        stride: d_sae as usize,
        d_sae: d_sae as usize,
    };
    let mut cases: Vec<ListedCase> = Lists::cases()
        .into_iter()
        .zip([4, 4, 1, 31, 5, 36, 33, 8])
        .enumerate()
        .map(|(i, (lists, d_in))| case(lists, d_in, i % 2 > 0, i % 3 > 1))
        .collect();
    cases.push(case(everywhere(128, 3), 12, true, true));
    cases.push(case(everywhere(200, 3), 7, true, false));
    cases.push(case(everywhere(127, 4), 1028, false, true));
    cases
}

/// As [`listed`], with rows that are and are not a multiple of 8 wide, beyond a block's 2,048 columns.
pub fn listed_of_bf16() -> Vec<ListedCase> {
    let widths = listed().into_iter().zip([8, 4, 1, 16, 5, 40, 32, 8, 24, 7, 2056]);
    widths.map(|(case, d_in)| ListedCase { d_in, bf16: true, ..case }).collect()
}

fn integers(seed: u64, n: usize) -> Vec<f32> {
    indices(seed, n, 5).into_iter().map(|i| i as f32 - 2.0).collect()
}

/// The operands on a device.
struct Operands<B: Backend> {
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    pre_gradient: B::Buffer<f32>,
    norm_gradient: B::Buffer<f32>,
    gradient: Operand<B>,
    input: Operand<B>,
    stored: LatentLists<B>,
    stored_rows: B::Buffer<f32>,
    w_dec: B::Buffer<f32>,
    decoder_norm: B::Buffer<f32>,
}

impl ListedCase {
    fn upload<B: Backend>(&self, backend: &B) -> Result<Operands<B>> {
        let (rows, d_in, d_sae) = (self.lists.rows.len(), self.d_in, self.lists.d_sae);
        let places = rows * self.lists.stride;
        let mut lists = self.lists.upload(backend)?;
        lists.values = backend.upload(&integers(1, places))?;
        // One row of three, and what is stored of others is not a number.
        let offsets: Vec<u32> = (0..=d_sae).map(|i| (i as u32 + 1) / 3).collect();
        let stored_rows = integers(6, d_sae * d_in).into_iter().enumerate();
        let stored_rows = stored_rows.map(|(i, x)| if i / d_in % 3 == 1 { x } else { f32::NAN }).collect::<Vec<f32>>();
        let norms = indices(8, d_sae, 4).into_iter().map(|i| i as f32).collect::<Vec<f32>>();
        Ok(Operands {
            by_latent: self.lists.by_latent(backend)?,
            lists,
            pre_gradient: backend.upload(&integers(2, places))?,
            norm_gradient: backend.upload(&integers(3, places))?,
            gradient: Operand::upload(backend, &integers(4, rows * d_in), self.bf16)?,
            input: Operand::upload(backend, &integers(5, rows * d_in), self.bf16)?,
            stored: LatentLists { offsets: backend.upload(&offsets)?, entries: backend.zeros(0)? },
            stored_rows: backend.upload(&stored_rows)?,
            w_dec: backend.upload(&values(7, d_sae * d_in))?,
            decoder_norm: backend.upload(&norms)?,
        })
    }

    fn of<'a, B: Backend>(&self, operands: &'a Operands<B>) -> ListedGradient<'a, B> {
        let Operands { lists, by_latent, pre_gradient, gradient, input, stored_rows, .. } = operands;
        let by_stored = &operands.stored;
        let stored = StoredGradient { w_enc: stored_rows, w_dec: stored_rows, by_latent: by_stored };
        ListedGradient {
            lists,
            by_latent,
            pre_gradient,
            gradient: gradient.matrix(),
            input: input.matrix(),
            norm_gradient: self.norm.then_some(&operands.norm_gradient),
            stored: self.stored.then_some(stored),
            rows: self.lists.rows.len(),
            d_in: self.d_in,
            d_sae: self.lists.d_sae,
        }
    }
}

/// [`Backend::gradient_squares`].
#[derive(Clone, Debug)]
pub struct SquaresCase(pub ListedCase);

impl Case for SquaresCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (operands, d_sae) = (self.0.upload(backend)?, self.0.lists.d_sae);
        let mut b_enc = backend.upload(&integers(9, d_sae))?;
        let mut squares = unwritten(backend, d_sae)?;
        backend.gradient_squares(GradientSquares {
            of: &self.0.of(&operands),
            w_dec: &operands.w_dec,
            decoder_norm: &operands.decoder_norm,
            b_enc: &mut b_enc,
            squares: &mut squares,
        })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "gradient of b_enc", &b_enc, d_sae, Agree::Bits)?;
        // With the norm's term gradients are not whole: 2 D squares are rounded to f64.
        let roundings = 4.0 * (self.0.d_in + 1) as f64 * f64::EPSILON;
        outputs.f64(backend, "squares", &squares, d_sae, Agree::Relative(roundings))?;
        Ok(outputs)
    }
}

/// [`Backend::adam_sparse`].
#[derive(Clone, Debug)]
pub struct AdamSparseCase(pub ListedCase);

impl Case for AdamSparseCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (d_sae, n) = (self.0.lists.d_sae, self.0.lists.d_sae * self.0.d_in);
        let mut operands = self.0.upload(backend)?;
        let squares: Vec<f32> = values(12, n).iter().map(|x| x * x).collect();
        let new = |values: &[f32]| backend.upload(values);
        let (mut w_enc, mut w_dec) = (new(&values(10, n))?, new(&values(7, n))?);
        let [mut m_enc, mut m_dec] = [new(&values(11, n))?, new(&values(13, n))?];
        let [mut v_enc, mut v_dec] = [new(&squares)?, new(&squares)?];
        let mut decoder_norm = std::mem::replace(&mut operands.decoder_norm, backend.zeros(0)?);
        let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
        backend.adam_sparse(AdamSparse {
            of: &self.0.of(&operands),
            w_enc: AdamState { parameter: &mut w_enc, exp_avg: &mut m_enc, exp_avg_sq: &mut v_enc },
            w_dec: AdamState { parameter: &mut w_dec, exp_avg: &mut m_dec, exp_avg_sq: &mut v_dec },
            decoder_norm: &mut decoder_norm,
            clip: &new(&[0.3])?,
            scalars: &backend.upload(&[StepScalars::new(3, 4e-4, [beta1, beta2], 0.0)])?,
            constants: AdamConstants { beta1, beta2, epsilon },
        })?;
        let mut outputs = Outputs::default();
        for (name, buffer) in [("w_enc", &w_enc), ("w_dec", &w_dec)] {
            outputs.f32(backend, name, buffer, n, Agree::Bits)?;
        }
        for (name, buffer) in [("exp_avg", &m_enc), ("exp_avg", &m_dec), ("exp_avg_sq", &v_enc), ("exp_avg_sq", &v_dec)]
        {
            outputs.f32(backend, name, buffer, n, Agree::Bits)?;
        }
        outputs.f32(backend, "decoder_norm", &decoder_norm, d_sae, Agree::Relative(2.0 * ROUNDING))?;
        Ok(outputs)
    }
}
