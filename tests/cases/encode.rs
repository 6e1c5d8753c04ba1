//! Cases of the encoder's operations.

use super::*;
use cusae::backend::*;

/// What the encoder is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers {
    /// -2 to 2: every sum is exact, and ties are everywhere.
    Integers,
    /// All h are equal.
    Equal(f32),
    /// D = F and w_enc is the identity: h is the input, from 1e-38 to 3e38, and for some latents NaN,
    /// infinity or its opposite.
    Extremes,
    /// Rounded sums, no two of which are so near each other that rounding could change the selection.
    Real,
}

/// The encoder's shape and numbers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rows: usize,
    pub d_in: usize,
    pub d_sae: usize,
    pub numbers: Numbers,
    /// Keys are h times 0, 0.5, 1 or 2.
    pub norms: bool,
    /// The operands are bf16.
    pub bf16: bool,
}

struct Weights {
    input: Vec<f32>,
    w_enc: Vec<f32>,
    b_enc: Vec<f32>,
    norm: Vec<f32>,
}

/// Those buffers on a device.
struct Uploaded<B: Backend> {
    input: Operand<B>,
    w_enc: Operand<B>,
    b_enc: B::Buffer<f32>,
    norm: B::Buffer<f32>,
    shape: Shape,
}

impl<B: Backend> Uploaded<B> {
    fn encoder(&self) -> Encoder<'_, B> {
        let Shape { rows, d_in, d_sae, .. } = self.shape;
        Encoder { input: self.input.matrix(), w_enc: self.w_enc.matrix(), b_enc: &self.b_enc, rows, d_in, d_sae }
    }

    fn norm(&self) -> Option<&B::Buffer<f32>> {
        self.shape.norms.then_some(&self.norm)
    }
}

fn shape(rows: usize, d_in: usize, d_sae: usize, numbers: Numbers, norms: bool) -> Shape {
    Shape { rows, d_in, d_sae, numbers, norms, bf16: false }
}

impl Shape {
    /// With bf16 operands. Rounded sums are those of a D that Hopper's kernel takes, a multiple of 8.
    fn in_bf16(self) -> Shape {
        let d_in = if self.numbers == Numbers::Real { 40 } else { self.d_in };
        Shape { d_in, bf16: true, ..self }
    }

    fn weights(&self) -> Weights {
        let Weights { input, w_enc, b_enc, norm } = self.unrounded_weights();
        let round = |values| if self.bf16 { rounded(values) } else { values };
        Weights { input: round(input), w_enc: round(w_enc), b_enc, norm }
    }

    fn unrounded_weights(&self) -> Weights {
        let Shape { rows, d_in, d_sae, .. } = *self;
        let integers = |seed, n| indices(seed, n, 5).iter().map(|&i| i as f32 - 2.0).collect();
        let norm = indices(7, d_sae, 4).iter().map(|&i| [0.0, 0.5, 1.0, 2.0][i as usize]).collect();
        let (n, of_weights) = (rows * d_in, d_sae * d_in);
        match self.numbers {
            Numbers::Integers => {
                Weights { input: integers(1, n), w_enc: integers(2, of_weights), b_enc: integers(3, d_sae), norm }
            }
            Numbers::Equal(h) => {
                Weights { input: vec![0.0; n], w_enc: integers(2, of_weights), b_enc: vec![h; d_sae], norm }
            }
            Numbers::Extremes => {
                let powers = indices(4, n, 77);
                let input =
                    values(1, n).into_iter().zip(powers).map(|(x, power)| x / 300.0 * 10f32.powi(power as i32 - 38));
                let special = indices(3, d_sae, 40);
                let b_enc = special.iter().map(|&i| match i {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => f32::NEG_INFINITY,
                    _ => 0.0,
                });
                let w_enc = (0..of_weights).map(|i| if i / d_in == i % d_in { 1.0 } else { 0.0 }).collect();
                Weights { input: input.collect(), w_enc, b_enc: b_enc.collect(), norm }
            }
            Numbers::Real => {
                Weights { input: values(1, n), w_enc: values(2, of_weights), b_enc: values(3, d_sae), norm }
            }
        }
    }

