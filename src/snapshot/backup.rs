//! Backups: a snapshot and the journal from its start on, in a directory of their own.
//!
//! `DIR/journal` is an image of the journal (see [`crate::journal::image`]), `DIR/snapshots` holds the snapshot
//! that it names. The image's manifest is written last, so a directory holds one complete backup or the one
//! before. What is there already and still right is not copied again.

use std::io;
use std::path::{Path, PathBuf};

use super::error::SnapshotError;
use super::pace::Pace;
use super::reader::SnapshotReader;
use super::take::{Source, TakeError};
use super::{number_of, sweep};
use crate::fs::{Fs, OpenMode, RealFs, remove_if_there};
use crate::journal::image::{self, ImageError, Summary};
use crate::journal::{IoFailure, RollError, SnapshotRef};
use crate::model::NodeId;

/// The journal's part of a backup.
pub const JOURNAL: &str = "journal";
/// The snapshots' part.
pub const SNAPSHOTS: &str = "snapshots";

/// What is copied at once.
const CHUNK: usize = 1 << 20;

/// Why a backup could not be made, verified or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The directory is not one for a backup.
    #[error("{} {problem}", .dir.display())]
    Target {
        /// Which.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The backup names no snapshot.
    #[error("{} holds a journal without a snapshot", .0.display())]
    NoSnapshot(PathBuf),
    /// The snapshot that it begins with.
    #[error("no snapshot for the backup: {0}")]
    Take(#[from] TakeError),
    /// The snapshot's file.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The journal's files.
    #[error("the journal's part: {0}")]
    Image(#[from] ImageError),
    /// No segment could be begun.
    #[error(transparent)]
    Roll(#[from] RollError),
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// A backup that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// The last journal entry that is in it: everything that was acknowledged when this was told.
    pub last_position: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Those that were not there before.
    pub copied: u64,
}

fn at<T>(result: io::Result<T>, operation: &'static str, file: &Path) -> Result<T, IoFailure> {
    result.map_err(|source| IoFailure { operation, file: file.to_owned(), source })
}

/// Whether a backup may be made in `dir`: it is new or empty, or holds a backup.
pub(super) fn check_target<T: Send + 'static>(source: &Source<T>, dir: &Path) -> Result<(), BackupError> {
    let wrong = |problem: &str| BackupError::Target { dir: dir.to_owned(), problem: problem.to_owned() };
    let fs = &*source.fs;
    for name in names(fs, dir)? {
        if ![JOURNAL, SNAPSHOTS, "lost+found"].contains(&name.as_str()) {
            return Err(wrong(&format!("is no place for a backup: it holds {name}")));
        }
    }
    if names(fs, &dir.join(JOURNAL))?.iter().any(|name| name == "manifest" || name == "lock") {
        return Err(wrong("is a server's own data directory, not a place for a backup"));
    }
    Ok(())
}

/// The names in a directory; none if there is no directory.
fn names(fs: &dyn Fs, dir: &Path) -> Result<Vec<String>, IoFailure> {
    match fs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => at(listed, "list", dir),
    }
}

/// Makes a backup of the current snapshot and the journal; `told` hears the bytes that are in place. Nothing may be
/// released meanwhile.
pub(super) fn make<T: Send + 'static>(
    source: &Source<T>,
    dir: &Path,
    pace: &mut Pace,
    told: &dyn Fn(u64),
) -> Result<Made, BackupError> {
    let reader = source.journal.reader();
    let current = reader.snapshot().ok_or_else(|| BackupError::NoSnapshot(source.dir.clone()))?;
    let (journal, snapshots) = (dir.join(JOURNAL), dir.join(SNAPSHOTS));
    let _pin = reader.pin(0);
    let fs = &*source.fs;

    let end = source.journal.roll()?;
    let first = image::copy(&reader, end - 1, &journal, &mut |bytes| told(bytes))?;
    let copied = copy(fs, &source.dir, &snapshots, &current, &mut || pace.rest())?;
    // What was accepted meanwhile: little, so that what is not in it when this ends is as little as can be.
    let end = source.journal.roll()?;
    let last = image::copy(&reader, end - 1, &journal, &mut |bytes| told(bytes + current.bytes))?;
    image::seal(&last, current.clone(), &journal)?;
    if let Err(error) = sweep(fs, &snapshots, Some(&current)) {
        tracing::warn!(%error, "the snapshot of an earlier backup was not removed");
    }
    let ends = reader.segments().into_iter().filter(|segment| segment.first_position < end);
    Ok(Made {
        last_position: ends.map(|segment| segment.last_position).max().unwrap_or(0),
        bytes: last.bytes + current.bytes,
        copied: first.copied + last.copied + copied,
    })
}

