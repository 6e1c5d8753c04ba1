//! Cases of the SAE's operations.

use super::*;
use cusae::backend::*;

/// [`Backend::gather_rows`] and [`Backend::scatter_rows`].
#[derive(Clone, Debug)]
pub struct RowsCase {
    /// Which rows, in and out; the destinations are `0..n` backwards.
    pub rows: Vec<u32>,
    /// Rows there are.
    pub available: usize,
    pub columns: usize,
    /// First of the rows to gather.
    pub first: usize,
    pub scatter: bool,
    /// Put in place of the last destination.
    pub last_to: Option<u32>,
}

fn rows_case(n: usize, available: usize, columns: usize, scatter: bool) -> RowsCase {
    RowsCase { rows: indices(5, n, available), available, columns, first: 0, scatter, last_to: None }
}

/// Widths around a warp's 32 and its 32 packs of four, repeated rows, none, and from the middle of the list on.
pub fn gather_rows() -> Vec<RowsCase> {
    vec![
        rows_case(1, 1, 1, false),
        rows_case(9, 4, 31, false),
        rows_case(8, 100, 32, false),
        rows_case(30, 7, 33, false),
        rows_case(0, 7, 33, false),
        rows_case(9, 7, 132, false),
        RowsCase { first: 5, ..rows_case(30, 7, 65, false) },
    ]
}

/// As for gathering; what no index names stays as it was.
pub fn scatter_rows() -> Vec<RowsCase> {
    [(1, 1, 1), (9, 12, 31), (30, 40, 33), (9, 7, 132), (0, 3, 8)]
        .map(|(n, available, columns)| rows_case(n, available, columns, true))
        .to_vec()
}

impl Case for RowsCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (n, columns) = (self.rows.len() - self.first, self.columns);
        let from = backend.upload(&values(1, self.available * columns))?;
        let rows = backend.upload(&self.rows)?;
        let mut outputs = Outputs::default();
        if self.scatter {
            let mut to_rows: Vec<u32> = (0..n as u32).rev().collect();
            if let (Some(to), Some(last)) = (self.last_to, to_rows.last_mut()) {
                *last = to;
            }
            let to_rows = backend.upload(&to_rows)?;
            let mut to = backend.upload(&values(2, (n + 2) * columns))?;
            let op = ScatterRows { from: &from, from_rows: &rows, to_rows: &to_rows, n, columns, to: &mut to };
            backend.scatter_rows(op)?;
            outputs.f32(backend, "to", &to, (n + 2) * columns, Agree::Bits)?;
        } else {
            let mut to = unwritten(backend, n * columns)?;
            backend.gather_rows(GatherRows { from: &from, rows: &rows, first: self.first, n, columns, to: &mut to })?;
            outputs.f32(backend, "to", &to, n * columns, Agree::Bits)?;
        }
        Ok(outputs)
    }
}

/// [`Backend::prepare_input`].
#[derive(Clone, Debug)]
pub struct PrepareInputCase {
    pub rows: usize,
    pub d_in: usize,
    pub normalization: RowNormalization,
    pub b_dec: bool,
    pub scale: f32,
}

/// Each normalisation with and without b_dec, odd widths, one column, one row, none; the last two of many
/// rows are constant and zero; huge and tiny values, none that is a number.
pub fn prepare_input() -> Vec<PrepareInputCase> {
    let kinds = [RowNormalization::None, RowNormalization::LayerNorm, RowNormalization::ConstantNorm];
    let shapes = [
        (1, 2, true, 1.7),
        (2, 1, true, 1.7),
        (9, 31, false, 1.7),
        (8, 33, true, 1.7),
        (3, 768, true, 1.7),
        (0, 5, false, 1.7),
        (9, 31, true, 1e30),
        (9, 31, true, 1e-30),
        (2, 5, true, f32::NAN),
    ];
    let case = |normalization, (rows, d_in, b_dec, scale)| PrepareInputCase { rows, d_in, normalization, b_dec, scale };
    kinds.into_iter().flat_map(|kind| shapes.map(|shape| case(kind, shape))).collect()
}

