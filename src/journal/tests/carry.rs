//! Waiting entries are carried on, and everything else before a snapshot goes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::super::check::check;
use super::super::fs::{FaultyFs, Fs as _, Survivors};
use super::super::log::Log;
use super::super::{
    Carrier, JournalReader, OpenError, POSITION_STEP, ReadError, SnapshotRef, StoredEntry, Switch,
    SwitchError,
};
use super::support::*;

pub fn snapshot(start: u64) -> SnapshotRef {
    SnapshotRef { name: format!("snapshot-{start}"), start, bytes: 7, taken_at: start_time() }
}

/// Five segments of four entries, and one more that has just been begun with position 21.
pub fn six_segments(fs: &FaultyFs) -> (JournalReader, Log) {
    let opened = open(fs).unwrap();
    let reader = opened.reader.clone();
    let mut log = opened.into_log();
    for n in 1..=20 {
        append(&mut log, &[payload(n, 3_700)]).unwrap();
    }
    log.roll().unwrap();
    assert_eq!(reader.segments().len(), 6);
    assert_eq!(reader.segments()[5].first_position, 21);
    (reader, log)
}

pub fn carry(log: &Log, reader: &JournalReader, waiting: &[u64], keep: &[u64], start: u64) -> Switch {
    let mut carrier = Carrier::new(Arc::clone(log.shared()), keep);
    let kept = |position: u64| {
        reader
            .segments()
            .iter()
            .any(|s| keep.contains(&s.number) && (s.first_position..=s.last_position).contains(&position))
    };
    for entry in reader.scan(0).map(Result::unwrap).take_while(|entry| entry.position < start) {
        if waiting.contains(&entry.position) && !kept(entry.position) {
            carrier.push(&entry).unwrap();
        }
    }
    Switch { snapshot: snapshot(start), keep: keep.to_vec(), carried: carrier.finish().unwrap() }
}

fn positions(reader: &JournalReader) -> Vec<u64> {
    all(reader).iter().map(|entry| entry.position).collect()
}

