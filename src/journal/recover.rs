//! Opening a journal: everything that can be seen to be missing or altered stops it; only what no caller was
//! told of (the torn tail of an unclean stop) is cut, kept aside, and reported.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{At as _, Damage, OpenError};
use super::format::{self, BatchEncoder, FORMAT, HeaderProblem, SEGMENT_HEADER, SegmentHeader};
use super::fs::{Fs, FsFile, OpenMode};
use super::log::make_segment;
use super::manifest::{CARRY, Manifest, Sealed, SegmentEntry, segment_number, segment_path};
use super::spare::Spares;
use super::table::{End, Segment};
use super::walk::{Step, Walker};
use crate::model::EventTime;

/// After an unclean stop numbering goes on at the next multiple of this: beyond whatever could have been given
/// to entries that never became durable.
pub const POSITION_STEP: u64 = 1 << 20;
/// Where numbering goes on when `position` is the last that may have been given to anything.
pub(crate) fn beyond(position: u64) -> u64 {
    (position / POSITION_STEP + 1) * POSITION_STEP
}

/// How many entries a segment of `length` bytes can hold.
pub(crate) fn most_entries(length: u64) -> u64 {
    length / format::ENTRY_HEADER as u64 + 1
}

/// Torn tails that are kept aside; older ones are removed.
const CUT_FILES: usize = 16;

/// What was cut from the end of the last segment after an unclean stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the cut is.
    pub offset: u64,
    /// Why there.
    pub problem: String,
    /// Where the bytes were kept.
    pub saved: PathBuf,
}

/// The content of the last segment.
#[derive(Debug)]
pub(crate) struct LastSegment {
    pub end: u64,
    pub position: u64,
    pub accepted_at: EventTime,
    pub digest: u32,
    /// Why the walk ended, unless at the zeros behind the last batch.
    pub torn: Option<String>,
}

pub(crate) fn damaged(dir: &Path, file: &Path, offset: u64, problem: impl Into<String>) -> OpenError {
    OpenError::Damaged { dir: dir.to_owned(), damage: Damage::new(file, offset, problem) }
}

/// Opens a segment that the manifest names and compares what can be compared without reading it whole.
pub(crate) fn open_segment(
    fs: &dyn Fs,
    dir: &Path,
    entry: &SegmentEntry,
    previous: Option<&SegmentEntry>,
    mode: OpenMode,
) -> Result<(Segment, SegmentHeader), OpenError> {
    let path = segment_path(dir, entry.number);
    let file = match fs.open(&path, mode) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged(dir, &path, 0, "the manifest names this segment, but the file is missing"));
        }
        other => other.at("open", &path)?,
    };
    let length = file.len().at("measure", &path)?;
    if length != entry.length {
        let problem = format!("the file has {length} bytes; the manifest says {}", entry.length);
        return Err(damaged(dir, &path, length.min(entry.length), problem));
    }
    let head = file.read_up_to(SEGMENT_HEADER as usize, 0).at("read", &path)?;
    let header = SegmentHeader::decode(&head).map_err(|problem| header_error(dir, &path, &problem))?;
    let seal = previous.and_then(|previous| previous.sealed);
    let chained = match (previous, seal) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(_), Some(seal)) if entry.detached => header.first_position > seal.last_position,
        (Some(_), Some(seal)) => {
            header.previous_digest == seal.digest
                && header.previous_last == seal.last_position
                && header.accepted_high == seal.accepted_high
                && header.first_position > seal.last_position
        }
    };
    let named = SegmentEntry {
        number: header.number,
        node: header.node,
        first_position: header.first_position,
        length: header.length,
        sealed: entry.sealed,
        detached: entry.detached,
    };
    if header.node != entry.node {
        let problem = format!("a segment of node {}; the manifest says {}", header.node, entry.node);
        return Err(damaged(dir, &path, 16, problem));
    }
    if named != *entry {
        return Err(damaged(dir, &path, 0, "another segment than the one that the manifest names"));
    }
    if !chained {
        return Err(damaged(dir, &path, 0, "does not follow the segment before it"));
    }
    Ok((Segment::new(entry, dir, file), header))
}

fn header_error(dir: &Path, path: &Path, problem: &HeaderProblem) -> OpenError {
    match problem {
        HeaderProblem::NotASegment => damaged(dir, path, 0, "not a journal segment"),
        HeaderProblem::Checksum => damaged(dir, path, 0, "the checksum of the header does not match"),
        HeaderProblem::Version(found) => {
            OpenError::Version { file: path.to_owned(), found: *found, known: FORMAT }
        }
    }
}

