use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::hold::{Expiry, Mode};
use super::super::scope::Scope;
use super::*;
use crate::fs::{FaultyFs, RealFs};

const DIR: &str = "/control";
const LOG: &str = "/control/audit.log";

fn hold(number: u64, reason: &str) -> Hold {
    Hold {
        id: HoldId(number),
        scope: Scope::ALL_WRITES,
        mode: Mode::Defer,
        reason: reason.to_owned(),
        owner: "ann".into(),
        ticket: String::new(),
        created_at: EventTime::MIN,
        expiry: Some(Expiry::after(Duration::from_hours(1), EventTime::MIN)),
        version: 1,
    }
}

fn event(number: u64, kind: EventKind, hold: Hold) -> Event {
    let (owner, reason) = (hold.owner.clone(), hold.reason.clone());
    Event { number, at: EventTime::MIN, kind, owner, reason, subject: Subject::Hold(hold) }
}

fn open(fs: &FaultyFs) -> (AuditLog, Found) {
    AuditLog::open(Arc::new(fs.clone()), Path::new(DIR)).unwrap()
}

/// Two holds in the state, one past event, then: one more hold, the first released, the second extended.
fn written(fs: &FaultyFs) -> State {
    let (mut log, found) = open(fs);
    assert!(matches!(found, Found::Fresh));
    let mut state = State {
        holds: vec![hold(1, "first"), hold(2, "second")],
        overrides: Vec::new(),
        last_hold: 2,
        last_event: 2,
    };
    let past = [event(2, EventKind::Placed, hold(2, "second"))];
    log.rewrite(&state, past.iter()).unwrap();
    let long = "three ".repeat(150);
    let changes = [
        event(3, EventKind::Placed, hold(3, &long)),
        event(4, EventKind::Released, hold(1, "first")),
        event(5, EventKind::Extended, Hold { version: 2, expiry: None, ..hold(2, "second") }),
    ];
    for event in &changes {
        log.append(event).unwrap();
        state.fold(event);
    }
    assert_eq!(state.holds.iter().map(|hold| hold.id.0).collect::<Vec<_>>(), [2, 3]);
    state
}

#[test]
fn what_was_written_is_read_from_a_real_disk_too() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control");
    let (mut log, found) = AuditLog::open(Arc::new(RealFs), &control).unwrap();
    assert!(matches!(found, Found::Fresh));
    assert!(matches!(AuditLog::open(Arc::new(RealFs), &control), Err(AuditError::InUse { .. })));
    let state = State { holds: vec![hold(1, "one")], last_hold: 1, last_event: 1, ..State::default() };
    log.rewrite(&state, std::iter::empty()).unwrap();
    log.append(&event(2, EventKind::Placed, hold(2, "two"))).unwrap();
    drop(log);
    let (_, found) = AuditLog::open(Arc::new(RealFs), &control).unwrap();
    let Found::Log { state, events, torn } = found else { panic!("{found:?}") };
    assert_eq!((state.holds.len(), state.last_hold, events.len(), torn), (2, 2, 1, false));
}

#[test]
fn a_flipped_byte_anywhere_never_loses_a_hold() {
    let fs = FaultyFs::new();
    let state = written(&fs);
    let length = fs.content(Path::new(LOG)).unwrap().len();
    for at in 0..length {
        for mask in [0x01, 0x80, 0xff] {
            fs.flip(Path::new(LOG), at, mask);
            match open(&fs).1 {
                Found::Unreadable { last_hold, .. } => assert!(last_hold > 3, "byte {at}"),
                Found::Log { state: found, .. } => assert_eq!(found, state, "byte {at}"),
                Found::Fresh => panic!("byte {at}: nothing was found"),
            }
            fs.flip(Path::new(LOG), at, mask);
        }
    }
}

#[test]
fn a_torn_end_is_cut_and_kept_whatever_of_it_was_written() {
    let fs = FaultyFs::new();
    written(&fs);
    let whole = fs.content(Path::new(LOG)).unwrap();
    // The third event, of one block, and before it one of three.
    let state_without = |events: usize| {
        let fs = FaultyFs::new();
        fs.set_content(Path::new(LOG), whole[..whole.len() - 512 * events].to_vec());
        let Found::Log { state, torn: false, .. } = open(&fs).1 else { panic!("cut at a record") };
        state
    };
    let before_last = state_without(1);
    let last = whole.len() - 512;
    for length in last + 1..whole.len() {
        let fs = FaultyFs::new();
        fs.set_content(Path::new(LOG), whole[..length].to_vec());
        let Found::Log { state, torn, .. } = open(&fs).1 else { panic!("length {length}") };
        assert_eq!((state, torn), (before_last.clone(), true), "length {length}");
        assert_eq!(fs.content(Path::new("/control/audit.torn")).unwrap(), whole[last..length]);
    }
    // A block that never reached the disk.
    let fs = FaultyFs::new();
    let mut zeroed = whole.clone();
    zeroed[last..].fill(0);
    fs.set_content(Path::new(LOG), zeroed);
    assert!(matches!(open(&fs).1, Found::Log { torn: true, state, .. } if state == before_last));
    // The same in front of a record that is whole is damage.
    let fs = FaultyFs::new();
    let mut zeroed = whole.clone();
    zeroed[last - 512..last].fill(0);
    fs.set_content(Path::new(LOG), zeroed);
    assert!(matches!(open(&fs).1, Found::Unreadable { .. }));
}

#[test]
fn any_length_is_read_without_losing_more_than_the_end() {
    let fs = FaultyFs::new();
    written(&fs);
    let whole = fs.content(Path::new(LOG)).unwrap();
    for length in 0..whole.len() {
        let fs = FaultyFs::new();
        fs.set_content(Path::new(LOG), whole[..length].to_vec());
        match open(&fs).1 {
            // The state, which was whole before the file had its name, and the past event.
            Found::Unreadable { .. } => assert!(length < 2_048, "{length}"),
            Found::Log { state, .. } => assert!(!state.holds.is_empty(), "{length}"),
            Found::Fresh => panic!("{length}"),
        }
    }
}

#[test]
fn a_log_that_is_gone_is_missed() {
    let fs = FaultyFs::new();
    written(&fs);
    let (mut log, _) = open(&fs);
    log.set_aside().unwrap();
    drop(log);
    crate::fs::Fs::remove(&fs, Path::new(LOG)).unwrap();
    assert!(matches!(open(&fs).1, Found::Unreadable { problem, .. } if problem.contains("missing")));
}

#[test]
fn it_stays_bounded_and_keeps_the_newest_events() {
    let fs = FaultyFs::new();
    let (mut log, _) = open(&fs);
    let mut state = State::default();
    log.rewrite(&state, std::iter::empty()).unwrap();
    let mut events = Vec::new();
    let mut largest = 0;
    for number in 1..=20_000 {
        let kind = if number % 2 == 1 { EventKind::Placed } else { EventKind::Released };
        let event = event(number, kind, hold(number.div_ceil(2), "again"));
        if log.wants_rewrite() {
            log.rewrite(&state, events.iter()).unwrap();
        }
        log.append(&event).unwrap();
        state.fold(&event);
        events.push(event);
        if number % 100 == 0 {
            largest = largest.max(fs.used());
        }
    }
    assert!(largest < 8 << 20, "{largest}");
    drop(log);
    let Found::Log { state: found, events: kept, .. } = open(&fs).1 else { panic!() };
    assert_eq!(found, state);
    assert!(kept.len() > 1_000);
    assert_eq!(kept, events[events.len() - kept.len()..]);
}