    fn upload<B: Backend>(&self, backend: &B) -> Result<Uploaded<B>> {
        let weights = self.weights();
        Ok(Uploaded {
            input: Operand::upload(backend, &weights.input, self.bf16)?,
            w_enc: Operand::upload(backend, &weights.w_enc, self.bf16)?,
            b_enc: backend.upload(&weights.b_enc)?,
            norm: backend.upload(&weights.norm)?,
            shape: *self,
        })
    }

    /// Every h in f64, and how far two devices' may be apart: each has added D + 1 numbers.
    fn exact(&self) -> Vec<(f64, f64)> {
        let Weights { input, w_enc, b_enc, .. } = self.weights();
        let products = |x: &[f32], w: &[f32], b: f32| {
            let terms = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).chain([f64::from(b)]);
            let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), t| (sum + t, magnitude + t.abs()));
            let of_cores = if self.bf16 { OF_TENSOR_CORES } else { 1.0 };
            (sum, of_cores * 2.0 * (self.d_in + 1) as f64 * ROUNDING * magnitude)
        };
        let latents = || w_enc.chunks_exact(self.d_in).zip(&b_enc);
        input.chunks_exact(self.d_in).flat_map(|x| latents().map(move |(w, &b)| products(x, w, b))).collect()
    }

    fn agree(&self, bounds: impl FnOnce() -> Vec<f64>) -> Agree {
        if self.numbers == Numbers::Real {
            Agree::Within(bounds())
        } else {
            Agree::Bits
        }
    }
}

/// How far two devices' values of any latent of a row may be apart, for each of `stride` slots.
fn slots(exact: &[(f64, f64)], d_sae: usize, stride: usize) -> Vec<f64> {
    let of_row = |row: &[(f64, f64)]| vec![row.iter().fold(0.0f64, |most, &(_, bound)| most.max(bound)); stride];
    exact.chunks_exact(d_sae).flat_map(of_row).collect()
}

fn empty_lists<B: Backend>(backend: &B, rows: usize, stride: usize) -> Result<FeatureLists<B>> {
    Ok(FeatureLists {
        rows,
        stride,
        counts: unwritten(backend, rows)?,
        indices: unwritten(backend, rows * stride)?,
        values: unwritten(backend, rows * stride)?,
    })
}

/// The whole lists: what is beyond a row's count must be as it was.
fn outputs_of_lists<B: Backend>(backend: &B, lists: &FeatureLists<B>, agree: Agree) -> Result<Outputs> {
    let (rows, n) = (lists.rows, lists.rows * lists.stride);
    let mut outputs = Outputs::default();
    outputs.u32(backend, "counts", &lists.counts, rows)?;
    outputs.u32(backend, "indices", &lists.indices, n)?;
    outputs.f32(backend, "values", &lists.values, n, agree)?;
    Ok(outputs)
}

/// [`Backend::encode_topk`] and, where some latents are dead, [`Backend::encode_dead_topk`].
#[derive(Clone, Debug)]
pub struct TopkCase {
    pub shape: Shape,
    pub k: usize,
    pub stride: usize,
    /// Every so many-th latent is dead, from the last of these on; 0: all are selected from.
    pub dead_every: usize,
    pub rank: Rank,
}

/// One latent; around a group's 64 latents and a tile's 128 rows (and more rows than one part of the
/// scratch memory holds); k from 1 to F around the number of groups; groups in which all keys tie, all
/// rows negative; more groups than a block's warps take at once.
pub fn topk() -> Vec<TopkCase> {
    use Numbers::*;
    let case = |(shape, k): (Shape, usize)| TopkCase { shape, k, stride: k + k % 3, dead_every: 0, rank: Rank::Value };
    let mut cases = vec![
        (shape(3, 2, 5, Integers, false), 2),
        (shape(1, 1, 1, Equal(0.5), false), 1),
        (shape(0, 3, 4, Integers, false), 2),
        (shape(127, 3, 65, Integers, false), 3),
        (shape(129, 3, 65, Integers, true), 7),
        (shape(200, 1, 130, Integers, false), 2),
        (shape(2, 4, 200, Equal(1.0), false), 67),
        (shape(2, 4, 200, Equal(1.0), true), 67),
        (shape(2, 4, 200, Equal(-1.0), false), 67),
        (shape(2, 4, 20_000, Integers, false), 300),
        (shape(3, 31, 1000, Real, false), 5),
        (shape(3, 33, 333, Real, true), 40),
    ];
    cases.extend([1, 2, 63, 64].map(|k| (shape(3, 5, 64, Integers, k % 2 == 0), k)));
    cases.extend([1, 2, 3, 130].map(|k| (shape(4, 130, 130, Extremes, k % 2 == 0), k)));
    cases.extend([1, 15, 16, 17, 500, 1000].map(|k| (shape(2, 5, 1000, Integers, k % 2 == 0), k)));
    cases.into_iter().map(case).collect()
}

