//! Backups: made, made again, interrupted, verified, restored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::node::{Node, Ticket, contents, open_journal, options, stamp};
use super::replica::Replica;
use crate::fs::RealFs;
use crate::journal::{JournalOptions, JournalReader};
use crate::model::{
    AttributeChange, Change, ChangeKind, Command, Entry, Position, Site, User, Value, Write, codec,
};
use crate::read::Stamped;
use crate::snapshot::backup::{BackupError, Made, Target, check_target, make, restore, verify};
use crate::snapshot::pace::Pace;
use crate::snapshot::{SnapshotReader, Source};

fn entry(user: usize, text: usize) -> Entry {
    let change = Change::Set(Value::String(format!("{text:06}{}", "x".repeat(150)).into()));
    let changes = vec![AttributeChange { name: "plan".into(), change, occurred_at: None }];
    let write = Write {
        user: User::new(format!("user-{user}")),
        request_id: None,
        occurred_at: None,
        if_version: None,
        kind: ChangeKind::Identify(changes),
    };
    Entry { site: Site::new("acme"), command: Command::Write(write) }
}

struct Place {
    _dir: tempfile::TempDir,
    base: PathBuf,
    backup: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("data");
        let backup = dir.path().join("backup");
        Self { _dir: dir, base, backup }
    }

    fn options(&self) -> JournalOptions {
        JournalOptions { dir: self.base.join("journal"), ..options() }
    }

    fn node(&self) -> Node {
        Node::on(Arc::new(RealFs), self.options(), self.base.join("snapshots"))
    }

    fn target(&self, name: &str) -> Target {
        let dir = |part: &str| self.base.with_file_name(name).join(part);
        Target { journal: dir("journal"), snapshots: dir("snapshots"), store: dir("store") }
    }
}

fn back_up(source: &Source<Ticket>, dir: &Path) -> Result<Made, BackupError> {
    let (_keep, stop) = watch::channel(false);
    check_target(source, dir)?;
    make(source, dir, &mut Pace::new(100, stop), &|_| {})
}

fn rebuilt(reader: &JournalReader, snapshots: &Path) -> Replica {
    let snapshot = SnapshotReader::open(snapshots, &reader.snapshot().unwrap()).unwrap();
    let waiting = snapshot.waiting().unwrap();
    let mut replica = Replica::new(snapshot.items().map(Result::unwrap));
    for stored in reader.scan(0).map(Result::unwrap).filter(|stored| waiting.counts(stored.position)) {
        replica.apply(&Stamped {
            position: Position { node: stored.node, number: stored.position },
            accepted_at: stored.accepted_at,
            batch: stamp(),
            entry: Arc::new(codec::decode_entry(&stored.payload).unwrap()),
        });
    }
    replica
}

#[test]
fn a_backup_restores_to_exactly_what_was_acknowledged_when_it_ended() {
    let place = Place::new();
    let mut node = place.node();
    for n in 0..300 {
        assert!(node.accept(entry(n % 9, n)));
        if n % 10 == 0 {
            // A user whose entries wait.
            let held = crate::model::ProfileKey::new(Site::new("acme"), User::new("user-3")).hash64();
            node.apply(100, |user| user == held);
        }
        if n == 150 {
            node.snapshot().unwrap();
        }
    }
    let source = node.source(100, || {});
    let made = back_up(&source, &place.backup).unwrap();
    assert_eq!(made.last_position, node.journal.reader().end());
    let verified = verify(&place.backup).unwrap();
    assert_eq!(verified.journal.positions.1, made.last_position);
    // What comes later is not in it.
    let log = node.log.len();
    node.accept(entry(1, 999_999));

    let target = place.target("restored");
    let id = restore(&place.backup, &target, &mut |_| {}).unwrap();
    assert_ne!(id, verified.journal.node);
    let journal = JournalOptions { dir: target.journal.clone(), ..options() };
    let opened = open_journal(Arc::new(RealFs), &node.state.clock, journal);
    assert_eq!(opened.node, id);
    let mut whole = Replica::new([]);
    for stamped in &node.log[..log] {
        whole.apply(stamped);
    }
    assert_eq!(rebuilt(&opened.reader, &target.snapshots).contents, whole.contents);
    node.apply(usize::MAX, |_| false);
    assert_ne!(contents(&node.state.store), whole.contents, "the one later write");

    // A second one into the same place copies what is new.
    let again = back_up(&source, &place.backup).unwrap();
    assert!(again.copied > 0 && again.copied < again.bytes / 2, "{again:?}");
    // And one after a snapshot lets go of what is in that.
    node.snapshot().unwrap();
    let third = back_up(&source, &place.backup).unwrap();
    assert!(third.bytes < again.bytes, "{third:?} {again:?}");
    assert_eq!(verify(&place.backup).unwrap().journal.entries, 0);
    assert_eq!(std::fs::read_dir(place.backup.join("snapshots")).unwrap().count(), 1);
}

