//! Being written.
use super::*;
pub(super) fn sparse(_op: DecodeSparse<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn dense(_op: DecodeDense<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