/// With bf16 operands, as [`topk`]; and around the tiles of 128 rows, which Hopper takes in pairs where their number is
/// even, 128 and 192 latents, 32 and 64 elements of D and the four steps in flight; D that is a multiple of 8, so that 16
/// bytes are loaded at a time, and not.
pub fn topk_in_bf16() -> Vec<TopkCase> {
    let sizes = [
        [127, 32, 127],
        [128, 40, 128],
        [129, 33, 129],
        [2, 64, 191],
        [2, 63, 192],
        [130, 72, 193],
        [300, 8, 400],
        [3, 256, 70],
        [3, 264, 70],
        [5, 400, 200],
        [256, 328, 65],
        [512, 8, 200],
    ];
    let sized = sizes.map(|[rows, d_in, d_sae]| TopkCase {
        shape: shape(rows, d_in, d_sae, Numbers::Integers, d_in % 16 == 0),
        k: 9,
        stride: 9,
        dead_every: 0,
        rank: Rank::Value,
    });
    let cases = topk().into_iter().chain(sized);
    cases.map(|case| TopkCase { shape: case.shape.in_bf16(), ..case }).collect()
}

/// With bf16 operands, as [`dead_topk`].
pub fn dead_topk_in_bf16() -> Vec<TopkCase> {
    dead_topk().into_iter().map(|case| TopkCase { shape: case.shape.in_bf16(), ..case }).collect()
}

/// As [`topk`], of every second or third latent, whatever their sign, so that every row has k entries;
/// fewer dead latents than k, one, none; the last of those selected among 0 and -0.
pub fn dead_topk() -> Vec<TopkCase> {
    use Numbers::*;
    let case = |(shape, k, dead_every)| TopkCase { shape, k, stride: k + 1, dead_every, rank: Rank::Value };
    let mut cases = vec![
        (shape(3, 2, 5, Integers, false), 2, 2),
        (shape(3, 2, 5, Integers, false), 3, 2),
        (shape(129, 2, 70, Integers, true), 64, 70),
        (shape(129, 2, 70, Integers, true), 64, 71),
        (shape(130, 3, 130, Integers, true), 65, 2),
        (shape(2, 4, 200, Equal(-1.0), false), 67, 1),
        (shape(3, 4, 200, Integers, true), 100, 1),
        (shape(2, 4, 4000, Integers, true), 20, 2),
        (shape(3, 31, 1000, Real, true), 5, 3),
        // As many dead ones as fill a group, at whose elements a product may look by packs.
        (shape(33, 3, 200, Integers, true), 30, 2),
    ];
    cases.extend([1, 2, 3, 65].map(|k| (shape(4, 130, 130, Extremes, k % 2 == 0), k, 2)));
    cases.into_iter().map(case).collect()
}

/// As [`topk`] and [`dead_topk`], ranked by magnitude.
pub fn magnitude() -> Vec<TopkCase> {
    let cases = topk().into_iter().chain(dead_topk());
    cases.map(|case| TopkCase { rank: Rank::Magnitude, ..case }).collect()
}

impl TopkCase {
    fn dead(&self) -> impl Iterator<Item = u32> {
        let every = self.dead_every.max(1);
        (every as u32 - 1..self.shape.d_sae as u32).step_by(every)
    }

