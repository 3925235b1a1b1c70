//! What a journal does when nothing fails.

use std::sync::Arc;

use super::super::fs::{FaultyFs, RealFs, Survivors};
use super::super::{Journal, JournalOptions, POSITION_STEP, ReadError, SwitchError};
use super::support::*;
use crate::model::EventTime;

#[test]
fn keeps_entries_across_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { dir: dir.path().join("deep/journal"), ..options() };
    let open = || Journal::<u64>::open(options.clone(), Arc::new(RealFs), clock()).unwrap();
    let opened = open();
    assert!(opened.is_new);
    let node = opened.node;
    let (journal, heard) = start(opened);
    let kept: Vec<_> = (1..=50).map(|n| keep(&journal, &heard, n)).collect();
    assert_eq!(kept.iter().map(|c| c.position).collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
    assert!(kept.is_sorted_by(|a, b| a.accepted_at < b.accepted_at));
    journal.close().unwrap();

    let opened = open();
    assert!(opened.was_clean && opened.cut.is_none());
    assert_eq!((opened.node, opened.end), (node, 50));
    let entries = all(&opened.reader);
    assert_eq!(entries.len(), 50);
    for (kept, entry) in kept.iter().zip(&entries) {
        assert_eq!(
            (kept.position, kept.accepted_at, kept.offset),
            (entry.position, entry.accepted_at, entry.offset)
        );
        assert_eq!(entry.payload, payload(kept.ticket, 20));
        assert_eq!((entry.refresh_after, entry.semantics), (settings().refresh_after, 1));
        assert_eq!(opened.reader.read(entry.position, entry.offset).unwrap(), *entry);
    }
    assert!(matches!(opened.reader.read(51, 128), Err(ReadError::Unknown(51))));
    assert!(opened.reader.read(2, entries[0].offset).is_err());
    let (journal, heard) = start(opened);
    assert_eq!(keep(&journal, &heard, 51).position, 51);
}

#[test]
fn keeps_entries_across_a_kill_and_numbers_go_on_beyond() {
    let fs = FaultyFs::new();
    let mut log = open(&fs).unwrap().into_log();
    append(&mut log, &[payload(1, 0), payload(2, 900)]).unwrap();
    append(&mut log, &[payload(3, 0)]).unwrap();
    let mut fs = fs.restart(Survivors::Written);
    for round in 1..4 {
        let opened = open(&fs).unwrap();
        assert!(!opened.was_clean && opened.cut.is_none());
        let entries = all(&opened.reader);
        let reader = opened.reader.clone();
        for entry in &entries {
            assert!(reader.issued(entry.position));
            assert_eq!(reader.read(entry.position, entry.offset).unwrap(), *entry);
        }
        assert_eq!(entries.len() as u64, 2 + round);
        let mut log = opened.into_log();
        assert_eq!(append(&mut log, &[payload(9, 0)]).unwrap(), [round * POSITION_STEP]);
        assert!(!reader.issued(4) && !reader.issued(round * POSITION_STEP - 1));
        assert!(reader.issued(round * POSITION_STEP) && !reader.issued(round * POSITION_STEP + 1));
        fs = fs.restart(Survivors::Written);
    }
}

#[test]
fn rolls_over_segments_and_releases_them() {
    let fs = FaultyFs::new();
    let (journal, heard) = start(open(&fs).unwrap());
    for n in 1..=200 {
        assert!(offer(&journal, &heard, n, 750));
    }
    let reader = journal.reader();
    let entries = all(&reader);
    assert_eq!(entries.iter().map(|e| e.position).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    assert_eq!(
        reader.scan(150).map(|e| e.unwrap().position).collect::<Vec<_>>(),
        (150..=200).collect::<Vec<_>>()
    );
    let before = journal.usage().used;
    let pin = reader.pin(50);
    assert!(matches!(release(&journal, 100), Err(SwitchError::Pinned { position: 50 })));
    let first = release(&journal, 50).unwrap();
    assert!(first.segments >= 1 && reader.start() <= 50);
    drop(pin);
    let second = release(&journal, 100).unwrap();
    assert!(second.segments >= 1 && reader.start() > 50 && reader.start() <= 100);
    assert!(matches!(reader.read(1, entries[0].offset), Err(ReadError::Released(1))));
    assert_eq!(reader.read(100, entries[99].offset).unwrap(), entries[99]);
    for n in 201..=300 {
        assert!(offer(&journal, &heard, n, 750));
    }
    assert!(journal.usage().used < before + 110 * 750);
    journal.close().unwrap();
    let opened = open(&fs).unwrap();
    assert_eq!(all(&opened.reader).last().unwrap().position, 300);
    assert!(opened.accepted_high > EventTime(0));
}
