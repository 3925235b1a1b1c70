//! The page, word for word.

use super::*;

fn at(millis: i64) -> Timestamp {
    // 2020-04-10 12:00:00 UTC.
    let millis = 1_586_520_000_000 + millis;
    Timestamp { seconds: millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 }
}

fn lasting(millis: i64) -> Duration {
    Duration { seconds: millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 }
}

fn incident() -> Incident {
    let scope = BreakerScope { operation: BreakerOperation::Apply.into(), site: String::new() };
    let event = |millis, kind: IncidentEventKind, state: IncidentState, message: &str| IncidentEvent {
        at: Some(at(millis)),
        kind: kind.into(),
        state: state.into(),
        message: message.to_owned(),
        scope: Some(scope.clone()),
        ..IncidentEvent::default()
    };
    let trip = IncidentEvent {
        evidence: Some(BreakerEvidence {
            rule: TripRule::Stall.into(),
            slow: 3,
            total: 40,
            oldest_age: Some(lasting(760)),
            p99: Some(lasting(775)),
            ..BreakerEvidence::default()
        }),
        ..event(760, IncidentEventKind::Breaker, IncidentState::Mitigated, "Breaker apply opened")
    };
    Incident {
        number: 7,
        title: "Writes to the store stalled".to_owned(),
        state: IncidentState::Resolved.into(),
        scopes: vec![scope.clone()],
        started_at: Some(at(0)),
        detected_at: Some(at(760)),
        mitigated_at: Some(at(760)),
        resolved_at: Some(at(65_250)),
        time_to_detect: Some(lasting(760)),
        time_to_mitigate: Some(lasting(760)),
        time_to_resolve: Some(lasting(65_250)),
        accounts: Some(IncidentAccounts {
            accepted: 123_456,
            applied: 123_000,
            unchanged: 400,
            duplicate: 50,
            refused: 6,
            pending: 0,
            balanced: true,
            deferred: 120_000,
            writes_rejected: 0,
            reads_rejected: 0,
            first_position: Some(1001),
            last_position: Some(124_456),
        }),
        peak_pending: 98_765,
        events: vec![
            trip,
            event(30_000, IncidentEventKind::Hold, IncidentState::Mitigated, "Hold h1: |look|\nby kim"),
            event(65_250, IncidentEventKind::State, IncidentState::Resolved, "Resolved"),
        ],
        events_omitted: 0,
    }
}

#[test]
fn the_page_reads_like_a_status_page() {
    let page = "\
# Incident 7: Writes to the store stalled

**Resolved.** 2020-04-10 12:00:00.000 to 2020-04-10 12:01:05.250 UTC (1 min 5 s).

## Impact

- Affected: applying writes.
- Writes: 123,456 were accepted, 120,000 of the answers were DEFERRED: kept, and applied later; none was rejected.
- Not affected: reads.

## Times

Counted from the first evidence: when the oldest of the calls that showed it began.

| | |
|---|---|
| to detect | 760 ms |
| to mitigate: the sick part is kept from the store | 760 ms |
| to resolve: all that waited is applied | 1 min 5 s |
| most entries waiting at once | 98,765 |

## Timeline (UTC)

| time | after | what | evidence |
|---|---|---|---|
| 2020-04-10 12:00:00.000 | 0 ms | The first of the calls that showed it began | |
| 2020-04-10 12:00:00.760 | 760 ms | Breaker apply opened (mitigated) | rule: stall, slow 3 of 40, oldest call 760 ms, p99 775 ms |
| 2020-04-10 12:00:30.000 | 30.0 s | Hold h1: \\|look\\| by kim (mitigated) |  |
| 2020-04-10 12:01:05.250 | 1 min 5 s | Resolved |  |

## Was anything lost?

Every entry that the journal accepted meanwhile, positions 1001 to 124456:

| accepted | applied | unchanged | duplicate | refused | pending |
|---|---|---|---|---|---|
| 123,456 | 123,000 | 400 | 50 | 6 | 0 |

123456 = 123000 + 400 + 50 + 6 + 0. **Nothing was lost.**
";
    assert_eq!(markdown(&incident()), page);
}

#[test]
fn a_sum_that_does_not_add_up_is_said() {
    let mut incident = incident();
    incident.resolved_at = None;
    incident.state = IncidentState::CatchingUp.into();
    if let Some(accounts) = &mut incident.accounts {
        (accounts.accepted, accounts.balanced) = (123_457, false);
    }
    let page = markdown(&incident);
    assert!(page.contains("**does not add up**"), "{page}");
    assert!(page.contains("**Catching up.** Since 2020-04-10 12:00:00.000 UTC."), "{page}");
    assert!(!page.contains("Nothing was lost"));
}

#[test]
fn json_has_all_of_it() {
    let json = to_json(&incident());
    assert_eq!(json["accounts"]["accepted"], 123_456);
    assert_eq!(json["seconds_to_detect"], 0.76);
    assert_eq!(json["started_at"], "2020-04-10T12:00:00.000Z");
    assert_eq!(json["events"][0]["evidence"]["rule"], "stall");
    assert_eq!(json["events"][1]["kind"], "hold");
}

#[test]
fn hostile_incidents_make_a_page_too() {
    let mut incident =
        Incident { started_at: Some(Timestamp { seconds: i64::MAX, nanos: -5 }), ..incident() };
    incident.time_to_detect = Some(Duration { seconds: i64::MIN, nanos: i32::MIN });
    incident.events_omitted = u64::MAX;
    markdown(&incident);
    to_json(&incident);
    markdown(&Incident::default());
}
