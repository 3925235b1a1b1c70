//! The atomics of the lock-free parts, and a fence of which one side is free. A model checker's build swaps
//! this file for its own.

use std::sync::LazyLock;
pub(super) use std::sync::atomic::{AtomicU64, Ordering};

/// Whether this system has the fence: Linux from 4.14 on, unless a sandbox forbids it.
pub(super) fn has_fence() -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{MembarrierCommand, membarrier};
        static REGISTERED: LazyLock<bool> =
            LazyLock::new(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok());
        *REGISTERED
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// The side of those who pass all the time: only the compiler has to keep the order of what is before and after.
#[inline]
pub(super) fn light_fence() {
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// The side of the one who comes seldom: makes every thread of the process that runs go through a full fence,
/// so that each has either not come to its light one, or done before it what it had to do.
pub(super) fn heavy_fence() {
    std::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(target_os = "linux")]
    rustix::thread::membarrier(rustix::thread::MembarrierCommand::PrivateExpedited)
        .expect("it was registered before anybody relied on it");
    std::sync::atomic::fence(Ordering::SeqCst);
}

/// Lets those go on who are waited for.
pub(super) fn pause(round: u32) {
    if round < 64 { std::hint::spin_loop() } else { std::thread::yield_now() }
}
