//! Being written.
use super::*;
pub(super) fn topk(_op: EncodeTopk<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn relu_dense(_op: EncodeReluDense<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn dead_topk(_op: EncodeDeadTopk<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn relu(_op: EncodeRelu<'_, Cpu>) -> Result<ListsFit> {
    unimplemented!()
}
