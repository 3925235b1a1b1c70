//! The manifest: which segments there are. Replaced as a whole, so a reader sees the old or the new one.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{At as _, Damage, IoFailure, OpenError};
use super::format::{FORMAT, MAX_NUMBER};
use super::fs::{Fs, OpenMode, read_small, remove_if_there};
use crate::model::{EventTime, NodeId};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest";
/// Begins the names of segments that entries are being carried to.
pub(crate) const CARRY: &str = "carry-";
const NEXT: &str = "manifest.tmp";
const TITLE: &str = "steadfast journal manifest, format";
/// By how much a manifest may grow before its room must be found anew.
const RESERVE: usize = 4096;
/// Far more than a million segments need.
const MAX_BYTES: u64 = 256 << 20;

/// How a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// Where its last batch ends.
    pub end: u64,
    /// The highest position in it or before it; 0 if there is none.
    pub last_position: u64,
    /// Over the checksums of its batches.
    pub digest: u32,
    /// When its last entry, or one before it, was accepted.
    pub accepted_high: EventTime,
}

/// A segment that is part of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentEntry {
    pub number: u64,
    /// The node that wrote it: this one or an ancestor.
    pub node: NodeId,
    pub first_position: u64,
    /// Length of the file.
    pub length: u64,
    /// For all but the last.
    pub sealed: Option<Sealed>,
    /// What its header says of the segment before it is not of the one that the manifest has before it: that
    /// one was released, or this one holds what was carried over from released ones.
    #[serde(default)]
    pub detached: bool,
}

/// The snapshot that the journal goes on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Its name.
    pub name: String,
    /// Replay goes on from this position.
    pub start: u64,
    /// Length of its file.
    #[serde(default)]
    pub bytes: u64,
    /// When it was begun.
    #[serde(default)]
    pub taken_at: EventTime,
}

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub node: NodeId,
    /// Whose journals this one continues.
    pub ancestors: Vec<NodeId>,
    /// In order; the last one is being written.
    pub segments: Vec<SegmentEntry>,
    /// Segments from this number on have never had a batch.
    pub next_segment: u64,
    /// The first position this node could issue.
    pub origin: u64,
    /// The next position is at least this.
    pub next_position: u64,
    /// Positions strictly between the two were never acknowledged: one pair an unclean stop.
    pub gaps: Vec<(u64, u64)>,
    /// How the last segment ended, if the journal was closed in order.
    pub clean: Option<Sealed>,
    pub snapshot: Option<SnapshotRef>,
}

