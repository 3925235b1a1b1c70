//! What a start refuses, and what it says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::fs::{FaultyFs, Fs as _, RealFs, Survivors};
use super::super::manifest::{MANIFEST, Manifest};
use super::super::{Journal, JournalOptions, OpenError};
use super::support::*;
use crate::clock::{Clock, ManualClock};
use crate::model::EventTime;

fn three_segments() -> FaultyFs {
    let fs = FaultyFs::new();
    let mut log = open(&fs).unwrap().into_log();
    for n in 1..=3 {
        if n > 1 {
            log.roll().unwrap();
        }
        append(&mut log, &[payload(n, 50)]).unwrap();
    }
    fs.restart(Survivors::Written)
}

fn refusal(fs: &FaultyFs) -> String {
    open(fs).unwrap_err().to_string()
}

fn segment(number: u64) -> std::path::PathBuf {
    super::super::manifest::segment_path(Path::new(DIR), number)
}

#[test]
fn a_second_process_is_told_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { dir: dir.path().to_owned(), ..options() };
    let first = Journal::<u64>::open(options.clone(), Arc::new(RealFs), clock()).unwrap();
    let second = Journal::<u64>::open(options.clone(), Arc::new(RealFs), clock()).unwrap_err();
    assert!(matches!(&second, OpenError::Locked(locked) if locked == dir.path()));
    assert!(second.to_string().contains(&dir.path().display().to_string()));
    drop(first);
    Journal::<u64>::open(options, Arc::new(RealFs), clock()).unwrap();
}

#[test]
fn a_missing_segment_is_named() {
    for number in 1..=3 {
        let fs = three_segments();
        fs.remove(&segment(number)).unwrap();
        let said = refusal(&fs);
        assert!(said.contains("missing") && said.contains(&format!("segment-000000000{number}")), "{said}");
        assert!(said.contains("journal check"), "{said}");
    }
}

#[test]
fn segments_in_each_others_place_are_refused() {
    for (from, to) in [(1, 2), (2, 3), (3, 1), (2, 1)] {
        let fs = three_segments();
        let content = fs.content(&segment(from)).unwrap();
        fs.set_content(&segment(to), content);
        assert!(matches!(open(&fs), Err(OpenError::Damaged { .. })), "{from} as {to}");
    }
}

#[test]
fn another_journals_segment_is_refused() {
    let other = three_segments();
    for number in 1..=4 {
        let fs = three_segments();
        fs.set_content(&segment(number), other.content(&segment(number.min(3))).unwrap());
        assert!(refusal(&fs).contains("of node"), "{number}");
    }
}

#[test]
fn a_missing_or_old_manifest_is_refused() {
    let fs = three_segments();
    let manifest = Path::new(DIR).join(MANIFEST);
    let old = fs.content(&manifest).unwrap();
    fs.remove(&manifest).unwrap();
    assert!(refusal(&fs).contains("manifest is missing"));

    fs.set_content(&manifest, old.clone());
    let mut log = open(&fs).unwrap().into_log();
    append(&mut log, &[payload(4, 0)]).unwrap();
    log.roll().unwrap();
    append(&mut log, &[payload(5, 0)]).unwrap();
    drop(log);
    fs.set_content(&manifest, old);
    assert!(matches!(open(&fs), Err(OpenError::Damaged { .. })));
}

#[test]
fn numbers_that_no_journal_reaches_are_damage() {
    let spoilers: [fn(&mut Manifest); 2] = [|m| m.next_position = u64::MAX, |m| m.next_segment = u64::MAX];
    for spoil in spoilers {
        let fs = three_segments();
        let mut manifest = Manifest::load(&fs, Path::new(DIR)).unwrap().unwrap();
        spoil(&mut manifest);
        manifest.store(&fs, Path::new(DIR)).unwrap();
        assert!(refusal(&fs).contains("no journal reaches"));
    }
}

#[test]
fn a_manifest_from_before_the_last_entries_is_refused() {
    let fs = FaultyFs::new();
    let mut log = open(&fs).unwrap().into_log();
    append(&mut log, &[payload(1, 0)]).unwrap();
    log.mark_clean().unwrap();
    drop(log);
    let manifest = Path::new(DIR).join(MANIFEST);
    let old = fs.content(&manifest).unwrap();
    let mut log = open(&fs).unwrap().into_log();
    append(&mut log, &[payload(2, 0)]).unwrap();
    log.mark_clean().unwrap();
    drop(log);
    fs.set_content(&manifest, old);
    assert!(refusal(&fs).contains("manifest is older"));
}

