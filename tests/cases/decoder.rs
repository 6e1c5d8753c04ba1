//! Cases of the decoder, of the sparsity terms and of the weights' gradients.
//!
//! Every bound follows one sum's arithmetic: adding n products in f32, in any order, errs by at most
//! n + 1 roundings of the sum of magnitudes; two backends differ by at most twice that.

use super::sae::Lists;
use super::*;
use cusae::backend::*;

/// How far two sums of `n` products with these magnitudes may be apart.
fn sum_bound(n: usize, magnitudes: f64) -> f64 {
    2.0 * (n as f64 + 1.0) * ROUNDING * magnitudes
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Every entry of lists as `(row, place in the lists, latent, number)`, the number from an array
/// beside the lists.
fn entries<'a>(lists: &'a Lists, beside: &'a [f32]) -> impl Iterator<Item = (usize, usize, usize, f64)> + 'a {
    lists.rows.iter().enumerate().flat_map(move |(row, latents)| {
        let places = (row * lists.stride..).zip(latents);
        places.map(move |(place, &latent)| (row, place, latent as usize, f64::from(beside[place])))
    })
}

/// An array beside lists as a dense matrix, 0 where nothing is listed.
fn dense(lists: &Lists, beside: &[f32]) -> Vec<f32> {
    let mut to = vec![0.0; lists.rows.len() * lists.d_sae];
    for (row, _, latent, value) in entries(lists, beside) {
        to[row * lists.d_sae + latent] = value as f32;
    }
    to
}

/// [`Backend::decode_sparse`] and [`Backend::decode_dense`].
#[derive(Clone, Debug)]
pub struct DecodeCase {
    pub lists: Lists,
    pub d_in: usize,
    pub b_dec: bool,
    pub denormalize: bool,
    pub reconstruction: bool,
    pub value_gradient: bool,
    pub dense: bool,
    /// Dense: whether products' operands are rounded to bf16. Else whether W_dec is in bf16.
    pub bf16: bool,
    /// Of AuxK, whose loss counts in full with [`FULL`] dead latents.
    pub n_dead: Option<u32>,
}

const FULL: usize = 7;

fn decode_case(lists: Lists, d_in: usize) -> DecodeCase {
    DecodeCase {
        lists,
        d_in,
        b_dec: true,
        denormalize: false,
        reconstruction: true,
        value_gradient: true,
        dense: false,
        bf16: false,
        n_dead: None,
    }
}

/// Widths that are and are not a multiple of 4, around a warp's packs and a block's 1,024 columns;
/// more entries than are kept in shared memory; with and without each of what may be missing;
/// no dead latent, some, enough, more.
pub fn decode_sparse() -> Vec<DecodeCase> {
    let mut cases: Vec<DecodeCase> = Lists::cases()
        .into_iter()
        .filter(|lists| lists.rows.len() < 1000)
        .zip([4, 4, 1, 31, 33, 127, 128, 132])
        .map(|(lists, d_in)| decode_case(lists, d_in))
        .collect();
    cases.push(decode_case(Lists::random(3, 3, 12, 20), 1023));
    cases.push(decode_case(Lists::random(4, 3, 12, 20), 1028));
    let wide = |d_in| decode_case(Lists { rows: vec![(0..15).collect(), vec![5]], stride: 15, d_sae: 15 }, d_in);
    cases.extend([4096, 4100].map(wide));
    let plain = decode_case(Lists::random(5, 6, 9, 20), 36);
    cases.push(DecodeCase { denormalize: true, ..plain.clone() });
    cases.push(DecodeCase { b_dec: false, reconstruction: false, ..plain.clone() });
    cases.push(DecodeCase { value_gradient: false, ..plain.clone() });
    cases.extend([0, 3, 7, 8].map(|n_dead| DecodeCase { n_dead: Some(n_dead), ..plain.clone() }));
    cases
}

/// As [`decode_sparse`], with rows of W_dec that are and are not a multiple of 8 wide, beyond a block's 2,048 columns.
pub fn decode_sparse_of_bf16() -> Vec<DecodeCase> {
    let widths = [8, 4, 1, 31, 33, 128, 136, 1023, 2056, 4096, 4104, 40, 40, 40, 40, 40, 40, 40];
    let cases = decode_sparse();
    assert_eq!(cases.len(), widths.len());
    cases.into_iter().zip(widths).map(|(case, d_in)| DecodeCase { d_in, bf16: true, ..case }).collect()
}

/// Around a tile of 128 rows and 64 columns, at depths around its 16; with and without what may be
/// missing.
pub fn decode_dense() -> Vec<DecodeCase> {
    let case = |(rows, d_sae, d_in)| DecodeCase {
        dense: true,
        ..decode_case(Lists::random(6, rows, 6.min(d_sae), d_sae), d_in)
    };
    let mut cases =
        [(1, 1, 1), (3, 40, 33), (127, 15, 64), (129, 65, 68), (2, 129, 16), (2, 3, 300), (2, 3, 1028), (0, 5, 3)]
            .map(case)
            .to_vec();
    cases.push(DecodeCase { denormalize: true, b_dec: false, reconstruction: false, ..case((5, 17, 31)) });
    cases
}

/// As [`decode_dense`]; around tiles of 128 rows, 128 and 192 columns and 32 and 64 products, and beyond the rows that
/// the emulator's scratch memory holds at once.
pub fn decode_dense_in_bf16() -> Vec<DecodeCase> {
    let sizes = [(127, 64, 72), (129, 136, 200), (8, 200, 136), (130, 8, 8), (260, 192, 16)];
    let case = |(rows, d_sae, d_in)| DecodeCase {
        dense: true,
        ..decode_case(Lists::random(6, rows, 6.min(d_sae), d_sae), d_in)
    };
    let cases = decode_dense().into_iter().chain(sizes.map(case));
    cases.map(|case| DecodeCase { bf16: true, ..case }).collect()
}

/// What a decoder is given and, beside it, how far its outputs may be apart.
struct DecodeBounds {
    reconstruction: Vec<f64>,
    gradient: Vec<f64>,
    squared_error: Vec<f64>,
    /// `[B, stride]`, or `[B, F]` when dense.
    value_gradient: Vec<f64>,
}

const GRADIENT_SCALE: f32 = 0.3;

impl DecodeCase {
    /// Without a dead latent nothing is written.
    fn gradient_scale(&self) -> f64 {
        let weight = |n_dead: u32| (f64::from(n_dead) / FULL as f64).min(1.0);
        f64::from(GRADIENT_SCALE) * self.n_dead.map_or(1.0, weight)
    }

    fn arrays(&self) -> [Vec<f32>; 6] {
        let (rows, d_in) = (self.lists.rows.len(), self.d_in);
        [
            values(1, self.lists.d_sae * d_in),
            values(2, d_in),
            values(3, rows * d_in),
            values(4, rows),
            values(5, rows),
            values(9, rows * self.lists.stride),
        ]
    }

    fn bounds(&self) -> DecodeBounds {
        let (rows, d_in, d_sae) = (self.lists.rows.len(), self.d_in, self.lists.d_sae);
        let [w_dec, b_dec, target, row_scale, row_shift, beside] = self.arrays();
        let (w_dec, beside) = (rounded_if(self.bf16, w_dec), rounded_if(self.dense && self.bf16, beside));
        // Where two devices' gradients are apart, their roundings may be one place of bf16 apart.
        let [of_cores, one_place] = if self.dense && self.bf16 { [OF_TENSOR_CORES, 1.0 / 128.0] } else { [1.0, 0.0] };
        let mut y: Vec<f64> = (0..rows).flat_map(|_| widen(&b_dec)).map(|b| if self.b_dec { b } else { 0.0 }).collect();
        let mut magnitude: Vec<f64> = y.iter().map(|b| b.abs()).collect();
        for (row, _, latent, value) in entries(&self.lists, &beside) {
            for (column, &w) in w_dec[latent * d_in..][..d_in].iter().enumerate() {
                y[row * d_in + column] += value * f64::from(w);
                magnitude[row * d_in + column] += (value * f64::from(w)).abs();
            }
        }
        let terms = if self.dense { d_sae } else { self.lists.stride };
        let mut bounds = DecodeBounds {
            reconstruction: vec![0.0; rows * d_in],
            gradient: vec![0.0; rows * d_in],
            squared_error: vec![0.0; rows],
            value_gradient: vec![0.0; rows * if self.dense { d_sae } else { self.lists.stride }],
        };
        let mut gradient = vec![0.0; rows * d_in];
        for at in 0..rows * d_in {
            let row = at / d_in;
            let (scale, shift) =
                if self.denormalize { (f64::from(row_scale[row]), f64::from(row_shift[row])) } else { (1.0, 0.0) };
            let factor = self.gradient_scale() * scale;
            let error = y[at] * scale + shift - f64::from(target[at]);
            let of_x_hat = of_cores * sum_bound(terms, magnitude[at]) * scale.abs()
                + 4.0 * ROUNDING * (magnitude[at] * scale.abs() + shift.abs());
            let of_error = of_x_hat + 2.0 * ROUNDING * error.abs();
            gradient[at] = factor * error;
            bounds.reconstruction[at] = of_x_hat;
            bounds.gradient[at] = factor.abs() * of_error + 4.0 * ROUNDING * gradient[at].abs();
            bounds.squared_error[row] += (2.0 * error.abs() + of_error) * of_error + 2.0 * ROUNDING * error * error;
        }
        for (row, place, latent, value) in entries(&self.lists, &beside) {
            let columns = gradient[row * d_in..][..d_in].iter().zip(&bounds.gradient[row * d_in..]);
            let bound = columns.zip(&w_dec[latent * d_in..]).map(|((gradient, of_gradient), &w)| {
                let w = f64::from(w.abs());
                of_cores * sum_bound(d_in, gradient.abs() * w) + (of_gradient + one_place * gradient.abs()) * w
            });
            match self.dense {
                false => bounds.value_gradient[place] = bound.sum(),
                true if value > 0.0 => bounds.value_gradient[row * d_sae + latent] = bound.sum(),
                true => {}
            }
        }
        bounds
    }
}

impl Case for DecodeCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, d_in, d_sae) = (self.lists.rows.len(), self.d_in, self.lists.d_sae);
        let arrays = self.arrays();
        let buffers = arrays[1..].iter().map(|array| backend.upload(array)).collect::<Result<Vec<_>>>()?;
        let [b_dec, target, row_scale, row_shift, _] = &buffers[..] else { unreachable!() };
        let w_dec = Operand::upload(backend, &arrays[0], self.bf16 && !self.dense)?;
        let mut reconstruction = unwritten(backend, rows * d_in)?;
        let mut gradient = unwritten(backend, rows * d_in)?;
        let mut squared_error = unwritten(backend, rows)?;
        let bounds = self.bounds();
        let places = bounds.value_gradient.len();
        let mut value_gradient = unwritten(backend, places)?;
        let decoder = Decoder {
            w_dec: w_dec.matrix(),
            b_dec: self.b_dec.then_some(b_dec),
            target,
            denormalize: self.denormalize.then_some(Denormalize { row_scale, row_shift }),
            gradient_scale: GRADIENT_SCALE,
            rows,
            d_in,
            d_sae,
            reconstruction: self.reconstruction.then_some(&mut reconstruction),
            gradient: &mut gradient,
            squared_error: &mut squared_error,
        };
        if self.dense {
            let features = backend.upload(&dense(&self.lists, &arrays[5]))?;
            backend.decode_dense(DecodeDense {
                decoder,
                features: &features,
                feature_gradient: &mut value_gradient,
                bf16: self.bf16,
            })?;
        } else {
            let lists = self.lists.upload(backend)?;
            let value_gradient = self.value_gradient.then_some(&mut value_gradient);
            let n_dead = backend.upload(&[self.n_dead.unwrap_or_default()])?;
            let dead_weight = self.n_dead.map(|_| DeadWeight { n_dead: &n_dead, full: FULL });
            backend.decode_sparse(DecodeSparse { decoder, lists: &lists, dead_weight, value_gradient })?;
        }
        let mut outputs = Outputs::default();
        outputs.f32(backend, "reconstruction", &reconstruction, rows * d_in, Agree::Within(bounds.reconstruction))?;
        outputs.f32(backend, "gradient", &gradient, rows * d_in, Agree::Within(bounds.gradient))?;
        outputs.f32(backend, "squared_error", &squared_error, rows, Agree::Within(bounds.squared_error))?;
        outputs.f32(backend, "value_gradient", &value_gradient, places, Agree::Within(bounds.value_gradient))?;
        Ok(outputs)
    }
}

