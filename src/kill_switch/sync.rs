//! The atomics of the lock-free parts. A model checker's build swaps this file for its own.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};

/// The order that `SeqCst` accesses have among each other, so that nothing is to be done. The model checker
/// knows it of fences only.
pub(super) fn in_one_order() {}
