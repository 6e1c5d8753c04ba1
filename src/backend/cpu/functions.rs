//! exp, tanh, erf and the activation functions in f32, written so that the compiler can use vector
//! registers. No table, no branch: a polynomial on a reduced argument. Not a number stays not a number.

use super::simd::{multiply_add, vectorised};
use super::ActivationFunction;

/// e^x to 2e-7 relative; arguments beyond [-87.3, 88.3] are taken as those (1e-38 and 2e38).
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, e^x = 2^n e^r; the polynomial for e^r is Cephes' `expf`.
#[inline(always)]
pub(super) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let rounded = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = multiply_add::<FUSED>(n, -LN_2_LOW, multiply_add::<FUSED>(n, -LN_2_HIGH, x));
    let tail =
        polynomial::<FUSED, 6>(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1]);
    let two_to_n = f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    (multiply_add::<FUSED>(tail, r * r, r) + 1.0) * two_to_n
}

/// Horner's rule, highest power first.
#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for &c in &coefficients[1..] {
        sum = multiply_add::<FUSED>(sum, x, c);
    }
    sum
}

/// tanh: Cephes' `tanhf` polynomial near zero, through e^2x elsewhere.
#[inline(always)]
fn tanh<const FUSED: bool>(x: f32) -> f32 {
    let square = x * x;
    let odd = [-5.704_989e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
    let near = multiply_add::<FUSED>(polynomial::<FUSED, 5>(square, odd) * square, x, x);
    let far = (1.0 - 2.0 / (exp::<FUSED>(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 {
        near
    } else {
        far
    }
}

/// erf: odd polynomial near zero, 1 - e^polynomial elsewhere. Coefficients: N. Juffa's `my_erff`
/// (maximum error one unit in the last place with fused multiply-add).
#[inline(always)]
fn erf<const FUSED: bool>(x: f32) -> f32 {
    let (size, square) = (x.abs(), x * x);
    let near = [-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1];
    let near = multiply_add::<FUSED>(polynomial::<FUSED, 6>(square, near), x, x);
    // Beyond 4, 1 - erf is below half a unit in the last place of 1.
    let size = if size > 4.0 { 4.0 } else { size };
    let far = [
        -1.728_534_7e-5,
        3.831_972e-4,
        -3.883_964_4e-3,
        2.425_462_2e-2,
        -1.067_778_8e-1,
        -6.348_467e-1,
        -1.287_175_1e-1,
    ];
    let exponent = multiply_add::<FUSED>(polynomial::<FUSED, 7>(size, far), size, -size);
    let far = (1.0 - exp::<FUSED>(exponent)).copysign(x);
    if x.abs() > 0.927_734_4 {
        far
    } else {
        near
    }
}

/// x times the logistic function of y.
#[inline(always)]
fn times_sigmoid<const FUSED: bool>(x: f32, y: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-y))
}

vectorised! {
    fn gelu_tanh(values: &mut [f32]) {
        // 0.5 (1 + tanh u) is the logistic function of 2u.
        const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
        for x in values {
            let inner = multiply_add::<FUSED>(0.044_715 * *x * *x, *x, *x);
            *x = times_sigmoid::<FUSED>(*x, TWICE_SQRT_2_OVER_PI * inner);
        }
    }

    fn gelu_erf(values: &mut [f32]) {
        for x in values {
            *x *= multiply_add::<FUSED>(0.5, erf::<FUSED>(*x * std::f32::consts::FRAC_1_SQRT_2), 0.5);
        }
    }

    fn silu(values: &mut [f32]) {
        for x in values {
            *x = times_sigmoid::<FUSED>(*x, *x);
        }
    }

    fn quick_gelu(values: &mut [f32]) {
        for x in values {
            *x = times_sigmoid::<FUSED>(*x, 1.702 * *x);
        }
    }

    /// `to = e^x`.
    pub(super) fn exponential(x: &[f32], to: &mut [f32]) {
        for (to, &x) in to.iter_mut().zip(x) {
            *to = exp::<FUSED>(x);
        }
    }

    fn tanh_all(values: &mut [f32]) {
        for x in values {
            *x = tanh::<FUSED>(*x);
        }
    }

    fn relu(values: &mut [f32]) {
        for x in values {
            *x = if *x < 0.0 { 0.0 } else { *x };
        }
    }

    /// The largest value; -inf of none.
    pub(super) fn maximum(values: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
            }
        }
        rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
    }

    /// Σ e^(x - shift).
    pub(super) fn sum_of_exp(values: &[f32], shift: f32) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                lanes[lane] += exp::<FUSED>(block[lane] - shift);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += exp::<FUSED>(x - shift);
        }
        tree_sum(lanes)
    }

    /// Σ e^(x - shift) (x - y).
    pub(super) fn sum_of_exp_times_difference(x: &[f32], y: &[f32], shift: f32) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
            for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
                *lane = multiply_add::<FUSED>(exp::<FUSED>(x - shift), x - y, *lane);
            }
        }
        tree_sum(lanes)
    }

    /// `scores = e^(scale scores - m)` with `m` their largest; returns the sum.
    pub(super) fn exponentiate(scores: &mut [f32], scale: f32) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for block in scores.chunks_mut(LANES) {
            for (lane, score) in lanes.iter_mut().zip(block) {
                *score *= scale;
                *lane = if *score > *lane { *score } else { *lane };
            }
        }
        let largest = lanes.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        let mut lanes = [0.0f32; LANES];
        for block in scores.chunks_mut(LANES) {
            for (lane, score) in lanes.iter_mut().zip(block) {
                *score = exp::<FUSED>(*score - largest);
                *lane += *score;
            }
        }
        tree_sum(lanes)
    }

    /// `values *= factor`.
    pub(super) fn multiply(values: &mut [f32], factor: f32) {
        for x in values {
            *x *= factor;
        }
    }

    /// Σ x.
    pub(super) fn sum(values: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for block in values.chunks(LANES) {
            for (lane, &x) in lanes.iter_mut().zip(block) {
                *lane += x;
            }
        }
        tree_sum(lanes)
    }

    /// Σ (x - mean)².
    pub(super) fn sum_of_squared_distances(values: &[f32], mean: f32) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for block in values.chunks(LANES) {
            for (lane, &x) in lanes.iter_mut().zip(block) {
                *lane = multiply_add::<FUSED>(x - mean, x - mean, *lane);
            }
        }
        tree_sum(lanes)
    }
}