/// [`Backend::sparsity_lp`] and [`Backend::sparsity_lp_dense`].
#[derive(Clone, Debug)]
pub struct SparsityCase {
    pub lists: Lists,
    pub p: f32,
    pub dense: bool,
    /// Whether all features are 0.
    pub zeros: bool,
}

/// See [`Lists::cases`]; p = 1, where the derivative is 1, and p on both sides of it; dense rows
/// beyond a chunk of 128 and latents beyond a warp's 32; features that are all 0.
pub fn sparsity() -> Vec<SparsityCase> {
    let lists = Lists::cases().into_iter().filter(|lists| lists.rows.len() < 1000);
    let all = lists.chain([Lists::random(7, 131, 5, 33)]).flat_map(|lists| [1.0, 2.0, 0.5].map(|p| (lists.clone(), p)));
    let case = |lists: &Lists, p, dense, zeros| SparsityCase { lists: lists.clone(), p, dense, zeros };
    let cases = all.flat_map(|(lists, p)| [false, true].map(|dense| case(&lists, p, dense, false)));
    let zeros = [1.0, 2.0].map(|p| case(&Lists::random(1, 33, 7, 40), p, false, true));
    cases.chain(zeros).collect()
}

impl Case for SparsityCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let SparsityCase { ref lists, p, dense: is_dense, zeros } = *self;
        let (rows, d_sae, coefficient, gradient_scale) = (lists.rows.len(), lists.d_sae, 1.7, 0.4);
        // Features are positive where they are listed, norms everywhere.
        let positive = |seed, n| values(seed, n).iter().map(|x| x.abs().max(1e-20)).collect::<Vec<f32>>();
        let places_of_lists = rows * lists.stride;
        let features = if zeros { vec![0.0; places_of_lists] } else { positive(9, places_of_lists) };
        let norms = positive(2, d_sae).iter().map(|n| n + 0.1).collect::<Vec<f32>>();
        let places = rows * if is_dense { d_sae } else { lists.stride };
        let before = values(3, places);
        let decoder_norm = &backend.upload(&norms)?;
        let scalars = &backend.upload(&[StepScalars { coefficient, ..StepScalars::default() }])?;
        let mut gradient = backend.upload(&before)?;
        let mut norm_gradient = unwritten(backend, if is_dense { d_sae } else { places })?;
        let mut loss = unwritten(backend, rows)?;
        if is_dense {
            let features = &backend.upload(&dense(lists, &features))?;
            backend.sparsity_lp_dense(SparsityLpDense {
                features,
                decoder_norm,
                scalars,
                p,
                gradient_scale,
                rows,
                d_sae,
                feature_gradient: &mut gradient,
                norm_gradient: &mut norm_gradient,
                loss: &mut loss,
            })?;
        } else {
            let mut uploaded = lists.upload(backend)?;
            backend.write(&mut uploaded.values, 0, &features)?;
            backend.sparsity_lp(SparsityLp {
                lists: &uploaded,
                decoder_norm,
                scalars,
                p,
                gradient_scale,
                rows,
                value_gradient: &mut gradient,
                norm_gradient: &mut norm_gradient,
                loss: &mut loss,
            })?;
        }
        // The norm is a sum in f64: one rounding to f32, and one of its product with the coefficient.
        // A derivative passes the norm's error on |p - 1| times, powf errs by up to 4 ulp on a GPU
        // (8 roundings), and three products follow; its sum over the batch has only positive terms.
        let of_derivative = 2.0 * ROUNDING * (12.0 + 2.0 * f64::from((p - 1.0).abs()));
        let of_sum = if is_dense { 2.0 * ROUNDING * rows as f64 } else { 0.0 };
        let mut norm = vec![0.0f64; rows];
        entries(lists, &features)
            .for_each(|(row, _, latent, f)| norm[row] += (f * f64::from(norms[latent])).powf(f64::from(p)));
        let mut bounds = vec![0.0; places];
        for (row, place, latent, f) in entries(lists, &features) {
            let n = f64::from(norms[latent]);
            let u = if norm[row] > 0.0 { f * n / norm[row].powf(1.0 / f64::from(p)) } else { 0.0 };
            let added = f64::from(coefficient * gradient_scale) * u.powf(f64::from(p) - 1.0) * n;
            let at = if is_dense { row * d_sae + latent } else { place };
            bounds[at] = of_derivative * added + 2.0 * ROUNDING * (added + f64::from(before[at].abs()));
        }
        let mut outputs = Outputs::default();
        outputs.f32(backend, "gradient", &gradient, places, Agree::Within(bounds))?;
        let len = norm_gradient.len();
        outputs.f32(backend, "norm_gradient", &norm_gradient, len, Agree::Relative(of_derivative + of_sum))?;
        outputs.f32(backend, "loss", &loss, rows, Agree::Relative(4.0 * ROUNDING))?;
        Ok(outputs)
    }
}

