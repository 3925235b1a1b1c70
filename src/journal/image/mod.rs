//! Images: a journal's sealed segments copied to a directory of their own, for backups and what is made of them.
//!
//! An image holds `segment-N` files as a journal does and a manifest of its own, `journal-image`, which is
//! replaced as a whole when all files that it names are there and synced. Until then the image that was there
//! before is whole. What is there already is verified instead of copied, so a second image into the same
//! directory, or one that was interrupted, copies only what is missing.

mod adopt;
mod copy;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::error::{At as _, Damage, IoFailure, OpenError};
use super::format::{self, FORMAT, SEGMENT_HEADER, SegmentHeader};
use super::fs::{Fs, FsFile, OpenMode, RealFs};
use super::manifest::{Manifest, ManifestError, SegmentEntry, SnapshotRef};
use super::recover;
use super::walk::{Step, Walker};
use crate::model::{EventTime, NodeId};

pub(crate) use adopt::ADOPTING;
pub use copy::copy;

/// The file name of an image's manifest.
pub const IMAGE_MANIFEST: &str = "journal-image";
const IMAGE_TITLE: &str = "steadfast journal image, format";

/// Why an image could not be made or used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Something is not as it was written.
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// There is none, or it was never completed.
    #[error("{} holds no complete journal image", .0.display())]
    NotAnImage(PathBuf),
    /// The directory holds something of another journal.
    #[error("{} holds a backup of another journal (node {node}): give this one a directory of its own", .dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Whose image that is.
        node: NodeId,
    },
    /// Written by another version.
    #[error(
        "{} has format {found}; this version reads format {FORMAT}: use the version that wrote it, or update \
         this one", .file.display()
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The entries wanted are in a segment that is still being written.
    #[error("entry {0} is in a segment that is still being written")]
    NotSealed(u64),
    /// A journal is made in an empty directory only.
    #[error("{} is not empty: restore into an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// A process has the journal.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The system gives no random numbers.
    #[error("{0}")]
    NoIdentity(String),
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

impl From<ManifestError> for ImageError {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Damaged(damage) => Self::Damaged(damage),
            ManifestError::Version(found) => Self::Version { file: IMAGE_MANIFEST.into(), found },
            ManifestError::Io(failure) => Self::Io(failure),
        }
    }
}

impl From<OpenError> for ImageError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { damage, .. } => Self::Damaged(damage),
            OpenError::Version { file, found, .. } => Self::Version { file, found },
            OpenError::Io(failure) => Self::Io(failure),
            other => Self::NoIdentity(other.to_string()),
        }
    }
}

/// Segments that have been copied; [`seal`] makes an image of them.
#[derive(Debug)]
pub struct Image {
    fs: Arc<dyn Fs>,
    manifest: Manifest,
    /// Bytes of batches in it.
    pub bytes: u64,
    /// How many of them were not there before.
    pub copied: u64,
}

/// What an image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whose journal it is of.
    pub node: NodeId,
    /// Those that it continues.
    pub ancestors: Vec<NodeId>,
    /// The snapshot that goes with it.
    pub snapshot: Option<SnapshotRef>,
    /// Segments.
    pub segments: usize,
    /// Entries.
    pub entries: u64,
    /// Bytes of batches and headers.
    pub bytes: u64,
    /// First and last position; 0 if there is no entry.
    pub positions: (u64, u64),
    /// When the first and the last one were accepted.
    pub accepted: Option<(EventTime, EventTime)>,
}

fn load(fs: &dyn Fs, dir: &Path) -> Result<Option<Manifest>, ImageError> {
    let file = dir.join(IMAGE_MANIFEST);
    Manifest::load_kind(fs, &file, IMAGE_TITLE).map_err(|error| match error {
        ManifestError::Version(found) => ImageError::Version { file, found },
        other => other.into(),
    })
}

/// Completes an image: writes the manifest that names its segments and the snapshot that goes with them, then
/// removes what an earlier image had and this one has not.
pub fn seal(image: &Image, snapshot: SnapshotRef, dir: &Path) -> Result<(), ImageError> {
    let manifest = Manifest { snapshot: Some(snapshot), ..image.manifest.clone() };
    let fs = &*image.fs;
    let (file, next) = (dir.join(IMAGE_MANIFEST), dir.join("journal-image.tmp"));
    let bytes = manifest.encode(IMAGE_TITLE).map_err(io::Error::other).at("encode", &file)?;
    super::fs::remove_if_there(fs, &next).at("remove", &next)?;
    let handle = fs.open(&next, OpenMode::CreateNew).at("create", &next)?;
    handle.write_all_at(&bytes, 0).at("write", &next)?;
    handle.sync_data().at("sync", &next)?;
    fs.rename(&next, &file).at("rename", &next)?;
    fs.sync_dir(dir).at("sync", dir)?;
    copy::prune(fs, dir, &manifest)
}

