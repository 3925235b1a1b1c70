//! The handle with its thread, over lanes that the test fills.

use super::super::event::{Breaker, Evidence, Operation, State};
use super::*;
use crate::clock::SystemClock;
use crate::fs::{FaultyFs, Survivors};
use crate::ledger::Ending;

struct World {
    fs: FaultyFs,
    ledger: Arc<Ledger>,
    sites: Arc<Sites>,
}

impl World {
    fn new(fs: FaultyFs) -> Self {
        Self { fs, ledger: Arc::new(Ledger::new(0)), sites: Arc::new(Sites::new(100)) }
    }

    fn start(&self) -> (Incidents, IncidentThread) {
        Incidents::start(IncidentOptions {
            dir: PathBuf::from("/control"),
            fs: Arc::new(self.fs.clone()),
            clock: Arc::new(SystemClock),
            ledger: Arc::clone(&self.ledger),
            sites: Arc::clone(&self.sites),
        })
        .unwrap()
    }

    fn accept(&self, position: u64) {
        let site = self.sites.restore(&Site::new("acme"));
        let book = self.ledger.enter();
        site.lane.lock().restore(position, position, 0, 100, None);
        book.accepted(&site.site, position);
    }

    fn apply(&self, position: u64) {
        let site = self.sites.restore(&Site::new("acme"));
        let book = self.ledger.enter();
        site.lane.lock().finish([position]);
        book.ended(&site.site, position, Ending::Applied);
    }
}

fn breaker(to: Breaker) -> Transition {
    let evidence = Evidence { since: Duration::from_millis(750), ..Evidence::default() };
    let scope = Scope::store(Operation::Apply);
    Transition { scope, change: Change::Breaker(to), message: String::new(), evidence: Some(evidence) }
}

/// Waits for what the thread is bound to do.
fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

#[test]
fn an_incident_counts_every_entry_and_survives_a_restart_in_order() {
    let world = World::new(FaultyFs::new());
    let (incidents, thread) = world.start();
    incidents.report(breaker(Breaker::Open));
    // Counted from the next position on.
    until(|| world.ledger.read(1, |_| 0).is_some());
    for position in 1..=10 {
        world.accept(position);
    }
    world.apply(1);
    let sums = incidents.get(1).unwrap().head.sums.unwrap();
    assert_eq!((sums.accepted, sums.applied, sums.pending), (10, 1, 9));
    assert!(sums.is_balanced());
    thread.stop();

    // What waited is found in the journal again.
    let again = World::new(world.fs.restart(Survivors::Synced));
    for position in 2..=10 {
        again.sites.restore(&Site::new("acme")).lane.lock().restore(position, position, 0, 100, None);
    }
    let (incidents, thread) = again.start();
    let head = incidents.get(1).unwrap().head;
    assert_eq!((head.state, head.sums.unwrap().pending), (State::CatchingUp, 9));
    for position in 2..=10 {
        again.apply(position);
    }
    until(|| incidents.get(1).unwrap().head.settled);
    let head = incidents.list().remove(0);
    let sums = head.sums.unwrap();
    assert_eq!((head.state, sums.accepted, sums.applied, sums.pending), (State::Resolved, 10, 10, 0));
    assert!(sums.is_balanced());
    assert_eq!(incidents.open(), 0);
    thread.stop();
}

#[test]
fn a_disk_that_takes_nothing_keeps_nobody_from_starting() {
    let fs = FaultyFs::new();
    fs.break_writes(crate::fs::Fault::Eio);
    let world = World::new(fs);
    let (incidents, thread) = world.start();
    incidents.report(breaker(Breaker::Open));
    until(|| incidents.open() == 1);
    thread.stop();
}

#[test]
fn after_a_kill_the_sum_is_right_again() {
    let before = Sums { accepted: 10, applied: 4, refused: 1, pending: 5, last: 10, ..Sums::default() };
    // Three more had been accepted, two more ended, one that had ended will end again.
    for (waiting, unseen) in [(5, 0), (6, 3), (11, 3), (0, 0), (13, 3), (20, 3)] {
        let sums = carry(before, waiting, unseen);
        assert!(sums.is_balanced(), "{sums:?}");
        assert_eq!((sums.accepted.max(waiting), sums.pending), (sums.accepted, waiting));
    }
    assert_eq!(carry(before, 5, 0), before);
}