/// [`Backend::gradient_sparse`] and [`Backend::gradient_dense`].
#[derive(Clone, Debug)]
pub struct GradientCase {
    pub lists: Lists,
    pub d_in: usize,
    pub norm: bool,
    pub accumulate: bool,
    /// Rows of latents without entries stay unwritten.
    pub only_listed: bool,
    pub dense: bool,
    /// Whether the batch's rows are bf16; with dense features, whether products' operands are rounded to it.
    pub bf16: bool,
}

/// See [`Lists::cases`], at widths that are and are not a multiple of 4. Of the entries 128 make a
/// piece, more where there is room for more than 131,072: latents of many pieces, of exactly one, and of
/// parts of two only.
pub fn gradient_sparse() -> Vec<GradientCase> {
    let case = |lists, d_in, norm, accumulate| GradientCase {
        lists,
        d_in,
        norm,
        accumulate,
        only_listed: false,
        dense: false,
        bf16: false,
    };
    let everywhere = |rows: usize, d_sae: u32| Lists {
        rows: vec![(0..d_sae).collect(); rows],
        stride: d_sae as usize,
        d_sae: d_sae as usize,
    };
    let mut cases: Vec<GradientCase> = Lists::cases()
        .into_iter()
        .zip([4, 4, 1, 31, 5, 36, 33, 8])
        .enumerate()
        .map(|(i, (lists, d_in))| case(lists, d_in, i % 2 > 0, i % 3 > 1))
        .collect();
    cases.push(case(everywhere(128, 3), 12, true, true));
    cases.push(case(everywhere(200, 3), 7, true, false));
    cases.push(case(everywhere(127, 4), 1028, false, true));
    cases.push(case(Lists { rows: vec![vec![1]; 4100], stride: 33, d_sae: 3 }, 5, true, false));
    cases
}

