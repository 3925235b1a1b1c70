//! Every interleaving of calls with the thread that ticks, over the breaker's lock-free counters; and of
//! requests with an operator who places a hold, over the kill switch's.
#![cfg(test)]

#[expect(dead_code, reason = "the tests need a part of it")]
#[path = "../../../src/breaker/window.rs"]
mod window;

mod epochs;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

    /// loom takes `SeqCst` accesses for `AcqRel` ones; here is the order that they have besides.
    pub(crate) fn in_one_order() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

use loom::sync::Arc;
use loom::thread;
use window::{Begun, Ending, Running, Window};

/// Begins and ends one call; answers how many ended as one of the current generation.
fn one_call(window: &Window, ending: Ending) -> u64 {
    let mut running = Running::not_yet(0);
    match window.begin(&mut running, 0) {
        Begun::Running => u64::from(window.end(&running, ending)),
        Begun::Outdated => {
            window.end_outdated();
            0
        }
        Begun::Full => panic!("one call"),
    }
}

/// The bucket is judged while its call ends: the call is seen as fast or as open, and in the end not lost.
#[test]
fn a_call_that_ends_while_it_is_judged_counts_once() {
    loom::model(|| {
        let window = Arc::new(Window::new(2, 1));
        let bucket = window.bucket();
        let call = {
            let window = Arc::clone(&window);
            thread::spawn(move || one_call(&window, Ending::Good))
        };
        window.roll();
        let judged = window.read(bucket);
        assert_eq!(judged.begun, judged.good + judged.open());
        assert_eq!(call.join().unwrap(), 1);
        let (first, second) = (window.read(bucket), window.read(bucket + 1));
        assert_eq!(first.begun + second.begun, 1);
        // Sealed: whoever was not seen at the judgement began later.
        assert_eq!(first.begun, judged.begun);
        assert_eq!(first.open() + second.open(), 0);
    });
}

/// The ring goes round while a call runs: it is counted off in its bucket, or as one that left the ring.
#[test]
fn a_call_that_outlives_the_ring_is_counted_off_once() {
    loom::model(|| {
        let window = Arc::new(Window::new(2, 1));
        let mut running = Running::not_yet(0);
        assert_eq!(window.begin(&mut running, 0), Begun::Running);
        let call = {
            let window = Arc::clone(&window);
            thread::spawn(move || assert!(window.end(&running, Ending::Bad)))
        };
        let left: u64 = (0..2).map(|_| window.roll()).sum();
        call.join().unwrap();
        assert_eq!(window.late(), left);
    });
}

/// The generation ends while a call begins and ends: it is counted off in its bucket, or written off and
/// returned; never both, never neither.
#[test]
fn a_call_across_generations_is_counted_off_once() {
    for ending in [Ending::Good, Ending::Void] {
        loom::model(move || {
            let window = Arc::new(Window::new(2, 1));
            let call = {
                let window = Arc::clone(&window);
                thread::spawn(move || one_call(&window, ending))
            };
            let (open, late) = window.next_generation(true);
            call.join().unwrap();
            let (outdated, returned) = window.written_off();
            assert_eq!(open + outdated, late + returned);
            let bucket = window.bucket();
            assert_eq!(window.read(bucket).begun, 0, "nothing of the old generation is in the new");
        });
    }
}

/// A roll, then the end of the generation, while a call ends.
#[test]
fn a_roll_and_a_generation_end_around_one_call() {
    loom::model(|| {
        let window = Arc::new(Window::new(2, 1));
        let mut running = Running::not_yet(0);
        assert_eq!(window.begin(&mut running, 0), Begun::Running);
        let call = {
            let window = Arc::clone(&window);
            thread::spawn(move || window.end(&running, Ending::Good))
        };
        let left = window.roll() + window.roll();
        let (open, late) = window.next_generation(false);
        call.join().unwrap();
        let (outdated, returned) = window.written_off();
        assert_eq!(open + left + outdated, late + returned);
    });
}

/// Two calls in one word: neither's count is lost.
#[test]
fn two_calls_in_one_bucket_are_two() {
    loom::model(|| {
        let window = Arc::new(Window::new(2, 1));
        let calls: Vec<_> = [Ending::Good, Ending::Bad]
            .map(|ending| {
                let window = Arc::clone(&window);
                thread::spawn(move || one_call(&window, ending))
            })
            .into();
        for call in calls {
            assert_eq!(call.join().unwrap(), 1);
        }
        let counts = window.read(window.bucket());
        assert_eq!((counts.begun, counts.good, counts.bad), (2, 1, 1));
    });
}
