//! What goes wrong with generations.

use std::path::{Path, PathBuf};

use super::StoreError;
use crate::model::NodeId;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store in {0} is in use by another process")]
    InUse(PathBuf),
    /// It belongs to another node's journal.
    #[error(
        "the store in {dir} belongs to the journal of node {owner}, not to that of node {node}: give each \
         node a store directory of its own; if that journal is gone for good, remove the store directory"
    )]
    Foreign {
        /// The generation's directory.
        dir: PathBuf,
        /// Whose it is.
        owner: NodeId,
        /// Whose journal this is.
        node: NodeId,
    },
    /// It holds what the journal does not have.
    #[error(
        "the store in {dir} has applied position {applied}, but the journal ends at {end}: this is an older \
         copy of the journal, or part of it is missing; bring the journal back, or, to go on without what \
         it has lost, remove the store directory"
    )]
    AheadOfJournal {
        /// The generation's directory.
        dir: PathBuf,
        /// The highest position applied.
        applied: u64,
        /// The journal's last position.
        end: u64,
    },
    /// A new generation could not be opened.
    #[error("a new store cannot be opened in {dir}: {error}")]
    Store {
        /// The generation's directory.
        dir: PathBuf,
        /// Why.
        error: StoreError,
    },
    /// A file or directory could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Why the store was not closed in order. It is sound all the same: the next start decides.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Calls still run, or the last flush failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be synced or the note not written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

pub(super) fn io(path: &Path, error: std::io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), error }
}
