//! Being written.
use super::*;
pub(super) fn run(_op: Embed<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
pub(super) fn add(_op: Add<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
