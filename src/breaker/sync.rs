//! The atomics of the lock-free parts. A model checker's build swaps this file for its own.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
