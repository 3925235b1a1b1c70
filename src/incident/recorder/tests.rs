//! Grouping and times, by hand and at random.

use std::cell::Cell;

use proptest::prelude::*;

use super::super::event::{Breaker, Evidence, JournalLevel, Operation, Rule};
use super::super::record::{KEPT_FIRST, KEPT_LAST};
use super::*;

/// A node of which the test says what waits.
#[derive(Default)]
struct Node {
    durable: u64,
    oldest: Option<u64>,
    waiting: u64,
    sums: Cell<Option<Sums>>,
}

impl Backlog for Node {
    fn durable(&self) -> u64 {
        self.durable
    }

    fn oldest_waiting(&self, _: &[Scope]) -> Option<u64> {
        self.oldest
    }

    fn waiting(&self, _: &[Scope]) -> u64 {
        self.waiting
    }

    fn sums(&self, _: u64) -> Option<(Sums, Coverage)> {
        self.sums.get().map(|sums| (sums, Coverage::default()))
    }
}

fn at(millis: u64) -> EventTime {
    EventTime(1_000_000_000_000 + millis * 1_000_000)
}

fn of(site: Option<&str>) -> Scope {
    Scope { operation: Some(Operation::Apply), site: site.map(Site::new) }
}

fn breaker(scope: Scope, to: Breaker) -> Transition {
    let evidence = Evidence {
        rule: (to == Breaker::Open).then_some(Rule::Stall),
        since: Duration::from_millis(750),
        ..Evidence::default()
    };
    Transition { scope, change: Change::Breaker(to), message: format!("{to:?}"), evidence: Some(evidence) }
}

fn other(scope: Scope, change: Change) -> Transition {
    Transition { scope, change, message: format!("{change:?}"), evidence: None }
}

#[test]
fn a_stall_is_detected_mitigated_probed_caught_up_and_resolved() {
    let (mut recorder, mut node) = (Recorder::default(), Node { durable: 100, ..Node::default() });
    recorder.apply(at(0), &breaker(of(None), Breaker::Open));
    node.waiting = 40;
    recorder.tick(at(100), &node);
    recorder.apply(at(1000), &breaker(of(None), Breaker::HalfOpen));
    assert_eq!(recorder.get(1).unwrap().head.state, State::Probing);
    recorder.apply(at(1500), &breaker(of(None), Breaker::Open));
    assert_eq!(recorder.get(1).unwrap().head.state, State::Mitigated);
    recorder.apply(at(4000), &breaker(of(None), Breaker::HalfOpen));
    recorder.apply(at(4100), &breaker(of(None), Breaker::Recovering));
    recorder.apply(at(5000), &breaker(of(None), Breaker::Closed));
    (node.durable, node.oldest) = (200, Some(150));
    recorder.tick(at(5100), &node);
    assert_eq!(recorder.get(1).unwrap().head.state, State::CatchingUp);
    // Younger entries may wait: what counts is what was there when the trouble was over.
    (node.oldest, node.waiting) = (Some(201), 3);
    let effects = recorder.tick(at(6000), &node);
    assert!(effects.contains(&Effect::End(1)));
    let incident = recorder.get(1).unwrap();
    let head = &incident.head;
    assert_eq!(head.title, "Writes to the store stalled");
    assert_eq!((head.state, head.peak_pending), (State::Resolved, 40));
    assert_eq!(head.time_to_detect(), Duration::from_millis(750));
    assert_eq!(head.time_to_mitigate(), Some(Duration::from_millis(750)));
    assert_eq!(head.time_to_resolve(), Some(Duration::from_millis(6750)));
    assert_eq!(incident.events.len(), 7);
    // The sums are followed until nothing waits.
    node.sums.set(Some(Sums { accepted: 9, applied: 8, pending: 1, ..Sums::default() }));
    assert_eq!(recorder.tick(at(6100), &node), []);
    node.sums.set(Some(Sums { accepted: 9, applied: 9, ..Sums::default() }));
    assert_eq!(recorder.tick(at(6200), &node)[0], Effect::Forget(1));
    assert!(recorder.get(1).unwrap().head.sums.unwrap().is_balanced());
    assert_eq!(recorder.tick(at(6300), &node), []);
}

#[test]
fn what_is_no_trouble_opens_no_incident_but_joins_one() {
    let mut recorder = Recorder::default();
    let harmless = [
        other(Scope::default(), Change::Hold),
        other(Scope::default(), Change::Journal(JournalLevel::Filling)),
        breaker(of(None), Breaker::Recovering),
        breaker(of(None), Breaker::Closed),
        other(of(Some("a")), Change::Parked(0)),
    ];
    for transition in &harmless {
        assert_eq!(recorder.apply(at(0), transition), []);
    }
    let mut forced = breaker(of(None), Breaker::Open);
    forced.evidence = Some(Evidence { rule: Some(Rule::Forced), ..Evidence::default() });
    assert_eq!(recorder.apply(at(0), &forced), []);
    recorder.apply(at(1), &breaker(of(Some("a")), Breaker::Open));
    recorder.apply(at(2), &harmless[0]);
    assert_eq!(recorder.get(1).unwrap().events.len(), 2);
    // A hold of another site is not its concern.
    recorder.apply(at(3), &other(of(Some("b")), Change::Hold));
    assert_eq!(recorder.get(1).unwrap().events.len(), 2);
}

