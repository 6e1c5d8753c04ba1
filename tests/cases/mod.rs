//! Cases of every operation, run on every device at hand against the CPU backend.
//!
//! A case uploads its inputs, runs one operation and names its outputs, each with how closely devices
//! must agree on it. One table per operation, in `lm.rs`, `encode.rs`,
//! `sae.rs`, `decoder.rs`, `activation.rs`, `ghost.rs` and `listed.rs`.

pub mod activation;
pub mod decoder;
pub mod encode;
pub mod ghost;
pub mod listed;
pub mod lm;
pub mod sae;

use cusae::backend::{bf16, Backend, Cpu, Element, Matrix, Native};
use cusae::error::Result;
use cusae::random::{Random, Stream};
use std::fmt::Debug;

/// The largest relative error of one rounding to f32.
pub const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// How closely a device's output must agree with the CPU backend's.
pub enum Agree {
    /// The same bits.
    Bits,
    /// Relative error at most this.
    Relative(f64),
    /// Absolute error of each element at most this.
    Within(Vec<f64>),
}

/// What an operation wrote, and how far devices may differ.
pub struct Output {
    name: &'static str,
    values: Values,
    agree: Agree,
}

#[derive(Clone, Debug)]
enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U32(Vec<u32>),
}

/// Collects a case's outputs.
#[derive(Default)]
pub struct Outputs(Vec<Output>);

impl Outputs {
    /// The first `len` elements of a buffer of f32.
    pub fn f32<B: Backend>(
        &mut self,
        backend: &B,
        name: &'static str,
        buffer: &B::Buffer<f32>,
        len: usize,
        agree: Agree,
    ) -> Result<()> {
        let mut values = vec![0.0; len];
        backend.read(buffer, 0, &mut values)?;
        self.0.push(Output { name, values: Values::F32(values), agree });
        Ok(())
    }

    /// The first `len` elements of a buffer of u32, the same bits everywhere.
    pub fn u32<B: Backend>(
        &mut self,
        backend: &B,
        name: &'static str,
        buffer: &B::Buffer<u32>,
        len: usize,
    ) -> Result<()> {
        let mut values = vec![0; len];
        backend.read(buffer, 0, &mut values)?;
        self.0.push(Output { name, values: Values::U32(values), agree: Agree::Bits });
        Ok(())
    }

    /// The bits of the first `len` elements of a buffer of bf16, the same everywhere.
    pub fn bf16<B: Backend>(
        &mut self,
        backend: &B,
        name: &'static str,
        buffer: &B::Buffer<bf16>,
        len: usize,
    ) -> Result<()> {
        let mut values = vec![bf16::ZERO; len];
        backend.read(buffer, 0, &mut values)?;
        let bits = values.iter().map(|x| x.to_bits().into()).collect();
        self.0.push(Output { name, values: Values::U32(bits), agree: Agree::Bits });
        Ok(())
    }

    /// The first `len` elements of a buffer of f64.
    pub fn f64<B: Backend>(
        &mut self,
        backend: &B,
        name: &'static str,
        buffer: &B::Buffer<f64>,
        len: usize,
        agree: Agree,
    ) -> Result<()> {
        let mut values = vec![0.0; len];
        backend.read(buffer, 0, &mut values)?;
        self.0.push(Output { name, values: Values::F64(values), agree });
        Ok(())
    }
}

/// One case of one operation.
pub trait Case: Debug {
    /// Uploads the inputs, runs the operation, and says what it wrote.
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs>;
}

/// Every device that can be had here: the emulator with its threads in three orders, and a GPU.
pub fn devices() -> Vec<Native> {
    super::devices::devices(&[0, 1, 2])
}

/// The emulator once more, as GPUs of compute capability 8.0: products of bf16 take another path there.
fn older_devices() -> Vec<Native> {
    super::devices::devices(&[8, 9, 10]).into_iter().filter(|device| device.properties().capability < 90).collect()
}

/// Runs cases on every device and compares with the CPU backend; the emulator's thread orders must
/// not make a difference of one bit.
pub fn check<C: Case>(cases: impl IntoIterator<Item = C>) {
    check_on(devices, cases);
}

/// Runs cases with bf16 operands likewise, on the paths of old and of new GPUs.
pub fn check_both_paths<C: Case + Clone>(cases: Vec<C>) {
    check_on(devices, cases.clone());
    check_on(older_devices, cases);
}

/// A case has devices of its own: their scratch memory, which only grows, is then what this case asked for, and the
/// emulator notices what is written behind it.
fn check_on<C: Case>(devices: fn() -> Vec<Native>, cases: impl IntoIterator<Item = C>) {
    for case in cases {
        let expected = case.run(&Cpu).unwrap_or_else(|error| panic!("{case:?} on the CPU: {error}"));
        let mut in_order: Option<Outputs> = None;
        for device in devices() {
            let place = format!("{case:?} on {}", device.describe());
            let found = case.run(&device).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(expected.0.len(), found.0.len(), "{place}");
            for (expected, found) in expected.0.iter().zip(&found.0) {
                agree(&place, &expected.agree, expected, found);
            }
            if device.describe().starts_with("emulator") {
                for (first, found) in in_order.iter().flat_map(|first| &first.0).zip(&found.0) {
                    agree(&format!("{place}, against threads in order"), &Agree::Bits, first, found);
                }
                in_order = in_order.or(Some(found));
            }
        }
    }
}

