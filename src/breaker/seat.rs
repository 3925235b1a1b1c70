//! Small numbers for the threads that count calls; each is one thread's at a time.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// No number: this thread counts where all others do that have none.
const NONE: u32 = u32::MAX;
const NOT_ASKED: u32 = u32::MAX - 1;

/// The numbers in use, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Without a destructor, so that looking at it costs one load.
    static NUMBER: Cell<u32> = const { Cell::new(NOT_ASKED) };
    static SEAT: Cell<Option<Seat>> = const { Cell::new(None) };
}

/// A number in use; another thread may have it afterwards.
struct Seat(u32);

impl Drop for Seat {
    fn drop(&mut self) {
        // What this thread still does on its way out, it does without.
        NUMBER.set(NONE);
        // Released, so that its counts are seen by whoever takes over.
        TAKEN.fetch_and(!(1 << self.0), Ordering::Release);
    }
}

/// This thread's number: the lowest of 64 that was free when it first asked, or one that is no index of anything.
#[inline]
pub fn number() -> u32 {
    let number = NUMBER.get();
    if number == NOT_ASKED { take() } else { number }
}

#[cold]
fn take() -> u32 {
    let mut taken = TAKEN.load(Ordering::Relaxed);
    let free = loop {
        let free = taken.trailing_ones();
        if free == u64::BITS {
            break NONE;
        }
        let wanted = taken | (1 << free);
        match TAKEN.compare_exchange_weak(taken, wanted, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => break free,
            Err(now) => taken = now,
        }
    };
    // A thread that is being torn down has no place to note it in, and gives it back at once.
    let kept = free != NONE && SEAT.try_with(|seat| seat.set(Some(Seat(free)))).is_ok();
    let number = if kept { free } else { NONE };
    NUMBER.set(number);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_time_have_different_numbers_and_later_ones_the_same_again() {
        let (one, other) = (number(), std::thread::spawn(number).join().unwrap());
        assert_ne!(one, other);
        assert_eq!(number(), one);
        // More threads, one after another, than there are numbers.
        for _ in 0..200 {
            assert_ne!(std::thread::spawn(number).join().unwrap(), NONE);
        }
    }
}