/// Has a verified copy of a snapshot in directory `to`. Answers the bytes that had to be copied: none if it is there.
fn copy(
    fs: &dyn Fs,
    from: &Path,
    to: &Path,
    snapshot: &SnapshotRef,
    rest: &mut dyn FnMut() -> Result<(), SnapshotError>,
) -> Result<u64, BackupError> {
    at(fs.create_dir_all(to), "create", to)?;
    if let Ok(there) = SnapshotReader::open_in(fs, to, snapshot)
        && there.verify(&mut |_| rest()).is_ok()
    {
        return Ok(0);
    }
    rest()?;
    let (source, target) = (from.join(&snapshot.name), to.join(&snapshot.name));
    let part = to.join(format!("{}.tmp", snapshot.name));
    let reader = at(fs.open(&source, OpenMode::Read), "open", &source)?;
    at(remove_if_there(fs, &part), "remove", &part)?;
    let writer = at(fs.open(&part, OpenMode::CreateNew), "create", &part)?;
    let mut offset = 0;
    loop {
        let bytes = at(reader.read_up_to(CHUNK, offset), "read", &source)?;
        if bytes.is_empty() {
            break;
        }
        at(writer.write_all_at(&bytes, offset), "write", &part)?;
        offset += bytes.len() as u64;
        rest()?;
    }
    at(writer.sync_data(), "sync", &part)?;
    SnapshotReader::open_file(fs, &part)?.verify(&mut |_| rest())?;
    at(fs.rename(&part, &target), "rename", &part)?;
    at(fs.sync_dir(to), "sync", to)?;
    SnapshotReader::open_in(fs, to, snapshot)?;
    Ok(offset)
}

/// A backup that has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its journal.
    pub journal: Summary,
    /// Its snapshot.
    pub snapshot: SnapshotRef,
    /// What that holds.
    pub counts: super::Counts,
}

/// Reads every byte of the backup in `dir` and verifies it. Changes nothing.
pub fn verify(dir: &Path) -> Result<Verified, BackupError> {
    let journal = image::verify(&dir.join(JOURNAL))?;
    let snapshot = journal.snapshot.clone().ok_or_else(|| BackupError::NoSnapshot(dir.to_owned()))?;
    let reader = SnapshotReader::open(&dir.join(SNAPSHOTS), &snapshot)?;
    reader.verify(&mut |_| Ok(()))?;
    Ok(Verified { journal, snapshot, counts: reader.counts() })
}

/// Where a backup is restored to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The journal's directory.
    pub journal: PathBuf,
    /// The snapshots' directory.
    pub snapshots: PathBuf,
    /// The store's directory: it must be empty, the first start fills it.
    pub store: PathBuf,
}

/// Makes a node's directories out of the backup in `from`: a new node, which continues the old one's numbering.
/// Everything is verified where it has arrived. Interrupted, it is to be called again. `told` hears what is done.
pub fn restore(from: &Path, target: &Target, told: &mut dyn FnMut(&str)) -> Result<NodeId, BackupError> {
    let fs = RealFs;
    told("verifying the backup");
    let backup = verify(from)?;
    let taken = |dir: &Path, name: &str| BackupError::Target {
        dir: dir.to_owned(),
        problem: format!(
            "is not empty (it holds {name}): a backup is restored into empty directories only; move what is there \
             away, or give another --data-dir"
        ),
    };
    if let Some(name) = names(&fs, &target.store)?.first() {
        return Err(taken(&target.store, name));
    }
    for name in names(&fs, &target.snapshots)? {
        // Of an interrupted try.
        let ours = name == backup.snapshot.name || name == format!("{}.tmp", backup.snapshot.name);
        if !ours || number_of(&name).is_none() {
            return Err(taken(&target.snapshots, &name));
        }
    }
    let in_journal = names(&fs, &target.journal)?;
    let resumed = in_journal.iter().any(|name| name == image::ADOPTING);
    if !resumed && let Some(name) = in_journal.iter().find(|name| *name != "lock") {
        return Err(taken(&target.journal, name));
    }
    told("copying the snapshot");
    copy(&fs, &from.join(SNAPSHOTS), &target.snapshots, &backup.snapshot, &mut || Ok(()))?;
    told("copying the journal");
    Ok(image::adopt(&from.join(JOURNAL), &target.journal)?)
}
