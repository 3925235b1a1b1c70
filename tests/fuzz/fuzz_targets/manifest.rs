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

/// Later than whatever a segment says.
const NOW: EventTime = EventTime(u64::MAX);

fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 4096,
        max_entry_bytes: 1024,
        batch_bytes: 4096,
        total_quota: 1 << 20,
        ..JournalOptions::new(PathBuf::from("/journal"))
    }
}

/// Manifest and segment of a journal with the numbers given, so far as they can go together.
fn journal(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (words, _) = bytes.as_chunks::<8>();
    let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
    let mut next = || words.next();
    let (node, first, high, before) = (next()?, next()?, next()?, next()?);
    let (next_segment, origin, next_position, gap) = (next()?, next()?, next()?, (next()?, next()?));
    let end = next()?;
    let clean = match end % 3 {
        0 => format!(r#"{{"end":128,"last_position":{before},"digest":0,"accepted_high":{high}}}"#),
        1 => format!(r#"{{"end":{end},"last_position":{before},"digest":0,"accepted_high":{high}}}"#),
        _ => "null".to_owned(),
    };
    let body = format!(
        r#"{{"node":{node},"ancestors":[],"segments":[{{"number":1,"node":{node},"first_position":{first},"length":4096,
        "sealed":null}}],"next_segment":{next_segment},"origin":{origin},"next_position":{next_position},
        "gaps":[[{},{}]],"clean":{clean},"snapshot":null}}"#,
        gap.0, gap.1
    );
    let mut segment = b"STDFSEGM\x01\0\0\0\0\0\0\0".to_vec();
    for word in [node, 1, first, high, before, 4096] {
        segment.extend_from_slice(&word.to_le_bytes());
    }
    segment.resize(124, 0);
    segment.extend_from_slice(&crc32c::crc32c(&segment).to_le_bytes());
    segment.resize(4096, 0);
    Some((checksummed(body.as_bytes()), segment))
}

fn checksummed(body: &[u8]) -> Vec<u8> {
    let title = format!("steadfast journal manifest, format 1, checksum {:08x}\n", crc32c::crc32c(body));
    [title.as_bytes(), body, b"\n"].concat()
}

fuzz_target!(|bytes: &[u8]| {
    // The file as it is; what comes after a good first line; one that is good, but for its numbers.
    let (manifest, segment) = match bytes.split_first() {
        Some((b'{', _)) => (checksummed(bytes), vec![0; 4096]),
        Some((b'#', rest)) => match journal(rest) {
            Some(journal) => journal,
            None => return,
        },
        _ => (bytes.to_vec(), vec![0; 4096]),
    };
    let fs = FaultyFs::new();
    let dir = Path::new("/journal");
    fs.create_dir_all(dir).expect("a disk without faults");
    fs.set_content(&dir.join("manifest"), manifest);
    fs.set_content(&dir.join("segment-0000000001"), segment);
    if let Ok(report) = check::check(&fs, dir) {
        let _text = report.to_string();
    }
    if let Ok(opened) = Journal::<()>::open(options(), Arc::new(fs), Arc::new(ManualClock::new(NOW))) {
        let _issued = opened.reader.issued(opened.end);
        for entry in opened.reader.scan(0) {
            assert!(entry.is_err(), "an entry of a journal that has none");
        }
    }
});