    /// Rounding must not be able to change what is selected.
    fn check_gaps(&self, exact: &[(f64, f64)], norm: &[f32]) {
        for row in exact.chunks_exact(self.shape.d_sae) {
            let norm = |i: usize| if self.shape.norms { f64::from(norm[i]) } else { 1.0 };
            let selectable = self.dead().map(|latent| latent as usize);
            let signed = selectable.map(|i| (row[i].0 * norm(i), row[i].1 * norm(i)));
            let ranked = |key: f64| if self.rank == Rank::Value { key } else { key.abs() };
            let mut keys: Vec<(f64, f64)> = signed.map(|(key, bound)| (ranked(key), bound)).collect();
            keys.sort_by(|a, b| b.0.total_cmp(&a.0));
            let (last, next) = (keys[self.k - 1], keys[self.k]);
            assert!(last.0 - next.0 > last.1 + next.1, "{self:?} is not decided: {last:?}, {next:?}");
            let positive = self.dead_every > 0 || last.0 > last.1;
            assert!(positive, "{self:?}: the sign of {last:?} is not decided");
        }
    }
}

impl Case for TopkCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let Shape { rows, d_sae, .. } = self.shape;
        let agree = self.shape.agree(|| {
            let exact = self.shape.exact();
            self.check_gaps(&exact, &self.shape.weights().norm);
            slots(&exact, d_sae, self.stride)
        });
        let uploaded = self.shape.upload(backend)?;
        let mut lists = empty_lists(backend, rows, self.stride)?;
        let (encoder, decoder_norm, k, rank) = (uploaded.encoder(), uploaded.norm(), self.k, self.rank);
        if self.dead_every == 0 {
            backend.encode_topk(EncodeTopk { encoder, rank, decoder_norm, k, lists: &mut lists })?;
        } else {
            let mut latents = vec![u32::MAX; d_sae];
            let n_dead = self.dead().zip(&mut latents).map(|(dead, to)| *to = dead).count() as u32;
            let dead = DeadLatents { count: backend.upload(&[n_dead])?, latents: backend.upload(&latents)? };
            let lists = &mut lists;
            backend.encode_dead_topk(EncodeDeadTopk { encoder, rank, decoder_norm, dead: &dead, k, lists })?;
        }
        outputs_of_lists(backend, &lists, agree)
    }
}

/// [`Backend::encode_relu`].
#[derive(Clone, Debug)]
pub struct ReluCase {
    pub shape: Shape,
    pub stride: usize,
}

/// Around groups and tiles; lists with more room than needed, just enough, one entry too little, for one.
pub fn relu() -> Vec<ReluCase> {
    use Numbers::*;
    let case = |(shape, stride)| ReluCase { shape, stride };
    [
        (shape(3, 2, 5, Integers, false), 5),
        (shape(0, 2, 5, Integers, false), 5),
        (shape(129, 3, 65, Integers, false), 65),
        (shape(2, 4, 200, Equal(1.0), false), 200),
        (shape(2, 4, 200, Equal(1.0), false), 199),
        (shape(2, 4, 200, Equal(1.0), false), 1),
        (shape(2, 4, 200, Equal(-1.0), false), 1),
        (shape(4, 130, 130, Extremes, false), 130),
        (shape(3, 31, 1000, Real, false), 1000),
    ]
    .map(case)
    .to_vec()
}

/// With bf16 operands, as [`relu`].
pub fn relu_in_bf16() -> Vec<ReluCase> {
    relu().into_iter().map(|case| ReluCase { shape: case.shape.in_bf16(), ..case }).collect()
}

/// Rounding must not be able to change which h are positive.
fn check_signs(shape: &Shape, exact: &[(f64, f64)]) {
    let undecided = exact.iter().find(|(h, bound)| h.abs() <= *bound && *h != 0.0);
    assert!(undecided.is_none(), "{shape:?}: the sign of {undecided:?} is not decided");
}

impl Case for ReluCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let Shape { rows, d_sae, .. } = self.shape;
        let agree = self.shape.agree(|| {
            let exact = self.shape.exact();
            check_signs(&self.shape, &exact);
            slots(&exact, d_sae, self.stride)
        });
        let uploaded = self.shape.upload(backend)?;
        let mut lists = empty_lists(backend, rows, self.stride)?;
        let encoder = uploaded.encoder();
        let mut longest = unwritten(backend, 1)?;
        backend.encode_relu(EncodeRelu { encoder, lists: &mut lists, longest: &mut longest })?;
        let fits = backend.read_element(&longest, 0)? as usize <= self.stride;
        // Lists that are too short are not valid.
        let mut outputs = if fits { outputs_of_lists(backend, &lists, agree)? } else { Outputs::default() };
        outputs.u32(backend, "longest", &longest, 1)?;
        Ok(outputs)
    }
}

