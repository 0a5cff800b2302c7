//! Why an audit could not be carried out. Whatever ends here means "cannot judge" (exit 2), never "holds".

use std::path::PathBuf;

/// What went wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{}: cannot read it: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot write it: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The dump is not one that can be used.
    #[error("dump: {0}")]
    Dump(String),
    /// The registers file is not one that can be used.
    #[error("registers: {0}")]
    Registers(String),
    /// xen-syms is not usable, or does not belong to this dump.
    #[error("xen-syms: {0}")]
    Symbols(String),
    /// The machine is set up in a way that this verifier does not judge.
    #[error("cannot judge: {0}")]
    CannotJudge(String),
}

/// What the functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;