/// As [`gradient_sparse`], with rows that are and are not a multiple of 8 wide, beyond a block's 2,048 columns.
pub fn gradient_sparse_of_bf16() -> Vec<GradientCase> {
    let widths = gradient_sparse().into_iter().zip([8, 4, 1, 16, 5, 40, 32, 8, 24, 7, 2056, 8]);
    widths.map(|(case, d_in)| GradientCase { d_in, bf16: true, ..case }).collect()
}

/// As [`decode_dense`], and beyond a chunk of 128 rows. The first row is not empty, so that it shows where
/// it is taken for another.
pub fn gradient_dense() -> Vec<GradientCase> {
    let case = |((rows, d_sae, d_in), norm, accumulate)| {
        let mut lists = Lists::random(6, rows, 6.min(d_sae), d_sae);
        lists.rows.first_mut().filter(|first| first.is_empty()).into_iter().for_each(|first| first.push(0));
        GradientCase { lists, d_in, norm, accumulate, only_listed: false, dense: true, bf16: false }
    };
    [
        ((1, 1, 1), false, false),
        ((3, 40, 33), true, false),
        ((15, 127, 64), false, true),
        ((129, 129, 68), true, true),
        ((257, 20, 65), false, false),
        ((17, 20, 64), true, false),
        ((17, 21, 65), true, false),
        ((0, 5, 3), false, true),
    ]
    .map(case)
    .to_vec()
}

