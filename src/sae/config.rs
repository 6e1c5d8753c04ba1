//! (temporary)
#![allow(missing_docs)]
use crate::backend::RowNormalization;
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormalizeActivations {
    None,
    ExpectedAverageOnlyIn,
    ConstantNormRescale,
    LayerNorm,
}
impl NormalizeActivations {
    pub fn by_row(self) -> RowNormalization {
        match self {
            Self::LayerNorm => RowNormalization::LayerNorm,
            Self::ConstantNormRescale => RowNormalization::ConstantNorm,
            _ => RowNormalization::None,
        }
    }
}
