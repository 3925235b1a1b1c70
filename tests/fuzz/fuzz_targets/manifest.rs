//! A journal with any manifest: `check` and opening never panic, whatever it says. Its checksum is made right first:
//! behind it is what is to be tried.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use steadfast::clock::ManualClock;
use steadfast::journal::fs::{FaultyFs, Fs};
use steadfast::journal::{Journal, JournalOptions, check};
use steadfast::model::EventTime;

/// 2026-01-01, in nanoseconds.
const NOW: EventTime = EventTime(1_767_225_600_000_000_000);

fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 4096,
        max_entry_bytes: 1024,
        batch_bytes: 4096,
        total_quota: 1 << 20,
        ..JournalOptions::new(PathBuf::from("/journal"))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let fs = FaultyFs::new();
    let dir = Path::new("/journal");
    fs.create_dir_all(dir).expect("a disk without faults");
    let mut content = bytes.to_vec();
    // Half of them are the file as it is, the others what comes after a good first line.
    if bytes.first().is_some_and(|first| *first == b'{') {
        content = format!("steadfast journal manifest, format 1, checksum {:08x}\n", crc32c::crc32c(bytes))
            .into_bytes();
        content.extend_from_slice(bytes);
        content.push(b'\n');
    }
    fs.set_content(&dir.join("manifest"), content);
    fs.set_content(&dir.join("segment-0000000001"), vec![0; 4096]);
    if let Ok(report) = check::check(&fs, dir) {
        let _text = report.to_string();
    }
    if let Ok(opened) = Journal::<()>::open(options(), Arc::new(fs), Arc::new(ManualClock::new(NOW))) {
        for entry in opened.reader.scan(0) {
            assert!(entry.is_err(), "an entry of a journal that has none");
        }
    }
});
