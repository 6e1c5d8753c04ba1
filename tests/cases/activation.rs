//! Cases of what JumpReLU and gated SAEs do with their lists, and of parts of lists.

use super::sae::Lists;
use super::*;
use cusae::backend::*;

fn small_lists() -> Vec<Lists> {
    Lists::cases().into_iter().filter(|lists| lists.rows.len() < 1000).collect()
}

/// [`Backend::jumprelu_gradient`].
#[derive(Clone, Debug)]
pub struct JumpReluGradientCase {
    pub lists: Lists,
    pub sparsity: JumpReluSparsity,
    pub ste_to_input: bool,
    /// Whether h and thresholds are multiples of a quarter, so that many h lie on a window's border or
    /// on its threshold.
    pub quarters: bool,
}

/// See [`Lists::cases`]; every sparsity term, with and without the estimators' way to the input; h on the
/// borders of the window.
pub fn jumprelu_gradient() -> Vec<JumpReluGradientCase> {
    use JumpReluSparsity::*;
    let terms = [Step, Tanh { scale: 4.0 }, Quadratic { target: 2.5 }];
    let each = |lists: Lists| {
        terms.into_iter().flat_map(move |sparsity| {
            let lists = lists.clone();
            let case = move |ste_to_input| JumpReluGradientCase {
                lists: lists.clone(),
                sparsity,
                ste_to_input,
                quarters: false,
            };
            [false, true].map(case)
        })
    };
    let cases = small_lists().into_iter().flat_map(each);
    let lists = Lists::random(1, 33, 7, 40);
    cases.chain([JumpReluGradientCase { lists, sparsity: Step, ste_to_input: true, quarters: true }]).collect()
}

impl Case for JumpReluGradientCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, d_sae, bandwidth, coefficient) = (self.lists.rows.len(), self.lists.d_sae, 0.5, 1.7);
        let n = rows * self.lists.stride;
        let lists = self.lists.upload(backend)?;
        // Thresholds are not negative, norms positive; h lies around the window.
        let quarters = |seed, n| -> Vec<f32> { indices(seed, n, 7).iter().map(|&i| i as f32 * 0.25).collect() };
        let numbers = |seed, n| if self.quarters { quarters(seed, n) } else { values(seed, n) };
        let threshold: Vec<f32> = numbers(2, d_sae).iter().map(|x| x.abs().min(1.0)).collect();
        let norms: Vec<f32> = values(3, d_sae).iter().map(|x| x.abs().min(2.0) + 0.1).collect();
        let before = values(5, n);
        let (threshold, decoder_norm) = (backend.upload(&threshold)?, backend.upload(&norms)?);
        let scalars = backend.upload(&[StepScalars { coefficient, ..StepScalars::default() }])?;
        let pre_activations = backend.upload(&numbers(4, n))?;
        let mut value_gradient = backend.upload(&before)?;
        let (mut threshold_gradient, mut norm_gradient) = (unwritten(backend, n)?, unwritten(backend, n)?);
        let (mut active, mut loss) = (unwritten(backend, rows)?, unwritten(backend, rows)?);
        backend.jumprelu_gradient(JumpReluGradient {
            lists: &lists,
            pre_activations: &pre_activations,
            threshold: &threshold,
            decoder_norm: &decoder_norm,
            bandwidth,
            ste_to_input: self.ste_to_input,
            sparsity: self.sparsity,
            scalars: &scalars,
            gradient_scale: 0.25,
            rows,
            value_gradient: &mut value_gradient,
            threshold_gradient: &mut threshold_gradient,
            norm_gradient: &mut norm_gradient,
            active: &mut active,
            loss: &mut loss,
        })?;
        // Everything is the same few products in f32, except tanh, which errs by up to 4 roundings
        // of at most 1: of its slope that makes 8 scale, times at most coefficient, n <= 2.1 and |f| <= 300;
        // the threshold's gradient has it threshold / bandwidth <= 2 times, and a sum as large as 900.
        let near = |of_gradient: f64| match self.sparsity {
            JumpReluSparsity::Tanh { scale } => {
                let slope = 8.0 * ROUNDING * f64::from(scale * coefficient) * 0.25;
                Agree::Within(vec![slope * of_gradient + 4.0 * ROUNDING * 900.0; n])
            }
            _ => Agree::Bits,
        };
        let mut outputs = Outputs::default();
        outputs.f32(backend, "value_gradient", &value_gradient, n, near(3.0 * 2.1))?;
        outputs.f32(backend, "threshold_gradient", &threshold_gradient, n, near(2.0 * 2.1))?;
        outputs.f32(backend, "norm_gradient", &norm_gradient, n, near(300.0))?;
        outputs.u32(backend, "active", &active, rows)?;
        let entries = self.lists.stride as f64;
        let of_loss = match self.sparsity {
            JumpReluSparsity::Tanh { .. } => {
                Agree::Within(vec![8.0 * ROUNDING * entries * f64::from(coefficient); rows])
            }
            _ => Agree::Bits,
        };
        outputs.f32(backend, "loss", &loss, rows, of_loss)?;
        Ok(outputs)
    }
}

