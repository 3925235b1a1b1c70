use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::super::check::check;
use super::super::fs::{Fault, FaultyFs, Survivors};
use super::super::manifest::segment_path;
use super::super::tests::carry::{carry, six_segments, snapshot};
use super::super::tests::damage::small_journal;
use super::super::tests::support::*;
use super::super::{POSITION_STEP, StoredEntry};
use super::*;

fn run(fs: &FaultyFs, dry_run: bool, snapshots: &[SnapshotRef]) -> Result<RepairReport, RepairError> {
    let options = RepairOptions {
        dir: PathBuf::from(DIR),
        save_as: "repair-1".to_owned(),
        dry_run,
        without_snapshot: false,
        snapshots: snapshots.to_vec(),
    };
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    repair(&fs, &options)
}

fn segment(number: u64) -> PathBuf {
    segment_path(Path::new(DIR), number)
}

/// Everything in the directory.
fn contents(fs: &FaultyFs) -> BTreeMap<String, Vec<u8>> {
    let names = fs.list(Path::new(DIR)).unwrap();
    names.into_iter().map(|name| (name.clone(), fs.content(&Path::new(DIR).join(name)).unwrap())).collect()
}

/// Repairs; afterwards it opens, and every entry is there as it was or told to be lost. How many are lost.
fn judge(fs: &FaultyFs, written: &[StoredEntry], snapshots: &[SnapshotRef], what: &str) -> usize {
    let before = contents(fs);
    let planned = run(fs, true, snapshots).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(contents(fs) == before, "{what}: a dry run has changed something");
    let report = run(fs, false, snapshots).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(RepairReport { dry_run: false, ..planned.clone() }, report, "{what}");
    let found = check(fs, Path::new(DIR)).unwrap();
    assert!(found.is_sound(), "{what}: {found}\n{report}");
    let opened = open(fs).unwrap_or_else(|error| panic!("{what}: {error}\n{report}"));
    let entries = all(&opened.reader);
    let by_position: BTreeMap<u64, &StoredEntry> = entries.iter().map(|e| (e.position, e)).collect();
    let mut missing = 0;
    for entry in written {
        let told = report.losses().any(|loss| (loss.first..=loss.last).contains(&entry.position));
        if let Some(found) = by_position.get(&entry.position) {
            assert_eq!(StoredEntry { offset: entry.offset, ..(*found).clone() }, *entry, "{what}");
            assert!(!told, "{what}: {} is there, and told to be lost\n{report}", entry.position);
            assert!(opened.reader.issued(entry.position), "{what}: {} not issued\n{report}", entry.position);
        } else {
            missing += 1;
            let cut = opened.cut.is_some();
            assert!(told || cut, "{what}: {} is silently lost\n{report}", entry.position);
            assert!(cut || !opened.reader.issued(entry.position), "{what}: {} claimed", entry.position);
        }
    }
    for entry in &entries {
        assert!(written.iter().any(|known| known.position == entry.position), "{what}: {}", entry.position);
    }
    for finding in report.findings.iter().filter(|finding| finding.action != Action::Missing) {
        let saved = report.saved.as_ref().unwrap().join(finding.file.file_name().unwrap());
        let name = finding.file.file_name().unwrap().to_str().unwrap();
        assert!(fs.content(&saved).unwrap() == before[name], "{what}: {name} is not saved");
    }
    let mut log = opened.into_log();
    let highest = written.iter().map(|entry| entry.position).max().unwrap();
    assert!(append(&mut log, &[payload(99, 0)]).unwrap()[0] > highest, "{what}");
    missing
}

#[test]
fn a_sound_journal_is_left_alone() {
    for clean in [true, false] {
        let (fs, written) = small_journal(clean);
        let before = contents(&fs);
        let report = run(&fs, false, &[]).unwrap();
        assert!(report.is_sound() && report.to_string().contains("nothing to repair"), "{report}");
        assert_eq!(report.entries as usize, written.len());
        let mut after = contents(&fs);
        after.remove("lock");
        assert!(after == before);
    }
    assert!(matches!(run(&FaultyFs::new(), false, &[]), Err(RepairError::NoJournal(_))));
    let (fs, _) = small_journal(true);
    fs.set_content(&Path::new(DIR).join("lock"), Vec::new());
    let _open = open(&fs).unwrap();
    assert!(matches!(run(&fs, true, &[]), Err(RepairError::Locked(_))));
}

