use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::*;
use super::support::*;
use crate::fs::FaultyFs;

/// What a write does between its admission and its answer: here is where one that came too late would show.
#[test]
fn no_write_is_admitted_after_the_swap() {
    for round in 0..50 {
        let (fs, clocks) = (FaultyFs::new(), Clocks::new());
        let (switch, _scribe) = open(&fs, clocks.0);
        let (swapped, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let registered = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let (switch, swapped, stop) = (Arc::clone(&switch), Arc::clone(&swapped), Arc::clone(&stop));
                let registered = Arc::clone(&registered);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        // Known before it asks: then it must not pass.
                        let late = swapped.load(Ordering::SeqCst);
                        let (said, ticket) = ask(&switch, "a", Operation::Identify, 1);
                        match said {
                            Said::Pass => {
                                assert!(!late, "admitted after the swap");
                                registered.fetch_add(1, Ordering::SeqCst);
                            }
                            Said::Refuse => assert!(ticket.is_none()),
                            Said::Defer => panic!("nothing defers"),
                        }
                        drop(ticket);
                    }
                })
            })
            .collect();
        while registered.load(Ordering::SeqCst) < 10 + round {
            std::hint::spin_loop();
        }
        let (status, _persisting) = switch.place(new_hold(None, Mode::Reject), clocks.0).unwrap();
        swapped.store(true, Ordering::SeqCst);
        // Once all that was under way has ended, nothing more is registered.
        while switch.status(status.hold.id, clocks.0).unwrap().in_flight > 0 {
            std::hint::spin_loop();
        }
        let drained = registered.load(Ordering::SeqCst);
        for _ in 0..1_000 {
            std::hint::spin_loop();
        }
        assert_eq!(registered.load(Ordering::SeqCst), drained, "registered after the hold had drained");
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.join().unwrap();
        }
    }
}