impl Manifest {
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            ancestors: Vec::new(),
            segments: Vec::new(),
            next_segment: 1,
            origin: 1,
            next_position: 1,
            gaps: Vec::new(),
            clean: None,
            snapshot: None,
        }
    }

    /// The bytes of a file of the kind that `title` says.
    pub fn encode(&self, title: &str) -> Result<Vec<u8>, serde_json::Error> {
        let body = serde_json::to_string_pretty(self)?;
        Ok(format!("{title} {FORMAT}, checksum {:08x}\n{body}\n", crc32c::crc32c(body.as_bytes()))
            .into_bytes())
    }

    fn decode(file: &Path, kind: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        let damaged = |offset: usize, problem: &str| Damage::new(file, offset as u64, problem);
        let text = std::str::from_utf8(bytes).map_err(|e| damaged(e.valid_up_to(), "not text"))?;
        let (title, body) = text.split_once('\n').ok_or_else(|| damaged(0, "no first line"))?;
        let rest =
            title.strip_prefix(kind).ok_or_else(|| damaged(0, "not the manifest that it should be"))?;
        let (version, checksum) = rest.split_once(", checksum ").ok_or_else(|| damaged(0, "no checksum"))?;
        let body = body.strip_suffix('\n').ok_or_else(|| damaged(text.len(), "cut short"))?;
        if checksum != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
            return Err(damaged(0, "the checksum does not match").into());
        }
        match version.trim_start().parse() {
            Ok(FORMAT) => {}
            Ok(other) => return Err(ManifestError::Version(other)),
            Err(_) => return Err(damaged(0, "no format number").into()),
        }
        let manifest: Self =
            serde_json::from_str(body).map_err(|e| damaged(0, &format!("not understood: {e}")))?;
        if manifest.highest() > MAX_NUMBER {
            return Err(damaged(0, "a number that no journal reaches").into());
        }
        Ok(manifest)
    }

    /// The highest of all its numbers.
    fn highest(&self) -> u64 {
        let seals = self.segments.iter().filter_map(|segment| segment.sealed).chain(self.clean);
        let of_seals = seals.map(|sealed| sealed.end.max(sealed.last_position));
        let of_segments = self.segments.iter().map(|s| s.number.max(s.first_position).max(s.length));
        let of_gaps = self.gaps.iter().map(|(before, after)| *before.max(after));
        let own = [self.next_segment, self.next_position, self.origin];
        let start = self.snapshot.iter().map(|snapshot| snapshot.start);
        own.into_iter().chain(start).chain(of_seals).chain(of_segments).chain(of_gaps).max().unwrap_or(0)
    }

    /// Reads the manifest of a directory; `None` if there is none.
    pub fn load(fs: &dyn Fs, dir: &Path) -> Result<Option<Self>, ManifestError> {
        Self::load_kind(fs, &dir.join(MANIFEST), TITLE)
    }

    /// Reads a manifest of the kind that `title` says; `None` if there is none.
    pub fn load_kind(fs: &dyn Fs, file: &Path, title: &str) -> Result<Option<Self>, ManifestError> {
        let Some(bytes) = read_small(fs, file, MAX_BYTES).at("read", file)? else { return Ok(None) };
        Self::decode(file, title, &bytes).map(Some)
    }

    /// Replaces the manifest of a directory, durably. After an error either one may be found.
    pub fn store(&self, fs: &dyn Fs, dir: &Path) -> Result<(), IoFailure> {
        self.prepare(fs, dir)?;
        put_in_place(fs, dir)
    }

    /// Writes what [`put_in_place`] will put in place. After an error the old one is there.
    pub fn prepare(&self, fs: &dyn Fs, dir: &Path) -> Result<(), IoFailure> {
        let (next, file) = (dir.join(NEXT), dir.join(MANIFEST));
        let bytes = self.encode(TITLE).map_err(io::Error::other).at("encode", &file)?;
        let handle = match fs.open(&next, OpenMode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs.open(&next, OpenMode::CreateNew),
            other => other,
        };
        let handle = handle.at("create", &next)?;
        handle.write_all_at(&bytes, 0).at("write", &next)?;
        handle.set_len(bytes.len() as u64).at("cut", &next)?;
        handle.sync_data().at("sync", &next)
    }
}

/// Replaces the manifest by the one that has been prepared. After an error either one may be found.
pub(crate) fn put_in_place(fs: &dyn Fs, dir: &Path) -> Result<(), IoFailure> {
    let (next, file) = (dir.join(NEXT), dir.join(MANIFEST));
    let length = fs.open(&next, OpenMode::Read).and_then(|file| file.len()).at("measure", &next)?;
    fs.rename(&next, &file).at("rename", &next)?;
    fs.sync_dir(dir).at("sync", dir)?;
    // Room for the next one is taken now: beginning a segment that is already there must not fail because the
    // disk has become full meanwhile.
    if let Err(error) = reserve(fs, &next, length as usize + RESERVE) {
        tracing::warn!(%error, "no room could be reserved for the next journal manifest");
    }
    Ok(())
}

fn reserve(fs: &dyn Fs, next: &Path, length: usize) -> io::Result<()> {
    remove_if_there(fs, next)?;
    let reserved = fs.open(next, OpenMode::CreateNew)?.write_all_at(&vec![0; length], 0);
    if reserved.is_err() {
        remove_if_there(fs, next)?;
    }
    reserved
}

/// Why a manifest was not read.
#[derive(Debug)]
pub(crate) enum ManifestError {
    Damaged(Damage),
    Version(u32),
    Io(IoFailure),
}

impl From<Damage> for ManifestError {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl From<IoFailure> for ManifestError {
    fn from(failure: IoFailure) -> Self {
        Self::Io(failure)
    }
}

impl ManifestError {
    pub fn into_open(self, dir: &Path) -> OpenError {
        match self {
            Self::Damaged(damage) => OpenError::Damaged { dir: dir.to_owned(), damage },
            Self::Version(found) => OpenError::Version { file: dir.join(MANIFEST), found, known: FORMAT },
            Self::Io(failure) => failure.into(),
        }
    }
}

/// The path of a segment.
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:010}"))
}

/// The path of a segment that is not part of the journal yet.
pub(crate) fn carry_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{CARRY}{number:010}"))
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("segment-")?.parse().ok()
}
