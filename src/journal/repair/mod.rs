//! Repairing a journal that refuses to open: what is whole is kept, what is not is saved aside and told.
//!
//! Nothing is changed before everything has been read. Then, in this order: what will go is copied to a directory
//! of its own; the entries that are whole of damaged segments are written into new ones; one manifest replacement
//! names what there is from then on, and the positions that are lost; what was copied aside is removed. A crash in
//! between leaves a journal that can be repaired again.

mod apply;
mod rebuild;
mod salvage;
mod survey;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

use super::error::{At as _, Damage, IoFailure, OpenError};
use super::format::FORMAT;
use super::fs::Fs;
use super::image::ADOPTING;
use super::manifest::{MANIFEST, Manifest, ManifestError, SnapshotRef};
use crate::model::EventTime;

/// Positions that are gone. At most one entry each: where entries had been carried over from other segments, not
/// every position was one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The lowest.
    pub first: u64,
    /// The highest.
    pub last: u64,
    /// How far the entries reached is not known: none was beyond `last`.
    pub open_end: bool,
    /// Sites that the damaged bytes speak of, as far as that can be told.
    pub sites: Vec<String>,
    /// They were accepted after this,
    pub after: Option<EventTime>,
    /// and before this, as far as the entries around them tell.
    pub before: Option<EventTime>,
}

impl Loss {
    /// How many positions these are.
    pub fn positions(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}

/// What is done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Its whole entries are written into a new segment; the file is saved aside.
    Rewritten,
    /// Saved aside: nothing in it is of use.
    SetAside,
    /// It is not there.
    Missing,
}

/// A file that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problems: Vec<Damage>,
    /// Entries of it that are kept.
    pub kept: u64,
    /// What of it is lost.
    pub lost: Vec<Loss>,
    /// What is done with it.
    pub action: Action,
}

/// What was found, and done unless only asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// The journal.
    pub dir: PathBuf,
    /// Whether nothing has been changed.
    pub dry_run: bool,
    /// What is wrong with the manifest: it is made anew from the segments.
    pub manifest: Option<String>,
    /// Files that are not as they should be.
    pub findings: Vec<Finding>,
    /// Positions that are lost with no file to tell of them.
    pub lost: Vec<Loss>,
    /// Entries that the journal has (or would have) after it.
    pub entries: u64,
    /// The snapshot that a manifest made anew names.
    pub snapshot: Option<SnapshotRef>,
    /// Entries before this position are in no segment, and no snapshot was found that holds what they did.
    pub no_history_before: Option<u64>,
    /// Where the files are saved.
    pub saved: Option<PathBuf>,
}

impl RepairReport {
    /// Whether there is nothing to repair.
    pub fn is_sound(&self) -> bool {
        self.manifest.is_none() && self.findings.is_empty() && self.lost.is_empty()
    }

    /// Positions that are lost.
    pub fn losses(&self) -> impl Iterator<Item = &Loss> {
        self.findings.iter().flat_map(|finding| &finding.lost).chain(&self.lost)
    }
}

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct RepairOptions {
    /// The journal.
    pub dir: PathBuf,
    /// Name of the directory in it that files are saved to.
    pub save_as: String,
    /// Change nothing.
    pub dry_run: bool,
    /// Go on without a snapshot of what has been released.
    pub without_snapshot: bool,
    /// Snapshots that have been verified; of use if the manifest is lost.
    pub snapshots: Vec<SnapshotRef>,
}

/// Why nothing was repaired.
#[derive(Debug, Error)]
pub enum RepairError {
    /// A process has the journal.
    #[error("{} is in use by another process: stop it first", .0.display())]
    Locked(PathBuf),
    /// There is no journal.
    #[error("{} holds no journal", .0.display())]
    NoJournal(PathBuf),
    /// A restore was not completed.
    #[error("{} holds a part of a backup: run `steadfast restore` again, it goes on where it was", .0.display())]
    HalfRestored(PathBuf),
    /// Written by another version.
    #[error("{} has format {found}; this version reads format {FORMAT}: use the version that wrote it", .file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A journal without its beginning would be taken for the whole.
    #[error(
        "the manifest is lost, the segments begin at entry {before}, and no snapshot was found that covers what was \
         before: a store that is rebuilt from this journal would lack it. Say where the snapshots are \
         (--snapshots DIR), or accept that with --without-snapshot (the store as it is then must not be removed)"
    )]
    NoHistory {
        /// The first position there is.
        before: u64,
    },
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

impl From<OpenError> for RepairError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Version { file, found, .. } => Self::Version { file, found },
            OpenError::Io(failure) => Self::Io(failure),
            other => {
                let source = std::io::Error::other(other.to_string());
                Self::Io(IoFailure { operation: "look at", file: PathBuf::new(), source })
            }
        }
    }
}