/// Verifies the last segment to its end. A bad place that is followed by a good batch is an error: what was
/// synced later shows that it had been whole.
pub(crate) fn walk_last(
    dir: &Path,
    segment: &Segment,
    header: &SegmentHeader,
    clean: Option<&Sealed>,
) -> Result<LastSegment, OpenError> {
    let limit = clean.map(|clean| clean.end);
    let mut walker = Walker::new(&*segment.file, segment.seed, segment.length, limit);
    let mut last = LastSegment {
        end: SEGMENT_HEADER,
        position: header.previous_last,
        accepted_at: header.accepted_high,
        digest: 0,
        torn: None,
    };
    loop {
        match walker.step().at("read", &segment.path)? {
            Step::Batch(batch) => {
                if batch.header.first_position <= last.position
                    || batch.entries.iter().any(|entry| entry.accepted_at <= last.accepted_at)
                    || batch.header.first_position < segment.first_position
                {
                    let problem = "a batch that does not follow the one before it";
                    return Err(damaged(dir, &segment.path, batch.offset, problem));
                }
                last.position = batch.header.last_position();
                last.accepted_at = batch.entries.last().map_or(last.accepted_at, |e| e.accepted_at);
                last.digest = format::digest(last.digest, batch.checksum);
                last.end = walker.offset();
            }
            Step::End => break,
            Step::Bad(problem) => {
                last.torn = Some(problem);
                break;
            }
        }
    }
    if last.position > format::MAX_NUMBER {
        let problem = format!("position {}, which no journal reaches", last.position);
        return Err(damaged(dir, &segment.path, last.end, problem));
    }
    if let Some(clean) = clean {
        if let Some(problem) = last.torn {
            let problem = format!("{problem}, though the journal was closed in order");
            return Err(damaged(dir, &segment.path, last.end, problem));
        }
        let found = Sealed {
            end: last.end,
            last_position: last.position,
            digest: last.digest,
            accepted_high: last.accepted_at,
        };
        if found != *clean {
            let problem = "its batches are not those that the journal was closed with";
            return Err(damaged(dir, &segment.path, last.end, problem));
        }
        // Something behind the end that the manifest knows: the manifest is an old copy.
        let mut behind = Walker::from_offset(&*segment.file, segment.seed, segment.length, None, last.end);
        if last.end < segment.length && !matches!(behind.step().at("read", &segment.path)?, Step::End) {
            let problem = "written after the journal was closed: the manifest is older than the segment";
            return Err(damaged(dir, &segment.path, last.end, problem));
        }
    } else if let Some(later) = walker.find_later_batch().at("read", &segment.path)? {
        let problem = last.torn.as_deref().unwrap_or("zeros");
        let problem = format!("{problem}, but a good batch follows at byte {later}");
        return Err(damaged(dir, &segment.path, last.end, problem));
    }
    Ok(last)
}

/// Keeps what is behind the last good batch aside, for whoever wants to look at it.
pub(crate) fn save_tail(
    fs: &dyn Fs,
    dir: &Path,
    segment: &Segment,
    last: &LastSegment,
    problem: &str,
    most: u64,
) -> Result<CutTail, OpenError> {
    let bound = most.min(segment.length - last.end) as usize;
    let mut bytes = segment.file.read_up_to(bound, last.end).at("read", &segment.path)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    bytes.truncate(used);
    let saved = dir.join(format!("cut-{:010}-{:010}", segment.number, last.end));
    super::fs::remove_if_there(fs, &saved).at("remove", &saved)?;
    let file = fs.open(&saved, OpenMode::CreateNew).at("create", &saved)?;
    file.write_all_at(&bytes, 0).at("write", &saved)?;
    file.sync_data().at("sync", &saved)?;
    fs.sync_dir(dir).at("sync", dir)?;
    let names = fs.list(dir).at("list", dir)?;
    let cuts: Vec<&String> = names.iter().filter(|name| name.starts_with("cut-")).collect();
    for old in cuts.iter().take(cuts.len().saturating_sub(CUT_FILES)) {
        let old = dir.join(old);
        fs.remove(&old).at("remove", &old)?;
    }
    let problem = problem.to_owned();
    Ok(CutTail { file: segment.path.clone(), offset: last.end, problem, saved })
}

