use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::super::audit::{EventKind, Override};
use super::super::hold::Expiry;
use super::super::*;
use super::support::*;
use crate::fs::{FaultyFs, Survivors};
use crate::model::Site;

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn a_hold_is_in_force_before_it_is_durable_and_released_only_when_that_is() {
    let (fs, clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    assert!(matches!(ask(&switch, "a", Operation::Identify, 0), (Said::Pass, _)));
    let (status, persisting) = switch.place(new_hold(Some("a"), Mode::Defer), clocks.0).unwrap();
    assert_eq!((status.hold.id, status.durable), (HoldId(1), false));
    assert!(is_deferred(&switch, "a"));
    assert!(!is_deferred(&switch, "b"));
    assert!(matches!(ask(&switch, "a", Operation::Get, 0), (Said::Pass, _)));
    assert_eq!(persisted(&mut scribe, persisting), Persisted { durable: true, released: 0 });
    assert!(switch.list(clocks.0)[0].durable);

    let (_, persisting) = switch.release(HoldId(1), who(), Some(1), false, clocks.0).unwrap();
    assert!(is_deferred(&switch, "a"), "nothing of it is on disk");
    assert!(persisted(&mut scribe, persisting).durable);
    assert!(!is_deferred(&switch, "a"));
    assert_eq!(
        switch.release(HoldId(1), who(), None, false, clocks.0).unwrap_err(),
        HoldError::NotFound { id: HoldId(1) }
    );
    let kinds: Vec<_> = switch.events(None, u64::MAX, 10).iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Released, EventKind::Placed]);
}

#[test]
fn holds_survive_a_restart_and_names_are_not_used_again() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    for site in ["a", "b"] {
        let (_, persisting) = switch.place(new_hold(Some(site), Mode::Reject), clocks.0).unwrap();
        assert!(persisted(&mut scribe, persisting).durable);
    }
    let (_, persisting) = switch.release(HoldId(2), who(), None, false, clocks.0).unwrap();
    assert!(persisted(&mut scribe, persisting).durable);
    let now = clocks.pass(MINUTE);
    let (switch, mut scribe) = open(&fs.restart(Survivors::Synced), now);
    assert_eq!(names(&switch, now), ["hold-1"]);
    assert_eq!(switch.list(now)[0].time_left, Some(59 * MINUTE));
    assert!(matches!(ask(&switch, "a", Operation::Delete, 0), (Said::Refuse, _)));
    let (status, persisting) = switch.place(new_hold(None, Mode::Defer), now).unwrap();
    assert_eq!(status.hold.id, HoldId(3));
    assert!(persisted(&mut scribe, persisting).durable);
    assert_eq!(switch.events(None, u64::MAX, 10).len(), 4);
    assert_eq!(switch.events(Some(HoldId(1)), u64::MAX, 10).len(), 1);
    assert_eq!(switch.events(None, 3, 1)[0].number, 2, "the newest before the third");
}

#[test]
fn a_hold_ends_by_the_clock_that_nobody_sets() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    let resumed: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&resumed);
    switch.on_resumed(Box::new(move |scope, before, after| {
        let site = Site::new("a");
        assert!(before.deferral(&site).is_some());
        assert!(after.deferral(&site).is_none());
        heard.lock().push(scope.to_string());
        7
    }));
    drop(switch.place(new_hold(Some("a"), Mode::Defer), clocks.0).unwrap());
    // The wall clock jumps a year ahead, then two back.
    clocks.0.wall = clocks.0.wall.plus(365 * 24 * 60 * MINUTE);
    switch.tick(clocks.pass(49 * MINUTE));
    assert_eq!(names(&switch, clocks.0), ["hold-1"]);
    clocks.0.wall = clocks.0.wall.minus(730 * 24 * 60 * MINUTE);
    switch.tick(clocks.pass(2 * MINUTE));
    while scribe.step() {}
    assert_eq!(switch.events(None, u64::MAX, 1)[0].kind, EventKind::Expiring, "9 minutes are left");
    switch.tick(clocks.pass(8 * MINUTE));
    assert!(is_deferred(&switch, "a"));
    switch.tick(clocks.pass(MINUTE));
    assert!(!is_deferred(&switch, "a"));
    while scribe.step() {}
    let kinds: Vec<_> = switch.events(None, u64::MAX, 9).iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Expired, EventKind::Expiring, EventKind::Placed]);
    assert_eq!(*resumed.lock(), ["site a, IDENTIFY+DELETE"]);
}

