//! Being written.
use super::*;
pub(super) fn gather_rows(_op: GatherRows<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn run(_op: PrepareInput<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
