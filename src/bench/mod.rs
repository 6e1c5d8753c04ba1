//! Speed: one table of every operation of [`Backend`] at real sizes, of whole training steps and of
//! the language model's forward pass, for `cusae bench` and `cargo bench`.
//!
//! A row says what its operation cannot do without ([`Work`]): the floating-point operations of its
//! products, and the bytes that pass between memory and the device. With the ceilings, measured in
//! the same run on the same backend ([`Ceilings`]), that gives the shortest time possible; the row's
//! percentage is this time by the measured one.

mod ceilings;
mod data;
mod measure;
mod report;
mod rows;
mod sizes;

pub use ceilings::Ceilings;
pub use data::Data;
pub use measure::{Bench, Sampling};
pub use report::{Measured, Outcome, Report};
pub use rows::table;
pub use sizes::{LmSizes, SaeSizes, Sizes};

use crate::backend::Backend;
use crate::error::Result;

/// What an operation cannot do without.
///
/// Operands of a product are counted once, though a kernel may read them several times through a
/// cache; rows that a list gathers count each time. For the rest, the `moves` lines of the kernels'
/// contracts in `cuda/` are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations of matrix and dot products, two for each multiplication with its
    /// addition; elementwise arithmetic is not counted.
    pub flops: u64,
    /// The same of products with bf16 operands.
    pub bf16_flops: u64,
    /// Bytes in and out of memory.
    pub bytes: u64,
}

impl Work {
    /// `[m, k] · [k, n]`.
    fn product(m: usize, k: usize, n: usize) -> Work {
        Work::flops(2 * m * k * n) + Work::bytes(4 * (m * k + k * n + m * n))
    }

    /// The same with bf16 operands.
    fn bf16_product(m: usize, k: usize, n: usize) -> Work {
        let flops = Work { bf16_flops: 2 * (m * k * n) as u64, ..Work::default() };
        flops + Work::bytes(2 * (m * k + k * n) + 4 * m * n)
    }

    /// So many bytes, and no products.
    fn bytes(bytes: usize) -> Work {
        Work { bytes: bytes as u64, ..Work::default() }
    }

    fn flops(flops: usize) -> Work {
        Work { flops: flops as u64, ..Work::default() }
    }

    /// So many, of f32 or of bf16 operands.
    fn products(flops: usize, bf16: bool) -> Work {
        match bf16 {
            true => Work { bf16_flops: flops as u64, ..Work::default() },
            false => Work::flops(flops),
        }
    }

    /// Seconds that it takes at the ceilings, products and memory traffic at the same time.
    pub fn shortest(&self, ceilings: &Ceilings) -> f64 {
        self.product_seconds(ceilings).max(self.copy_seconds(ceilings))
    }

    fn product_seconds(&self, ceilings: &Ceilings) -> f64 {
        self.flops as f64 / ceilings.product + self.bf16_flops as f64 / ceilings.bf16_product
    }

    fn copy_seconds(&self, ceilings: &Ceilings) -> f64 {
        self.bytes as f64 / ceilings.copy
    }
}

impl std::ops::Add for Work {
    type Output = Work;
    fn add(self, other: Work) -> Work {
        Work {
            flops: self.flops + other.flops,
            bf16_flops: self.bf16_flops + other.bf16_flops,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Work>>(parts: I) -> Work {
        parts.fold(Work::default(), std::ops::Add::add)
    }
}

/// What is timed: one call does the row's operation once.
pub type Run<B> = Box<dyn FnMut(&B) -> Result<()>>;

/// Makes the data of a row, or only counts its bytes.
type Prepare<B> = Box<dyn Fn(&mut Data<'_, B>) -> Result<Run<B>>>;

/// An operation at one size.
pub struct Row<B: Backend> {
    /// Its name, the same as in the trait and in `cuda/api.h`; whole steps have names with a space.
    pub operation: &'static str,
    /// Its dimensions, for people.
    pub size: String,
    /// What it consists of: a single part unless it is a sequence of operations.
    pub parts: Vec<Work>,
    /// Tokens that it processes, where it is a whole step.
    pub tokens: Option<usize>,
    prepare: Prepare<B>,
}

impl<B: Backend> Row<B> {
    fn new(
        operation: &'static str,
        size: String,
        work: Work,
        prepare: impl Fn(&mut Data<'_, B>) -> Result<Run<B>> + 'static,
    ) -> Self {
        Row { operation, size, parts: vec![work], tokens: None, prepare: Box::new(prepare) }
    }

    /// All of its work.
    pub fn work(&self) -> Work {
        self.parts.iter().copied().sum()
    }

    /// Bytes of the device's memory that its data takes.
    pub fn memory(&self, backend: &B) -> Result<u64> {
        let mut data = Data::counting(backend);
        let _not_run = (self.prepare)(&mut data)?;
        Ok(data.bytes())
    }

    /// Makes buffers of its data's sizes, all zero: to count launches, not to time.
    pub fn prepare_zeros(&self, backend: &B) -> Result<Run<B>> {
        (self.prepare)(&mut Data::of_zeros(backend))
    }

    /// Makes its data.
    pub fn prepare(&self, backend: &B) -> Result<Run<B>> {
        (self.prepare)(&mut Data::new(backend))
    }
}