/// Reads every batch of every segment of the image in `dir` and verifies it. What the snapshot's file holds is not
/// looked at.
pub fn verify(dir: &Path) -> Result<Summary, ImageError> {
    verify_in(&RealFs, dir)
}

pub(crate) fn verify_in(fs: &dyn Fs, dir: &Path) -> Result<Summary, ImageError> {
    let manifest = load(fs, dir)?.ok_or_else(|| ImageError::NotAnImage(dir.to_owned()))?;
    let mut summary = Summary {
        node: manifest.node,
        ancestors: manifest.ancestors.clone(),
        snapshot: manifest.snapshot.clone(),
        segments: manifest.segments.len(),
        entries: 0,
        bytes: 0,
        positions: (0, 0),
        accepted: None,
    };
    let mut reach: Option<Reach> = None;
    for (index, entry) in manifest.segments.iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|before| manifest.segments.get(before));
        let (segment, _) = recover::open_segment(fs, dir, entry, previous, OpenMode::Read)?;
        let tally = verify_segment(&*segment.file, &segment.path, entry)?;
        summary.entries += tally.entries;
        summary.bytes += entry.sealed.map_or(SEGMENT_HEADER, |sealed| sealed.end);
        if let Some((first, last)) = tally.reach {
            reach = Some((reach.map_or(first, |(first, _)| first), last));
        }
    }
    summary.positions = reach.map_or((0, 0), |(first, last)| (first.0, last.0));
    summary.accepted = reach.map(|(first, last)| (first.1, last.1));
    Ok(summary)
}

/// What a segment was found to hold.
#[derive(Debug, Default)]
struct Tally {
    entries: u64,
    reach: Option<Reach>,
}

/// Position and time of the first and of the last entry.
type Reach = ((u64, EventTime), (u64, EventTime));

/// Reads a sealed segment whole: header and batches are those that the manifest says.
fn verify_segment(file: &dyn FsFile, path: &Path, entry: &SegmentEntry) -> Result<Tally, ImageError> {
    let damaged = |offset: u64, problem: &str| ImageError::Damaged(Damage::new(path, offset, problem));
    let head = file.read_up_to(SEGMENT_HEADER as usize, 0).at("read", path)?;
    let header = SegmentHeader::decode(&head).map_err(|_| damaged(0, "not a sound segment header"))?;
    if (header.node, header.number, header.first_position, header.length)
        != (entry.node, entry.number, entry.first_position, entry.length)
        || file.len().at("measure", path)? != entry.length
    {
        return Err(damaged(0, "another segment than the one that the manifest names"));
    }
    let sealed = entry.sealed.ok_or_else(|| damaged(0, "a segment without an end"))?;
    let seed = format::seed(entry.node, entry.number);
    let mut walker = Walker::new(file, seed, entry.length, Some(sealed.end));
    let mut tally = Tally::default();
    let mut digest = 0;
    loop {
        let at = walker.offset();
        match walker.step().at("read", path)? {
            Step::Batch(batch) => {
                digest = format::digest(digest, batch.checksum);
                tally.entries += batch.entries.len() as u64;
                let ends = (batch.entries.first(), batch.entries.last());
                if let (Some(first), Some(last)) = ends {
                    let first = tally.reach.map_or((first.position, first.accepted_at), |(first, _)| first);
                    tally.reach = Some((first, (last.position, last.accepted_at)));
                }
            }
            Step::End => break,
            Step::Bad(problem) => return Err(damaged(at, &problem)),
        }
    }
    if digest != sealed.digest {
        return Err(damaged(sealed.end, "its batches are not those that it was sealed with"));
    }
    Ok(tally)
}

/// Makes a journal out of the image in `image_dir`: copies its segments into `journal_dir`, which must be empty, and
/// gives it a node id of its own; numbering goes on beyond whatever the original may have issued up to the image's
/// end. The manifest is written last. After a crash it can be run again.
pub fn adopt(image_dir: &Path, journal_dir: &Path) -> Result<NodeId, ImageError> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    adopt::adopt_in(&fs, image_dir, journal_dir)
}

#[cfg(test)]
mod tests;