#[test]
fn across_a_restart_the_wall_clock_counts_and_never_adds() {
    for (jump, left) in [(30 * MINUTE, Some(30 * MINUTE)), (61 * MINUTE, None)] {
        let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
        let (switch, mut scribe) = open(&fs, clocks.0);
        let (_, persisting) = switch.place(new_hold(None, Mode::Defer), clocks.0).unwrap();
        assert!(persisted(&mut scribe, persisting).durable);
        let fs = fs.restart(Survivors::Synced);
        let now = clocks.pass(jump);
        let (switch, _scribe) = open(&fs, now);
        let found = switch.list(now);
        assert_eq!(found.first().and_then(|status| status.time_left), left);
        if left.is_none() {
            assert_eq!(switch.events(None, u64::MAX, 1)[0].kind, EventKind::Expired);
        }
    }
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    let (_, persisting) = switch.place(new_hold(None, Mode::Defer), clocks.0).unwrap();
    assert!(persisted(&mut scribe, persisting).durable);
    clocks.0.wall = clocks.0.wall.minus(1_000 * MINUTE);
    let (switch, _scribe) = open(&fs.restart(Survivors::Synced), clocks.0);
    assert_eq!(switch.list(clocks.0)[0].time_left, Some(60 * MINUTE), "a clock set back gives no more");
}

#[test]
fn extending_counts_from_now_and_minds_the_version() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    drop(switch.place(new_hold(None, Mode::Defer), clocks.0).unwrap());
    let now = clocks.pass(50 * MINUTE);
    let (status, persisting) =
        switch.extend(HoldId(1), Lasting::For(20 * MINUTE), who(), Some(1), now).unwrap();
    assert_eq!((status.hold.version, status.time_left, status.durable), (2, Some(20 * MINUTE), false));
    assert!(persisted(&mut scribe, persisting).durable);
    assert!(switch.list(now)[0].durable);
    let again = switch.extend(HoldId(1), Lasting::Never, who(), Some(1), now).unwrap_err();
    assert_eq!(again, HoldError::VersionMismatch { id: HoldId(1), current: 2 });
    switch.tick(clocks.pass(19 * MINUTE));
    assert!(is_deferred(&switch, "a"));
    switch.tick(clocks.pass(MINUTE));
    assert!(!is_deferred(&switch, "a"));
}

#[test]
fn what_is_extended_after_its_release_was_asked_for_does_not_come_back() {
    let (fs, clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    drop(switch.place(new_hold(None, Mode::Defer), clocks.0).unwrap());
    let (_, released) = switch.release(HoldId(1), who(), None, false, clocks.0).unwrap();
    let (_, twice) = switch.release(HoldId(1), who(), None, false, clocks.0).unwrap();
    let (_, extended) = switch.extend(HoldId(1), Lasting::Never, who(), None, clocks.0).unwrap();
    assert!(!persisted(&mut scribe, extended).durable);
    assert!(released.now().unwrap().durable && twice.now().unwrap().durable);
    let (switch, _scribe) = open(&fs.restart(Survivors::Synced), clocks.0);
    assert_eq!(names(&switch, clocks.0), Vec::<String>::new());
}

#[test]
fn there_is_a_limit_and_a_full_queue_only_costs_durability() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    for _ in 0..1_000 {
        drop(switch.place(new_hold(Some("a"), Mode::Observe), clocks.0).unwrap());
    }
    let full = switch.place(new_hold(None, Mode::Defer), clocks.0).unwrap_err();
    assert_eq!(full, HoldError::TooMany { limit: 1_000 });
    // The disk hangs; more is ordered than waits.
    for _ in 0..100 {
        drop(switch.extend(HoldId(5), Lasting::Never, who(), None, clocks.0).unwrap());
    }
    let last = switch.status(HoldId(5), clocks.0).unwrap();
    assert_eq!((last.hold.version, last.hold.expiry, last.durable), (101, None, false));
    while scribe.step() {}
    switch.tick(clocks.pass(2 * MINUTE));
    while scribe.step() {}
    assert!(switch.list(clocks.0).iter().all(|status| status.durable), "written anew");
    let (switch, _scribe) = open(&fs.restart(Survivors::Synced), clocks.0);
    assert_eq!(switch.status(HoldId(5), clocks.0).unwrap().hold.version, 101);
}

