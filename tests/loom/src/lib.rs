//! Every interleaving of calls with the thread that ticks, over the breaker's lock-free counters; and of
//! requests with an operator who places a hold, over the kill switch's.
#![cfg(test)]

#[path = "../../../src/breaker/gate.rs"]
mod gate;
#[path = "../../../src/breaker/owned.rs"]
mod owned;
#[expect(dead_code, reason = "the tests need a part of it")]
#[path = "../../../src/breaker/window.rs"]
mod window;

mod epochs;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

    /// Where the system has it, one side of this fence is free; here both are what they stand for.
    pub(crate) fn has_fence() -> bool {
        true
    }

    pub(crate) fn light_fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy_fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn pause(_: u32) {
        loom::thread::yield_now();
    }

    /// loom takes `SeqCst` accesses for `AcqRel` ones; here is the order that they have besides.
    pub(crate) fn in_one_order() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

use loom::sync::Arc;
use loom::thread;
use window::{Begun, Ending, Running, Window};

/// A thread with a stripe of its own, and one that shares.
const OWNER: u32 = 0;
const OTHER: u32 = 9;

fn window() -> Arc<Window> {
    Arc::new(Window::new(2, 1))
}

/// Begins and ends one call; answers how many ended as one of the current generation.
fn one_call(window: &Window, ending: Ending, stripe: u32) -> u64 {
    let mut running = Running::not_yet(0);
    match window.begin(&mut running, stripe) {
        Begun::Running => u64::from(window.end(&running, ending, stripe)),
        Begun::Outdated => {
            window.end_outdated();
            0
        }
        Begun::Full => panic!("one call"),
    }
}

fn roll(window: &Window) -> u64 {
    loop {
        if let Some(left) = window.roll() {
            return left;
        }
    }
}

/// The bucket is judged while its call ends: the call is seen as fast or as open, and in the end not lost.
#[test]
fn a_call_that_ends_while_it_is_judged_counts_once() {
    for stripe in [OWNER, OTHER] {
        loom::model(move || {
            let window = window();
            let bucket = window.bucket();
            let call = {
                let window = Arc::clone(&window);
                thread::spawn(move || one_call(&window, Ending::Good, stripe))
            };
            roll(&window);
            let judged = window.read(bucket);
            assert_eq!(judged.begun, judged.good + judged.open());
            assert_eq!(call.join().unwrap(), 1);
            let (first, second) = (window.read(bucket), window.read(bucket + 1));
            assert_eq!(first.begun + second.begun, 1);
            // Whoever was not seen at the judgement began later.
            assert_eq!(first.begun, judged.begun);
            assert_eq!(first.open() + second.open(), 0);
        });
    }
}

/// The ring goes round while a call runs: it is counted off in its bucket, or as one that left the ring. It may
/// end on another thread than the one that began it.
#[test]
fn a_call_that_outlives_the_ring_is_counted_off_once() {
    for (began, ended) in [(OWNER, OWNER), (OTHER, OTHER), (OWNER, OTHER), (OTHER, OWNER)] {
        loom::model(move || {
            let window = window();
            let mut running = Running::not_yet(0);
            assert_eq!(window.begin(&mut running, began), Begun::Running);
            let call = {
                let window = Arc::clone(&window);
                thread::spawn(move || assert!(window.end(&running, Ending::Bad, ended)))
            };
            let left: u64 = (0..2).map(|_| roll(&window)).sum();
            call.join().unwrap();
            assert_eq!(window.late(), left);
        });
    }
}

/// The generation ends while a call begins and ends: it is counted off in its bucket, or written off and
/// returned; never both, never neither.
#[test]
fn a_call_across_generations_is_counted_off_once() {
    for (ending, stripe) in
        [(Ending::Good, OWNER), (Ending::Void, OWNER), (Ending::Good, OTHER), (Ending::Void, OTHER)]
    {
        bounded(move || {
            let window = window();
            let call = {
                let window = Arc::clone(&window);
                thread::spawn(move || one_call(&window, ending, stripe))
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
    for (began, ended) in [(OWNER, OWNER), (OTHER, OTHER), (OWNER, OTHER), (OTHER, OWNER)] {
        bounded(move || {
            let window = window();
            let mut running = Running::not_yet(0);
            assert_eq!(window.begin(&mut running, began), Begun::Running);
            let call = {
                let window = Arc::clone(&window);
                thread::spawn(move || window.end(&running, Ending::Good, ended))
            };
            let left = roll(&window) + roll(&window);
            let (open, late) = window.next_generation(false);
            call.join().unwrap();
            let (outdated, returned) = window.written_off();
            assert_eq!(open + left + outdated, late + returned);
        });
    }
}

/// Every interleaving with at most three switches away from a thread that could go on: without a bound these take
/// minutes.
fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}

/// Two calls in one word, or one in a stripe of its own: neither's count is lost.
#[test]
fn two_calls_in_one_bucket_are_two() {
    for other in [OWNER, OTHER] {
        loom::model(move || {
            let window = window();
            let calls: Vec<_> = [(Ending::Good, other), (Ending::Bad, OTHER)]
                .map(|(ending, stripe)| {
                    let window = Arc::clone(&window);
                    thread::spawn(move || one_call(&window, ending, stripe))
                })
                .into();
            for call in calls {
                assert_eq!(call.join().unwrap(), 1);
            }
            let counts = window.read(window.bucket());
            assert_eq!((counts.begun, counts.good, counts.bad), (2, 1, 1));
        });
    }
}

/// An owner and one who shares call while the ring is rolled: each in the old bucket or in the new.
#[test]
fn two_calls_around_a_roll_are_two() {
    bounded(|| {
        let window = window();
        let bucket = window.bucket();
        let calls = [OWNER, OTHER].map(|stripe| {
            let window = Arc::clone(&window);
            thread::spawn(move || one_call(&window, Ending::Good, stripe))
        });
        roll(&window);
        for call in calls {
            assert_eq!(call.join().unwrap(), 1);
        }
        let (first, second) = (window.read(bucket), window.read(bucket + 1));
        assert_eq!((first.begun + second.begun, first.open() + second.open()), (2, 0));
    });
}
