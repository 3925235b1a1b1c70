use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::check::check;
use super::super::fs::{Fault, FaultyFs, Fs, RealFs, Survivors};
use super::super::tests::support::*;
use super::super::tests::{carry::carry, carry::six_segments, carry::snapshot};
use super::super::{Journal, JournalOptions, JournalReader, OpenError, POSITION_STEP, StoredEntry};
use super::adopt::adopt_in;
use super::*;

const IMAGE: &str = "/backup";
const TARGET: &str = "/restored";

fn image() -> &'static Path {
    Path::new(IMAGE)
}

/// The image of what is there up to `to`; how many bytes were copied.
fn back_up(reader: &JournalReader, to: u64, start: u64) -> Result<u64, ImageError> {
    let image = copy(reader, to, image(), &mut |_| ())?;
    seal(&image, snapshot(start), super::tests::image())?;
    Ok(image.copied)
}

fn restore(fs: &FaultyFs) -> Result<NodeId, ImageError> {
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    adopt_in(&shared, image(), Path::new(TARGET))
}

fn open_restored(fs: &FaultyFs) -> Result<super::super::Opened, OpenError> {
    open_with(fs, JournalOptions { dir: PathBuf::from(TARGET), ..options() })
}

/// Kept, carried and later segments, and what is in them.
fn journal(fs: &FaultyFs) -> (JournalReader, super::super::log::Log, Vec<StoredEntry>) {
    let (reader, mut log) = six_segments(fs);
    let switch = carry(&log, &reader, &[2, 6, 7, 10, 17], &[3], 21);
    log.shared().switch(log.spares(), switch).unwrap();
    append(&mut log, &[payload(21, 10), payload(22, 10)]).unwrap();
    log.roll().unwrap();
    let entries = all(&reader);
    assert_eq!(entries.len(), 10);
    (reader, log, entries)
}

#[test]
fn an_image_becomes_a_journal_with_the_same_entries() {
    let fs = FaultyFs::new();
    let (reader, mut log, entries) = journal(&fs);
    assert!(matches!(copy(&reader, 23, image(), &mut |_| ()), Err(ImageError::NotSealed(23))));
    assert!(matches!(verify_in(&fs, image()), Err(ImageError::NotAnImage(_))));
    let mut heard = Vec::new();
    let made = copy(&reader, 22, image(), &mut |bytes| heard.push(bytes)).unwrap();
    assert_eq!((heard.len(), heard.last().copied()), (4, Some(made.bytes)));
    assert!(matches!(verify_in(&fs, image()), Err(ImageError::NotAnImage(_))));
    seal(&made, snapshot(21), image()).unwrap();
    // Later life of the original is not in it.
    append(&mut log, &[payload(23, 10)]).unwrap();
    let summary = verify_in(&fs, image()).unwrap();
    assert_eq!((summary.entries, summary.segments, summary.positions), (10, 4, (2, 22)));
    assert_eq!(summary.accepted, Some((entries[0].accepted_at, entries[9].accepted_at)));
    assert_eq!((summary.node, summary.snapshot), (reader.node(), Some(snapshot(21))));

    let node = restore(&fs).unwrap();
    assert_ne!(node, reader.node());
    assert!(matches!(restore(&fs), Err(ImageError::NotEmpty(_))));
    assert!(check(&fs, Path::new(TARGET)).unwrap().is_sound());
    let opened = open_restored(&fs).unwrap();
    assert_eq!((opened.node, &opened.ancestors[..]), (node, &[reader.node()][..]));
    assert!(opened.was_clean && !opened.is_new);
    assert_eq!(all(&opened.reader), entries);
    assert_eq!(opened.reader.snapshot(), Some(snapshot(21)));
    // The numbers of the original are not this node's.
    assert!(!opened.reader.issued(2) && !opened.reader.issued(22));
    for entry in &entries {
        assert_eq!(opened.reader.read(entry.position, entry.offset).unwrap(), *entry);
    }
    let copied = opened.reader.clone();
    let mut log = opened.into_log();
    assert_eq!(append(&mut log, &[payload(50, 10)]).unwrap(), [POSITION_STEP]);
    let last = all(&copied).pop().unwrap();
    assert_eq!((last.node, last.position), (node, POSITION_STEP));
    assert!(copied.issued(POSITION_STEP) && !copied.issued(POSITION_STEP - 1));
    drop(log);
    // Killed: the last segment, with entries of the new node alone, is written anew.
    let opened = open_restored(&fs.restart(Survivors::Synced)).unwrap();
    assert_eq!((all(&opened.reader).len(), all(&opened.reader)[10].node), (11, node));
}