#[test]
fn sites_have_incidents_of_their_own_until_the_store_trips() {
    let mut recorder = Recorder::default();
    recorder.apply(at(0), &breaker(of(Some("a")), Breaker::Open));
    recorder.apply(at(10), &breaker(of(Some("b")), Breaker::Open));
    recorder.apply(at(20), &breaker(Scope::store(Operation::Load), Breaker::Open));
    assert_eq!(recorder.open(), 3);
    let effects = recorder.apply(at(30), &breaker(of(None), Breaker::Open));
    assert!(effects.contains(&Effect::Merge { from: 2, into: 1 }));
    assert_eq!(recorder.open(), 2);
    assert_eq!(recorder.get(2).unwrap().head.number, 1);
    assert_eq!(recorder.get(1).unwrap().head.title, "Writes to the store stalled");
    // The journal concerns all.
    recorder.apply(at(40), &other(Scope::default(), Change::Journal(JournalLevel::Stalled)));
    assert_eq!((recorder.open(), recorder.get(3).unwrap().head.number), (1, 1));
}

#[test]
fn commits_and_loads_of_the_applier_that_fail_together_are_one_incident_until_both_are_well() {
    let (mut recorder, node) = (Recorder::default(), Node::default());
    let loads = |to| Transition { change: Change::LoadBreaker(to), ..breaker(of(None), to) };
    recorder.apply(at(0), &loads(Breaker::Open));
    recorder.apply(at(50), &breaker(of(None), Breaker::Open));
    assert_eq!(recorder.open(), 1);
    // The loads are well first: the commits are not.
    for to in [Breaker::HalfOpen, Breaker::Recovering, Breaker::Closed] {
        recorder.apply(at(2_000), &loads(to));
    }
    recorder.tick(at(2_100), &node);
    assert_eq!(recorder.get(1).unwrap().head.state, State::Mitigated);
    recorder.apply(at(3_000), &breaker(of(None), Breaker::Open));
    recorder.apply(at(4_000), &breaker(of(None), Breaker::Closed));
    recorder.tick(at(4_100), &node);
    let incident = recorder.get(1).unwrap();
    assert!(incident.head.is_resolved());
    assert_eq!((incident.head.title.as_str(), recorder.numbered()), ("Writes to the store stalled", 1));
}

#[test]
fn what_the_store_said_is_kept_across_a_restart() {
    let mut recorder = Recorder::default();
    let mut failed = breaker(of(None), Breaker::Open);
    if let Some(evidence) = &mut failed.evidence {
        evidence.rule = Some(Rule::StoreFailed);
        evidence.last_error = "store: no space left on device".to_owned();
    }
    let mut written: Vec<Record> = Vec::new();
    for transition in [failed, breaker(of(None), Breaker::HalfOpen)] {
        let effects = recorder.apply(at(0), &transition).into_iter();
        written.extend(effects.filter_map(|effect| match effect {
            Effect::Save(record) => Some(record),
            _ => None,
        }));
    }
    for records in [written, recorder.records().collect()] {
        let mut again = Recorder::default();
        for record in records {
            again.restore(postcard::from_bytes(&postcard::to_stdvec(&record).unwrap()).unwrap());
        }
        assert_eq!(again.get(1), recorder.get(1));
        let first = again.get(1).unwrap().events[0].evidence.clone().unwrap();
        assert_eq!(first.last_error, "store: no space left on device");
    }
}

#[test]
fn a_timeline_keeps_its_beginning_and_its_end() {
    let mut recorder = Recorder::default();
    for n in 0..2000 {
        let to = if n % 2 == 0 { Breaker::Open } else { Breaker::HalfOpen };
        recorder.apply(at(n), &breaker(of(None), to));
    }
    let incident = recorder.get(1).unwrap();
    assert_eq!(incident.events.len(), KEPT_FIRST + KEPT_LAST);
    assert_eq!(incident.head.omitted, 1000);
    assert_eq!((incident.events[0].at, incident.events.back().unwrap().at), (at(0), at(1999)));
}