/// [`Backend::encode_batch_topk`].
#[derive(Clone, Debug)]
pub struct BatchTopkCase {
    pub shape: Shape,
    pub n: usize,
    pub stride: usize,
}

/// One entry and all; every border between values; ties over many rows, beyond a block's 1,024; rows that are
/// left out; too little room; nothing positive; more rows than one tile holds, more groups than a block's
/// warps take at once.
pub fn batch_topk() -> Vec<BatchTopkCase> {
    use Numbers::*;
    let case = |(shape, n, stride)| BatchTopkCase { shape, n, stride };
    let mut cases = vec![
        (shape(1, 1, 1, Equal(0.5), false), 1, 1),
        (shape(3, 2, 5, Integers, false), 4, 5),
        (shape(3, 2, 5, Integers, true), 15, 5),
        (shape(130, 3, 65, Integers, true), 300, 65),
        (shape(130, 3, 65, Integers, false), 1, 1),
        (shape(130, 3, 65, Equal(2.0), false), 131, 65),
        (shape(130, 3, 65, Equal(2.0), false), 131, 64),
        (shape(4, 4, 200, Equal(-1.0), false), 20, 3),
        (shape(4, 130, 130, Extremes, true), 60, 130),
        (shape(2, 4, 20_000, Integers, false), 600, 20_000),
        (shape(1030, 1, 1, Equal(2.0), false), 1028, 1),
        (shape(5, 31, 400, Real, false), 50, 400),
        (shape(50, 31, 1, Real, false), 7, 1),
        // The largest is 2 and a bound of the first search, and no other is above it.
        (shape(7, 5, 1, Integers, false), 1, 1),
    ];
    cases.extend((1..15).map(|n| (shape(3, 2, 5, Integers, n % 2 == 0), n, 5)));
    cases.into_iter().map(case).collect()
}

/// With bf16 operands, as [`batch_topk`].
pub fn batch_topk_in_bf16() -> Vec<BatchTopkCase> {
    batch_topk().into_iter().map(|case| BatchTopkCase { shape: case.shape.in_bf16(), ..case }).collect()
}

impl Case for BatchTopkCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let Shape { rows, d_sae, .. } = self.shape;
        let exact = self.shape.exact();
        let agree = self.shape.agree(|| {
            let mut keys = exact.clone();
            keys.sort_by(|a, b| b.0.total_cmp(&a.0));
            let (last, next) = (keys[self.n - 1], keys[self.n]);
            assert!(last.0 - next.0 > last.1 + next.1 && last.0 > last.1, "{self:?} is not decided");
            slots(&exact, d_sae, self.stride)
        });
        let uploaded = self.shape.upload(backend)?;
        let (mut lists, mut threshold) = (empty_lists(backend, rows, self.stride)?, backend.upload(&[0.5])?);
        let mut longest = unwritten(backend, 1)?;
        // The first time all are selected, so that the second finds the traces of that.
        for n in [rows * d_sae, self.n] {
            let mut lists_of_all = empty_lists(backend, rows, d_sae)?;
            backend.encode_batch_topk(EncodeBatchTopk {
                encoder: uploaded.encoder(),
                decoder_norm: uploaded.norm(),
                n,
                threshold_lr: 0.25,
                threshold: &mut threshold,
                lists: if n == self.n { &mut lists } else { &mut lists_of_all },
                longest: &mut longest,
            })?;
        }
        let fits = backend.read_element(&longest, 0)? as usize <= self.stride;
        let mut outputs = if fits { outputs_of_lists(backend, &lists, agree)? } else { Outputs::default() };
        outputs.u32(backend, "longest row", &longest, 1)?;
        // A quarter of one value's error, which is far below this.
        let close = if self.shape.numbers == Numbers::Real { Agree::Relative(1e-5) } else { Agree::Bits };
        outputs.f64(backend, "threshold", &threshold, 1, close)?;
        Ok(outputs)
    }
}

/// [`Backend::encode_jumprelu`].
#[derive(Clone, Debug)]
pub struct JumpReluCase {
    pub shape: Shape,
    pub stride: usize,
    pub bandwidth: Option<f32>,
    pub with_pre_activations: bool,
}

