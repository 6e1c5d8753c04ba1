//! Being written.
use super::*;
pub(super) fn run(_op: Linear<'_, Cpu>) -> Result<()> {
    unimplemented!()
}
