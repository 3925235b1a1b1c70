//! The writer: puts batches into the last segment and begins new ones. Synchronous, one at a time; the
//! committer's thread drives it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::error::{At as _, IoFailure};
use super::format::{self, BatchEncoder, BatchSettings, SEGMENT_HEADER, SegmentHeader, TERMINATOR};
use super::fs::OpenMode;
use super::manifest::{Sealed, SegmentEntry, segment_path};
use super::spare::Spares;
use super::table::{End, Segment, Shared};
use crate::model::EventTime;

/// Kept free for the overhead of batches whose number is not known beforehand.
const MARGIN: u64 = 1024;
/// The encoder's buffer is given back to this size after a large batch.
const KEEP_BUFFER: usize = 1 << 20;

/// Where an entry went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub position: u64,
    pub offset: u32,
    pub bytes: u32,
}

/// Where the last segment stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub end: End,
    pub digest: u32,
    pub next_position: u64,
}

/// What can still be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes of entries, headers included.
    pub bytes: u64,
    /// Whether that is all there is, rather than all that is known at this moment.
    pub is_final: bool,
}

/// Whether the next segment can be begun.
#[derive(Debug)]
pub(crate) enum RollRoom {
    /// Not needed: the last one is empty and has this first position.
    Empty(u64),
    /// It can, and this can be taken then.
    Room(Room),
    /// Its file is being made.
    NotYet,
    /// The quota has no room for it.
    Full { used: u64, limit: u64 },
    /// The disk has none.
    NoSpace(IoFailure),
}

#[derive(Debug)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    spares: Arc<Spares>,
    segment: Arc<Segment>,
    tail: Tail,
    /// When the last entry that was stamped was accepted.
    stamped: EventTime,
    encoder: BatchEncoder,
}

/// Makes the file of segment `header` out of a spare, with what `fill` writes; durable when it returns, but not
/// yet part of the journal.
pub(crate) fn make_segment(
    shared_fs: &dyn super::fs::Fs,
    dir: &std::path::Path,
    spares: &Spares,
    header: &SegmentHeader,
    fill: impl FnOnce(&dyn super::fs::FsFile) -> Result<(), IoFailure>,
) -> Result<Box<dyn super::fs::FsFile>, IoFailure> {
    let spare = spares.take()?;
    let file = shared_fs.open(&spare, OpenMode::Write).at("open", &spare)?;
    if file.len().at("measure", &spare)? != header.length {
        // The configured length changed since the segment that is copied was begun.
        file.set_len(header.length).at("resize", &spare)?;
    }
    let mut head = header.encode();
    head.extend_from_slice(&TERMINATOR);
    file.write_all_at(&head, 0).at("write", &spare)?;
    fill(&*file)?;
    file.sync_data().at("sync", &spare)?;
    let path = segment_path(dir, header.number);
    shared_fs.rename(&spare, &path).at("rename", &spare)?;
    shared_fs.sync_dir(dir).at("sync", dir)?;
    Ok(file)
}