#[test]
fn a_second_image_copies_only_what_is_new() {
    let fs = FaultyFs::new();
    let (reader, mut log, entries) = journal(&fs);
    assert!(back_up(&reader, 22, 21).unwrap() > 0);
    assert_eq!(back_up(&reader, 22, 21).unwrap(), 0);
    append(&mut log, &[payload(23, 10)]).unwrap();
    log.roll().unwrap();
    let copied = back_up(&reader, 23, 21).unwrap();
    assert!(copied > 0 && copied < 300, "{copied}");
    assert_eq!(verify_in(&fs, image()).unwrap().entries, 11);
    // A copy that is damaged is made again; one that has been released goes.
    let kept = segment_in(IMAGE, 3);
    fs.flip(&kept, 3000, 1);
    assert!(matches!(verify_in(&fs, image()), Err(ImageError::Damaged(d)) if d.file == kept));
    assert!(back_up(&reader, 23, 21).unwrap() > 3000);
    verify_in(&fs, image()).unwrap();
    let switch = carry(&log, &reader, &[2], &[], 24);
    log.shared().switch(log.spares(), switch).unwrap();
    back_up(&reader, 23, 24).unwrap();
    assert_eq!(verify_in(&fs, image()).unwrap().entries, 1);
    let names = fs.list(image()).unwrap();
    assert_eq!(names.iter().filter(|name| name.starts_with("segment-")).count(), 1, "{names:?}");
    assert_eq!(entries.len(), 10);
}

fn segment_in(dir: &str, number: u64) -> PathBuf {
    super::super::manifest::segment_path(Path::new(dir), number)
}

#[test]
fn another_journals_image_is_not_overwritten() {
    let fs = FaultyFs::new();
    let (reader, ..) = journal(&fs);
    back_up(&reader, 22, 21).unwrap();
    let other = FaultyFs::new();
    let (foreign, ..) = journal(&other);
    for name in fs.list(image()).unwrap() {
        let path = image().join(name);
        other.set_content(&path, fs.content(&path).unwrap());
    }
    assert!(
        matches!(back_up(&foreign, 22, 21), Err(ImageError::Foreign { node, .. }) if node == reader.node())
    );
    // Without its manifest it is not overwritten either.
    other.remove(&image().join(IMAGE_MANIFEST)).unwrap();
    assert!(matches!(back_up(&foreign, 22, 21), Err(ImageError::Foreign { .. })));
}

#[test]
fn every_flipped_byte_of_an_image_is_seen() {
    let fs = FaultyFs::new();
    let opened = open(&fs).unwrap();
    let reader = opened.reader.clone();
    let mut log = opened.into_log();
    append(&mut log, &[payload(1, 20), payload(2, 0)]).unwrap();
    append(&mut log, &[payload(3, 20)]).unwrap();
    log.roll().unwrap();
    back_up(&reader, 3, 1).unwrap();
    let end = reader.segments()[0].end as usize;
    for (path, length) in [
        (segment_in(IMAGE, 1), end),
        (image().join(IMAGE_MANIFEST), fs.content(&image().join(IMAGE_MANIFEST)).unwrap().len()),
    ] {
        for offset in 0..length {
            for mask in [0x01, 0x80, 0xFF] {
                let hurt = fs.restart(Survivors::Written);
                hurt.flip(&path, offset, mask);
                assert!(verify_in(&hurt, image()).is_err(), "{} byte {offset}", path.display());
                let restored = restore(&hurt);
                assert!(restored.is_err(), "{} byte {offset} restored", path.display());
            }
        }
        for length in 0..length {
            let hurt = fs.restart(Survivors::Written);
            let content = hurt.content(&path).unwrap();
            hurt.set_content(&path, content[..length].to_vec());
            assert!(verify_in(&hurt, image()).is_err(), "{} cut to {length}", path.display());
        }
    }
}

