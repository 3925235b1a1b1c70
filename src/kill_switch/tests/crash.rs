//! The process dies, or the disk fails, at every step.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::support::*;
use crate::fs::{Fault, FaultyFs, Survivors};

/// What operators were told.
#[derive(Default)]
struct Told {
    /// Durable, and nobody asked for its end.
    placed: Vec<HoldId>,
    /// Durably released.
    released: Vec<HoldId>,
    /// Everything that ever was.
    ever: Vec<Hold>,
}

/// Places five holds, releases two, extends one.
fn work(switch: &KillSwitch, scribe: &mut Scribe, clocks: &mut Clocks) -> Told {
    let mut told = Told::default();
    for number in 1..=5_u64 {
        let mut new = new_hold(Some(&format!("site-{number}")), Mode::Defer);
        // One is longer than a block.
        new.reason = "because ".repeat(if number == 3 { 100 } else { 1 });
        let (status, persisting) = switch.place(new, clocks.0).unwrap();
        let id = status.hold.id;
        told.ever.push(status.hold);
        assert!(is_deferred(switch, &format!("site-{number}")), "in force whatever the disk does");
        if persisted(scribe, persisting).durable {
            told.placed.push(id);
        }
        // What failed is written anew.
        switch.tick(clocks.pass(Duration::from_secs(2)));
        while scribe.step() {}
        if number % 2 == 0 {
            told.placed.retain(|placed| *placed != id);
            let (_, persisting) = switch.release(id, who(), None, false, clocks.0).unwrap();
            let durable = persisted(scribe, persisting).durable;
            assert_eq!(durable, switch.status(id, clocks.0).is_none(), "released when that is on disk");
            if durable {
                told.released.push(id);
            }
        }
        if number == 3 {
            let (status, _) = switch.extend(id, Lasting::Never, who(), None, clocks.0).unwrap();
            told.ever.push(status.hold);
            while scribe.step() {}
        }
    }
    told
}

fn check(fs: &FaultyFs, told: &Told, now: Now, what: &str) {
    let (switch, _scribe) = KillSwitch::open(Arc::new(fs.clone()), Path::new(DIR), now).unwrap();
    let found = switch.list(now);
    for status in &found {
        assert_ne!(status.hold.id, HoldId::UNREADABLE, "{what}");
        assert!(told.ever.contains(&status.hold), "{what}: half of {:?}", status.hold);
    }
    let is_there = |id: &HoldId| found.iter().any(|status| status.hold.id == *id);
    assert!(told.placed.iter().all(is_there), "{what}: {:?} of {:?}", names(&switch, now), told.placed);
    assert!(!told.released.iter().any(is_there), "{what}: {:?} came back", told.released);
}

fn survivors() -> Vec<Survivors> {
    let mut all = vec![Survivors::Synced, Survivors::Written];
    all.extend((1..6).map(Survivors::Some));
    all
}

#[test]
fn a_hold_is_there_or_not_whatever_step_the_process_dies_in() {
    let steps = {
        let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
        let (switch, mut scribe) = open(&fs, clocks.0);
        work(&switch, &mut scribe, &mut clocks);
        fs.operations()
    };
    assert!(steps > 20);
    for step in 1..=steps {
        let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
        fs.fail_in(step, Fault::PowerCut);
        let opened = KillSwitch::open(Arc::new(fs.clone()), Path::new(DIR), clocks.0);
        let told = match opened {
            Ok((switch, mut scribe)) => work(&switch, &mut scribe, &mut clocks),
            Err(_) => Told::default(),
        };
        for survivors in survivors() {
            check(&fs.restart(survivors), &told, clocks.0, &format!("step {step}, {survivors:?}"));
        }
    }
}

#[test]
fn a_disk_that_fails_at_any_step_is_written_to_anew() {
    for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
        let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
        drop(open(&fs, clocks.0));
        for step in 1..40 {
            let fs = fs.restart(Survivors::Synced);
            let (switch, mut scribe) = open(&fs, clocks.0);
            fs.fail_in(step, fault);
            let told = work(&switch, &mut scribe, &mut clocks);
            switch.tick(clocks.pass(Duration::from_secs(2)));
            while scribe.step() {}
            assert!(switch.list(clocks.0).iter().all(|status| status.durable), "{fault:?} at {step}");
            for survivors in survivors() {
                check(
                    &fs.restart(survivors),
                    &told,
                    clocks.0,
                    &format!("{fault:?} at {step}, {survivors:?}"),
                );
            }
        }
    }
}

#[test]
fn a_disk_that_is_broken_for_good_delays_nothing_and_releases_nothing() {
    let (fs, mut clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, mut scribe) = open(&fs, clocks.0);
    fs.break_syncs();
    let told = work(&switch, &mut scribe, &mut clocks);
    assert!(told.placed.is_empty() && told.released.is_empty());
    assert_eq!(switch.list(clocks.0).len(), 5);
    assert!(switch.list(clocks.0).iter().all(|status| !status.durable));
    check(&fs.restart(Survivors::Synced), &told, clocks.0, "broken");
}

#[test]
fn a_directory_that_cannot_be_written_at_first_is_an_error() {
    let (fs, clocks) = (FaultyFs::new(), Clocks::new());
    fs.break_writes(Fault::Enospc);
    let error = KillSwitch::open(Arc::new(fs), Path::new(DIR), clocks.0).unwrap_err();
    assert!(error.to_string().contains("audit.new"), "{error}");
}

#[test]
fn giving_up_an_unreadable_log_is_whole_or_not_at_all() {
    let prepared = || {
        let (fs, clocks) = (FaultyFs::new(), Clocks::new());
        let (switch, mut scribe) = open(&fs, clocks.0);
        let (_, persisting) = switch.place(new_hold(None, Mode::Reject), clocks.0).unwrap();
        assert!(persisted(&mut scribe, persisting).durable);
        let fs = fs.restart(Survivors::Synced);
        fs.flip(Path::new("/control/audit.log"), 600, 1);
        (fs, clocks)
    };
    for step in 1..12 {
        let (fs, clocks) = prepared();
        let (switch, mut scribe) = open(&fs, clocks.0);
        fs.fail_in(step, Fault::PowerCut);
        let (_, persisting) = switch.release(HoldId::UNREADABLE, who(), None, true, clocks.0).unwrap();
        let durable = persisted(&mut scribe, persisting).durable;
        for survivors in survivors() {
            let (switch, _scribe) = open(&fs.restart(survivors), clocks.0);
            let found = names(&switch, clocks.0);
            let unreadable = found == ["holds-unreadable"];
            assert!(unreadable || found.is_empty(), "step {step}, {survivors:?}: {found:?}");
            assert!(!(durable && unreadable), "step {step}, {survivors:?}: recovered and not");
        }
    }
}
