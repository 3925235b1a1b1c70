//! A fault at every operation of a script, then a start: what was acknowledged is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::fs::{Fault, FaultyFs, Survivors};
use super::super::{Journal, Opened};
use super::support::*;

/// What the script was told, and all that it tried.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<u64, Vec<u8>>,
    tried: Vec<Vec<u8>>,
    /// Entries up to here may have been released.
    released: u64,
}

impl Told {
    fn append(&mut self, log: &mut super::super::log::Log, payloads: &[Vec<u8>]) -> Option<()> {
        self.tried.extend_from_slice(payloads);
        // One batch at a time, so that what is told is exactly what was synced.
        for payload in payloads {
            let positions = append(log, std::slice::from_ref(payload)).ok()?;
            self.acknowledged.insert(positions[0], payload.clone());
        }
        Some(())
    }
}

fn open(fs: &FaultyFs) -> Option<Opened> {
    Journal::<u64>::open(options(), Arc::new(fs.clone()), clock()).ok()
}

/// Three lives of a journal: begun, killed, recovered, closed, continued. Ends at the first error, as a process
/// does.
fn script(fs: &FaultyFs, told: &mut Told) -> Option<()> {
    let mut log = open(fs)?.into_log();
    told.append(&mut log, &[payload(1, 100), payload(2, 2250), payload(3, 0)])?;
    for n in 10..14 {
        told.append(&mut log, &[payload(n, 3_750)])?;
    }
    drop(log);

    let mut log = open(fs)?.into_log();
    told.append(&mut log, &[payload(20, 700), payload(21, 3_750)])?;
    log.mark_clean().ok()?;
    drop(log);

    let mut log = open(fs)?.into_log();
    told.append(&mut log, &[payload(30, 1)])?;
    told.released = 14;
    release_in(&log, told.released).ok()?;
    for n in 40..46 {
        told.append(&mut log, &[payload(n, 3_750)])?;
    }
    log.mark_clean().ok()
}

fn verify(fs: &FaultyFs, told: &Told, what: &str) {
    let opened = Journal::<u64>::open(options(), Arc::new(fs.clone()), clock());
    let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let found: BTreeMap<u64, Vec<u8>> =
        all(&opened.reader).into_iter().map(|entry| (entry.position, entry.payload.to_vec())).collect();
    for (position, payload) in &told.acknowledged {
        assert!(opened.reader.issued(*position), "{what}: {position} not issued");
        match found.get(position) {
            Some(found) => assert!(found == payload, "{what}: {position} is another entry"),
            None => assert!(*position < told.released, "{what}: {position} is lost"),
        }
    }
    for (position, payload) in &found {
        assert!(told.tried.contains(payload), "{what}: {position} was never written");
    }
    let highest = found.keys().chain(told.acknowledged.keys()).max().copied().unwrap_or(0);
    let mut log = opened.into_log();
    let next = append(&mut log, &[payload(99, 0)]).unwrap();
    assert!(next[0] > highest, "{what}: {} is used again", next[0]);
}

#[test]
fn a_fault_at_every_operation_loses_nothing() {
    let fs = FaultyFs::new();
    let mut told = Told::default();
    script(&fs, &mut told).expect("no fault");
    let operations = fs.operations();
    assert!(operations > 60, "{operations} operations");
    for nth in 1..=operations {
        for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::PowerCut] {
            let fs = FaultyFs::new();
            fs.fail_in(nth, fault);
            let mut told = Told::default();
            let _ended_at_the_fault = script(&fs, &mut told);
            let survivors =
                [Survivors::Synced, Survivors::Written, Survivors::Some(nth), Survivors::Some(nth + 7777)];
            for survivors in survivors {
                verify(&fs.restart(survivors), &told, &format!("{fault:?} at {nth}, {survivors:?}"));
            }
        }
    }
}

#[test]
fn a_second_power_cut_during_recovery_loses_nothing() {
    let fs = FaultyFs::new();
    let mut told = Told::default();
    let mut log = open(&fs).unwrap().into_log();
    told.append(&mut log, &[payload(1, 100), payload(2, 2250)]).unwrap();
    // A batch that is half written when the power goes.
    fs.fail_in(1, Fault::PowerCut);
    assert!(told.append(&mut log, &[payload(3, 3000)]).is_none());
    let torn = fs.restart(Survivors::Written);
    let recovered = torn.restart(Survivors::Written);
    let opened = open(&recovered).unwrap();
    let cut = opened.cut.clone().unwrap();
    assert!(recovered.content(&cut.saved).unwrap().starts_with(b"BtCh"));
    drop(opened);
    for nth in 1..=recovered.operations() {
        for survivors in [Survivors::Synced, Survivors::Written, Survivors::Some(nth)] {
            let fs = torn.restart(Survivors::Written);
            fs.fail_in(nth, Fault::PowerCut);
            let _ends_at_the_cut = open(&fs);
            verify(&fs.restart(survivors), &told, &format!("second cut at {nth}, {survivors:?}"));
        }
    }
}

#[test]
fn a_failed_sync_is_never_taken_for_success() {
    let fs = FaultyFs::new();
    let mut told = Told::default();
    let mut log = open(&fs).unwrap().into_log();
    told.append(&mut log, &[payload(1, 100)]).unwrap();
    fs.break_syncs();
    assert!(told.append(&mut log, &[payload(2, 100)]).is_none());
    assert_eq!(told.acknowledged.len(), 1);
    // The page cache shows the entry, the disk does not have it: what recovery finds, it writes and syncs anew.
    let shown = fs.restart(Survivors::Written);
    let opened = open(&shown).unwrap();
    let entries = all(&opened.reader).len();
    drop(opened);
    let after_power_cut = shown.restart(Survivors::Synced);
    assert_eq!(all(&open(&after_power_cut).unwrap().reader).len(), entries);
    verify(&after_power_cut, &told, "power cut after recovery");
}