#[test]
fn an_unreadable_log_defers_everything_until_an_operator_gives_it_up() {
    let (fs, clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    let (_, persisting) = switch.place(new_hold(Some("a"), Mode::Reject), clocks.0).unwrap();
    assert!(persisted(&mut scribe, persisting).durable);
    let fs = fs.restart(Survivors::Synced);
    fs.flip(Path::new("/control/audit.log"), 700, 0x10);
    let damaged = fs.content(Path::new("/control/audit.log")).unwrap();

    let (switch, mut scribe) = open(&fs, clocks.0);
    assert_eq!(names(&switch, clocks.0), ["holds-unreadable"]);
    assert!(is_deferred(&switch, "a") && is_deferred(&switch, "b"));
    assert!(switch.view().deferral(&Site::new("b")).unwrap().is_whole());
    // Holds can be placed; nothing can be written, and nothing be released.
    let (placed, persisting) = switch.place(new_hold(Some("b"), Mode::Reject), clocks.0).unwrap();
    assert!(placed.hold.id.0 > 1, "{}", placed.hold.id);
    assert!(!persisted(&mut scribe, persisting).durable);
    assert_eq!(fs.content(Path::new("/control/audit.log")).unwrap(), damaged);
    let release = |id, recover| switch.release(id, who(), None, recover, clocks.0);
    assert_eq!(release(placed.hold.id, false).unwrap_err(), HoldError::Unreadable);
    assert!(matches!(release(HoldId::UNREADABLE, false), Err(HoldError::Invalid(_))));
    assert!(matches!(release(placed.hold.id, true), Err(HoldError::Invalid(_))));
    assert!(matches!(
        switch.extend(HoldId::UNREADABLE, Lasting::Default, who(), None, clocks.0),
        Err(HoldError::Invalid(_))
    ));

    let (_, persisting) = release(HoldId::UNREADABLE, true).unwrap();
    assert!(is_deferred(&switch, "a"), "not before it is on disk");
    assert!(persisted(&mut scribe, persisting).durable);
    assert!(!is_deferred(&switch, "a"));
    assert_eq!(fs.content(Path::new("/control/audit.unreadable-1")).unwrap(), damaged);
    assert!(switch.list(clocks.0).iter().all(|status| status.durable));
    let (switch, _scribe) = open(&fs.restart(Survivors::Synced), clocks.0);
    assert_eq!(names(&switch, clocks.0), [placed.hold.id.to_string()]);
    let kinds: Vec<_> = switch.events(None, u64::MAX, 9).iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Recovered, EventKind::Placed]);
}