/// As [`gradient_dense`]; around tiles of 128 rows, 128 and 192 columns and 32 and 64 products, and beyond the latents
/// that the emulator's scratch memory holds at once.
pub fn gradient_dense_in_bf16() -> Vec<GradientCase> {
    let mut cases = gradient_dense();
    let plain = cases[0].clone();
    for (rows, d_sae, d_in, norm, accumulate) in
        [(64, 127, 72, true, false), (136, 129, 200, false, true), (200, 392, 8, true, true), (8, 130, 130, true, true)]
    {
        let lists = Lists::random(6, rows, 6, d_sae);
        cases.push(GradientCase { lists, d_in, norm, accumulate, ..plain.clone() });
    }
    cases.into_iter().map(|case| GradientCase { bf16: true, ..case }).collect()
}

impl GradientCase {
    /// Values, pre_gradient, norm_gradient by place; gradient, input; decoder_norm, w_dec; what is
    /// accumulated to.
    fn arrays(&self) -> [Vec<f32>; 9] {
        let (rows, d_in, d_sae) = (self.lists.rows.len(), self.d_in, self.lists.d_sae);
        let places = rows * self.lists.stride;
        let norms = values(6, d_sae).into_iter().enumerate().map(|(i, n)| if i % 7 == 3 { 0.0 } else { n.abs() + 0.1 });
        let of_batch = |seed| rounded_if(self.bf16 && !self.dense, values(seed, rows * d_in));
        [
            values(9, places),
            values(2, places),
            values(3, places),
            of_batch(4),
            of_batch(5),
            norms.collect(),
            values(7, d_sae * d_in),
            values(8, d_sae * d_in),
            values(10, d_sae),
        ]
    }