impl Case for PrepareInputCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, width, n) = (self.rows, self.d_in, self.rows * self.d_in);
        let mut x = values(1, n);
        if rows > 3 {
            x[(rows - 2) * width..(rows - 1) * width].fill(0.5);
            x[(rows - 1) * width..].fill(0.0);
        }
        let b = values(2, width);
        let (x_buffer, b_buffer) = (backend.upload(&x)?, backend.upload(&b)?);
        let (mut target, mut input) = (unwritten(backend, n)?, unwritten(backend, n)?);
        let (mut row_scale, mut row_shift) = (unwritten(backend, rows)?, unwritten(backend, rows)?);
        backend.prepare_input(PrepareInput {
            x: &x_buffer,
            scale: self.scale,
            normalization: self.normalization,
            b_dec: self.b_dec.then_some(&b_buffer),
            rows,
            d_in: width,
            target: &mut target,
            input: &mut input,
            row_scale: &mut row_scale,
            row_shift: &mut row_shift,
        })?;
        // Sums are in f64, so scale and shift are apart by the last bit of f32 at most; (x - shift) and
        // its product with the factor pass that on, b_dec adds one rounding.
        let mut bounds = Vec::with_capacity(n);
        for row in x.chunks_exact(width.max(1)) {
            let row: Vec<f64> = row.iter().map(|&x| f64::from(x * self.scale)).collect();
            let (mean, norm) = (row.iter().sum::<f64>() / width as f64, row.iter().map(|x| x * x).sum::<f64>().sqrt());
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (width as f64 - 1.0);
            let (shift, factor) = match self.normalization {
                RowNormalization::None => (0.0, 0.0),
                RowNormalization::LayerNorm => (mean.abs(), 1.0 / (variance.sqrt() + 1e-5)),
                RowNormalization::ConstantNorm => (0.0, (width as f64).sqrt() / norm),
            };
            bounds.extend(row.iter().zip(&b).map(|(x, b)| {
                8.0 * ROUNDING * (x.abs() + shift) * factor
                    + if factor > 0.0 { 2.0 * ROUNDING * f64::from(b.abs()) } else { 0.0 }
            }));
        }
        let mut outputs = Outputs::default();
        outputs.f32(backend, "target", &target, n, Agree::Bits)?;
        outputs.f32(backend, "input", &input, n, Agree::Within(bounds))?;
        outputs.f32(backend, "row_scale", &row_scale, rows, Agree::Relative(4.0 * ROUNDING))?;
        outputs.f32(backend, "row_shift", &row_shift, rows, Agree::Relative(2.0 * ROUNDING))?;
        Ok(outputs)
    }
}

/// Feature lists by row, as `(latents of row 0, latents of row 1, ...)`.
#[derive(Clone)]
pub struct Lists {
    pub rows: Vec<Vec<u32>>,
    pub stride: usize,
    pub d_sae: usize,
}

impl Debug for Lists {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let entries: usize = self.rows.iter().map(Vec::len).sum();
        write!(f, "{} rows x {} with {entries} entries of {} latents", self.rows.len(), self.stride, self.d_sae)
    }
}

impl Lists {
    /// Up to `most` of `d_sae` latents in each row, ascending; some rows are empty.
    pub fn random(seed: u64, rows: usize, most: usize, d_sae: usize) -> Lists {
        let mut random = Random::new(seed, Stream::Shuffle, 1);
        let row = |_| {
            let mut latents = random.permutation(d_sae);
            latents.truncate(random.below(most as u32 + 1) as usize);
            latents.sort_unstable();
            latents
        };
        Lists { rows: (0..rows).map(row).collect(), stride: most, d_sae }
    }

    /// What the operations must agree on: no entries; one; sizes around a block's 256 places and a
    /// segment's 32 entries; every latent in every row; one latent in every row, beyond a window of
    /// 4,096 rows.
    pub fn cases() -> Vec<Lists> {
        let everywhere =
            |rows: usize, latents: Vec<u32>, stride, d_sae| Lists { rows: vec![latents; rows], stride, d_sae };
        vec![
            everywhere(3, vec![], 2, 5),
            everywhere(0, vec![], 2, 5),
            everywhere(1, vec![0], 1, 1),
            Lists::random(1, 33, 7, 40),
            Lists::random(2, 64, 4, 1025),
            everywhere(32, (0..9).collect(), 9, 9),
            everywhere(33, (0..9).collect(), 9, 9),
            everywhere(4099, vec![2], 2, 17),
        ]
    }

