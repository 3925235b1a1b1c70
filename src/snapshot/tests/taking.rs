//! Taking snapshots: what is kept, carried and released, and what every failure leaves behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::node::{Node, contents, open_journal, options, take};
use super::support::{bytes_of, dir};
use crate::fs::{Fault, FaultyFs, Fs, OpenMode, Survivors};
use crate::journal::{JournalReader, JournalState, SnapshotRef, SwitchError};
use crate::model::{
    AttributeChange, Change, ChangeKind, Command, Entry, ProfileKey, Site, User, Value, Write,
};
use crate::snapshot::{SnapshotError, SnapshotReader, TakeError, file_name, sweep};

fn write(site: &str, user: &str, text: &str) -> Entry {
    let change = Change::Set(Value::String(text.into()));
    let changes = vec![AttributeChange { name: "plan".into(), change, occurred_at: None }];
    let write = Write {
        user: User::new(user),
        request_id: Some(format!("{user}-{text}").into()),
        occurred_at: None,
        if_version: None,
        kind: ChangeKind::Identify(changes),
    };
    Entry { site: Site::new(site), command: Command::Write(write) }
}

fn long(n: usize) -> String {
    format!("{n:04}{}", "x".repeat(180))
}

fn hash(site: &str, user: &str) -> u64 {
    ProfileKey::new(Site::new(site), User::new(user)).hash64()
}

/// Many writes of busy users, and one in twenty of a user who is held.
fn busy(node: &mut Node, rounds: std::ops::Range<usize>) {
    let held = hash("acme", "held");
    for n in rounds {
        assert!(node.accept(write("acme", &format!("user-{}", n % 7), &long(n))));
        if n % 20 == 0 {
            assert!(node.accept(write("acme", "held", &long(n))));
        }
        if n % 10 == 0 {
            node.apply(usize::MAX, |user| user == held);
        }
    }
    node.apply(usize::MAX, |user| user == held);
}

fn positions(reader: &JournalReader) -> Vec<u64> {
    reader.scan(0).map(|entry| entry.unwrap().position).collect()
}

#[test]
fn what_waits_is_carried_and_the_rest_released() {
    let mut node = Node::new();
    busy(&mut node, 0..400);
    let reader = node.journal.reader();
    let before = reader.segments().len();
    let waiting = node.sites.all()[0].lane.lock().waiting();
    assert_eq!((waiting, before > 4), (20, true));
    let taken = node.snapshot().unwrap();
    assert_eq!((taken.carried, taken.kept, taken.counts.waiting), (20, 0, 20));
    assert_eq!(taken.counts.request_ids, 400);
    assert_eq!(taken.released.segments as usize, before);
    assert_eq!(positions(&reader).len(), 20, "only what waits is left");
    assert_eq!(node.trust.checkpoints.load(Ordering::SeqCst), 1);
    assert_eq!(node.names(&dir()), [file_name(1)]);
    // The lanes know where their entries are now: through the applier, which reads them back.
    node.apply(usize::MAX, |_| false);
    assert_eq!(contents(&node.state.store).users.len(), 8);

    // A second one takes the place of the first, and needs nothing of what was carried.
    let second = node.snapshot().unwrap();
    assert_eq!((second.carried, second.counts.waiting), (0, 0));
    assert_eq!(node.names(&dir()), [file_name(2)]);
    assert_eq!(reader.snapshot(), Some(second.snapshot));
    assert!(positions(&reader).is_empty());
}

#[test]
fn a_segment_of_which_half_waits_is_kept_as_it_is() {
    let mut node = Node::new();
    let held = hash("acme", "held");
    for n in 0..300 {
        node.accept(write("acme", if (100..200).contains(&n) { "held" } else { "user" }, &long(n)));
    }
    node.apply(usize::MAX, |user| user == held);
    let taken = node.snapshot().unwrap();
    assert!(taken.kept >= 1 && taken.carried > 0, "{taken:?}");
    assert_eq!(taken.counts.waiting, 100);
    node.apply(usize::MAX, |_| false);
    assert_eq!(contents(&node.state.store).users.len(), 2);
}

#[test]
fn none_is_taken_of_a_store_that_is_not_trusted_or_was_replaced() {
    let mut node = Node::new();
    busy(&mut node, 0..50);
    node.trust.distrusted.store(true, Ordering::SeqCst);
    assert!(matches!(node.snapshot(), Err(TakeError::Refused(_))));
    node.trust.distrusted.store(false, Ordering::SeqCst);
    let trust = Arc::clone(&node.trust);
    let source = node.source(3, move || _ = trust.generation.fetch_add(1, Ordering::SeqCst));
    assert!(matches!(take(&source), Err(TakeError::StoreReplaced)));
    node.trust.checkpoint_fails.store(true, Ordering::SeqCst);
    assert!(matches!(node.snapshot(), Err(TakeError::Store(_))));
    assert!(node.names(&dir()).is_empty());
    assert_eq!(node.journal.reader().snapshot(), None);
    node.trust.checkpoint_fails.store(false, Ordering::SeqCst);
    node.snapshot().unwrap();
}

