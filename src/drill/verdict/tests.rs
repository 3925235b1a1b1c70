use prost_types::Timestamp;

use super::super::book::Checked;
use super::super::operator::Look;
use super::super::scenario::Scenario;
use super::*;
use crate::proto::{
    BreakerOperation, BreakerScope, BreakerState, Incident, IncidentAccounts, IncidentEvent,
    IncidentEventKind,
};

/// The fault strikes after 10 s.
const STRUCK: u64 = 10_000;

fn sample(at: u64, took: u64, kind: Kind, answer: Answer) -> Sample {
    let (at, took) = (Duration::from_millis(at), Duration::from_millis(took));
    Sample { at, took, kind, site: 1, user: 1, answer }
}

/// 20 s in which every write after 10 s is deferred, and nothing else happens.
fn hang() -> Vec<Sample> {
    let each = (0..4000).flat_map(|n| {
        let at = n * 5;
        let write = if at >= STRUCK { (255, Answer::Deferred) } else { (2, Answer::Done) };
        [
            sample(at, write.0, Kind::Write, write.1),
            sample(at, 2, Kind::Read, Answer::Done),
            sample(at, 2, Kind::ControlWrite, Answer::Done),
            sample(at, 1, Kind::ControlRead, Answer::Done),
        ]
    });
    each.collect()
}

/// One about the breaker for writes of `site`, detected so many ms after the fault.
fn incident(site: &str, detected: i64) -> Incident {
    let millis = 10_000 + detected;
    let at = Timestamp { seconds: 100 + millis / 1000, nanos: (millis % 1000 * 1_000_000) as i32 };
    Incident {
        started_at: Some(at),
        detected_at: Some(at),
        resolved_at: Some(Timestamp { seconds: 120, nanos: 0 }),
        accounts: Some(IncidentAccounts { balanced: true, ..IncidentAccounts::default() }),
        events: vec![IncidentEvent {
            kind: IncidentEventKind::Breaker.into(),
            scope: Some(BreakerScope { operation: BreakerOperation::Apply.into(), site: site.to_owned() }),
            breaker_state: BreakerState::Open.into(),
            ..IncidentEvent::default()
        }],
        ..Incident::default()
    }
}

fn facts<'a>(
    scenario: Scenario,
    samples: &'a [Sample],
    incidents: &'a [Incident],
    looks: &'a [Look],
) -> Facts<'a> {
    Facts {
        expected: scenario.expected(),
        samples,
        began: 100_000_000_000,
        healthy_until: Duration::from_millis(STRUCK),
        trouble: (Duration::from_millis(STRUCK), Duration::from_secs(20)),
        struck_at: Some(Duration::from_millis(STRUCK)),
        incidents,
        checked: Checked::default(),
        caught_up: true,
        looks,
        looks_failed: 0,
        deadline: Duration::from_millis(500),
    }
}

const LOOK: Look =
    Look { at: Duration::ZERO, took: Duration::ZERO, pending: 0, state: None, cpu: Duration::ZERO };

/// The promises that are judged so.
fn judged(facts: &Facts<'_>, wanted: Judgement) -> Vec<&'static str> {
    let all = verdicts(facts).into_iter();
    all.filter(|verdict| verdict.judged == wanted).map(|verdict| verdict.promise).collect()
}

fn broken(scenario: Scenario, samples: &[Sample], incidents: &[Incident]) -> Vec<&'static str> {
    judged(&facts(scenario, samples, incidents, &[LOOK]), Judgement::Broken)
}

const KEPT: &str = "Accepted means kept";
const WAITS: &str = "No write waits for a sick store";
const AGE: &str = "Trouble is judged by the age of calls";
const SCOPE: &str = "The smallest scope gives way";
const READS: &str = "Sick writes leave reads alone";
const OPERATORS: &str = "Operators are answered whatever hangs";
const NONE: [&str; 0] = [];

#[test]
fn a_hang_that_is_a_non_event_breaks_nothing() {
    let (samples, incidents) = (hang(), [incident("", 800)]);
    let facts = facts(Scenario::Hang, &samples, &incidents, &[LOOK]);
    assert_eq!(judged(&facts, Judgement::Kept).len(), 7);
    let figures = facts.figures();
    assert!((figures.detected.unwrap() - 0.8).abs() < 1e-9, "{figures:?}");
    assert_eq!((figures.deferred, figures.refused, figures.neighbours), (2000, 0, None));
}