#[test]
fn what_is_in_the_way_is_refused_and_an_interrupted_restore_goes_on() {
    let place = Place::new();
    let mut node = place.node();
    for n in 0..100 {
        node.accept(entry(n % 5, n));
    }
    let source = node.source(100, || {});
    assert!(matches!(back_up(&source, &place.backup), Err(BackupError::NoSnapshot(_))));
    node.apply(usize::MAX, |_| false);
    node.snapshot().unwrap();
    node.accept(entry(1, 1));
    assert!(matches!(back_up(&source, &place.base), Err(BackupError::Target { .. })));
    std::fs::create_dir_all(&place.backup).unwrap();
    std::fs::write(place.backup.join("notes"), "mine").unwrap();
    assert!(matches!(back_up(&source, &place.backup), Err(BackupError::Target { .. })));
    std::fs::remove_file(place.backup.join("notes")).unwrap();
    back_up(&source, &place.backup).unwrap();

    // Another node's backup is not written over.
    let other = Place::new();
    let mut stranger = other.node();
    stranger.accept(entry(1, 1));
    stranger.apply(usize::MAX, |_| false);
    stranger.snapshot().unwrap();
    assert!(matches!(back_up(&stranger.source(9, || {}), &place.backup), Err(BackupError::Image(_))));
    verify(&place.backup).unwrap();

    for part in ["store", "snapshots", "journal"] {
        let target = place.target(part);
        let file = target.journal.with_file_name(part).join("something");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "of value").unwrap();
        let refused = restore(&place.backup, &target, &mut |_| {});
        assert!(refused.is_err_and(|error| error.to_string().contains("is not empty")), "{part}");
        assert_eq!(std::fs::read(file).unwrap(), b"of value");
    }
    // Killed while the snapshot was copied, and later, before the manifest was there.
    let target = place.target("resumed");
    std::fs::create_dir_all(&target.snapshots).unwrap();
    let name = verify(&place.backup).unwrap().snapshot.name;
    std::fs::write(target.snapshots.join(format!("{name}.tmp")), "half").unwrap();
    let id = restore(&place.backup, &target, &mut |_| {}).unwrap();
    assert!(restore(&place.backup, &target, &mut |_| {}).is_err(), "it is done");
    std::fs::remove_file(target.journal.join("manifest")).unwrap();
    std::fs::write(target.journal.join("adopting"), format!("{}\n", id.0)).unwrap();
    restore(&place.backup, &target, &mut |_| {}).unwrap();
    let journal = JournalOptions { dir: target.journal.clone(), ..options() };
    let opened = open_journal(Arc::new(RealFs), &node.state.clock, journal);
    assert_eq!(rebuilt(&opened.reader, &target.snapshots).contents, contents_with(&node).contents);
}

fn contents_with(node: &Node) -> Replica {
    let mut whole = Replica::new([]);
    node.log.iter().for_each(|stamped| whole.apply(stamped));
    whole
}

#[test]
fn every_damage_to_a_backup_is_found() {
    let place = Place::new();
    let mut node = place.node();
    for n in 0..60 {
        node.accept(entry(n % 5, n));
    }
    node.apply(usize::MAX, |_| false);
    node.snapshot().unwrap();
    node.accept(entry(1, 1));
    back_up(&node.source(100, || {}), &place.backup).unwrap();
    let files = ["journal", "snapshots"].map(|part| place.backup.join(part));
    for file in files.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap()) {
        let path = file.unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        // Behind the last entry of a segment there is nothing: zeros.
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..=end).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            assert!(verify(&place.backup).is_err(), "{} byte {at}", path.display());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(verify(&place.backup).is_err(), "without {}", path.display());
        std::fs::write(&path, &whole).unwrap();
    }
    verify(&place.backup).unwrap();
}