/// A node with a snapshot, and as much again as it was taken of.
fn between_two() -> (Node, SnapshotRef) {
    let mut node = Node::new();
    busy(&mut node, 0..60);
    let first = node.snapshot().unwrap().snapshot;
    busy(&mut node, 60..100);
    (node, first)
}

/// About how many operations on files a snapshot makes; a background thread makes some of its own.
fn operations() -> u64 {
    let (node, _) = between_two();
    let before = node.fs.operations();
    node.snapshot().unwrap();
    node.fs.operations() - before
}

#[test]
fn a_failure_anywhere_leaves_journal_and_snapshots_sound() {
    let operations = operations();
    let mut failed = 0;
    for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
        for at in 1..=operations {
            let (node, first) = between_two();
            node.fs.fail_in(at, fault);
            let outcome = node.snapshot();
            if matches!(node.journal.state(), JournalState::Failed(_)) {
                // It struck the new segment: a journal never goes on after that.
                continue;
            }
            let current = node.journal.reader().snapshot().unwrap();
            let read = SnapshotReader::open_in(&node.fs, &dir(), &current).unwrap();
            read.verify(&mut |_| Ok(())).unwrap();
            match outcome {
                Ok(taken) => assert_eq!(current, taken.snapshot),
                Err(error) => {
                    failed += 1;
                    assert_eq!(current, first, "{error}");
                    let may_be_named = matches!(error, TakeError::Switch(SwitchError::Io(_)));
                    let left = node.names(&dir());
                    assert!(may_be_named || left == [first.name], "{at}: {error}: {left:?}");
                    // It is tried again, and succeeds.
                    node.snapshot().unwrap();
                    assert_eq!(node.names(&dir()).len(), 1);
                }
            }
            node.apply(usize::MAX, |_| false);
            assert_eq!(contents(&node.state.store).users.len(), 8);
        }
    }
    assert!(failed > 30, "{failed}");
}

#[test]
fn a_power_cut_anywhere_leaves_one_snapshot_that_can_be_read() {
    for at in 1..=operations() {
        let (node, first) = between_two();
        let held = node.sites.all()[0].lane.lock().waiting();
        node.fs.fail_in(at, Fault::PowerCut);
        let outcome = node.snapshot().map(|taken| taken.snapshot);
        let Node { fs, journal, state, .. } = node;
        drop(journal);
        let fs = fs.restart(Survivors::Some(at));
        let opened = open_journal(Arc::new(fs.clone()), &state.clock, options());
        let current = opened.reader.snapshot().unwrap();
        if let Ok(taken) = outcome {
            assert_eq!(current, taken, "{at}");
        }
        assert!(current.start >= first.start);
        sweep(&fs, &dir(), Some(&current)).unwrap();
        let snapshot = SnapshotReader::open_in(&fs, &dir(), &current).unwrap();
        snapshot.verify(&mut |_| Ok(())).unwrap();
        assert_eq!(fs.list(&dir()).unwrap(), std::slice::from_ref(&current.name));
        let waiting = snapshot.waiting().unwrap();
        let left = positions(&opened.reader).into_iter().filter(|position| waiting.counts(*position));
        assert!(left.count() >= held, "{at}");
    }
}

#[test]
fn a_copy_that_cannot_be_read_back_never_becomes_the_snapshot() {
    let mut node = Node::new();
    busy(&mut node, 0..100);
    let taken = node.snapshot().unwrap();
    // Damage is found by the reading that comes before the switch, and by every later one.
    let path = dir().join(&taken.snapshot.name);
    let whole = bytes_of(&node.fs, &path);
    let file = node.fs.open(&path, OpenMode::Write).unwrap();
    file.write_all_at(&[whole[whole.len() / 2] ^ 1], whole.len() as u64 / 2).unwrap();
    let reader = SnapshotReader::open_in(&node.fs, &dir(), &taken.snapshot).unwrap();
    assert!(matches!(reader.verify(&mut |_| Ok(())), Err(SnapshotError::Damaged(_))));
    // The next one takes its place.
    let next = node.snapshot().unwrap();
    SnapshotReader::open_in(&node.fs, &dir(), &next.snapshot).unwrap().verify(&mut |_| Ok(())).unwrap();
}

#[test]
fn a_start_removes_what_was_not_finished_and_nothing_else() {
    let fs = FaultyFs::default();
    fs.create_dir_all(&dir()).unwrap();
    for name in
        ["snapshot-0000000004", "snapshot-0000000005", "snapshot-0000000006.tmp", "notes.txt", "snapshot-x"]
    {
        fs.open(&dir().join(name), OpenMode::CreateNew).unwrap();
    }
    let current = crate::journal::SnapshotRef {
        name: file_name(4),
        start: 1,
        bytes: 0,
        taken_at: crate::model::EventTime::MIN,
    };
    sweep(&fs, &dir(), Some(&current)).unwrap();
    assert_eq!(fs.list(&dir()).unwrap(), ["notes.txt", "snapshot-0000000004", "snapshot-x"]);
}
