//! What can go wrong with a snapshot.

use std::path::PathBuf;

use thiserror::Error;

use crate::journal::{Damage, IoFailure};
use crate::model::NodeId;

/// Why a snapshot was not written, or not read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The file is not as it was written.
    #[error("the snapshot is damaged: {0}")]
    Damaged(Damage),
    /// Written by another version.
    #[error(
        "{} has format {found}; this version reads format {known}: start the version that wrote it, or update \
         this one", .file.display()
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version, or that of one of its records.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It is a sound snapshot, but not the one that the journal goes on from.
    #[error("{} is another snapshot than the journal's manifest means: {problem}", .file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What differs.
        problem: String,
    },
    /// The directory belongs to another node.
    #[error(
        "{} has the snapshots of node {owner}, and this is node {node}: give each a directory of its own \
         (snapshots.dir); if that node is gone for good, remove what is there", .dir.display()
    )]
    Anothers {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: NodeId,
        /// Who wants it.
        node: NodeId,
    },
    /// It cannot be written so: a bug of ours, or of a store.
    #[error("the snapshot cannot be written: {0}")]
    Invalid(String),
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
    /// It made room for what cures the store.
    #[error("it gave way to a rebuild of the store")]
    GaveWay,
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}