/// [`Backend::gate`] and [`Backend::gate_gradient`].
#[derive(Clone, Debug)]
pub struct GateCase {
    pub lists: Lists,
    /// Whether what is below 0 becomes 0.
    pub rectifies: bool,
    /// Whether the strides differ, which is refused.
    pub wrong_stride: bool,
}

/// See [`Lists::cases`]; with a ReLU and without.
pub fn gate() -> Vec<GateCase> {
    let both =
        |lists: Lists| [true, false].map(|rectifies| GateCase { lists: lists.clone(), rectifies, wrong_stride: false });
    small_lists().into_iter().flat_map(both).collect()
}

impl Case for GateCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, d_sae, stride) = (self.lists.rows.len(), self.lists.d_sae, self.lists.stride);
        let n = rows * stride;
        let gates = self.lists.upload(backend)?;
        let of_features = stride + usize::from(self.wrong_stride);
        let mut features = FeatureLists {
            rows,
            stride: of_features,
            counts: unwritten(backend, rows)?,
            indices: unwritten(backend, rows * of_features)?,
            values: unwritten(backend, rows * of_features)?,
        };
        let small = |seed| -> Vec<f32> { values(seed, d_sae).iter().map(|x| x.clamp(-2.0, 2.0)).collect() };
        let (b_gate, b_mag, r_mag) =
            (backend.upload(&small(1))?, backend.upload(&small(2))?, backend.upload(&small(3))?);
        backend.gate(Gate {
            gates: &gates,
            b_gate: &b_gate,
            b_mag: &b_mag,
            r_mag: &r_mag,
            rectifies: self.rectifies,
            rows,
            features: &mut features,
        })?;
        // e^r <= 7.4 may round the other way, u <= 302: one rounding of their product.
        let near = |largest: f64| Agree::Within(vec![2.0 * ROUNDING * largest; n]);
        let mut outputs = Outputs::default();
        outputs.u32(backend, "counts", &features.counts, rows)?;
        outputs.u32(backend, "indices", &features.indices, n)?;
        outputs.f32(backend, "values", &features.values, n, near(7.4 * 302.0))?;
        let mut value_gradient = backend.upload(&values(4, n))?;
        let (mut b_mag_gradient, mut r_mag_gradient) = (unwritten(backend, n)?, unwritten(backend, n)?);
        backend.gate_gradient(GateGradient {
            gates: &gates,
            features: &features,
            b_gate: &b_gate,
            r_mag: &r_mag,
            rows,
            value_gradient: &mut value_gradient,
            b_mag_gradient: &mut b_mag_gradient,
            r_mag_gradient: &mut r_mag_gradient,
        })?;
        outputs.f32(backend, "value_gradient", &value_gradient, n, near(7.4 * 300.0))?;
        outputs.f32(backend, "b_mag_gradient", &b_mag_gradient, n, Agree::Bits)?;
        outputs.f32(backend, "r_mag_gradient", &r_mag_gradient, n, near(7.4 * 300.0 * 302.0))?;
        Ok(outputs)
    }
}

/// [`Backend::slice_lists`].
#[derive(Clone, Debug)]
pub struct SliceCase {
    pub lists: Lists,
    pub latents: std::ops::Range<usize>,
}

/// See [`Lists::cases`] and rows longer than a warp; all latents, the first ones, some between, none.
pub fn slice_lists() -> Vec<SliceCase> {
    let lists = Lists::cases().into_iter().chain([Lists::random(3, 5, 100, 130)]);
    let each = |lists: Lists| {
        let d_sae = lists.d_sae;
        [0..d_sae, 0..d_sae / 2, d_sae / 3..d_sae, 2..2].map(|latents| SliceCase { lists: lists.clone(), latents })
    };
    lists.flat_map(each).collect()
}