/// Runs a case that must fail with the same sentence on the CPU backend and on every device.
pub fn fails<C: Case>(case: C, sentence: &str) {
    let error = |result: Result<Outputs>| result.err().map(|error| error.to_string());
    assert_eq!(error(case.run(&Cpu)).as_deref(), Some(sentence), "{case:?} on the CPU");
    for device in devices() {
        assert_eq!(error(case.run(&device)).as_deref(), Some(sentence), "{case:?} on {}", device.describe());
    }
}

/// Runs a case that devices must refuse with this sentence.
pub fn refused<C: Case>(case: C, sentence: &str) {
    for device in devices() {
        let error = case.run(&device).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some(sentence), "{case:?} on {}", device.describe());
    }
}

fn agree(place: &str, agree: &Agree, expected: &Output, found: &Output) {
    let numbers = |values: &Values| -> Vec<(f64, u64)> {
        match values {
            Values::F32(values) => values.iter().map(|&x| (f64::from(x), u64::from(x.to_bits()))).collect(),
            Values::F64(values) => values.iter().map(|&x| (x, x.to_bits())).collect(),
            Values::U32(values) => values.iter().map(|&x| (f64::from(x), u64::from(x))).collect(),
        }
    };
    let (expected_values, found_values) = (numbers(&expected.values), numbers(&found.values));
    assert_eq!(expected_values.len(), found_values.len(), "{place}: {}", expected.name);
    for (i, (&(want, want_bits), &(have, have_bits))) in expected_values.iter().zip(&found_values).enumerate() {
        let same = want_bits == have_bits || (want.is_nan() && have.is_nan());
        let error = (want - have).abs();
        let close = match agree {
            Agree::Bits => same,
            Agree::Relative(bound) => same || error <= bound * want.abs(),
            Agree::Within(bounds) => same || error <= bounds[i],
        };
        assert!(close, "{place}: {}[{i}] is {have}, the CPU backend has {want}, {error:e} away", expected.name);
    }
}

/// `n` numbers in (-1, 1), among them zeros, tiny and large ones.
pub fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut random = Random::new(seed, Stream::Weights, 0);
    (0..n)
        .map(|_| match (random.below(61), 2.0 * random.uniform() - 1.0) {
            (0, _) => 0.0,
            (1, x) => x * 1e-20,
            (2, x) => x * 300.0,
            (_, x) => x,
        })
        .collect()
}

/// `n` numbers below `limit`.
pub fn indices(seed: u64, n: usize, limit: usize) -> Vec<u32> {
    let mut random = Random::new(seed, Stream::Shuffle, 0);
    (0..n).map(|_| random.below(limit as u32)).collect()
}

/// bf16 as f32.
pub fn rounded(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect()
}

/// Values as they are, or as bf16 holds them.
pub fn rounded_if(bf16: bool, values: Vec<f32>) -> Vec<f32> {
    if bf16 {
        rounded(values)
    } else {
        values
    }
}

/// An operand of a product on a device.
pub enum Operand<B: Backend> {
    F32(B::Buffer<f32>),
    Bf16(B::Buffer<bf16>),
}

impl<B: Backend> Operand<B> {
    /// Uploads values that bf16 can hold where it is to be bf16.
    pub fn upload(backend: &B, values: &[f32], as_bf16: bool) -> Result<Self> {
        if !as_bf16 {
            return Ok(Operand::F32(backend.upload(values)?));
        }
        let values: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
        Ok(Operand::Bf16(backend.upload(&values)?))
    }

    pub fn matrix(&self) -> Matrix<'_, B> {
        match self {
            Operand::F32(buffer) => Matrix::F32(buffer),
            Operand::Bf16(buffer) => Matrix::Bf16(buffer),
        }
    }
}

/// How much farther apart than f32 sums the sums of tensor cores may be, which cut off what others round:
/// 2^-23 of a sum in the place of 2^-24.
pub const OF_TENSOR_CORES: f64 = 2.0;

/// A buffer that nobody has written: NaN, or a large number.
pub fn unwritten<B: Backend, T: Element>(backend: &B, len: usize) -> Result<B::Buffer<T>> {
    let pattern: Vec<u8> = [0xff, 0xff, 0xff, 0x7f].into_iter().cycle().take(len * size_of::<T>()).collect();
    let values: Vec<T> = bytemuck::pod_collect_to_vec(&pattern);
    backend.upload(&values)
}
