//! Row arithmetic for whatever vector unit the machine has. A function declared with
//! `vectorised!` is compiled three times (AVX-512, AVX2 with FMA, plain) and chosen at run time.

use half::bf16;

/// Declares functions whose body is compiled for each vector unit. Inside, the constant `FUSED`
/// says whether the machine has fused multiply-add.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {
        $($(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FUSED: bool>($($arg: $type),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $ret)? { body::<true>($($arg),*) }

                if std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the machine has just said that it has these instructions.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            #[cfg(target_arch = "aarch64")]
            { body::<true>($($arg),*) }
            #[cfg(not(target_arch = "aarch64"))]
            { body::<false>($($arg),*) }
        })*
    };
}
pub(crate) use vectorised;

/// `a * b + c`, with one rounding where the machine has the instruction.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// What f32 holds exactly.
pub(crate) trait Widen: Copy {
    /// The same number.
    fn wide(self) -> f32;
}

impl Widen for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

impl Widen for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// `y += a * x`.
#[inline(always)]
fn axpy<const FUSED: bool>(a: f32, x: &[impl Widen], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = multiply_add::<FUSED>(a, x.wide(), *y);
    }
}

/// `y += Σ a x` over rows `(a, x)`: four at a time, while the next four come to the cache, but every sum in the order
/// and with the roundings of one row after the other. Rows with the factor 0 are left out.
#[inline(always)]
pub(crate) fn add_rows<'a, const FUSED: bool, T: Widen + 'a>(
    rows: impl Iterator<Item = (f32, &'a [T])>,
    y: &mut [f32],
) {
    let len = y.len();
    let mut rows = rows.filter(|&(a, _)| a != 0.0).map(|(a, x)| (a, &x[..len])).inspect(|(_, x)| prefetch(x)).fuse();
    let mut take = || std::array::from_fn::<_, 4, _>(|_| rows.next());
    let mut now = take();
    while now[0].is_some() {
        let next = take();
        if let [Some((a0, x0)), Some((a1, x1)), Some((a2, x2)), Some((a3, x3))] = now {
            for (i, y) in y.iter_mut().enumerate() {
                let sum = multiply_add::<FUSED>(a1, x1[i].wide(), multiply_add::<FUSED>(a0, x0[i].wide(), *y));
                *y = multiply_add::<FUSED>(a3, x3[i].wide(), multiply_add::<FUSED>(a2, x2[i].wide(), sum));
            }
        } else {
            now.into_iter().flatten().for_each(|(a, x)| axpy::<FUSED>(a, x, y));
        }
        now = next;
    }
}

/// Has a row that is needed soon brought to the cache.
#[inline(always)]
pub(crate) fn prefetch<T>(row: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: a hint; the address is one of the row's.
        unsafe { _mm_prefetch(line.as_ptr().cast(), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// `Σ x y`, in 64 running sums so that the compiler can keep four vector registers busy.
#[inline(always)]
pub(crate) fn dot<const FUSED: bool>(x: &[f32], y: &[impl Widen]) -> f32 {
    const LANES: usize = 64;
    let mut sums = [0.0f32; LANES];
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (y_blocks, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for lane in 0..LANES {
            sums[lane] = multiply_add::<FUSED>(x[lane], y[lane].wide(), sums[lane]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    x_rest.iter().zip(y_rest).fold(sums[0], |sum, (&x, &y)| multiply_add::<FUSED>(x, y.wide(), sum))
}

vectorised! {
    /// Σ x² in f64, in 32 running sums.
    pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
        let mut sums = [0.0f64; 32];
        let (blocks, rest) = values.as_chunks::<32>();
        for block in blocks {
            for (sum, &x) in sums.iter_mut().zip(block) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(x) * f64::from(x);
        }
        sums.iter().sum()
    }

    /// `y += a * x`.
    pub(crate) fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) {
        axpy::<FUSED>(a, x, y);
    }

    /// `to += from`.
    pub(crate) fn add(to: &mut [f32], from: &[f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to += from;
        }
    }
}
