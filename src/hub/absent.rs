//! What stands for [`Hub`] in a build without the feature `hub`: there is none.

use super::{Cached, Listed, Repository};
use crate::error::{Error, Result};

/// The Hub, which this build does not know.
pub enum Hub {}

impl Hub {
    /// Error: always.
    pub fn from_env() -> Result<Hub> {
        Err(Error::hub("Hub", "this build is without it (cargo feature hub); give a local folder or file"))
    }

    /// A file, if the repository has it.
    pub fn find(&self, _: &Repository, _: &str) -> Result<Option<Cached>> {
        match *self {}
    }

    /// A file.
    pub fn get(&self, _: &Repository, _: &str) -> Result<Cached> {
        match *self {}
    }

    /// The commit of a revision.
    pub fn commit(&self, _: &Repository) -> Result<String> {
        match *self {}
    }

    /// The files in a folder.
    pub fn list(&self, _: &Repository, _: &str) -> Result<Vec<Listed>> {
        match *self {}
    }
}