    /// On a device, with values.
    pub fn upload<B: Backend>(&self, backend: &B) -> Result<FeatureLists<B>> {
        let (n, stride) = (self.rows.len(), self.stride);
        let mut indices = vec![u32::MAX; n * stride];
        for (row, latents) in self.rows.iter().enumerate() {
            indices[row * stride..][..latents.len()].copy_from_slice(latents);
        }
        let counts: Vec<u32> = self.rows.iter().map(|latents| latents.len() as u32).collect();
        Ok(FeatureLists {
            rows: n,
            stride,
            counts: backend.upload(&counts)?,
            indices: backend.upload(&indices)?,
            values: backend.upload(&values(9, n * stride))?,
        })
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    /// The same by latent, turned on the device.
    fn turned<B: Backend>(&self, backend: &B) -> Result<LatentLists<B>> {
        let room = self.rows.len() * self.stride;
        let mut by_latent =
            LatentLists { offsets: unwritten(backend, self.d_sae + 1)?, entries: unwritten(backend, room)? };
        let (rows, d_sae) = (self.rows.len(), self.d_sae);
        backend.transpose_lists(TransposeLists {
            lists: &self.upload(backend)?,
            rows,
            d_sae,
            by_latent: &mut by_latent,
        })?;
        Ok(by_latent)
    }

    /// The same by latent on a device, turned on the CPU: the case's operation is the only one that the device runs,
    /// and has no more scratch memory than it asks for.
    pub fn by_latent<B: Backend>(&self, backend: &B) -> Result<LatentLists<B>> {
        let turned = self.turned(&Cpu)?;
        let (mut offsets, mut entries) = (vec![0; self.d_sae + 1], vec![0; self.entries()]);
        Cpu.read(&turned.offsets, 0, &mut offsets)?;
        Cpu.read(&turned.entries, 0, &mut entries)?;
        entries.resize(self.rows.len() * self.stride, u32::MAX);
        Ok(LatentLists { offsets: backend.upload(&offsets)?, entries: backend.upload(&entries)? })
    }
}

/// [`Backend::transpose_lists`].
#[derive(Clone, Debug)]
pub struct TransposeListsCase(pub Lists);

/// See [`Lists::cases`].
pub fn transpose_lists() -> Vec<TransposeListsCase> {
    Lists::cases().into_iter().map(TransposeListsCase).collect()
}

impl Case for TransposeListsCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let by_latent = self.0.turned(backend)?;
        let mut outputs = Outputs::default();
        outputs.u32(backend, "offsets", &by_latent.offsets, self.0.d_sae + 1)?;
        outputs.u32(backend, "entries", &by_latent.entries, self.0.entries())?;
        Ok(outputs)
    }
}

/// [`Backend::update_firing`].
#[derive(Clone, Debug)]
pub struct UpdateFiringCase {
    pub lists: Lists,
    pub form: FiringForm,
}

/// The form of the features.
#[derive(Clone, Copy, Debug)]
pub enum FiringForm {
    Lists,
    /// Lists of which some entries are 0.
    Values,
    Dense,
}

/// See [`Lists::cases`]; in every form.
pub fn update_firing() -> Vec<UpdateFiringCase> {
    let forms = [FiringForm::Lists, FiringForm::Values, FiringForm::Dense];
    let each = |lists: Lists| forms.map(|form| UpdateFiringCase { lists: lists.clone(), form });
    Lists::cases().into_iter().flat_map(each).collect()
}

impl Case for UpdateFiringCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, d_sae) = (self.lists.rows.len(), self.lists.d_sae);
        let mut dense = vec![0.0; rows * d_sae];
        for (row, latents) in self.lists.rows.iter().enumerate() {
            latents.iter().for_each(|&latent| dense[row * d_sae + latent as usize] = 0.25);
        }
        let dense = backend.upload(&dense)?;
        let lists = self.lists.upload(backend)?;
        let by_latent = self.lists.by_latent(backend)?;
        let mut fired_count = backend.upload(&indices(3, d_sae, 1000))?;
        let mut since_fired = backend.upload(&indices(4, d_sae, 1000))?;
        backend.update_firing(UpdateFiring {
            features: match self.form {
                FiringForm::Lists => Features::Lists(&by_latent),
                FiringForm::Values => Features::Values(&by_latent, &lists),
                FiringForm::Dense => Features::Dense(&dense),
            },
            rows,
            d_sae,
            fired_count: &mut fired_count,
            since_fired: &mut since_fired,
        })?;
        let mut outputs = Outputs::default();
        outputs.u32(backend, "fired_count", &fired_count, d_sae)?;
        outputs.u32(backend, "since_fired", &since_fired, d_sae)?;
        Ok(outputs)
    }
}

/// [`Backend::find_dead`].
#[derive(Clone, Debug)]
pub struct FindDeadCase {
    pub d_sae: usize,
    /// The range begins here; it ends before as many latents from the end.
    pub first: usize,
    /// Of counts below 10.
    pub window: u32,
}