#[test]
fn whichever_byte_is_flipped_at_most_its_batch_is_lost() {
    for clean in [true, false] {
        let (fs, written) = small_journal(clean);
        for file in ["segment-0000000001", "segment-0000000002", MANIFEST] {
            let path = Path::new(DIR).join(file);
            let content = fs.content(&path).unwrap();
            let used = end_of(&content);
            for offset in (0..used).step_by(if file == MANIFEST { 7 } else { 2 }) {
                let hurt = fs.restart(Survivors::Written);
                hurt.flip(&path, offset, 0x41);
                let what = format!("{file} byte {offset}, clean {clean}");
                // A version that is not ours is not touched: the number itself may be what is damaged.
                if let Err(RepairError::Version { .. }) = run(&hurt, true, &[]) {
                    continue;
                }
                let lost = judge(&hurt, &written, &[], &what);
                assert!(lost <= if file == MANIFEST { 0 } else { 2 }, "{what}: {lost} lost");
            }
        }
    }
}

#[test]
fn one_bad_byte_in_a_payload_costs_one_entry_and_is_told() {
    let (fs, written) = small_journal(true);
    let at = fs.content(&segment(2)).unwrap().windows(8).position(|window| window == b"entry 6 ").unwrap();
    fs.flip(&segment(2), at + 2, 0x20);
    let report = run(&fs, true, &[]).unwrap();
    let losses: Vec<_> = report.losses().cloned().collect();
    assert_eq!(losses.len(), 1, "{report}");
    let lost = written.iter().find(|entry| entry.payload.starts_with(b"entry 6 ")).unwrap();
    assert_eq!((losses[0].first, losses[0].last), (lost.position, lost.position));
    let index = written.iter().position(|entry| entry == lost).unwrap();
    assert_eq!(losses[0].after, Some(written[index - 1].accepted_at));
    assert_eq!(losses[0].before, Some(written[index + 1].accepted_at));
    let text = report.to_string();
    assert!(text.contains(&format!("LOSES positions {0} - {0}", lost.position)), "{text}");
    assert!(text.contains("nothing has been changed") && text.contains("repair-1"), "{text}");
    assert_eq!(judge(&fs, &written, &[], "one byte"), 1);
    assert!(run(&fs, false, &[]).is_ok_and(|report| report.is_sound()) || open(&fs).is_err());
}

#[test]
fn truncated_and_missing_files_lose_what_they_held_and_no_more() {
    for clean in [true, false] {
        let (fs, written) = small_journal(clean);
        for number in [1, 2] {
            let content = fs.content(&segment(number)).unwrap();
            let used = end_of(&content);
            for length in (0..used).step_by(7).chain([used, content.len() - 1]) {
                let hurt = fs.restart(Survivors::Written);
                hurt.set_content(&segment(number), content[..length].to_vec());
                let what = format!("segment {number} cut to {length}, clean {clean}");
                let lost = judge(&hurt, &written, &[], &what);
                assert!(length < used || lost == 0, "{what}: {lost} lost");
            }
            let hurt = fs.restart(Survivors::Written);
            hurt.remove(&segment(number)).unwrap();
            let lost = judge(&hurt, &written, &[], &format!("segment {number} missing, clean {clean}"));
            assert_eq!(lost, if number == 1 { 3 } else { 12 });
        }
    }
}

#[test]
fn a_lost_manifest_is_made_anew_from_the_segments() {
    let (fs, written) = small_journal(false);
    let node = open(&fs.restart(Survivors::Written)).unwrap().node;
    fs.remove(&Path::new(DIR).join(MANIFEST)).unwrap();
    assert_eq!(judge(&fs, &written, &[], "no manifest"), 0);
    let opened = open(&fs.restart(Survivors::Written)).unwrap();
    assert_eq!(opened.node, node);
    assert!(opened.reader.issued(1) && !opened.reader.issued(16));
    assert!(opened.reader.issued(opened.end) && opened.end.is_multiple_of(POSITION_STEP));
}