impl Case for SliceCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, stride) = (self.lists.rows.len(), self.lists.stride);
        let lists = self.lists.upload(backend)?;
        let mut out = FeatureLists {
            rows,
            stride,
            counts: unwritten(backend, rows)?,
            indices: unwritten(backend, rows * stride)?,
            values: unwritten(backend, rows * stride)?,
        };
        backend.slice_lists(SliceLists { lists: &lists, latents: self.latents.clone(), rows, out: &mut out })?;
        let mut outputs = Outputs::default();
        outputs.u32(backend, "counts", &out.counts, rows)?;
        outputs.u32(backend, "indices", &out.indices, rows * stride)?;
        outputs.f32(backend, "values", &out.values, rows * stride, Agree::Bits)?;
        Ok(outputs)
    }
}

/// [`Backend::sum_by_latent`].
#[derive(Clone, Debug)]
pub struct SumByLatentCase(pub Lists);

/// See [`Lists::cases`].
pub fn sum_by_latent() -> Vec<SumByLatentCase> {
    Lists::cases().into_iter().map(SumByLatentCase).collect()
}

impl Case for SumByLatentCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let SumByLatentCase(lists) = self;
        let beside = values(4, lists.rows.len() * lists.stride);
        let by_latent = lists.by_latent(backend)?;
        let mut out = unwritten(backend, lists.d_sae)?;
        backend.sum_by_latent(SumByLatent {
            values: &backend.upload(&beside)?,
            by_latent: &by_latent,
            d_sae: lists.d_sae,
            out: &mut out,
        })?;
        // n additions in any order err by n roundings of the magnitudes.
        let mut bounds = vec![0.0; lists.d_sae];
        for (row, latents) in lists.rows.iter().enumerate() {
            for (place, &latent) in (row * lists.stride..).zip(latents) {
                bounds[latent as usize] += f64::from(beside[place].abs()) * 2.0 * ROUNDING * lists.rows.len() as f64;
            }
        }
        let mut outputs = Outputs::default();
        outputs.f32(backend, "out", &out, lists.d_sae, Agree::Within(bounds))?;
        Ok(outputs)
    }
}

/// [`Backend::gradient_values`].
#[derive(Clone, Debug)]
pub struct GradientValuesCase {
    pub lists: Lists,
    pub d_in: usize,
    /// Whether W_dec is in bf16.
    pub bf16: bool,
}

/// See [`Lists::cases`], at widths around a warp and its 32 packs, of four or, in bf16, of eight.
pub fn gradient_values() -> Vec<GradientValuesCase> {
    let cases = |widths: [usize; 7], bf16| {
        let lists = small_lists().into_iter().zip(widths);
        lists.map(move |(lists, d_in)| GradientValuesCase { lists, d_in, bf16 })
    };
    cases([1, 2, 31, 32, 33, 132, 100], false).chain(cases([1, 8, 31, 256, 33, 264, 104], true)).collect()
}

impl Case for GradientValuesCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let GradientValuesCase { ref lists, d_in, bf16 } = *self;
        let (rows, n) = (lists.rows.len(), lists.rows.len() * lists.stride);
        let (w_dec, gradient) = (rounded_if(bf16, values(1, lists.d_sae * d_in)), values(2, rows * d_in));
        let mut value_gradient = unwritten(backend, n)?;
        backend.gradient_values(GradientValues {
            lists: &lists.upload(backend)?,
            w_dec: Operand::upload(backend, &w_dec, bf16)?.matrix(),
            gradient: &backend.upload(&gradient)?,
            rows,
            d_in,
            value_gradient: &mut value_gradient,
        })?;
        let mut bounds = vec![0.0; n];
        for (row, latents) in lists.rows.iter().enumerate() {
            for (place, &latent) in (row * lists.stride..).zip(latents) {
                let products = gradient[row * d_in..][..d_in].iter().zip(&w_dec[latent as usize * d_in..]);
                let magnitude: f64 = products.map(|(&g, &w)| f64::from(g * w).abs()).sum();
                bounds[place] = 2.0 * (d_in + 1) as f64 * ROUNDING * magnitude;
            }
        }
        let mut outputs = Outputs::default();
        outputs.f32(backend, "value_gradient", &value_gradient, n, Agree::Within(bounds))?;
        Ok(outputs)
    }
}