#[test]
fn a_bad_batch_before_a_good_one_is_damage() {
    let fs = FaultyFs::new();
    let mut log = open(&fs).unwrap().into_log();
    append(&mut log, &[payload(1, 0)]).unwrap();
    let at = end_of(&fs.content(&segment(1)).unwrap());
    append(&mut log, &[payload(2, 0)]).unwrap();
    append(&mut log, &[payload(3, 0)]).unwrap();
    drop(log);
    fs.flip(&segment(1), at + 50, 0x10);
    let said = refusal(&fs);
    assert!(said.contains("a good batch follows") && said.contains(&format!("at byte {at}")), "{said}");
}

#[test]
fn a_journal_shorter_than_the_store_is_refused() {
    let fs = three_segments();
    let options = JournalOptions { store_applied: 4, ..options() };
    let said = open_with(&fs, options.clone()).unwrap_err().to_string();
    assert!(said.contains("ends at entry 3") && said.contains("applied entry 4"), "{said}");
    assert!(matches!(
        open_with(&FaultyFs::new(), options),
        Err(OpenError::StoreWithoutJournal { applied: 4, .. })
    ));
    open_with(&fs, JournalOptions { store_applied: 3, ..super::support::options() }).unwrap();
}

#[test]
fn a_clock_that_is_behind_is_refused_beyond_five_minutes() {
    let fs = three_segments();
    let at = |time: EventTime| {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(time));
        Journal::<u64>::open(options(), Arc::new(fs.clone()), clock)
    };
    let back = |seconds: u64| EventTime(start_time().0 - Duration::from_secs(seconds).as_nanos() as u64);
    assert!(matches!(at(back(301)), Err(OpenError::ClockBehind { behind }) if behind.as_secs() == 301));
    let opened = at(back(299)).unwrap();
    let (high, reader) = (opened.accepted_high, opened.reader.clone());
    let mut log = opened.into_log();
    log.push(back(299), b"later all the same").unwrap();
    log.commit(settings()).unwrap();
    assert!(all(&reader).last().unwrap().accepted_at > high);
}

#[test]
fn another_format_is_refused_with_advice() {
    let fs = three_segments();
    let manifest = Path::new(DIR).join(MANIFEST);
    let text = String::from_utf8(fs.content(&manifest).unwrap()).unwrap();
    fs.set_content(&manifest, text.replacen("format 1,", "format 2,", 1).into_bytes());
    assert!(matches!(open(&fs), Err(OpenError::Version { found: 2, known: 1, .. })));
}

#[test]
fn options_that_cannot_work_are_refused() {
    let broken = [
        JournalOptions { segment_bytes: 1, ..options() },
        JournalOptions { max_entry_bytes: 12 << 10, ..options() },
        JournalOptions { batch_bytes: 1, ..options() },
        JournalOptions { queue_entries: 0, ..options() },
        JournalOptions { queue_bytes: 1, ..options() },
        JournalOptions { total_quota: 1, ..options() },
    ];
    for options in broken {
        assert!(matches!(open_with(&FaultyFs::new(), options), Err(OpenError::Options(_))));
    }
}

#[test]
fn old_data_in_a_recycled_segment_is_never_read() {
    let fs = FaultyFs::new();
    let mut log = open(&fs).unwrap().into_log();
    for n in 1..=12 {
        append(&mut log, &[payload(n, 3_750)]).unwrap();
    }
    assert!(release_in(&log, 12).unwrap().segments >= 2);
    log.roll().unwrap();
    let last = append(&mut log, &[payload(77, 10)]).unwrap();
    let content = fs.content(&file_of(&fs, "segment-")).unwrap();
    assert!(content.windows(8).any(|window| window == b"entry 2 " || window == b"entry 6 "), "not recycled");
    drop(log);
    for survivors in [Survivors::Written, Survivors::Synced] {
        let opened = open(&fs.restart(survivors)).unwrap();
        assert!(opened.cut.is_none());
        let entries = all(&opened.reader);
        assert_eq!(entries.last().unwrap().position, last[0]);
        assert!(entries.len() <= 5, "{}", entries.len());
    }
}