#[test]
fn what_is_lost_or_does_not_add_up_breaks_the_first_promise() {
    let samples = hang();
    let mut unbalanced = incident("", 800);
    unbalanced.accounts = Some(IncidentAccounts::default());
    assert_eq!(broken(Scenario::Hang, &samples, &[unbalanced]), [KEPT]);
    let incidents = [incident("", 800)];
    for checked in [
        Checked { lost: 1, ..Checked::default() },
        Checked { extra: 1, ..Checked::default() },
        Checked { wrong: 1, ..Checked::default() },
    ] {
        let facts = Facts { checked, ..facts(Scenario::Hang, &samples, &incidents, &[LOOK]) };
        assert_eq!(judged(&facts, Judgement::Broken), [KEPT]);
    }
}

#[test]
fn late_wrong_and_missing_alarms_break_the_third() {
    let samples = hang();
    assert_eq!(broken(Scenario::Hang, &samples, &[]), [AGE]);
    assert_eq!(broken(Scenario::Hang, &samples, &[incident("", 1010)]), [AGE]);
    // Before the fault is early only where there were signs of it.
    assert_eq!(broken(Scenario::Hang, &samples, &[incident("", -100)]), [AGE]);
    assert_eq!(broken(Scenario::Outage, &samples, &[incident("", -100)]), NONE);
    // One that was over before is another one, and one about something else does not count.
    let mut earlier = incident("", -5000);
    earlier.resolved_at = Some(Timestamp { seconds: 107, nanos: 0 });
    assert_eq!(broken(Scenario::Hang, &samples, &[earlier, incident("", 800)]), NONE);
    let journal = Incident { events: Vec::new(), ..incident("", 800) };
    assert_eq!(broken(Scenario::Hang, &samples, std::slice::from_ref(&journal)), [AGE]);
    // Without a fault nothing may open, and what the journal's disk does by itself is no breaker's fault.
    assert_eq!(broken(Scenario::StallsNoFault, &samples, &[incident("", 800)]), [AGE, SCOPE]);
    assert_eq!(broken(Scenario::StallsNoFault, &samples, &[journal]), NONE);
}

#[test]
fn neighbours_that_suffer_break_the_fourth() {
    let mut samples = hang();
    // They were deferred, and slow.
    assert_eq!(broken(Scenario::SlowSite, &samples, &[incident("site-0", 800)]), [SCOPE]);
    for sample in &mut samples {
        sample.took = sample.took.min(Duration::from_millis(2));
        sample.answer = Answer::Done;
    }
    assert_eq!(broken(Scenario::SlowSite, &samples, &[incident("site-0", 800)]), NONE);
    let both = [incident("site-0", 800), incident("", 900)];
    assert_eq!(broken(Scenario::SlowSite, &samples, &both), [SCOPE]);
}

#[test]
fn refused_late_and_slow_calls_are_seen() {
    let wrong = |sample: Sample| {
        let mut samples = hang();
        samples.push(sample);
        broken(Scenario::Hang, &samples, &[incident("", 800)])
    };
    let write = |took, answer| sample(12_000, took, Kind::Write, answer);
    assert_eq!(wrong(write(1, Answer::Refused("OVERLOADED"))), [WAITS, SCOPE]);
    assert_eq!(wrong(write(500, Answer::Unanswered)), [WAITS]);
    assert_eq!(wrong(write(501, Answer::Deferred)), [WAITS]);
    assert_eq!(wrong(sample(12_000, 1, Kind::Read, Answer::Refused("BREAKER_OPEN"))), [READS]);
    let mut samples = hang();
    for sample in samples.iter_mut().filter(|sample| sample.kind == Kind::Read).skip(2000).step_by(20) {
        sample.took *= 2;
    }
    assert_eq!(broken(Scenario::Hang, &samples, &[incident("", 800)]), [READS]);
}

#[test]
fn a_machine_that_stands_still_is_not_the_products_fault_but_said() {
    let mut samples = hang();
    // Nothing moved for 600 ms, not even the control.
    for sample in &mut samples {
        if (10_400..11_000).contains(&sample.at.as_millis()) {
            sample.took = sample.took.max(Duration::from_secs(11).saturating_sub(sample.at));
        }
    }
    let slow_look = Look { took: Duration::from_millis(90), ..LOOK };
    let incidents = [incident("", 1100)];
    let facts = facts(Scenario::Hang, &samples, &incidents, std::slice::from_ref(&slow_look));
    assert_eq!(judged(&facts, Judgement::Broken), NONE);
    let unclear = judged(&facts, Judgement::Unclear);
    for promise in [WAITS, AGE, READS, OPERATORS] {
        assert!(unclear.contains(&promise), "{promise}: {:?}", verdicts(&facts));
    }
    // The same without the control's word for it.
    samples.iter_mut().filter(|sample| sample.kind.is_control()).for_each(|sample| {
        sample.took = Duration::from_millis(1);
    });
    let broken = judged(&self::facts(Scenario::Hang, &samples, &incidents, &[slow_look]), Judgement::Broken);
    assert_eq!(broken, [WAITS, AGE, READS, OPERATORS]);
}