impl Log {
    pub fn new(shared: Arc<Shared>, spares: Arc<Spares>, segment: Arc<Segment>, tail: Tail) -> Self {
        let mut log = Self {
            shared,
            spares,
            segment,
            stamped: tail.end.accepted_at,
            tail,
            encoder: BatchEncoder::default(),
        };
        log.encoder.start(log.segment.seed, log.tail.next_position);
        log
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn spares(&self) -> &Arc<Spares> {
        &self.spares
    }

    /// Adds an entry to the batch; `None` if it does not fit into the segment any more.
    pub fn push(&mut self, now: EventTime, payload: &[u8]) -> Option<(Placed, EventTime)> {
        let bytes = (format::ENTRY_HEADER + payload.len()) as u64;
        if self.tail.end.offset + self.encoder.total() + bytes > self.segment.length {
            return None;
        }
        self.stamped = EventTime(now.0.max(self.stamped.0.saturating_add(1)));
        let (position, back) = self.encoder.push(self.stamped, payload);
        let offset = (self.tail.end.offset + u64::from(back)) as u32;
        Some((Placed { position, offset, bytes: bytes as u32 }, self.stamped))
    }

    /// Bytes of the batch so far.
    pub fn batch_bytes(&self) -> u64 {
        self.encoder.total()
    }

    /// Writes the batch and syncs it: after this its entries are kept.
    pub fn commit(&mut self, settings: BatchSettings) -> Result<(), IoFailure> {
        let count = self.encoder.count();
        let at = self.tail.end.offset;
        let (bytes, length, checksum) = self.encoder.finish(settings, self.segment.length - at);
        self.segment.file.write_all_at(bytes, at).at("write", &self.segment.path)?;
        self.segment.file.sync_data().at("sync", &self.segment.path)?;
        // Somebody may have removed it; a sync does not notice.
        if !self.segment.file.has_name().at("look for", &self.segment.path)? {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it was removed"))
                .at("look for", &self.segment.path);
        }
        self.tail.digest = format::digest(self.tail.digest, checksum);
        self.tail.next_position += u64::from(count);
        self.tail.end =
            End { offset: at + length, position: self.tail.next_position - 1, accepted_at: self.stamped };
        self.shared.table.write().end = self.tail.end;
        self.encoder.shrink(KEEP_BUFFER);
        self.encoder.start(self.segment.seed, self.tail.next_position);
        Ok(())
    }

    fn seal(&self) -> Sealed {
        Sealed {
            end: self.tail.end.offset,
            last_position: self.tail.end.position,
            digest: self.tail.digest,
            accepted_high: self.tail.end.accepted_at,
        }
    }

    /// Begins the next segment. The batch must be empty.
    pub fn roll(&mut self) -> Result<(), IoFailure> {
        let seal = self.seal();
        let number = self.shared.claim_number();
        let header = SegmentHeader {
            node: self.shared.node,
            number,
            first_position: self.tail.next_position,
            accepted_high: self.tail.end.accepted_at,
            previous_digest: seal.digest,
            previous_last: seal.last_position,
            length: self.shared.sizes.segment_bytes,
        };
        let file = make_segment(&*self.shared.fs, &self.shared.dir, &self.spares, &header, |_| Ok(()))?;
        let entry = SegmentEntry {
            number,
            node: header.node,
            first_position: header.first_position,
            length: header.length,
            sealed: None,
            detached: false,
        };
        let segment = Arc::new(Segment::new(&entry, &self.shared.dir, file));
        self.shared.change_manifest(|manifest| {
            if let Some(last) = manifest.segments.last_mut() {
                last.sealed = Some(seal);
            }
            manifest.segments.push(entry);
            manifest.next_segment = manifest.next_segment.max(number + 1);
        })?;
        let _first = self.segment.sealed.set(seal);
        self.tail.end.offset = SEGMENT_HEADER;
        self.tail.digest = 0;
        {
            let mut table = self.shared.table.write();
            table.segments.push(Arc::clone(&segment));
            table.end = self.tail.end;
        }
        self.segment = segment;
        self.encoder.start(self.segment.seed, self.tail.next_position);
        Ok(())
    }

    /// What can be taken for certain: only segments that the disk has given room for count, so that what
    /// was taken never finds it full.
    pub fn room(&self) -> Room {
        let here = self.segment.length.saturating_sub(self.tail.end.offset).saturating_sub(MARGIN);
        self.room_beside(here, 0)
    }

    /// The same with `here` bytes left in the last segment, when `taken` more segments have been begun.
    fn room_beside(&self, here: u64, taken: u64) -> Room {
        let sizes = &self.shared.sizes;
        let begun = self.allocated() + taken * sizes.segment_bytes;
        let allowed = sizes.for_entries().saturating_sub(begun) / sizes.segment_bytes;
        let (certain, failing) = self.spares.certain();
        let more = certain.saturating_sub(taken).min(allowed);
        // At the end of each segment the next entry may not fit into the rest.
        let further = more.saturating_mul(sizes.segment_bytes - SEGMENT_HEADER - MARGIN - sizes.max_entry);
        let bytes = if more == 0 { here } else { here.saturating_sub(sizes.max_entry) + further };
        Room { bytes, is_final: more == allowed || failing }
    }

    /// Whether a segment can be begun although the last one is not full. That may be where entries may not go:
    /// a full journal must be able to begin a snapshot.
    pub fn roll_room(&self) -> RollRoom {
        if self.tail.end.offset == SEGMENT_HEADER {
            return RollRoom::Empty(self.segment.first_position);
        }
        let sizes = &self.shared.sizes;
        let limit = sizes.quota.load(Ordering::Relaxed);
        if limit.saturating_sub(self.allocated()) < sizes.segment_bytes {
            return RollRoom::Full { used: self.used(), limit };
        }
        match self.spares.certain() {
            (0, true) => self.spares.failure().map_or(RollRoom::NotYet, RollRoom::NoSpace),
            (0, false) => RollRoom::NotYet,
            _ => RollRoom::Room(self.room_beside(sizes.segment_bytes - SEGMENT_HEADER - MARGIN, 1)),
        }
    }

    /// The first position of the last segment.
    pub fn first_position(&self) -> u64 {
        self.segment.first_position
    }

    /// Live segments.
    pub fn segments(&self) -> usize {
        self.shared.table.read().segments.len()
    }

    /// Bytes of files: the last segment counts whole.
    fn allocated(&self) -> u64 {
        self.shared.table.read().length() + self.shared.sizes.stray.load(Ordering::Relaxed)
    }

    /// Bytes of the quota in use.
    pub fn used(&self) -> u64 {
        self.shared.used()
    }

    /// Marks the journal as closed in order.
    pub fn mark_clean(&self) -> Result<(), IoFailure> {
        let (seal, next_position) = (self.seal(), self.tail.next_position);
        self.shared.change_manifest(|manifest| {
            manifest.clean = Some(seal);
            manifest.next_position = next_position;
        })
    }
}

/// Five minutes: a clock further behind the last entry is not waited for.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_mins(5);