/// Running sums side by side, so that the compiler can keep vector registers busy.
const LANES: usize = 32;

#[inline(always)]
fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `values = f(values)`.
pub(super) fn activate(function: ActivationFunction, values: &mut [f32]) {
    match function {
        ActivationFunction::Identity => (),
        ActivationFunction::Relu => relu(values),
        ActivationFunction::GeluTanh => gelu_tanh(values),
        ActivationFunction::GeluErf => gelu_erf(values),
        ActivationFunction::Silu => silu(values),
        ActivationFunction::QuickGelu => quick_gelu(values),
        ActivationFunction::Tanh => tanh_all(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Taylor series in f64; beyond 4 it is within 2e-8 of 1.
    fn erf_f64(x: f64) -> f64 {
        if x.abs() > 4.0 {
            return x.signum();
        }
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn exact(function: ActivationFunction, x: f64) -> f64 {
        let sigmoid = |y: f64| 1.0 / (1.0 + (-y).exp());
        match function {
            ActivationFunction::Identity => x,
            ActivationFunction::Relu => x.max(0.0),
            ActivationFunction::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            ActivationFunction::GeluErf => 0.5 * x * (1.0 + erf_f64(x / 2f64.sqrt())),
            ActivationFunction::Silu => x * sigmoid(x),
            ActivationFunction::QuickGelu => x * sigmoid(1.702 * x),
            ActivationFunction::Tanh => x.tanh(),
        }
    }

    fn grid(from: f32, to: f32) -> Vec<f32> {
        (0..=40_000).map(|i| from + (to - from) * i as f32 / 40_000.0).collect()
    }

    #[test]
    fn exp_is_within_three_units_in_the_last_place() {
        for x in grid(-87.0, 88.0) {
            let error = (f64::from(exp::<false>(x)) / f64::from(x).exp() - 1.0).abs();
            // The last term: x itself has a unit in the last place, which exp multiplies by x.
            assert!(error < 2e-7, "{x}: {error:e}");
        }
    }

    /// Errors are measured against max(|f|, 1): what a sum of activations sees.
    #[test]
    fn activation_functions_agree_with_f64() {
        use ActivationFunction::*;
        for function in [Identity, Relu, GeluTanh, GeluErf, Silu, QuickGelu, Tanh] {
            let mut values = grid(-12.0, 12.0);
            activate(function, &mut values);
            for (x, y) in grid(-12.0, 12.0).into_iter().zip(values) {
                let expected = exact(function, x.into());
                let error = (f64::from(y) - expected).abs() / expected.abs().max(1.0);
                assert!(error < 3e-7, "{function:?}({x}): {y} for {expected}");
            }
        }
    }

    #[test]
    fn extreme_values_stay_finite_and_nan_stays_nan() {
        use ActivationFunction::*;
        for function in [Identity, Relu, GeluTanh, GeluErf, Silu, QuickGelu, Tanh] {
            let mut values = [1e30, -1e30, f32::NAN, 0.0];
            activate(function, &mut values);
            let top = if function == Tanh { 1.0 } else { 1e30 };
            assert_eq!(values[0], top, "{function:?}");
            assert!(function == Identity || values[1].abs() <= 1.0, "{function:?}: {}", values[1]);
            assert!(values[2].is_nan(), "{function:?}");
            assert_eq!(values[3], 0.0, "{function:?}");
        }
    }
}