    /// Of w_dec, w_enc and b_enc.
    fn bounds(&self) -> [Vec<f64>; 3] {
        let (d_in, d_sae) = (self.d_in, self.lists.d_sae);
        let [of_values, pre_gradient, norm_gradient, gradient, input, norms, w_dec, before, before_b] = self.arrays();
        // Rounding takes 2^-9 of an operand; two operands and sums of tensor cores are well within a tenth more.
        let of_cores = if self.bf16 && self.dense { 1.1 * OF_TENSOR_CORES } else { 1.0 };
        let if_accumulated = |x: &f32| if self.accumulate { f64::from(x.abs()) } else { 0.0 };
        let mut sums: [Vec<f64>; 3] =
            [&before, &before, &before_b].map(|array| array.iter().map(if_accumulated).collect());
        let (mut count, mut of_norm) = (vec![2usize; d_sae], vec![0.0; d_sae]);
        for (row, place, latent, value) in entries(&self.lists, &of_values) {
            let pre = f64::from(pre_gradient[place].abs());
            for column in 0..d_in {
                sums[0][latent * d_in + column] += (value * f64::from(gradient[row * d_in + column])).abs();
                sums[1][latent * d_in + column] += pre * f64::from(input[row * d_in + column].abs());
            }
            sums[2][latent] += pre;
            count[latent] += 1;
            of_norm[latent] += f64::from(norm_gradient[place].abs());
        }
        if self.dense {
            count.fill(self.lists.rows.len() + 2);
            of_norm = values(3, d_sae).iter().map(|g| f64::from(g.abs())).collect();
        }
        for (i, sum) in sums[0].iter_mut().enumerate() {
            let (latent, norm) = (i / d_in, f64::from(norms[i / d_in]));
            if self.norm && norm > 0.0 {
                *sum += 2.0 * of_norm[latent] * f64::from(w_dec[i].abs()) / norm;
            }
        }
        let bound = |(i, sum): (usize, f64), width| of_cores * sum_bound(count[i / width], sum);
        let [w_dec, w_enc, b_enc] = sums;
        let all = |sums: Vec<f64>, width| sums.into_iter().enumerate().map(|at| bound(at, width)).collect();
        [all(w_dec, d_in), all(w_enc, d_in), all(b_enc, 1)]
    }
}