/// Thresholds among the values, on both sides of zero; windows that hold none, some and all, and such as
/// values are on the borders of; rows with
/// more room than needed, just enough, and too little.
pub fn jumprelu() -> Vec<JumpReluCase> {
    use Numbers::*;
    let case = |(shape, stride, bandwidth): (Shape, usize, Option<f32>)| JumpReluCase {
        shape,
        stride,
        bandwidth,
        with_pre_activations: bandwidth.is_some() || stride % 2 == 0,
    };
    [
        (shape(3, 2, 5, Integers, false), 5, None),
        (shape(0, 2, 5, Integers, false), 5, Some(1.0)),
        (shape(129, 3, 65, Integers, false), 65, None),
        (shape(129, 3, 65, Integers, false), 65, Some(1.0)),
        (shape(129, 3, 65, Integers, false), 65, Some(2.0)),
        (shape(129, 3, 65, Integers, false), 65, Some(4.5)),
        (shape(2, 4, 200, Equal(1.0), false), 200, Some(0.5)),
        (shape(2, 4, 200, Equal(1.0), false), 100, Some(100.0)),
        (shape(2, 4, 200, Equal(-1.0), false), 200, None),
        // A whole strip, of few that are listed: some group has none among every fourth latent.
        (shape(16, 4, 704, Equal(-1.5), false), 704, Some(0.5)),
        (shape(4, 130, 130, Extremes, false), 130, None),
        (shape(4, 130, 130, Extremes, false), 130, Some(1e-3)),
    ]
    .map(case)
    .to_vec()
}

/// With bf16 operands, as [`jumprelu`].
pub fn jumprelu_in_bf16() -> Vec<JumpReluCase> {
    jumprelu().into_iter().map(|case| JumpReluCase { shape: case.shape.in_bf16(), ..case }).collect()
}

impl Case for JumpReluCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let Shape { rows, d_sae, .. } = self.shape;
        let uploaded = self.shape.upload(backend)?;
        let thresholds: Vec<f32> = indices(9, d_sae, 7).iter().map(|&i| i as f32 - 2.0).collect();
        let threshold = backend.upload(&thresholds)?;
        let mut lists = empty_lists(backend, rows, self.stride)?;
        let mut pre_activations = unwritten(backend, rows * self.stride)?;
        let mut longest = unwritten(backend, 1)?;
        backend.encode_jumprelu(EncodeJumpRelu {
            encoder: uploaded.encoder(),
            threshold: &threshold,
            bandwidth: self.bandwidth,
            lists: &mut lists,
            longest: &mut longest,
            pre_activations: self.with_pre_activations.then_some(&mut pre_activations),
        })?;
        let fits = backend.read_element(&longest, 0)? as usize <= self.stride;
        let mut outputs = if fits { outputs_of_lists(backend, &lists, Agree::Bits)? } else { Outputs::default() };
        outputs.u32(backend, "longest row", &longest, 1)?;
        if fits {
            outputs.f32(backend, "pre_activations", &pre_activations, rows * self.stride, Agree::Bits)?;
        }
        Ok(outputs)
    }
}

/// [`Backend::encode_relu_dense`].
#[derive(Clone, Debug)]
pub struct ReluDenseCase(pub Shape);

/// Around tiles of 128 rows and 64 latents; nothing positive, everything, NaN and infinities.
pub fn relu_dense() -> Vec<ReluDenseCase> {
    use Numbers::*;
    [
        shape(1, 1, 1, Equal(2.0), false),
        shape(0, 2, 5, Integers, false),
        shape(127, 3, 63, Integers, false),
        shape(128, 4, 64, Integers, false),
        shape(129, 5, 65, Integers, false),
        shape(2, 4, 200, Equal(-1.0), false),
        shape(4, 130, 130, Extremes, false),
        shape(3, 31, 300, Real, false),
    ]
    .map(ReluDenseCase)
    .to_vec()
}

/// With bf16 operands, as [`relu_dense`]; widths of rows that are and are not multiples of 4, at which four
/// features are stored at a time.
pub fn relu_dense_in_bf16() -> Vec<ReluDenseCase> {
    let more = [[3, 24, 190], [3, 24, 188], [17, 1, 385]];
    let more = more.map(|[rows, d_in, d_sae]| ReluDenseCase(shape(rows, d_in, d_sae, Numbers::Integers, false)));
    relu_dense().into_iter().chain(more).map(|ReluDenseCase(shape)| ReluDenseCase(shape.in_bf16())).collect()
}