/// Copies the good part of the last segment into a new one and puts that in its place. After a failed sync the
/// system's cache may show what the disk does not have; what is written and synced again is on the disk.
pub(crate) fn rewrite_last(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    spares: &Spares,
    manifest: &mut Manifest,
    old: (&Segment, &SegmentHeader, &LastSegment),
) -> Result<(Segment, u32), OpenError> {
    let (segment, header, last) = old;
    // The number is used up first: a crash below leaves a file that the next start knows to be of no use.
    let number = manifest.next_segment;
    manifest.next_segment += 1;
    manifest.store(&**fs, dir)?;
    // Its node stays: that is whose positions its entries have.
    let header = SegmentHeader { number, ..*header };
    let seed = format::seed(header.node, number);
    let mut digest = 0;
    let file = make_segment(&**fs, dir, spares, &header, |file| {
        let limit = Some(last.end);
        let mut walker = Walker::new(&*segment.file, segment.seed, segment.length, limit);
        let mut encoder = BatchEncoder::default();
        while let Step::Batch(batch) = walker.step().at("read", &segment.path)? {
            encoder.start(seed, batch.header.first_position);
            for entry in &batch.entries {
                encoder.push(entry.accepted_at, &entry.payload);
            }
            let room = segment.length - batch.offset;
            let (bytes, _, checksum) = encoder.finish(batch.header.settings, room);
            digest = format::digest(digest, checksum);
            file.write_all_at(bytes, batch.offset).at("write", &segment.path)?;
        }
        verify_copy(file, &header, last, &segment.path)
    })?;
    let next = beyond(last.position.max(manifest.next_position.saturating_sub(1)));
    manifest.gaps.push((last.position, next));
    manifest.next_position = next;
    let entry = SegmentEntry {
        number,
        node: header.node,
        first_position: header.first_position,
        length: header.length,
        sealed: None,
        detached: manifest.segments.pop().is_some_and(|old| old.detached),
    };
    manifest.segments.push(entry.clone());
    manifest.clean = None;
    manifest.store(&**fs, dir)?;
    Ok((Segment::new(&entry, dir, file), digest))
}

/// The copy has what was read before: the file could have changed under the walk.
fn verify_copy(
    file: &dyn FsFile,
    header: &SegmentHeader,
    last: &LastSegment,
    path: &Path,
) -> Result<(), super::error::IoFailure> {
    let seed = format::seed(header.node, header.number);
    let mut walker = Walker::new(file, seed, header.length, None);
    let mut position = header.previous_last;
    while let Step::Batch(batch) = walker.step().at("read", path)? {
        position = batch.header.last_position();
    }
    if (walker.offset(), position) == (last.end, last.position) {
        return Ok(());
    }
    Err(std::io::Error::other("the copy of the last segment is not what was read")).at("verify", path)
}

/// Removes the files of segments that are no longer (or never became) part of the journal; refuses those that
/// may hold something.
pub(crate) fn sweep(
    fs: &dyn Fs,
    dir: &Path,
    manifest: &Manifest,
    names: &[String],
) -> Result<Vec<PathBuf>, OpenError> {
    let carried = names.iter().filter(|name| name.starts_with(CARRY));
    let mut useless: Vec<PathBuf> = carried.map(|name| dir.join(name)).collect();
    for number in names.iter().filter_map(|name| segment_number(name)) {
        if manifest.segments.iter().any(|segment| segment.number == number) {
            continue;
        }
        let path = segment_path(dir, number);
        let file = fs.open(&path, OpenMode::Read).at("open", &path)?;
        let head = file.read_up_to(SEGMENT_HEADER as usize, 0).at("read", &path)?;
        let header = SegmentHeader::decode(&head).map_err(|problem| header_error(dir, &path, &problem))?;
        let ours = header.node == manifest.node || manifest.ancestors.contains(&header.node);
        if !ours || header.number != number {
            let problem = format!("segment {} of node {}: not of this journal", header.number, header.node);
            return Err(damaged(dir, &path, 0, problem));
        }
        if number >= manifest.next_segment {
            let seed = format::seed(header.node, number);
            let length = file.len().at("measure", &path)?;
            let mut walker = Walker::new(&*file, seed, length, None);
            if matches!(walker.step().at("read", &path)?, Step::Batch(_)) {
                let problem = "has entries, but the manifest does not know it: the manifest is an old copy";
                return Err(damaged(dir, &path, SEGMENT_HEADER, problem));
            }
        }
        useless.push(path);
    }
    Ok(useless)
}

/// The end of a segment as readers and the writer want it.
pub(crate) fn end_of(last: &LastSegment) -> End {
    End { offset: last.end, position: last.position, accepted_at: last.accepted_at }
}