#[test]
fn open_ones_are_bounded_and_old_ones_go() {
    let (mut recorder, node) = (Recorder::default(), Node::default());
    for n in 0..=MAX_OPEN as u64 {
        let site = format!("s{n}");
        let effects = recorder.apply(at(n), &breaker(of(Some(&site)), Breaker::Open));
        assert_eq!(effects == [Effect::NotRecorded], n == MAX_OPEN as u64);
    }
    for n in 0..MAX_INCIDENTS as u64 + 10 {
        recorder.apply(at(1000 + n), &breaker(of(Some("s")), Breaker::Closed));
        for m in 0..MAX_OPEN {
            let site = format!("s{m}");
            recorder.apply(at(1000 + n), &breaker(of(Some(&site)), Breaker::Closed));
        }
        recorder.tick(at(1000 + n), &node);
        recorder.apply(at(1000 + n), &breaker(of(Some("s")), Breaker::Open));
    }
    assert_eq!(recorder.all().count(), MAX_INCIDENTS);
    assert_eq!(recorder.numbered(), MAX_OPEN as u64 + MAX_INCIDENTS as u64 + 10);
}

#[test]
fn a_restart_goes_on_with_what_was_open() {
    let mut recorder = Recorder::default();
    recorder.apply(at(0), &breaker(of(None), Breaker::Open));
    let mut again = Recorder::default();
    for record in recorder.records() {
        again.restore(record);
    }
    assert_eq!(again.get(1), recorder.get(1));
    again.restarted(at(100));
    assert_eq!(again.get(1).unwrap().head.state, State::CatchingUp);
    again.tick(at(200), &Node::default());
    assert!(again.get(1).unwrap().head.is_resolved());
    again.apply(at(300), &breaker(of(None), Breaker::Open));
    assert_eq!(again.numbered(), 2);
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        1 => Just(Scope::default()),
        2 => Just(of(None)),
        1 => Just(Scope::store(Operation::Load)),
        6 => (0..5_u8).prop_map(|n| of(Some(&format!("s{n}")))),
    ]
}

fn transition() -> impl Strategy<Value = Transition> {
    let breakers = [Breaker::Open, Breaker::HalfOpen, Breaker::Recovering, Breaker::Closed];
    prop_oneof![
        8 => (scope(), proptest::sample::select(breakers.to_vec())).prop_map(|(s, to)| breaker(s, to)),
        1 => scope().prop_map(|scope| other(scope, Change::Hold)),
        1 => proptest::bool::ANY.prop_map(|stalled| {
            let level = if stalled { JournalLevel::Stalled } else { JournalLevel::Normal };
            other(Scope::default(), Change::Journal(level))
        }),
        1 => proptest::bool::ANY.prop_map(|begun| {
            let change = if begun { Change::RebuildStarted } else { Change::RebuildFinished };
            other(Scope::default(), change)
        }),
    ]
}

proptest! {
    /// Whatever happens: open incidents never overlap in scope, all trouble is in one, and what is written down
    /// says it all.
    #[test]
    fn grouping(steps in proptest::collection::vec((transition(), proptest::bool::ANY), 1..80)) {
        let (mut recorder, node) = (Recorder::default(), Node::default());
        let mut written: Vec<Record> = Vec::new();
        let saved = |effect| match effect {
            Effect::Save(record) => Some(record),
            _ => None,
        };
        for (n, (transition, tick)) in (0..).zip(&steps) {
            written.extend(recorder.apply(at(n), transition).into_iter().filter_map(saved));
            let open: Vec<&Incident> = recorder.all().filter(|i| !i.head.is_resolved()).collect();
            for (n, a) in open.iter().enumerate() {
                for b in &open[n + 1..] {
                    let apart = a.head.scopes.iter().all(|scope| !b.head.concerns(scope));
                    prop_assert!(apart, "{:?} and {:?}", a.head.scopes, b.head.scopes);
                }
            }
            if opens(transition) {
                let in_one = open.iter().filter(|i| i.head.concerns(&transition.scope)).count();
                prop_assert_eq!(in_one, 1);
            }
            if *tick {
                written.extend(recorder.tick(at(n), &node).into_iter().filter_map(saved));
            }
            for incident in recorder.all() {
                let head = &incident.head;
                prop_assert!(head.started_at <= head.detected_at);
                prop_assert!(head.mitigated_at.is_none_or(|at| at >= head.detected_at));
                prop_assert!(incident.events.iter().is_sorted_by_key(|event| event.at));
            }
        }
        let mut again = Recorder::default();
        for record in written {
            // As through the file.
            again.restore(postcard::from_bytes(&postcard::to_stdvec(&record).unwrap()).unwrap());
        }
        for incident in recorder.all().filter(|incident| incident.head.settled || !incident.head.is_resolved()) {
            let other = again.get(incident.head.number).unwrap();
            prop_assert_eq!(&other.events, &incident.events);
            prop_assert_eq!(other.head.state, incident.head.state);
            prop_assert_eq!(&other.head.conditions, &incident.head.conditions);
        }
        prop_assert_eq!(again.numbered(), recorder.numbered());
    }
}