/// Reads every entry by the offset it had at first.
fn read_by_old_offsets(reader: &JournalReader, written: &[StoredEntry], there: &BTreeSet<u64>) {
    for entry in written {
        match reader.read(entry.position, entry.offset) {
            Ok(found) => {
                assert!(there.contains(&entry.position));
                assert_eq!(StoredEntry { offset: entry.offset, ..found }, *entry);
            }
            Err(ReadError::Released(position)) => {
                assert_eq!(position, entry.position);
                assert!(!there.contains(&position), "{position} is gone");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_waits_stays_readable_and_the_rest_goes() {
    // Segments of four: 1-4, 5-8, 9-12 (kept), 13-16, 17-20.
    let fs = FaultyFs::new();
    let (reader, mut log) = six_segments(&fs);
    let written = all(&reader);
    append(&mut log, &[payload(21, 10), payload(22, 10)]).unwrap();
    let switch = carry(&log, &reader, &[2, 6, 7, 10, 17], &[3], 21);
    let carried: Vec<u64> = switch.carried.places.iter().map(|(position, _)| *position).collect();
    assert_eq!(carried, [2, 6, 7, 17]);
    let places = switch.carried.places.clone();
    // Not part of it yet.
    assert_eq!(positions(&reader), (1..=22).collect::<Vec<_>>());
    let used = log.used();
    let released = log.shared().switch(log.spares(), switch).unwrap();
    assert_eq!(released.segments, 4);
    assert!(log.used() < used - 2 * options().segment_bytes);

    let there = BTreeSet::from([2, 6, 7, 9, 10, 11, 12, 17, 21, 22]);
    let judge = |reader: &JournalReader| {
        assert_eq!(positions(reader), there.iter().copied().collect::<Vec<_>>());
        read_by_old_offsets(reader, &written, &there);
        for (position, offset) in &places {
            let entry = reader.read(*position, *offset).unwrap();
            assert_eq!((entry.position, entry.offset), (*position, *offset));
            assert_eq!(entry, StoredEntry { offset: *offset, ..written[*position as usize - 1].clone() });
        }
        assert_eq!(reader.snapshot(), Some(snapshot(21)));
        assert_eq!(reader.scan(7).map(|e| e.unwrap().position).next(), Some(7));
        assert_eq!(reader.scan(8).map(|e| e.unwrap().position).next(), Some(9));
        // Released is applied, not unknown.
        assert!(reader.issued(1) && reader.issued(20) && !reader.issued(23));
        let detached: Vec<bool> = reader.segments().iter().map(|s| s.detached).collect();
        assert_eq!(detached, [true, true, true, true]);
    };
    judge(&reader);
    append(&mut log, &[payload(23, 10)]).unwrap();
    log.roll().unwrap();
    append(&mut log, &[payload(24, 10)]).unwrap();
    log.mark_clean().unwrap();
    drop(log);
    let found = check(&fs, Path::new(DIR)).unwrap();
    assert!(found.is_sound(), "{found}");
    for survivors in [Survivors::Synced, Survivors::Written] {
        let opened = open(&fs.restart(survivors)).unwrap();
        let mut expected: Vec<u64> = there.iter().copied().collect();
        expected.extend([23, 24]);
        assert_eq!(positions(&opened.reader), expected);
        read_by_old_offsets(&opened.reader, &written, &there);
    }
}

#[test]
fn carried_entries_are_carried_on_by_the_next_snapshots() {
    let mut fs = FaultyFs::new();
    let (reader, mut log) = six_segments(&fs);
    let mut expected = vec![3, 11];
    let mut switch = carry(&log, &reader, &expected, &[], 21);
    log.shared().switch(log.spares(), switch).unwrap();
    drop(reader);
    for round in 1..5 {
        let more = append(&mut log, &[payload(100 + round, 10)]).unwrap();
        expected.extend(&more);
        // Killed: the last segment is written anew, and numbering goes on beyond.
        drop(log);
        fs = fs.restart(Survivors::Written);
        let opened = open(&fs).unwrap();
        let reader = opened.reader.clone();
        log = opened.into_log();
        append(&mut log, &[payload(200 + round, 10)]).unwrap();
        log.roll().unwrap();
        let start = reader.segments().last().unwrap().first_position;
        assert_eq!(start, round * POSITION_STEP + 1);
        switch = carry(&log, &reader, &expected, &[], start);
        log.shared().switch(log.spares(), switch).unwrap();
        assert_eq!(positions(&reader), expected);
        // One file for what waits, however often.
        assert_eq!(reader.segments().len(), 2);
        assert!(check(&fs, Path::new(DIR)).unwrap().is_sound());
    }
    assert_eq!(all(&open(&fs.restart(Survivors::Synced)).unwrap().reader).len(), 6);
}

#[test]
fn nothing_waits_and_everything_goes() {
    let fs = FaultyFs::new();
    let (reader, mut log) = six_segments(&fs);
    let switch = carry(&log, &reader, &[], &[], 21);
    assert_eq!(log.shared().switch(log.spares(), switch).unwrap().segments, 5);
    assert_eq!(positions(&reader), [0; 0]);
    append(&mut log, &[payload(21, 10)]).unwrap();
    drop(log);
    let opened = open(&fs.restart(Survivors::Synced)).unwrap();
    assert_eq!((positions(&opened.reader), opened.end), (vec![21], 21));
    let names = fs.list(Path::new(DIR)).unwrap();
    assert_eq!(names.iter().filter(|name| name.starts_with("segment-")).count(), 1);
}

#[test]
fn an_unfinished_carrier_leaves_nothing() {
    let fs = FaultyFs::new();
    let (reader, log) = six_segments(&fs);
    let before = fs.list(Path::new(DIR)).unwrap();
    let entries = all(&reader);
    let mut carrier = Carrier::new(Arc::clone(log.shared()), &[3]);
    for entry in &entries {
        carrier.push(entry).unwrap();
    }
    assert!(carrier.push(&entries[0]).is_err(), "not in order");
    // Killed in the middle, before and after the files have their names.
    let killed = fs.restart(Survivors::Written);
    assert!(killed.list(Path::new(DIR)).unwrap().iter().any(|name| name.starts_with("carry-")));
    assert!(check(&killed, Path::new(DIR)).unwrap().is_sound());
    assert_eq!(all(&open(&killed).unwrap().reader), entries);
    assert_eq!(killed.list(Path::new(DIR)).unwrap().iter().filter(|n| n.starts_with("carry-")).count(), 0);
    let carried = carrier.finish().unwrap();
    assert!(carried.drafts.len() >= 3, "around the one that is kept");
    let killed = fs.restart(Survivors::Written);
    assert!(check(&killed, Path::new(DIR)).unwrap().is_sound());
    assert_eq!(all(&open(&killed).unwrap().reader), entries);
    drop(carried);
    assert_eq!(fs.list(Path::new(DIR)).unwrap(), before);
    let mut log = log;
    log.roll().unwrap();
    append(&mut log, &[payload(21, 0)]).unwrap();
    assert_eq!(all(&open(&fs.restart(Survivors::Written)).unwrap().reader).len(), 21);
}

#[test]
fn an_impossible_switch_changes_nothing() {
    let fs = FaultyFs::new();
    let (reader, log) = six_segments(&fs);
    let segments = reader.segments();
    let pin = reader.pin(9);
    let try_it = |waiting: &[u64], keep: &[u64], carrier_keeps: &[u64], start: u64| {
        let switch = carry(&log, &reader, waiting, carrier_keeps, start);
        log.shared().switch(log.spares(), Switch { keep: keep.to_vec(), ..switch })
    };
    assert!(matches!(try_it(&[2], &[], &[], 21), Err(SwitchError::Pinned { position: 9 })));
    assert!(matches!(try_it(&[2], &[], &[], 12), Err(SwitchError::Invalid(_))), "no segment starts there");
    assert!(matches!(try_it(&[2], &[77], &[77], 9), Err(SwitchError::Invalid(_))), "no such segment");
    // Carried over a kept one: 2 and 14 in one segment, 9-12 between them.
    assert!(matches!(try_it(&[2, 14], &[3], &[], 21), Err(SwitchError::Invalid(_))));
    assert_eq!(reader.segments(), segments);
    // What is pinned may stay, and what is not may go.
    assert_eq!(try_it(&[2], &[], &[], 9).unwrap().segments, 2);
    assert_eq!(try_it(&[2], &[3, 4, 5], &[3, 4, 5], 21).unwrap().segments, 1);
    drop(pin);
    assert_eq!(positions(&reader), [2].into_iter().chain(9..=20).collect::<Vec<_>>());
    drop(reader);
    let found = check(&fs, Path::new(DIR)).unwrap();
    assert!(found.is_sound(), "{found}");
}

#[test]
fn through_the_handle_under_load() {
    let fs = FaultyFs::new();
    let (journal, heard) = start(open(&fs).unwrap());
    let reader = journal.reader();
    for n in 1..=60 {
        assert!(offer(&journal, &heard, n, 900));
    }
    let written = all(&reader);
    std::thread::scope(|scope| {
        let writer = journal.clone();
        let writing = scope.spawn(move || {
            for n in 61..=200 {
                while writer.submit(submission(n)).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let begin = journal.roll().unwrap();
        let mut carrier = journal.carrier(&[]);
        for entry in reader.scan(0).map(Result::unwrap).take_while(|entry| entry.position < begin) {
            if entry.position % 7 == 0 {
                carrier.push(&entry).unwrap();
            }
        }
        let carried = carrier.finish().unwrap();
        let switch = Switch { snapshot: snapshot(begin), keep: Vec::new(), carried };
        assert!(journal.switch(switch).unwrap().segments > 0);
        for entry in &written {
            match reader.read(entry.position, entry.offset) {
                Ok(found) => assert_eq!(found.payload, entry.payload),
                Err(error) => assert!(matches!(error, ReadError::Released(p) if p % 7 != 0), "{error}"),
            }
        }
        writing.join().unwrap();
    });
    journal.close().unwrap();
    let opened = open(&fs).unwrap();
    let begin = opened.reader.snapshot().unwrap().start;
    let expected: Vec<u64> = (1..=200).filter(|n| *n >= begin || n % 7 == 0).collect();
    assert_eq!(positions(&opened.reader), expected);
    let (journal, heard) = start(opened);
    assert_eq!(keep(&journal, &heard, 201).position, 201);
}

#[test]
fn every_flipped_byte_of_a_carried_segment_is_seen() {
    let fs = FaultyFs::new();
    let opened = open(&fs).unwrap();
    let reader = opened.reader.clone();
    let mut log = opened.into_log();
    for n in 1..=6 {
        append(&mut log, &[payload(n, 20), payload(n + 100, 0)]).unwrap();
    }
    log.roll().unwrap();
    let switch = carry(&log, &reader, &[2, 3, 4, 9], &[], 13);
    log.shared().switch(log.spares(), switch).unwrap();
    let path = reader.segments()[0].path.clone();
    let entries = all(&reader);
    log.mark_clean().unwrap();
    drop(log);
    let content = fs.content(&path).unwrap();
    assert_eq!(content.len() as u64, reader.segments()[0].end);
    for offset in 0..content.len() {
        for mask in [0x01, 0x80, 0xFF] {
            let hurt = fs.restart(Survivors::Written);
            hurt.flip(&path, offset, mask);
            assert!(!check(&hurt, Path::new(DIR)).unwrap().is_sound(), "byte {offset}");
            match open(&hurt) {
                Err(OpenError::Damaged { .. } | OpenError::Version { .. }) => {}
                Err(error) => panic!("{error}"),
                Ok(opened) => {
                    let whole: Vec<_> = opened.reader.scan(0).take_while(Result::is_ok).collect();
                    assert!(whole.len() < entries.len(), "byte {offset}");
                    assert!(opened.reader.scan(0).any(|entry| entry.is_err()), "byte {offset}");
                    let mut missing = 0;
                    for entry in &entries {
                        match opened.reader.read(entry.position, entry.offset) {
                            Ok(found) => assert_eq!(found, *entry, "byte {offset}"),
                            Err(ReadError::Damaged(_)) => missing += 1,
                            Err(error) => panic!("byte {offset}: {error}"),
                        }
                    }
                    // A batch's own checksum may be all that is wrong: every entry has another.
                    assert!(missing <= entries.len());
                }
            }
        }
    }
    for length in 0..content.len() {
        let hurt = fs.restart(Survivors::Written);
        hurt.set_content(&path, content[..length].to_vec());
        assert!(open(&hurt).is_err() && !check(&hurt, Path::new(DIR)).unwrap().is_sound(), "cut to {length}");
    }
}