/// None, some and all dead, in all latents and in some, around the block's 1,024 latents.
pub fn find_dead() -> Vec<FindDeadCase> {
    let case = |(d_sae, first, window)| FindDeadCase { d_sae, first, window };
    [
        (1, 0, 0),
        (31, 0, 4),
        (1023, 0, 4),
        (1024, 0, 4),
        (1025, 0, 8),
        (2500, 0, 0),
        (100, 0, 9),
        (0, 0, 3),
        (2500, 3, 4),
        (40, 20, 1),
    ]
    .map(case)
    .to_vec()
}

impl Case for FindDeadCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let since_fired = backend.upload(&indices(1, self.d_sae, 10))?;
        let mut dead = DeadLatents { count: unwritten(backend, 1)?, latents: unwritten(backend, self.d_sae)? };
        let latents = self.first..self.d_sae - self.first;
        let op = FindDead { since_fired: &since_fired, window: self.window, latents, dead: &mut dead };
        backend.find_dead(op)?;
        let mut outputs = Outputs::default();
        outputs.u32(backend, "n_dead", &dead.count, 1)?;
        outputs.u32(backend, "dead", &dead.latents, self.d_sae)?;
        Ok(outputs)
    }
}

/// [`Backend::clip_scale`].
#[derive(Clone, Debug)]
pub struct ClipScaleCase {
    pub lens: Vec<usize>,
    /// Sums of squares of other gradients.
    pub squares: usize,
    pub max_norm: Option<f32>,
    /// Factor on the gradients.
    pub factor: f32,
}

/// No limit, one that bites, one that does not, one near 1e-6; empty gradients; more than one part of 65,536;
/// squares of others, more than a block's threads; huge and tiny gradients, infinite ones, none that is a
/// number.
pub fn clip_scale() -> Vec<ClipScaleCase> {
    let case = |lens: &[usize], max_norm, factor| ClipScaleCase { lens: lens.to_vec(), squares: 0, max_norm, factor };
    let mut cases = vec![
        case(&[1], None, 1.0),
        case(&[255, 257, 1], Some(1.0), 1.0),
        case(&[100, 0, 3], Some(1e9), 1.0),
        case(&[], Some(1.0), 1.0),
        case(&[65_537, 1000], Some(0.5), 1.0),
        case(&[10], Some(1e-7), 1e-7),
        ClipScaleCase { squares: 300, ..case(&[20, 3], Some(0.5), 1.0) },
    ];
    cases.extend([1e35, 1e-30, f32::INFINITY, f32::NAN].map(|factor| case(&[100, 7], Some(1.0), factor)));
    cases
}

impl Case for ClipScaleCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let gradient = |seed, len| values(seed, len).iter().map(|g| g * self.factor).collect::<Vec<_>>();
        let upload = |(i, &len): (usize, &usize)| backend.upload(&gradient(i as u64, len));
        let gradients = self.lens.iter().enumerate().map(upload).collect::<Result<Vec<_>>>()?;
        let gradients: Vec<&B::Buffer<f32>> = gradients.iter().collect();
        let mut out = unwritten(backend, 2)?;
        let squares: Vec<f64> = values(9, self.squares).iter().map(|&x| f64::from(x).powi(2)).collect();
        let squares = (self.squares > 0).then(|| backend.upload(&squares)).transpose()?;
        let (squares, max_norm) = (squares.as_ref(), self.max_norm);
        backend.clip_scale(ClipScale { gradients: &gradients, squares, max_norm, out: &mut out })?;
        // Sums in f64: the results are apart by the last bit of f32 at most.
        let mut outputs = Outputs::default();
        outputs.f32(backend, "out", &out, 2, Agree::Relative(2.0 * ROUNDING))?;
        Ok(outputs)
    }
}

/// [`Backend::adam`].
#[derive(Clone, Debug)]
pub struct AdamCase {
    pub len: usize,
    pub step: u64,
    pub clip: f32,
    /// Factor on the gradient.
    pub factor: f32,
}

/// The first step, a late one, one beyond 32 bits; around a thread's four elements and a block's 1,024; gradients whose squares are
/// infinite or 0, none that is a number.
pub fn adam() -> Vec<AdamCase> {
    let case = |(len, step, clip, factor)| AdamCase { len, step, clip, factor };
    [
        (1, 1, 1.0, 1.0),
        (255, 2, 0.3, 1.0),
        (257, 1000, 1.0, 1.0),
        (1030, 1 << 40, 0.01, 1.0),
        (0, 1, 1.0, 1.0),
        (40, 1, 1.0, 1e30),
        (40, 1, 1.0, 1e-30),
        (3, 1, 1.0, f32::NAN),
    ]
    .map(case)
    .to_vec()
}

