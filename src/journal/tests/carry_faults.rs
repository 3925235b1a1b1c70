//! A fault at every operation of a snapshot's switch: the journal opens with the old or the new state, and nothing
//! that waits, nor anything from the snapshot's start on, is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::super::check::{Report, check};
use super::super::fs::{Fault, FaultyFs, Survivors};
use super::super::manifest::MANIFEST;
use super::super::{Carrier, Journal, Switch};
use super::carry::snapshot;
use super::support::*;

/// These wait when the snapshot is taken.
const WAITING: [u64; 4] = [2, 3, 7, 10];

#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<u64, Vec<u8>>,
    /// The first position of the snapshot once it was tried, and whether it was told to be complete.
    start: u64,
    switched: bool,
}

impl Told {
    fn append(&mut self, log: &mut super::super::log::Log, n: u64, length: usize) -> Option<()> {
        let positions = append(log, &[payload(n, length)]).ok()?;
        self.acknowledged.insert(positions[0], payload(n, length));
        Some(())
    }
}

/// Three segments, a snapshot that keeps the second, and life after it. What fails in the snapshot does not end
/// the journal: entries are written on.
fn script(fs: &FaultyFs, told: &mut Told) -> Option<()> {
    let opened = Journal::<u64>::open(options(), Arc::new(fs.clone()), clock()).ok()?;
    let reader = opened.reader.clone();
    let mut log = opened.into_log();
    for n in 1..=12 {
        told.append(&mut log, n, 3_700)?;
    }
    log.roll().ok()?;
    told.start = reader.segments().last()?.first_position;
    told.append(&mut log, 13, 100)?;
    let keep = [reader.segments().get(1)?.number];
    let snapshot = (|| {
        let mut carrier = Carrier::new(Arc::clone(log.shared()), &keep);
        for entry in reader.scan(0).map_while(Result::ok) {
            if entry.position < told.start
                && WAITING.contains(&entry.position)
                && !(5..9).contains(&entry.position)
            {
                carrier.push(&entry).ok()?;
            }
        }
        let carried = carrier.finish().ok()?;
        let switch = Switch { snapshot: snapshot(told.start), keep: keep.to_vec(), carried };
        log.shared().switch(log.spares(), switch).ok()
    })();
    told.switched = snapshot.is_some();
    told.append(&mut log, 14, 100)?;
    log.roll().ok()?;
    told.append(&mut log, 15, 3_700)?;
    log.mark_clean().ok()
}

fn verify(fs: &FaultyFs, told: &Told, what: &str) {
    // A journal that never came to be is made anew, which only a start may say is all right.
    let found = fs.content(&Path::new(DIR).join(MANIFEST)).map(|_| check(fs, Path::new(DIR)).unwrap());
    let opened = Journal::<u64>::open(options(), Arc::new(fs.clone()), clock());
    let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(found.as_ref().is_none_or(Report::is_sound), "{what}: {found:?}");
    let entries: BTreeMap<u64, Vec<u8>> =
        all(&opened.reader).into_iter().map(|entry| (entry.position, entry.payload.to_vec())).collect();
    let is_new = opened.reader.snapshot().is_some();
    assert!(is_new || !told.switched, "{what}: the switch is lost");
    for (position, payload) in &told.acknowledged {
        let stays =
            !is_new || *position >= told.start || WAITING.contains(position) || (5..9).contains(position);
        assert_eq!(entries.get(position), stays.then_some(payload), "{what}: {position}, new {is_new}");
    }
    let mut log = opened.into_log();
    let next = append(&mut log, &[payload(99, 0)]).unwrap();
    assert!(entries.keys().all(|position| *position < next[0]), "{what}: {} is used again", next[0]);
}

#[test]
fn a_fault_at_every_operation_of_a_switch_loses_nothing() {
    let fs = FaultyFs::new();
    let mut told = Told::default();
    script(&fs, &mut told).expect("no fault");
    assert!(told.switched);
    verify(&fs.restart(Survivors::Synced), &told, "no fault");
    let operations = fs.operations();
    assert!(operations > 80, "{operations} operations");
    for nth in 1..=operations {
        for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::PowerCut] {
            let fs = FaultyFs::new();
            fs.fail_in(nth, fault);
            let mut told = Told::default();
            let _ended_at_the_fault = script(&fs, &mut told);
            for survivors in
                [Survivors::Synced, Survivors::Written, Survivors::Some(nth), Survivors::Some(nth + 7777)]
            {
                verify(&fs.restart(survivors), &told, &format!("{fault:?} at {nth}, {survivors:?}"));
            }
        }
    }
}
