//! Operands of matrix products.

use super::{need, require, Backend, Buffer};
use crate::error::Result;
pub use half::bf16;

/// An operand of a matrix product. Both operands of one product are of the same type; its sums and its
/// result are f32 whatever they are, and the product of two bf16 is exact in f32.
pub enum Matrix<'a, B: Backend> {
    /// f32.
    F32(&'a B::Buffer<f32>),
    /// bf16, as [`Backend::round_bf16`] makes it.
    Bf16(&'a B::Buffer<bf16>),
}

impl<B: Backend> Clone for Matrix<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Matrix<'_, B> {}

impl<'a, B: Backend> Matrix<'a, B> {
    /// Whether it holds bf16.
    pub fn is_bf16(&self) -> bool {
        matches!(self, Matrix::Bf16(_))
    }

    /// The buffer, where it holds f32.
    pub fn f32(&self) -> Option<&'a B::Buffer<f32>> {
        match self {
            Matrix::F32(buffer) => Some(buffer),
            Matrix::Bf16(_) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Matrix::F32(buffer) => buffer.len(),
            Matrix::Bf16(buffer) => buffer.len(),
        }
    }

    fn type_name(&self) -> &'static str {
        if self.is_bf16() {
            "bf16"
        } else {
            "f32"
        }
    }
}

/// Fails with a sentence unless two operands have the elements that a product needs, of one type.
pub(super) fn need_operands<B: Backend>(
    operation: &'static str,
    operands: [(&str, Matrix<'_, B>, usize); 2],
) -> Result<()> {
    for (name, operand, want) in operands {
        need(operation, name, operand.len(), want)?;
    }
    let [(a_name, a, _), (b_name, b, _)] = operands;
    require(operation, a.is_bf16() == b.is_bf16(), || {
        format!("{a_name} is {}, {b_name} is {}; a product takes two of one type", a.type_name(), b.type_name())
    })
}