impl Case for AdamCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let squares: Vec<f32> = values(4, self.len).iter().map(|x| x * x).collect();
        let mut parameter = backend.upload(&values(1, self.len))?;
        let gradient: Vec<f32> = values(2, self.len).iter().map(|g| g * self.factor).collect();
        let gradient = backend.upload(&gradient)?;
        let mut exp_avg = backend.upload(&values(3, self.len))?;
        let mut exp_avg_sq = backend.upload(&squares)?;
        let clip = backend.upload(&[self.clip, 0.0])?;
        let (beta1, beta2) = (0.9, 0.999);
        let scalars = backend.upload(&[StepScalars::new(self.step, 4e-4, [beta1, beta2], 0.0)])?;
        backend.adam(Adam {
            parameter: &mut parameter,
            gradient: &gradient,
            exp_avg: &mut exp_avg,
            exp_avg_sq: &mut exp_avg_sq,
            clip: &clip,
            scalars: &scalars,
            constants: AdamConstants { beta1, beta2, epsilon: 1e-8 },
        })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "parameter", &parameter, self.len, Agree::Bits)?;
        outputs.f32(backend, "exp_avg", &exp_avg, self.len, Agree::Bits)?;
        outputs.f32(backend, "exp_avg_sq", &exp_avg_sq, self.len, Agree::Bits)?;
        Ok(outputs)
    }
}

/// [`Backend::row_norms`] and [`Backend::row_variance`].
#[derive(Clone, Debug)]
pub struct RowsOfMatrixCase {
    pub rows: usize,
    pub columns: usize,
    /// Added to every value.
    pub offset: f32,
    /// Factor on every value.
    pub factor: f32,
}

impl RowsOfMatrixCase {
    fn matrix(&self) -> Vec<f32> {
        values(1, self.rows * self.columns).iter().map(|x| x * self.factor + self.offset).collect()
    }
}

/// Around a warp's 32 columns and its 32 packs of four, a block's 8 rows, a chunk's 128 rows; a mean far above the spread; huge and
/// tiny values, none that is a number.
pub fn rows_of_matrix() -> Vec<RowsOfMatrixCase> {
    let case = |(rows, columns, offset, factor)| RowsOfMatrixCase { rows, columns, offset, factor };
    [
        (1, 1, 0.0, 1.0),
        (8, 31, 0.0, 1.0),
        (9, 33, 0.0, 1.0),
        (127, 32, 0.0, 1.0),
        (129, 65, 1e4, 1.0),
        (300, 7, 0.0, 1.0),
        (3, 132, 0.0, 1.0),
        (130, 264, 1e4, 1.0),
        (0, 4, 0.0, 1.0),
        (9, 33, 0.0, 1e35),
        (9, 33, 0.0, 1e-30),
        (9, 33, 0.0, f32::NAN),
    ]
    .map(case)
    .to_vec()
}

/// The norms of rows.
#[derive(Debug)]
pub struct RowNormsCase(pub RowsOfMatrixCase);

impl Case for RowNormsCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let RowsOfMatrixCase { rows, columns, .. } = self.0;
        let (matrix, mut norms) = (backend.upload(&self.0.matrix())?, unwritten(backend, rows)?);
        backend.row_norms(RowNorms { matrix: &matrix, rows, columns, norms: &mut norms })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "norms", &norms, rows, Agree::Relative(2.0 * ROUNDING))?;
        Ok(outputs)
    }
}

/// The variance of rows.
#[derive(Debug)]
pub struct RowVarianceCase(pub RowsOfMatrixCase);

impl Case for RowVarianceCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let RowsOfMatrixCase { rows, columns, .. } = self.0;
        let (x, mut variance) = (backend.upload(&self.0.matrix())?, unwritten(backend, rows)?);
        backend.row_variance(RowVariance { x: &x, rows, d_in: columns, variance: &mut variance })?;
        // f64 throughout: even with a mean of 1e4 beside a spread of 1, 1e-12 of it is lost.
        let mut outputs = Outputs::default();
        outputs.f32(backend, "variance", &variance, rows, Agree::Relative(2.0 * ROUNDING))?;
        Ok(outputs)
    }
}

/// [`Backend::scale`].
#[derive(Clone, Debug)]
pub struct ScaleCase {
    pub len: usize,
}

