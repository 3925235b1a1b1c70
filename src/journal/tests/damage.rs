//! Every byte of a small journal altered, every file cut at every length: never a quiet loss, never a wrong
//! value.

use std::path::Path;

use super::super::check::check;
use super::super::fs::{FaultyFs, Survivors};
use super::super::manifest::MANIFEST;
use super::super::{OpenError, StoredEntry};
use super::support::*;

/// Two segments: the first sealed, the second with three batches.
pub fn small_journal(clean: bool) -> (FaultyFs, Vec<StoredEntry>) {
    let fs = FaultyFs::new();
    let opened = open(&fs).unwrap();
    let reader = opened.reader.clone();
    let mut log = opened.into_log();
    append(&mut log, &[payload(1, 0), payload(2, 30)]).unwrap();
    append(&mut log, &[payload(3, 0)]).unwrap();
    log.roll().unwrap();
    for n in 4..10 {
        append(&mut log, &[payload(n, 20), payload(n + 100, 0)]).unwrap();
    }
    if clean {
        log.mark_clean().unwrap();
    }
    let entries = all(&reader);
    assert_eq!(entries.len(), 15);
    (fs.restart(Survivors::Written), entries)
}

/// What was read is what was written, and what is missing was reported.
fn judge(fs: &FaultyFs, written: &[StoredEntry], may_cut: usize, what: &str) -> &'static str {
    let found = check(fs, Path::new(DIR)).unwrap_or_else(|error| panic!("{what}: check: {error}"));
    let opened = match open(fs) {
        Ok(opened) => opened,
        Err(OpenError::Damaged { .. } | OpenError::Version { .. }) => {
            assert!(!found.is_sound(), "{what}: check found nothing");
            return "refused";
        }
        Err(error) => panic!("{what}: {error}"),
    };
    let mut good = 0;
    for entry in opened.reader.scan(0) {
        let Ok(entry) = entry else {
            assert!(!found.is_sound(), "{what}: check found nothing");
            return "found when read";
        };
        assert_eq!(entry, written[good], "{what}");
        good += 1;
    }
    assert!(found.is_sound(), "{what}: {found}");
    assert_eq!(opened.cut.is_some(), found.torn.is_some(), "{what}");
    if good == written.len() {
        return "whole";
    }
    // Only the last batch (of two entries) can be taken for one that was being written.
    let lost = written.len() - good;
    assert!(opened.cut.is_some() && lost <= may_cut, "{what}: {lost} entries lost");
    "cut"
}

#[test]
fn every_flipped_byte_is_noticed() {
    for clean in [true, false] {
        let (fs, written) = small_journal(clean);
        for (file, last) in [("segment-0000000001", false), ("segment-0000000002", true), (MANIFEST, false)] {
            let path = Path::new(DIR).join(file);
            let content = fs.content(&path).unwrap();
            let used = end_of(&content);
            for offset in 0..used {
                for mask in [0x01, 0x80, 0xFF] {
                    let hurt = fs.restart(Survivors::Written);
                    hurt.flip(&path, offset, mask);
                    let what = format!("{file} byte {offset} ^ {mask:#x}, clean {clean}");
                    let outcome = judge(&hurt, &written, if last && !clean { 2 } else { 0 }, &what);
                    assert_ne!(outcome, "whole", "{what}: not noticed");
                }
            }
            // Behind the end nothing is data; what is there may be reported, but nothing is lost.
            for offset in (used..(used + 60).min(content.len())).step_by(7) {
                let hurt = fs.restart(Survivors::Written);
                hurt.flip(&path, offset, 0x42);
                judge(&hurt, &written, 0, &format!("{file} behind the end, byte {offset}"));
            }
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for clean in [true, false] {
        let (fs, written) = small_journal(clean);
        for file in ["segment-0000000001", "segment-0000000002", MANIFEST] {
            let path = Path::new(DIR).join(file);
            let content = fs.content(&path).unwrap();
            let used = end_of(&content);
            let lengths = (0..used.min(content.len())).chain([content.len() - 1]);
            for length in lengths {
                let hurt = fs.restart(Survivors::Written);
                hurt.set_content(&path, content[..length].to_vec());
                let what = format!("{file} cut to {length}, clean {clean}");
                assert_eq!(judge(&hurt, &written, 0, &what), "refused", "{what}");
            }
        }
    }
}

#[test]
fn every_zeroed_batch_is_noticed() {
    // A lost block reads as zeros, and zeros are how a segment ends.
    let (fs, written) = small_journal(false);
    let path = Path::new(DIR).join("segment-0000000002");
    let content = fs.content(&path).unwrap();
    let used = end_of(&content);
    for start in (128..used - 120).step_by(3) {
        let hurt = fs.restart(Survivors::Written);
        let mut zeroed = content.clone();
        zeroed[start..start + 100].fill(0);
        hurt.set_content(&path, zeroed);
        let what = format!("zeros from {start}");
        // It can reach over the last two batches, so that no good one follows.
        judge(&hurt, &written, 4, &what);
    }
}