#[test]
fn overrides_are_kept_and_replaced_by_what_they_are_about() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    let placed_at = clocks.0.wall;
    let over = |mode: &str, lasts: Option<Duration>| Override {
        site: None,
        operation: "apply".into(),
        mode: mode.into(),
        reason: "r".into(),
        owner: "ann".into(),
        ticket: String::new(),
        created_at: placed_at,
        expiry: lasts.map(|lasts| Expiry::after(lasts, placed_at)),
    };
    for (mode, lasts) in [("open", None), ("observe", Some(5 * MINUTE))] {
        let persisting = switch.place_override(over(mode, lasts), clocks.0).unwrap();
        assert!(persisted(&mut scribe, persisting).durable);
    }
    let fs = fs.restart(Survivors::Synced);
    let (switch, mut scribe) = open(&fs, clocks.pass(MINUTE));
    let found = switch.overrides(clocks.0);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0.mode.as_str(), found[0].1), ("observe", Some(4 * MINUTE)));
    switch.tick(clocks.pass(5 * MINUTE));
    while scribe.step() {}
    assert!(switch.overrides(clocks.0).is_empty());
    assert_eq!(switch.events(None, u64::MAX, 1)[0].kind, EventKind::Expired);
    let persisting = switch.place_override(over("open", None), clocks.0).unwrap();
    assert!(persisted(&mut scribe, persisting).durable);
    let persisting = switch.clear_override(None, "apply", who(), clocks.0).unwrap();
    assert_eq!(switch.overrides(clocks.0).len(), 1, "not before it is on disk");
    assert!(persisted(&mut scribe, persisting).durable);
    assert!(switch.overrides(clocks.0).is_empty());
    let last = switch.events(None, u64::MAX, 1).remove(0);
    assert_eq!((last.kind, last.owner.as_str()), (EventKind::Released, "bob"));
    let nothing = switch.clear_override(None, "apply", who(), clocks.0).unwrap();
    assert_eq!(nothing.now(), Some(Persisted { durable: true, released: 0 }));

    // One that is placed while the end of the other is on its way to the disk stays.
    drop(switch.place_override(over("open", None), clocks.0).unwrap());
    while scribe.step() {}
    let cleared = switch.clear_override(None, "apply", who(), clocks.0).unwrap();
    let persisting = switch.place_override(over("observe", None), clocks.0).unwrap();
    assert!(persisted(&mut scribe, persisting).durable && cleared.now().unwrap().durable);
    let (again, _scribe) = open(&fs.restart(Survivors::Synced), clocks.0);
    for switch in [&switch, &again] {
        assert_eq!(switch.override_on(None, "apply").unwrap().mode, "observe");
    }
}

#[test]
fn whoever_listens_hears_of_each_change_when_it_is_in_force() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&heard);
    switch.on_changed(Box::new(move |switch, kind, _, who| {
        note.lock().push((kind, who.owner.clone(), switch.in_force()));
    }));
    let mut new = new_hold(Some("a"), Mode::Defer);
    new.lasting = Lasting::For(11 * MINUTE);
    let (status, _placed) = switch.place(new, clocks.0).unwrap();
    let id = status.hold.id;
    switch.tick(clocks.pass(2 * MINUTE));
    drop(switch.extend(id, Lasting::For(MINUTE), who(), None, clocks.0).unwrap());
    let second = switch.place(new_hold(Some("b"), Mode::Reject), clocks.0).unwrap().0.hold.id;
    drop(switch.release(second, who(), None, false, clocks.0).unwrap());
    while scribe.step() {}
    switch.tick(clocks.pass(2 * MINUTE));
    let heard: Vec<_> = heard.lock().iter().map(|(kind, who, left)| (*kind, who.clone(), *left)).collect();
    let expected = [
        (EventKind::Placed, "ann", 1),
        (EventKind::Expiring, "", 1),
        (EventKind::Extended, "bob", 1),
        (EventKind::Placed, "ann", 2),
        (EventKind::Released, "bob", 1),
        (EventKind::Expired, "", 0),
    ];
    assert_eq!(heard, expected.map(|(kind, who, left)| (kind, who.to_owned(), left)));
}

