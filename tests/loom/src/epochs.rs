//! Every interleaving of requests with a hold that comes in force.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

#[expect(dead_code, reason = "the tests need a part of it")]
#[path = "../../../src/kill_switch/epoch.rs"]
mod epoch;

use crate::sync;
use epoch::{Epoch, Turnstile};

/// Version 0 has epoch 0; version 1, which holds everything, epoch 1.
struct Switch {
    snapshot: AtomicU64,
    turnstile: Turnstile,
    epochs: [Epoch; 2],
}

impl Switch {
    fn new() -> Arc<Self> {
        let epochs = [Epoch::new(1), Epoch::new(1)];
        Arc::new(Self { snapshot: AtomicU64::new(0), turnstile: Turnstile::new(0), epochs })
    }

    /// The version that a request meets.
    fn admit(&self) -> u64 {
        fn version((version, _): &(u64, &Epoch)) -> u64 {
            *version
        }
        let load = || {
            let version = self.snapshot.load(Ordering::Acquire);
            (version, &self.epochs[version as usize])
        };
        self.turnstile.admit(load, version, |(_, epoch)| *epoch, 0).0
    }

    /// Places the hold; answers how many requests were admitted before it and are under way.
    fn place(&self) -> u64 {
        self.snapshot.store(1, Ordering::Release);
        self.turnstile.advance(1);
        self.epochs[0].all_under_way()
    }
}

/// A request that meets the old version is seen by whoever brought the new one in force.
#[test]
fn who_is_admitted_before_the_swap_is_counted() {
    loom::model(|| {
        let switch = Switch::new();
        let request = {
            let switch = Arc::clone(&switch);
            thread::spawn(move || switch.admit())
        };
        let before = switch.place();
        if request.join().unwrap() == 0 {
            assert_eq!(before, 1, "admitted unseen");
        } else {
            assert_eq!(switch.epochs[0].all_under_way(), 0, "judged anew, and counted off");
        }
    });
}

/// Once nothing is under way, nothing of the old version does anything any more.
#[test]
fn nothing_happens_after_it_has_drained() {
    loom::model(|| {
        let switch = Switch::new();
        let done = Arc::new(AtomicU64::new(0));
        let request = {
            let (switch, done) = (Arc::clone(&switch), Arc::clone(&done));
            thread::spawn(move || {
                if switch.admit() == 0 {
                    done.store(1, Ordering::Release);
                    switch.epochs[0].leave(0);
                }
            })
        };
        let drained = switch.place() == 0;
        let done_then = done.load(Ordering::Acquire);
        request.join().unwrap();
        if drained {
            assert_eq!(done.load(Ordering::Acquire), done_then, "after the hold had drained");
        }
    });
}

/// Two requests are two. Without a bound on switches this one takes minutes.
#[test]
fn each_is_counted_in_and_off_once() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let switch = Switch::new();
        let requests = [(); 2].map(|()| {
            let switch = Arc::clone(&switch);
            thread::spawn(move || {
                let version = switch.admit();
                switch.epochs[version as usize].leave(0);
            })
        });
        switch.place();
        for request in requests {
            request.join().unwrap();
        }
        assert_eq!(switch.epochs[0].all_under_way() + switch.epochs[1].all_under_way(), 0);
    });
}
