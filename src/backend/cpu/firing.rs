//! Being written.
use super::*;
pub(super) fn run(_op: UpdateFiring<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