impl Case for ReluDenseCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let ReluDenseCase(shape) = self;
        let agree = shape.agree(|| {
            let exact = shape.exact();
            check_signs(shape, &exact);
            exact.iter().map(|&(_, bound)| bound).collect()
        });
        let uploaded = shape.upload(backend)?;
        let n = shape.rows * shape.d_sae;
        let (mut features, mut counts) = (unwritten(backend, n)?, unwritten(backend, shape.rows)?);
        let encoder = uploaded.encoder();
        backend.encode_relu_dense(EncodeReluDense { encoder, features: &mut features, counts: &mut counts })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "features", &features, n, agree)?;
        outputs.u32(backend, "counts", &counts, shape.rows)?;
        Ok(outputs)
    }
}

/// [`Backend::pre_act_loss`].
#[derive(Clone, Debug)]
pub struct PreActLossCase {
    pub shape: Shape,
    /// Every so many-th latent is dead; 0: none.
    pub dead_every: usize,
}

/// Integers and powers of two, so that every sum is exact; around a tile's 128 rows and 64 latents and
/// a block's 256 columns; all dead, some, one, none.
pub fn pre_act_loss() -> Vec<PreActLossCase> {
    let case = |(rows, d_in, d_sae, dead_every)| PreActLossCase {
        shape: shape(rows, d_in, d_sae, Numbers::Integers, true),
        dead_every,
    };
    [(1, 1, 1, 1), (129, 3, 130, 2), (5, 257, 65, 1), (300, 4, 7, 7), (0, 2, 3, 1), (3, 2, 5, 0)].map(case).to_vec()
}

impl PreActLossCase {
    pub fn in_bf16(self) -> PreActLossCase {
        PreActLossCase { shape: self.shape.in_bf16(), ..self }
    }
}

impl Case for PreActLossCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let Shape { d_in, d_sae, .. } = self.shape;
        let uploaded = self.shape.upload(backend)?;
        let integers =
            |seed, n| -> Vec<f32> { indices(seed, n, 5).iter().map(|&i| i as f32 - 2.0).collect::<Vec<_>>() };
        let upload = |seed, n| backend.upload(&integers(seed, n));
        let (threshold, w_dec) = (upload(11, d_sae)?, upload(12, d_sae * d_in)?);
        let (mut w_enc_gradient, mut b_enc_gradient) = (upload(13, d_sae * d_in)?, upload(14, d_sae)?);
        let (mut w_dec_gradient, mut threshold_gradient) = (upload(15, d_sae * d_in)?, upload(16, d_sae)?);
        let mut loss = unwritten(backend, d_sae)?;
        let mut latents = vec![u32::MAX; d_sae];
        let candidates = if self.dead_every > 0 { 0..d_sae as u32 } else { 0..0 };
        let dead = candidates.step_by(self.dead_every.max(1)).zip(&mut latents);
        let n_dead = dead.map(|(dead, to)| *to = dead).count() as u32;
        let dead = DeadLatents { count: backend.upload(&[n_dead])?, latents: backend.upload(&latents)? };
        backend.pre_act_loss(PreActLoss {
            encoder: uploaded.encoder(),
            threshold: &threshold,
            decoder_norm: &uploaded.norm,
            w_dec: &w_dec,
            dead: &dead,
            coefficient: 0.5,
            gradient_scale: 0.25,
            out: WeightGradients {
                w_enc: &mut w_enc_gradient,
                b_enc: &mut b_enc_gradient,
                w_dec: &mut w_dec_gradient,
                accumulate: true,
                only_listed: false,
            },
            threshold_gradient: &mut threshold_gradient,
            loss: &mut loss,
        })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "w_enc", &w_enc_gradient, d_sae * d_in, Agree::Bits)?;
        outputs.f32(backend, "b_enc", &b_enc_gradient, d_sae, Agree::Bits)?;
        outputs.f32(backend, "w_dec", &w_dec_gradient, d_sae * d_in, Agree::Bits)?;
        outputs.f32(backend, "threshold_gradient", &threshold_gradient, d_sae, Agree::Bits)?;
        outputs.f32(backend, "loss", &loss, d_sae, Agree::Bits)?;
        Ok(outputs)
    }
}