#[test]
fn an_old_manifest_is_completed() {
    let fs = FaultyFs::new();
    let (reader, mut log) = six_segments(&fs);
    let manifest = Path::new(DIR).join(MANIFEST);
    let old = fs.content(&manifest).unwrap();
    append(&mut log, &[payload(21, 9)]).unwrap();
    log.roll().unwrap();
    append(&mut log, &[payload(22, 9)]).unwrap();
    let written = all(&reader);
    log.mark_clean().unwrap();
    drop(log);
    fs.set_content(&manifest, old);
    let fs = fs.restart(Survivors::Written);
    assert!(run(&fs, true, &[]).unwrap().manifest.unwrap().contains("old copy"));
    assert_eq!(judge(&fs, &written, &[], "old manifest"), 0);
}

#[test]
fn after_a_snapshot_a_lost_manifest_needs_the_snapshot() {
    for remove_nothing in [true, false] {
        let fs = FaultyFs::new();
        let (reader, mut log) = six_segments(&fs);
        append(&mut log, &[payload(21, 10), payload(22, 10)]).unwrap();
        let before = fs.restart(Survivors::Written);
        let switch = carry(&log, &reader, &[2, 6, 7, 10, 17], &[3], 21);
        log.shared().switch(log.spares(), switch).unwrap();
        let written = all(&reader);
        log.mark_clean().unwrap();
        drop(log);
        if remove_nothing {
            // As if the crash had come before what was released was removed.
            for number in [1, 2, 4, 5] {
                fs.set_content(&segment(number), before.content(&segment(number)).unwrap());
            }
        }
        fs.remove(&Path::new(DIR).join(MANIFEST)).unwrap();
        let fs = fs.restart(Survivors::Written);
        if remove_nothing {
            // Everything is there: what was released is back, and replay knows by the snapshot what counts.
            let report = run(&fs, false, &[snapshot(21)]).unwrap();
            assert_eq!(report.losses().count(), 0, "{report}");
            let opened = open(&fs).unwrap();
            let there: Vec<u64> = all(&opened.reader).iter().map(|entry| entry.position).collect();
            assert_eq!(there, (1..=22).collect::<Vec<_>>());
        } else {
            let error = run(&fs, false, &[]).unwrap_err();
            assert!(matches!(error, RepairError::NoHistory { before: 2 }), "{error}");
            assert!(run(&fs, true, &[]).unwrap().to_string().contains("NO HISTORY"));
            let snapshots = [snapshot(9), snapshot(21), snapshot(22)];
            assert_eq!(judge(&fs, &written, &snapshots, "with the snapshot"), 0);
            assert_eq!(open(&fs).unwrap().reader.snapshot(), Some(snapshot(21)));
        }
    }
}

#[test]
fn a_foreign_segment_is_set_aside() {
    let (fs, written) = small_journal(true);
    let (other, _) = small_journal(true);
    fs.set_content(&segment(3), other.content(&segment(2)).unwrap());
    assert!(open(&fs).is_err());
    assert_eq!(judge(&fs, &written, &[], "foreign"), 0);
}

#[test]
fn a_repair_that_is_cut_short_can_be_run_again() {
    let (sound, written) = small_journal(false);
    let damages: [fn(&FaultyFs); 3] = [
        |fs| fs.flip(&segment(1), 200, 1),
        |fs| fs.flip(&segment(2), 400, 1),
        |fs| {
            fs.flip(&segment(1), 200, 1);
            fs.remove(&Path::new(DIR).join(MANIFEST)).unwrap();
        },
    ];
    for damage in damages {
        let hurt = sound.restart(Survivors::Written);
        damage(&hurt);
        let whole = hurt.restart(Survivors::Written);
        let lost = judge(&whole, &written, &[], "whole");
        let operations = {
            let fs = hurt.restart(Survivors::Written);
            run(&fs, false, &[]).unwrap();
            fs.operations()
        };
        for nth in 1..=operations {
            for survivors in [Survivors::Synced, Survivors::Written, Survivors::Some(nth)] {
                let fs = hurt.restart(Survivors::Written);
                fs.fail_in(nth, Fault::PowerCut);
                let _cut_short = run(&fs, false, &[]);
                let after = fs.restart(survivors);
                let what = format!("cut at {nth}, {survivors:?}");
                if check(&after, Path::new(DIR)).unwrap().is_sound() {
                    // The new manifest was in place already.
                    let opened = open(&after).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!(all(&opened.reader).len(), written.len() - lost, "{what}");
                } else {
                    assert_eq!(judge(&after, &written, &[], &what), lost, "{what}");
                }
            }
        }
    }
}
