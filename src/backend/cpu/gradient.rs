//! Being written.
use super::*;
pub(super) fn sparse(_op: GradientSparse<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn dense(_op: GradientDense<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn b_dec(_op: GradientBDec<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
