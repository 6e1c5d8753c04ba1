//! Being written.
use super::*;
pub(super) fn run(_op: Attention<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
