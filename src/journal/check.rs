//! Verifying a journal's directory, read-only: every checksum of every segment.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::{At as _, Damage, OpenError};
use super::format;
use super::fs::{Fs, OpenMode};
use super::manifest::{MANIFEST, Manifest, SegmentEntry};
use super::recover;
use super::walk::{Step, Walker};

/// What was found in a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub file: PathBuf,
    /// First position found; 0 if there is none.
    pub first: u64,
    /// Last position found; 0 if there is none.
    pub last: u64,
    /// Entries that are whole.
    pub entries: u64,
    /// Bytes up to the end of the last whole batch.
    pub bytes: u64,
}

/// What was found in a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The directory.
    pub dir: PathBuf,
    /// The node's id, if the manifest could be read.
    pub node: Option<String>,
    /// Whether it was closed in order.
    pub clean: bool,
    /// Segments, in order.
    pub segments: Vec<SegmentReport>,
    /// What a start would refuse.
    pub problems: Vec<Damage>,
    /// What a start would cut off, after an unclean stop: never acknowledged, unless the disk lost it.
    pub torn: Option<Damage>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Entries in all.
    pub fn entries(&self) -> u64 {
        self.segments.iter().map(|segment| segment.entries).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "journal {}", self.dir.display())?;
        if let Some(node) = &self.node {
            let closed = if self.clean { "closed in order" } else { "not closed in order" };
            writeln!(f, "node {node}, {closed}")?;
        }
        for segment in &self.segments {
            writeln!(
                f,
                "segment {:>10}  positions {:>12} - {:<12}  {:>10} entries  {:>11} bytes",
                segment.number, segment.first, segment.last, segment.entries, segment.bytes
            )?;
        }
        if let Some(torn) = &self.torn {
            writeln!(f, "torn end (cut at the next start): {torn}")?;
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM {problem}")?;
        }
        match self.problems.len() {
            0 => writeln!(f, "sound: {} entries in {} segments", self.entries(), self.segments.len()),
            count => writeln!(f, "{count} problem(s): this journal will not open"),
        }
    }
}

/// Verifies the journal in `dir`. Changes nothing; meant for one that no process has open (a running one writes
/// on meanwhile). An error only where the directory cannot be read at all.
pub fn check(fs: &dyn Fs, dir: &Path) -> Result<Report, OpenError> {
    let mut report = Report { dir: dir.to_owned(), ..Report::default() };
    let names = fs.list(dir).at("list", dir)?;
    let manifest = match Manifest::load(fs, dir) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => {
            let problem = if names.iter().any(|name| name == super::image::ADOPTING) {
                "there is no manifest: a restore has not been completed"
            } else if names.iter().any(|name| name == super::image::IMAGE_MANIFEST) {
                "this is a backup, not a journal: see `steadfast backup verify`"
            } else {
                "there is no manifest"
            };
            report.problems.push(Damage::new(dir.join(MANIFEST), 0, problem));
            return Ok(report);
        }
        Err(error) => {
            report.note(error.into_open(dir))?;
            return Ok(report);
        }
    };
    report.node = Some(manifest.node.to_string());
    report.clean = manifest.clean.is_some();
    if let Err(error) = recover::sweep(fs, dir, &manifest, &names) {
        report.note(error)?;
    }
    for (index, entry) in manifest.segments.iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|before| manifest.segments.get(before));
        let is_last = index + 1 == manifest.segments.len();
        if let Err(error) = check_segment(fs, dir, entry, previous, (&manifest, is_last), &mut report) {
            report.note(error)?;
        }
    }
    Ok(report)
}

impl Report {
    /// Damage is reported; that a file cannot be read is an error.
    fn note(&mut self, error: OpenError) -> Result<(), OpenError> {
        match error {
            OpenError::Damaged { damage, .. } => self.problems.push(damage),
            error @ OpenError::Version { .. } => {
                self.problems.push(Damage::new(&self.dir, 0, error.to_string()));
            }
            other => return Err(other),
        }
        Ok(())
    }
}

fn check_segment(
    fs: &dyn Fs,
    dir: &Path,
    entry: &SegmentEntry,
    previous: Option<&SegmentEntry>,
    (manifest, is_last): (&Manifest, bool),
    report: &mut Report,
) -> Result<(), OpenError> {
    let (segment, header) = recover::open_segment(fs, dir, entry, previous, OpenMode::Read)?;
    let limit = if is_last { manifest.clean } else { entry.sealed }.map(|sealed| sealed.end);
    let mut walker = Walker::new(&*segment.file, segment.seed, segment.length, limit);
    let mut found = SegmentReport {
        number: entry.number,
        file: segment.path.clone(),
        first: 0,
        last: 0,
        entries: 0,
        bytes: walker.offset(),
    };
    let mut digest = 0;
    let mut problem = None;
    loop {
        match walker.step().at("read", &segment.path)? {
            Step::Batch(batch) => {
                if found.first == 0 {
                    found.first = batch.header.first_position;
                }
                found.last = batch.header.last_position();
                found.entries += batch.entries.len() as u64;
                found.bytes = walker.offset();
                digest = format::digest(digest, batch.checksum);
            }
            Step::End => break,
            Step::Bad(what) => {
                problem = Some(what);
                break;
            }
        }
    }
    let end = found.bytes;
    report.segments.push(found);
    if is_last {
        // The same judgement as at a start.
        let last = recover::walk_last(dir, &segment, &header, manifest.clean.as_ref())?;
        report.torn = last.torn.map(|problem| Damage::new(&segment.path, last.end, problem));
    } else if let Some(problem) = problem {
        return Err(recover::damaged(dir, &segment.path, end, problem));
    } else if entry.sealed.is_some_and(|sealed| sealed.digest != digest) {
        let problem = "its batches are not those that it was sealed with";
        return Err(recover::damaged(dir, &segment.path, end, problem));
    }
    Ok(())
}