impl Case for GradientCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, d_in, d_sae) = (self.lists.rows.len(), self.d_in, self.lists.d_sae);
        let arrays = self.arrays();
        let buffers = arrays.iter().map(|array| backend.upload(array)).collect::<Result<Vec<_>>>()?;
        let [_, pre_gradient, norm_gradient, gradient, input, decoder_norm, w_dec_now, _, _] = &buffers[..] else {
            unreachable!()
        };
        let new =
            |before: &[f32]| if self.accumulate { backend.upload(before) } else { unwritten(backend, before.len()) };
        let (mut w_enc, mut w_dec, mut b_enc) = (new(&arrays[7])?, new(&arrays[7])?, new(&arrays[8])?);
        let dense_norm_gradient = &backend.upload(&values(3, d_sae))?;
        let norm = self.norm.then_some(NormGradient {
            norm_gradient: if self.dense { dense_norm_gradient } else { norm_gradient },
            decoder_norm,
            w_dec: w_dec_now,
        });
        let GradientCase { accumulate, only_listed, .. } = *self;
        let out = WeightGradients { w_enc: &mut w_enc, b_enc: &mut b_enc, w_dec: &mut w_dec, accumulate, only_listed };
        if self.dense {
            let features = &backend.upload(&dense(&self.lists, &arrays[0]))?;
            let pre_gradient = &backend.upload(&dense(&self.lists, &arrays[1]))?;
            backend.gradient_dense(GradientDense {
                features,
                pre_gradient,
                gradient,
                input,
                norm,
                rows,
                d_in,
                d_sae,
                bf16: self.bf16,
                out,
            })?;
        } else {
            let lists = &self.lists.upload(backend)?;
            let by_latent = &self.lists.by_latent(backend)?;
            let of_batch = |values: &[f32]| Operand::upload(backend, values, self.bf16);
            let (gradient, input) = (&of_batch(&arrays[3])?, &of_batch(&arrays[4])?);
            let (gradient, input) = (gradient.matrix(), input.matrix());
            let op = GradientSparse { lists, by_latent, pre_gradient, gradient, input, norm, rows, d_in, d_sae, out };
            backend.gradient_sparse(op)?;
        }
        let [of_w_dec, of_w_enc, of_b_enc] = self.bounds();
        let mut outputs = Outputs::default();
        outputs.f32(backend, "gradient of w_dec", &w_dec, d_sae * d_in, Agree::Within(of_w_dec))?;
        outputs.f32(backend, "gradient of w_enc", &w_enc, d_sae * d_in, Agree::Within(of_w_enc))?;
        outputs.f32(backend, "gradient of b_enc", &b_enc, d_sae, Agree::Within(of_b_enc))?;
        Ok(outputs)
    }
}

/// [`Backend::gradient_b_dec`].
#[derive(Clone, Debug)]
pub struct GradientBDecCase {
    pub rows: usize,
    pub d_in: usize,
    pub d_sae: usize,
    pub through_encoder: bool,
}

/// Around a chunk's 128 rows or latents and a block's 32 columns; without the encoder; without rows.
pub fn gradient_b_dec() -> Vec<GradientBDecCase> {
    let case = |(rows, d_in, d_sae, through_encoder)| GradientBDecCase { rows, d_in, d_sae, through_encoder };
    [
        (1, 1, 1, true),
        (9, 31, 40, false),
        (127, 32, 129, true),
        (128, 33, 128, true),
        (300, 7, 257, true),
        (0, 5, 3, true),
    ]
    .map(case)
    .to_vec()
}

impl Case for GradientBDecCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let GradientBDecCase { rows, d_in, d_sae, through_encoder } = *self;
        // A third of the latents is dead: their rows of w_enc are not to be touched, whatever they hold.
        let dead = |latent: usize| latent % 3 == 1;
        let gradient = values(1, rows * d_in);
        let g_b_enc: Vec<f32> =
            values(2, d_sae).iter().enumerate().map(|(i, &g)| if dead(i) { 0.0 } else { g }).collect();
        let w_enc: Vec<f32> = values(3, d_sae * d_in)
            .iter()
            .enumerate()
            .map(|(i, &w)| if dead(i / d_in) { f32::NAN } else { w })
            .collect();
        let mut out = unwritten(backend, d_in)?;
        backend.gradient_b_dec(GradientBDec {
            gradient: &backend.upload(&gradient)?,
            through_encoder: through_encoder.then_some(ThroughEncoder {
                w_enc: &backend.upload(&w_enc)?,
                b_enc_gradient: &backend.upload(&g_b_enc)?,
            }),
            rows,
            d_in,
            d_sae,
            out: &mut out,
        })?;
        let magnitude = |column: usize| {
            let of_rows: f64 = (0..rows).map(|row| f64::from(gradient[row * d_in + column].abs())).sum();
            let latents = (0..d_sae).filter(|&latent| through_encoder && !dead(latent));
            let product = |i: usize| f64::from(g_b_enc[i]) * f64::from(w_enc[i * d_in + column]);
            of_rows + latents.map(|i| product(i).abs()).sum::<f64>()
        };
        let bounds = (0..d_in).map(|column| sum_bound(rows + d_sae, magnitude(column))).collect();
        let mut outputs = Outputs::default();
        outputs.f32(backend, "out", &out, d_in, Agree::Within(bounds))?;
        Ok(outputs)
    }
}