#[test]
fn overrides_placed_while_the_log_cannot_be_read_are_kept_by_recovering_it() {
    let (fs, clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    let over = Override {
        site: None,
        operation: "load".into(),
        mode: "force_open".into(),
        reason: "r".into(),
        owner: "ann".into(),
        ticket: String::new(),
        created_at: clocks.0.wall,
        expiry: None,
    };
    let persisting = switch.place_override(over.clone(), clocks.0).unwrap();
    assert!(persisted(&mut scribe, persisting).durable);
    drop((switch, scribe));
    fs.flip(Path::new("/control/audit.log"), 700, 0xff);
    let (switch, mut scribe) = open(&fs, clocks.0);
    assert!(switch.overrides(clocks.0).is_empty(), "nothing of it is believed");
    let persisting = switch.place_override(over.clone(), clocks.0).unwrap();
    assert_eq!(switch.override_on(None, "load"), Some(over.clone()), "in force all the same");
    assert!(!persisted(&mut scribe, persisting).durable);
    let refused = switch.clear_override(None, "load", who(), clocks.0);
    assert_eq!(refused.unwrap_err(), HoldError::Unreadable);
    let (_, persisting) = switch.release(HoldId::UNREADABLE, who(), None, true, clocks.0).unwrap();
    assert!(persisted(&mut scribe, persisting).durable);
    let (switch, _scribe) = open(&fs.restart(Survivors::Synced), clocks.0);
    assert_eq!(switch.override_on(None, "load"), Some(over));
}

#[test]
fn requests_of_before_are_counted_until_they_end() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, _scribe) = open(&fs, clocks.0);
    let (_, first) = ask(&switch, "a", Operation::Identify, 0);
    let (_, read) = ask(&switch, "a", Operation::Get, 0);
    let (status, _persisting) = switch.place(new_hold(Some("a"), Mode::Defer), clocks.0).unwrap();
    assert_eq!((status.in_flight, status.drained_at), (1, None));
    let (_, later) = ask(&switch, "a", Operation::Identify, 0);
    assert_eq!(switch.impact(&Scope::ALL_WRITES, clocks.0).in_flight, 2);
    let in_flight = |now| switch.status(HoldId(1), now).unwrap().in_flight;
    assert_eq!(in_flight(clocks.0), 1);
    drop(first);
    assert_eq!(in_flight(clocks.0), 0);
    switch.tick(clocks.pass(Duration::from_millis(100)));
    let drained = clocks.0.wall;
    switch.tick(clocks.pass(MINUTE));
    assert_eq!(switch.status(HoldId(1), clocks.0).unwrap().drained_at, Some(drained));
    assert_eq!(switch.status(HoldId(1), clocks.0).unwrap().deferred, 1);
    drop((later, read));
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, _scribe) = open(&fs, clocks.0);
    switch.tick(clocks.0);
    for user in 0..600 {
        drop(ask(&switch, "a", Operation::Identify, user));
    }
    drop(switch.place(new_hold(Some("b"), Mode::Reject), clocks.0).unwrap());
    for _ in 0..30 {
        switch.tick(clocks.pass(Duration::from_secs(1)));
    }
    let mut new = new_hold(Some("a"), Mode::Reject);
    let impact = switch.preview(&new, clocks.0).unwrap();
    assert!((impact.requests_per_second - 20.0).abs() < 0.01, "{impact:?}");
    assert_eq!(impact.overlapping, []);
    new.scope.site = None;
    assert_eq!(switch.preview(&new, clocks.0).unwrap().overlapping, [HoldId(1)]);
    assert!(matches!(ask(&switch, "a", Operation::Identify, 0), (Said::Pass, _)));
    let (status, before, after) = switch.preview_release(HoldId(1), None, false, clocks.0).unwrap();
    assert_eq!(status.hold.id, HoldId(1));
    assert!(before.deferral(&Site::new("b")).is_none() && after.deferral(&Site::new("b")).is_none());
    assert_eq!(names(&switch, clocks.0), ["hold-1"]);
}

#[test]
fn a_start_may_hold_everything_once() {
    let (fs, clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    let persisting = switch.hold_all("serve", "--start-held", clocks.0).unwrap().unwrap();
    assert!(persisted(&mut scribe, persisting).durable);
    let (switch, _scribe) = open(&fs.restart(Survivors::Synced), clocks.0);
    assert!(switch.hold_all("serve", "--start-held", clocks.0).unwrap().is_none());
    assert!(switch.view().deferral(&Site::new("x")).unwrap().is_whole());
}
