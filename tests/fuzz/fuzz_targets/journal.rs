//! A journal's last segment with any content: `check` and opening agree, never panic, what opens can be read to its
//! end, and what does not open does so after a repair. Checksums are made right first, unless the first byte says otherwise: behind them is what is to be tried.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use crc32c::crc32c_append;
use libfuzzer_sys::fuzz_target;
use steadfast::clock::ManualClock;
use steadfast::journal::fs::{FaultyFs, Fs};
use steadfast::journal::repair::{RepairOptions, repair};
use steadfast::journal::{Journal, JournalOptions, check};
use steadfast::model::EventTime;

/// Later than whatever an entry says: a clock that is behind is no damage, and `check` does not look at it.
const NOW: EventTime = EventTime(u64::MAX);
const DIR: &str = "/journal";
const SEGMENT: &str = "/journal/segment-0000000001";
const SEGMENT_BYTES: usize = 4096;
/// Lengths of the headers of segments, batches and entries.
const SEGMENT_HEADER: usize = 128;
const BATCH_HEADER: usize = 36;
const ENTRY_HEADER: usize = 20;

fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: SEGMENT_BYTES as u64,
        max_entry_bytes: 1024,
        batch_bytes: SEGMENT_BYTES as u64,
        total_quota: 1 << 20,
        ..JournalOptions::new(PathBuf::from(DIR))
    }
}

fn open(fs: &FaultyFs) -> Result<steadfast::journal::Opened, steadfast::journal::OpenError> {
    Journal::<()>::open(options(), Arc::new(fs.clone()), Arc::new(ManualClock::new(NOW)))
}

/// An empty journal: the content of its manifest and segment.
static EMPTY: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let fs = FaultyFs::new();
    drop(open(&fs).expect("a new journal opens"));
    let content = |file: &str| {
        fs.content(Path::new(file)).unwrap_or_else(|| panic!("no {file}: {:?}", fs.list(Path::new(DIR))))
    };
    (content("/journal/manifest"), content(SEGMENT))
});

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(target) = bytes.get_mut(at..at + 4) {
        target.copy_from_slice(&value.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

/// Makes the batches that start at the first byte valid as far as they go. `keep` says what stays as it is.
fn make_right(bytes: &mut [u8], seed: u32, keep: u8) -> Option<()> {
    let mut start = 0;
    loop {
        let batch = bytes.get_mut(start..).filter(|rest| rest.len() >= BATCH_HEADER + 4)?;
        if keep & 1 == 0 {
            batch.get_mut(..4)?.copy_from_slice(b"BtCh");
        }
        if keep & 2 == 0 {
            // Small enough to be there.
            let length = u32_at(batch, 4)? % (batch.len() - BATCH_HEADER - 3);
            put(batch, 4, length as u32);
        }
        let end = BATCH_HEADER.checked_add(u32_at(batch, 4)?)?;
        let first = u64::from_le_bytes(batch.get(8..16)?.try_into().ok()?);
        let mut at = BATCH_HEADER;
        let mut count = 0;
        while at < end {
            if keep & 4 == 0 && at + ENTRY_HEADER <= end {
                let length = u32_at(batch, at)? % (end - at - ENTRY_HEADER + 1);
                put(batch, at, length as u32);
                put(batch, at + 4, at as u32);
            }
            let length = u32_at(batch, at)?;
            let Some(entry) = batch.get(at..at + ENTRY_HEADER + length) else { break };
            let position = first.wrapping_add(count);
            let sum = crc32c_append(crc32c_append(seed, &position.to_le_bytes()), entry.get(..16)?);
            let sum = crc32c_append(sum, entry.get(ENTRY_HEADER..)?);
            put(batch, at + 16, sum);
            at += ENTRY_HEADER + length;
            count += 1;
        }
        if keep & 8 == 0 {
            put(batch, 16, count as u32);
        }
        let sum = crc32c_append(seed, batch.get(..BATCH_HEADER - 4)?);
        put(batch, BATCH_HEADER - 4, sum);
        let sum = crc32c_append(seed, batch.get(..end)?);
        put(batch, end, sum);
        start += end + 4;
    }
}

/// A repair makes it open, with no problem left, and says what it will do beforehand.
fn repaired(fs: &FaultyFs) {
    let options = |dry_run| RepairOptions {
        dir: PathBuf::from(DIR),
        save_as: "repair-1".to_owned(),
        dry_run,
        ..RepairOptions::default()
    };
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let planned = repair(&fs, &options(true)).expect("what is damaged can be repaired");
    let done = repair(&fs, &options(false)).expect("what is damaged can be repaired");
    let _text = done.to_string();
    assert_eq!(planned.entries, done.entries);
    let opened = Journal::<()>::open(self::options(), fs, Arc::new(ManualClock::new(NOW)));
    let opened = opened.expect("what was repaired opens");
    let entries = opened.reader.scan(0).map(|entry| entry.expect("what was repaired is whole")).count();
    assert_eq!(entries as u64, done.entries);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((keep, content)) = bytes.split_first() else { return };
    let (manifest, segment) = &*EMPTY;
    let mut segment = segment.clone();
    let length = content.len().min(SEGMENT_BYTES - SEGMENT_HEADER);
    segment[SEGMENT_HEADER..SEGMENT_HEADER + length].copy_from_slice(&content[..length]);
    let seed = crc32c_append(crc32c_append(0, &segment[16..24]), &segment[24..32]);
    let _as_far_as_it_goes = make_right(&mut segment[SEGMENT_HEADER..SEGMENT_HEADER + length], seed, *keep);

    let fs = FaultyFs::new();
    fs.create_dir_all(Path::new(DIR)).expect("a disk without faults");
    fs.set_content(Path::new("/journal/manifest"), manifest.clone());
    fs.set_content(Path::new(SEGMENT), segment);
    let report = check::check(&fs, Path::new(DIR)).expect("every file can be read");
    let _text = report.to_string();
    match open(&fs) {
        Ok(opened) => {
            assert!(report.is_sound(), "{report}");
            let mut last = 0;
            let mut count = 0;
            for entry in opened.reader.scan(0) {
                let entry = entry.expect("what was opened can be read");
                assert!(entry.position > last, "{} after {last}", entry.position);
                last = entry.position;
                count += 1;
            }
            assert_eq!(count, report.entries());
            assert_eq!(last, opened.end);
        }
        Err(error) => {
            assert!(!report.is_sound(), "{error}\n{report}");
            repaired(&fs);
        }
    }
});
