//! The only composition root: everything is made, connected, started and stopped here.

mod core;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

pub use core::Core;

/// Why the server does not start, or did not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::OpenError),
    /// The journal could not be closed in order.
    #[error("the journal was not closed in order: {0}")]
    JournalClose(Arc<crate::journal::JournalError>),
    /// The store.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// What the journal holds.
    #[error(transparent)]
    Replay(#[from] crate::applier::replay::ReplayError),
    /// A thread or runtime could not be made.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}