/// Repairs a journal, or says what that would mean.
pub fn repair(fs: &Arc<dyn Fs>, options: &RepairOptions) -> Result<RepairReport, RepairError> {
    let dir = &options.dir;
    let names = fs.list(dir).at("list", dir)?;
    let lock_file = dir.join("lock");
    // To look changes nothing, not even by making a lock.
    let _lock = if !options.dry_run || names.iter().any(|name| name == "lock") {
        let lock = fs.lock(&lock_file).at("lock", &lock_file)?;
        Some(lock.ok_or_else(|| RepairError::Locked(dir.clone()))?)
    } else {
        None
    };
    let manifest = Manifest::load(&**fs, dir);
    if matches!(manifest, Ok(None)) && names.iter().any(|name| name == ADOPTING) {
        return Err(RepairError::HalfRestored(dir.clone()));
    }
    let (manifest, lost_manifest) = match manifest {
        Ok(Some(manifest)) => (Some(manifest), None),
        Ok(None) => (None, Some("it is missing".to_owned())),
        Err(ManifestError::Damaged(damage)) => (None, Some(damage.problem)),
        Err(ManifestError::Version(found)) => {
            return Err(RepairError::Version { file: dir.join(MANIFEST), found });
        }
        Err(ManifestError::Io(failure)) => return Err(failure.into()),
    };
    if manifest.is_none() && !names.iter().any(|name| name.starts_with("segment-")) {
        return Err(RepairError::NoJournal(dir.clone()));
    }
    let mut plan = match manifest {
        Some(manifest) => match survey::stale(&**fs, dir, &manifest, &names)? {
            None => survey::survey(&**fs, dir, manifest, &names)?,
            Some(why) => rebuild::rebuild(&**fs, options, Some(&manifest), why, &names)?,
        },
        None => rebuild::rebuild(&**fs, options, None, lost_manifest.unwrap_or_default(), &names)?,
    };
    plan.report.dir.clone_from(dir);
    plan.report.dry_run = options.dry_run;
    if plan.report.is_sound() {
        return Ok(plan.report);
    }
    if let Some(before) = plan.report.no_history_before
        && !options.without_snapshot
        && !options.dry_run
    {
        return Err(RepairError::NoHistory { before });
    }
    plan.report.saved = Some(dir.join(&options.save_as));
    if options.dry_run { Ok(plan.report) } else { apply::apply(fs, options, plan) }
}

/// What there is, and what is to become of it.
pub(super) struct Plan {
    pub report: RepairReport,
    /// The manifest to be; damaged segments are still in it.
    pub manifest: Manifest,
    /// The manifest on the disk is whole, and stays until the new one is there.
    pub has_manifest: bool,
    /// Numbers of segments whose entries are to be written into new ones, and where their batches ended.
    pub rewrite: Vec<(u64, Option<u64>)>,
    /// Files that are copied aside and then removed.
    pub aside: Vec<PathBuf>,
    /// The last segment cannot be written on.
    pub needs_segment: bool,
}

#[cfg(test)]
mod tests;

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.open_end {
            write!(f, "every entry from position {} on (how many there were is not known)", self.first)?;
        } else {
            write!(f, "positions {} - {} (at most {} entries)", self.first, self.last, self.positions())?;
        }
        if let Some(after) = self.after {
            write!(f, ", accepted after {}", Time(after))?;
        }
        if let Some(before) = self.before {
            write!(f, ", accepted before {}", Time(before))?;
        }
        if !self.sites.is_empty() {
            write!(f, ", of sites {} (as far as can be told)", self.sites.join(", "))?;
        }
        Ok(())
    }
}

/// A time for a person.
struct Time(EventTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0.0);
        match jiff::Timestamp::from_nanosecond(nanos) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{nanos} ns since 1970"),
        }
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "journal {}", self.dir.display())?;
        if self.is_sound() {
            return writeln!(f, "nothing to repair: {} entries", self.entries);
        }
        if let Some(problem) = &self.manifest {
            writeln!(f, "the manifest: {problem}; it is made anew from the segments")?;
            match &self.snapshot {
                Some(snapshot) => {
                    writeln!(f, "  it names snapshot {} (from {} on)", snapshot.name, snapshot.start)?;
                }
                None => writeln!(f, "  it names no snapshot")?,
            }
        }
        if let Some(before) = self.no_history_before {
            writeln!(f, "NO HISTORY: nothing holds what was before entry {before}, except for the store")?;
        }
        for finding in &self.findings {
            let what = match finding.action {
                Action::Rewritten => "its whole entries are written into a new segment",
                Action::SetAside => "nothing of it is used",
                Action::Missing => "it is gone",
            };
            writeln!(f, "{}: {what}", finding.file.display())?;
            for problem in &finding.problems {
                writeln!(f, "  at byte {}: {}", problem.offset, problem.problem)?;
            }
            writeln!(f, "  keeps {} entries", finding.kept)?;
            for loss in &finding.lost {
                writeln!(f, "  LOSES {loss}")?;
            }
        }
        for loss in &self.lost {
            writeln!(f, "LOST {loss}")?;
        }
        let positions: u64 = self.losses().map(Loss::positions).fold(0, u64::saturating_add);
        let is_known = self.losses().all(|loss| !loss.open_end);
        let (what, whole) = match (positions, self.dry_run) {
            (0, true) => ("nothing would be lost", "would keep"),
            (0, false) => ("nothing is lost", "keeps"),
            (_, true) => ("entries would be lost", "would keep"),
            (_, false) => ("entries are lost", "keeps"),
        };
        write!(f, "{what}")?;
        if positions > 0 && is_known {
            write!(f, " (at most {positions})")?;
        }
        writeln!(f, "; the journal {whole} {} entries", self.entries)?;
        let saved = self.saved.as_deref().unwrap_or_else(|| Path::new("")).display();
        if self.dry_run {
            writeln!(f, "nothing has been changed. Without --dry-run what goes is saved to {saved} first")
        } else {
            writeln!(f, "what went is saved in {saved}; the journal opens again")
        }
    }
}