#[test]
fn an_image_that_is_interrupted_leaves_the_old_one_or_the_new_one() {
    let before = FaultyFs::new();
    let (reader, mut log, _) = journal(&before);
    back_up(&reader, 22, 21).unwrap();
    append(&mut log, &[payload(23, 10)]).unwrap();
    log.roll().unwrap();
    let switch = carry(&log, &reader, &[2, 6], &[], 24);
    log.shared().switch(log.spares(), switch).unwrap();
    append(&mut log, &[payload(24, 10)]).unwrap();
    log.roll().unwrap();
    log.mark_clean().unwrap();
    let whole = before.restart(Survivors::Written);
    let opened = open(&whole).unwrap();
    let begun = whole.operations();
    back_up(&opened.reader, 24, 24).unwrap();
    let operations = whole.operations() - begun;
    assert!(operations > 15, "{operations}");
    for nth in 1..=operations {
        for fault in [Fault::Eio, Fault::ShortWrite, Fault::PowerCut] {
            for survivors in [Survivors::Synced, Survivors::Written, Survivors::Some(nth)] {
                let fs = before.restart(Survivors::Written);
                let opened = open(&fs).unwrap();
                fs.fail_in(nth, fault);
                let done = back_up(&opened.reader, 24, 24);
                let after = fs.restart(survivors);
                let summary = verify_in(&after, image()).unwrap();
                let is_new = summary.positions.1 == 24;
                assert!(is_new || summary.entries == 10, "{fault:?} at {nth}");
                assert!(is_new || done.is_err());
                // Again, and it is complete.
                let opened = open(&after).unwrap();
                back_up(&opened.reader, 24, 24).unwrap();
                assert_eq!(verify_in(&after, image()).unwrap().entries, 3);
            }
        }
    }
}

#[test]
fn a_restore_can_be_run_again_after_a_crash_at_any_point() {
    let before = FaultyFs::new();
    let (reader, _log, entries) = journal(&before);
    back_up(&reader, 22, 21).unwrap();
    let whole = before.restart(Survivors::Written);
    let node = restore(&whole).unwrap();
    let operations = whole.operations();
    assert!(operations > 20, "{operations}");
    assert_ne!(node, reader.node());
    for nth in 1..=operations {
        for fault in [Fault::Eio, Fault::ShortWrite, Fault::PowerCut] {
            for survivors in [Survivors::Synced, Survivors::Written, Survivors::Some(nth)] {
                let what = format!("{fault:?} at {nth}, {survivors:?}");
                let fs = before.restart(Survivors::Written);
                fs.fail_in(nth, fault);
                let first = restore(&fs);
                let after = fs.restart(survivors);
                let begun = after.list(Path::new(TARGET)).unwrap().iter().any(|name| name != "lock");
                if first.is_err() && begun {
                    // A start in between finds the whole journal, or says what to do.
                    match open_restored(&after.restart(Survivors::Written)) {
                        Ok(opened) => assert_eq!(all(&opened.reader), entries, "{what}"),
                        Err(error) => {
                            assert!(matches!(error, OpenError::HalfRestored(_)), "{what}: {error}");
                            assert!(error.to_string().contains("steadfast restore"));
                        }
                    }
                }
                match restore(&after) {
                    // Or it was complete.
                    Ok(_) | Err(ImageError::NotEmpty(_)) => {}
                    Err(error) => panic!("{what}: {error}"),
                }
                let opened = open_restored(&after).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(all(&opened.reader), entries, "{what}");
                if let Ok(node) = first {
                    assert_eq!(opened.node, node, "{what}");
                }
            }
        }
    }
}

#[test]
fn an_image_taken_while_entries_come_in_holds_all_up_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { dir: dir.path().join("journal"), ..options() };
    let opened = Journal::<u64>::open(options.clone(), Arc::new(RealFs), clock()).unwrap();
    let (journal, heard) = start(opened);
    let backup = dir.path().join("backup");
    let writer = journal.clone();
    let writing = std::thread::spawn(move || {
        for n in 1..=400 {
            while writer.submit(submission(n)).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let mut last = 0;
    for round in 0..4 {
        while journal.reader().end() < 50 * (round + 1) {
            std::thread::yield_now();
        }
        let begin = journal.roll().unwrap();
        let image = copy(&journal.reader(), begin - 1, &backup, &mut |_| ()).unwrap();
        seal(&image, snapshot(1), &backup).unwrap();
        last = begin - 1;
    }
    writing.join().unwrap();
    journal.close().unwrap();
    let mut acknowledged = 0;
    while let Ok(Heard::Committed(batch)) = heard.try_recv() {
        acknowledged += batch.len();
    }
    assert_eq!(acknowledged, 400);
    assert_eq!(verify(&backup).unwrap().entries, last);
    let target = dir.path().join("restored");
    adopt(&backup, &target).unwrap();
    let restored = JournalOptions { dir: target, ..options.clone() };
    let restored = Journal::<u64>::open(restored, Arc::new(RealFs), clock()).unwrap();
    let original = Journal::<u64>::open(options, Arc::new(RealFs), clock()).unwrap();
    let of_original: Vec<_> = all(&original.reader).into_iter().take_while(|e| e.position <= last).collect();
    assert_eq!(all(&restored.reader), of_original);
}