/// Around a thread's four elements and the ends of blocks.
pub fn scale() -> Vec<ScaleCase> {
    [0, 1, 255, 256, 257, 1030].map(|len| ScaleCase { len }).to_vec()
}

impl Case for ScaleCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let from = backend.upload(&values(1, self.len))?;
        let mut to = backend.upload(&values(2, self.len + 3))?;
        backend.scale(Scale { from: &from, factor: 0.3, len: self.len, to: &mut to })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "to", &to, self.len + 3, Agree::Bits)?;
        Ok(outputs)
    }
}

/// [`Backend::round_bf16`].
#[derive(Clone, Debug)]
pub struct RoundBf16Case {
    pub len: usize,
}

/// Around a thread's four elements and the ends of blocks.
pub fn round_bf16() -> Vec<RoundBf16Case> {
    [0, 1, 255, 256, 1030].map(|len| RoundBf16Case { len }).to_vec()
}

impl Case for RoundBf16Case {
    /// Among the numbers are ties on both sides, what rounds to infinity, subnormals and NaN.
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let bits = [0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x0000_8001, 0x8000_8000, 0x7f80_0001, 0xff80_0000u32];
        let rare = bits.map(f32::from_bits);
        let from: Vec<f32> = rare.into_iter().cycle().zip(values(1, self.len)).flat_map(|(a, b)| [a, b]).collect();
        let (from, mut to) = (backend.upload(&from[..self.len])?, unwritten(backend, self.len + 3)?);
        backend.round_bf16(RoundBf16 { from: &from, len: self.len, to: &mut to })?;
        let mut outputs = Outputs::default();
        outputs.bf16(backend, "to", &to, self.len + 3)?;
        Ok(outputs)
    }
}

/// [`Backend::sum`].
#[derive(Clone, Debug)]
pub struct SumCase {
    pub len: usize,
}

/// Nothing, one, around a block's 256 threads and a part's 65,536 values.
pub fn sum() -> Vec<SumCase> {
    [0, 1, 255, 257, 65_535, 65_536, 65_537].map(|len| SumCase { len }).to_vec()
}

impl Case for SumCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let host = values(1, self.len + 1);
        let magnitude: f64 = host.iter().map(|&x| f64::from(x.abs())).sum();
        let buffer = backend.upload(&host)?;
        let mut out = unwritten(backend, 3)?;
        backend.sum(Sum { values: &buffer, len: self.len, out: &mut out, slot: 1 })?;
        // Two orders of adding n numbers in f64 differ by at most n roundings of the sum of magnitudes;
        // the slots beside stay as they were.
        let bound = self.len as f64 * f64::EPSILON * magnitude;
        let mut outputs = Outputs::default();
        outputs.f64(backend, "out", &out, 3, Agree::Within(vec![0.0, bound, 0.0]))?;
        Ok(outputs)
    }
}

/// [`Backend::note_non_finite`].
#[derive(Clone, Debug)]
pub struct NoteNonFiniteCase {
    pub sums: Vec<f64>,
    pub norm: f32,
    /// What was noted before.
    pub first: u32,
}

/// All finite; one sum that is not, the first or the last; the norm; a second time; no sums.
pub fn note_non_finite() -> Vec<NoteNonFiniteCase> {
    let case = |(sums, norm, first): (&[f64], _, _)| NoteNonFiniteCase { sums: sums.to_vec(), norm, first };
    [
        (&[1.0, -2.0, 0.0, 1e300][..], 3.0, 0),
        (&[f64::NAN, 0.0], 3.0, 0),
        (&[0.0, 0.0, f64::INFINITY], 3.0, 0),
        (&[0.0], f32::NEG_INFINITY, 0),
        (&[], f32::NAN, 0),
        (&[f64::NAN], 1.0, 5),
        (&[1.0], 1.0, 5),
    ]
    .map(case)
    .to_vec()
}

impl Case for NoteNonFiniteCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (sums, clip) = (backend.upload(&self.sums)?, backend.upload(&[f32::NAN, self.norm])?);
        let scalars = backend.upload(&[StepScalars { step: 9, ..StepScalars::default() }])?;
        let mut first = backend.upload(&[self.first])?;
        backend.note_non_finite(NoteNonFinite { sums: &sums, clip: &clip, scalars: &scalars, first: &mut first })?;
        let mut outputs = Outputs::default();
        outputs.u32(backend, "first", &first, 1)?;
        Ok(outputs)
    }
}
