//! Being written.
use super::*;
pub(super) fn lists(_op: SparsityLp<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn dense(_op: SparsityLpDense<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
