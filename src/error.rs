//! One error type for the whole library: each variant is a sentence that names the operation,
//! file or key, what was found, what was expected and what to do about it.

use std::path::{Path, PathBuf};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in the words a user reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be opened, read, written or renamed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done: "open", "read", "write", …
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file was read, but what it holds is not what it should be.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Key, what was found, what was expected, what to do.
        what: String,
    },
    /// A setting (recipe key or flag) that cannot be used.
    #[error("{key}: {what}")]
    Config {
        /// The recipe key, as SAELens spells it.
        key: String,
        /// What was found, what is possible.
        what: String,
    },
    /// An operation was called with buffers or dimensions that do not fit together.
    #[error("{operation}: {what}")]
    Shape {
        /// The operation's one name.
        operation: &'static str,
        /// Which argument, expected and found.
        what: String,
    },
    /// A device failed, or has no kernel for an operation.
    #[error("{operation}: {what}")]
    Kernel {
        /// The operation's one name; execution fails later than it is queued, so see `CUSAE_SYNC`.
        operation: &'static str,
        /// The device's error, by number and in words.
        what: String,
    },
    /// A device that was asked for cannot be used.
    #[error("device {device}: {what}")]
    Device {
        /// As the user spelled it.
        device: String,
        /// Why, and what to use instead.
        what: String,
    },
    /// The Hugging Face Hub, or what it gave.
    #[error("{name}: {what}")]
    Hub {
        /// The repository.
        name: String,
        /// What was asked, what came of it, what to do.
        what: String,
    },
    /// Training met a value that is not a number or infinite.
    #[error("{0}")]
    NonFinite(String),
    /// The user stopped the run (SIGINT or SIGTERM); everything was saved in the folder named.
    #[error("interrupted; saved in {}, continue with --resume", .0.display())]
    Interrupted(PathBuf),
}

impl Error {
    /// An [`Error::Io`] for `path`; to be used with `map_err`.
    pub fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, action, source }
    }

    /// An [`Error::Format`] for `path`.
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// An [`Error::Config`] for the recipe key `key`.
    pub fn config(key: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Config { key: key.into(), what: what.into() }
    }

    /// An [`Error::Hub`] about the repository `name`.
    pub fn hub(name: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Hub { name: name.into(), what: what.into() }
    }

    /// The process exit code of this error: 2 wrong usage, 130 interrupted after saving, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config { .. } => 2,
            Error::Interrupted(_) => 130,
            _ => 1,
        }
    }
}
