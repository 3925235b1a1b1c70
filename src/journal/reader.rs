//! Reading entries back, one by one or in order. Whatever is returned has been verified.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::error::{At as _, Damage, ReadError};
use super::format::{
    BATCH_HEADER, BatchHeader, BatchSettings, ENTRY_HEADER, EntryHeader, RawEntry, SEGMENT_HEADER,
};
use super::manifest::SnapshotRef;
use super::table::{Pin, Segment, Shared, Table};
use super::walk::{Batch, Step, Walker};
use crate::model::{EventTime, NodeId};

/// Read with an entry's header: most entries are shorter.
const FIRST_READ: usize = 1024;
/// How often an entry is looked for again when its segment was released meanwhile: two snapshots would have to be
/// completed within one read for the third try to matter.
const READ_TRIES: usize = 3;

/// An entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its number.
    pub position: u64,
    /// Whose number that is: this node's, or an ancestor's.
    pub node: NodeId,
    /// When it was accepted.
    pub accepted_at: EventTime,
    /// What its batch was accepted under.
    pub refresh_after: std::time::Duration,
    /// Version of the rules that it is evaluated by.
    pub semantics: u8,
    /// Where it is in its segment: what [`JournalReader::read`] wants.
    pub offset: u32,
    /// Its bytes. From a scan they share memory with their neighbours (up to 256 KiB): copy what is kept.
    pub payload: Bytes,
}

impl StoredEntry {
    pub(crate) fn new(node: NodeId, batch: &Batch, entry: &RawEntry) -> Self {
        let BatchSettings { refresh_after, semantics } = batch.header.settings;
        Self {
            position: entry.position,
            node,
            accepted_at: entry.accepted_at,
            refresh_after,
            semantics,
            offset: (batch.offset + u64::from(entry.back)) as u32,
            payload: entry.payload.clone(),
        }
    }
}

/// A segment that is part of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Who wrote its entries: this node, or an ancestor.
    pub node: NodeId,
    /// No entry in it is below this.
    pub first_position: u64,
    /// Its last entry; 0 if it is empty.
    pub last_position: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Where its last batch ends in the file.
    pub end: u64,
    /// Nothing more will be written to it.
    pub sealed: bool,
    /// The segment that came before it has been released, or it holds what was carried over from such.
    pub detached: bool,
    /// Its file.
    pub path: PathBuf,
}

/// Reads what is durable. Cheap to clone; keeps working when the journal has failed.
#[derive(Clone, Debug)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

impl JournalReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The entry of `position`, which is at `offset` of its segment. Where entries were carried to another
    /// segment meanwhile, a wrong `offset` is made up for by a search.
    pub fn read(&self, position: u64, offset: u32) -> Result<StoredEntry, ReadError> {
        for _ in 0..READ_TRIES {
            let segment = self.segment_of(position)?;
            let mut found = Self::read_in(&segment, position, offset);
            if segment.detached.load(Ordering::Relaxed) && matches!(found, Err(ReadError::Damaged(_))) {
                found = Self::search(&segment, position);
            }
            match found {
                // Released while it was read, and perhaps overwritten: the entry may have been carried on.
                Err(_) if !self.is_live(&segment) => {}
                found => return found,
            }
        }
        Err(ReadError::Released(position))
    }

    fn segment_of(&self, position: u64) -> Result<Arc<Segment>, ReadError> {
        let table = self.shared.table.read();
        if position > table.end.position || position == 0 {
            return Err(ReadError::Unknown(position));
        }
        let found = table.find(position).and_then(|index| table.segments.get(index));
        let ends_before =
            |segment: &&Arc<Segment>| segment.sealed.get().is_some_and(|end| end.last_position < position);
        found.filter(|segment| !ends_before(segment)).map(Arc::clone).ok_or(ReadError::Released(position))
    }

    /// Looks for an entry whose offset is not known.
    fn search(segment: &Segment, position: u64) -> Result<StoredEntry, ReadError> {
        let limit = segment.sealed.get().map(|sealed| sealed.end);
        let mut walker = Walker::new(&*segment.file, segment.seed, segment.length, limit);
        loop {
            let at = walker.offset();
            let batch = match walker.step().at("read", &segment.path)? {
                Step::Batch(batch) if batch.header.last_position() < position => continue,
                Step::Batch(batch) => batch,
                Step::End => return Err(ReadError::Released(position)),
                Step::Bad(problem) => {
                    return Err(ReadError::Damaged(Damage::new(&segment.path, at, problem)));
                }
            };
            let index = position.checked_sub(batch.header.first_position);
            let entry = index.and_then(|index| batch.entries.get(index as usize));
            return entry
                .map(|entry| StoredEntry::new(segment.node, &batch, entry))
                .ok_or(ReadError::Released(position));
        }
    }

    fn read_in(segment: &Segment, position: u64, offset: u32) -> Result<StoredEntry, ReadError> {
        let at = u64::from(offset);
        let damage = |problem: &str| ReadError::Damaged(Damage::new(&segment.path, at, problem));
        let io = |result: std::io::Result<Vec<u8>>| result.at("read", &segment.path);
        let mut bytes = io(segment.file.read_up_to(FIRST_READ, at))?;
        let head = EntryHeader::decode(&bytes).ok_or_else(|| damage("the file ends before the entry"))?;
        let whole = ENTRY_HEADER as u64 + u64::from(head.length);
        if at + whole > segment.length || u64::from(head.back) + SEGMENT_HEADER > at {
            return Err(damage("no entry"));
        }
        if (bytes.len() as u64) < whole {
            bytes = io(segment.file.read_up_to(whole as usize, at))?;
        }
        bytes.truncate(whole as usize);
        if !head.verifies(segment.seed, position, &bytes) {
            return Err(damage("the checksum of the entry does not match its bytes"));
        }
        let batch = io(segment.file.read_up_to(BATCH_HEADER, at - u64::from(head.back)))?;
        let batch = BatchHeader::decode(&batch, segment.seed)
            .filter(|batch| (batch.first_position..=batch.last_position()).contains(&position))
            .ok_or_else(|| damage("the header of the entry's batch does not match"))?;
        Ok(StoredEntry {
            position,
            node: segment.node,
            accepted_at: head.accepted_at,
            refresh_after: batch.settings.refresh_after,
            semantics: batch.settings.semantics,
            offset,
            payload: Bytes::from(bytes).slice(ENTRY_HEADER..),
        })
    }

    /// A segment that was released while it was read may have been overwritten: that is no damage.
    fn unless_released<T>(
        &self,
        segment: &Segment,
        position: u64,
        found: Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        match found {
            Err(ReadError::Damaged(_) | ReadError::Io(_)) if !self.is_live(segment) => {
                Err(ReadError::Released(position))
            }
            found => found,
        }
    }

    fn is_live(&self, segment: &Segment) -> bool {
        self.shared.table.read().segments.iter().any(|live| live.number == segment.number)
    }

    /// All entries from `from` on, in order, up to what is durable now. Ends after the first error. Starts
    /// at the oldest entry that there is if `from` has been released.
    pub fn scan(&self, from: u64) -> Scan {
        let table = self.shared.table.read().clone();
        let index = table.find(from).unwrap_or(0);
        Scan { reader: self.clone(), table, index, from, offset: None, digest: 0, batch: None, done: false }
    }

    /// The segments, in order; the last one is being written.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let table = self.shared.table.read();
        let last = table.segments.len().saturating_sub(1);
        let info = |(index, segment): (usize, &Arc<Segment>)| {
            let sealed = segment.sealed.get().copied().filter(|_| index < last);
            let end = sealed.map_or(table.end.offset, |sealed| sealed.end);
            let reached = sealed.map_or(table.end.position, |sealed| sealed.last_position);
            SegmentInfo {
                number: segment.number,
                node: segment.node,
                first_position: segment.first_position,
                last_position: if end > SEGMENT_HEADER { reached } else { 0 },
                bytes: segment.length,
                end,
                sealed: sealed.is_some(),
                detached: segment.detached.load(Ordering::Relaxed),
                path: segment.path.clone(),
            }
        };
        table.segments.iter().enumerate().map(info).collect()
    }

    /// The last durable position; 0 if there is none.
    pub fn end(&self) -> u64 {
        self.shared.table.read().end.position
    }

    /// The lowest position that may still be read.
    pub fn start(&self) -> u64 {
        self.shared.table.read().segments.first().map_or(1, |segment| segment.first_position)
    }

    /// A position before every entry that was accepted at or after `time`, by whole segments.
    pub fn first_since(&self, time: EventTime) -> u64 {
        let table = self.shared.table.read();
        let reaches =
            |segment: &&Arc<Segment>| segment.sealed.get().is_none_or(|end| end.accepted_high >= time);
        table.segments.iter().find(reaches).map_or(1, |segment| segment.first_position)
    }

    /// Whether an entry with this number was ever made durable here (it may have been released since).
    pub fn issued(&self, position: u64) -> bool {
        let shared = &self.shared;
        (shared.origin..=self.end()).contains(&position)
            && !shared.gaps.iter().any(|(before, after)| position > *before && position < *after)
    }

    /// Keeps `position` and what follows from being released.
    pub fn pin(&self, position: u64) -> Pin {
        self.shared.pin(position)
    }

    /// The snapshot that replay starts from, if there is one.
    pub fn snapshot(&self) -> Option<SnapshotRef> {
        self.shared.manifest.lock().snapshot.clone()
    }

    /// This journal's identity.
    pub fn node(&self) -> NodeId {
        self.shared.node
    }
}

/// Entries in order; see [`JournalReader::scan`].
#[derive(Debug)]
pub struct Scan {
    reader: JournalReader,
    table: Table,
    index: usize,
    from: u64,
    /// Where the next batch starts, with the chunk that it may be in.
    offset: Option<(u64, Bytes, u64)>,
    digest: u32,
    batch: Option<(Batch, usize)>,
    done: bool,
}

impl Scan {
    fn next_batch(&mut self) -> Result<Option<(Batch, usize)>, ReadError> {
        while let Some(segment) = self.table.segments.get(self.index).map(Arc::clone) {
            let last = self.index + 1 == self.table.segments.len();
            let sealed = segment.sealed.get().copied().filter(|_| !last);
            let end = sealed.map_or(self.table.end.offset, |sealed| sealed.end);
            let mut walker = Walker::new(&*segment.file, segment.seed, segment.length, Some(end));
            match self.offset.take() {
                Some(place) => walker.resume(place),
                None => self.digest = 0,
            }
            let step = walker.step().at("read", &segment.path).map_err(ReadError::Io);
            let at = walker.offset();
            let step = match step {
                Ok(Step::Bad(problem)) => Err(ReadError::Damaged(Damage::new(&segment.path, at, problem))),
                other => other,
            };
            if let Step::Batch(batch) = self.reader.unless_released(&segment, self.from, step)? {
                self.offset = Some(walker.place());
                self.digest = super::format::digest(self.digest, batch.checksum);
                if batch.header.last_position() >= self.from {
                    let skip = self.from.saturating_sub(batch.header.first_position) as usize;
                    return Ok(Some((batch, skip)));
                }
                continue;
            }
            if let Some(sealed) = sealed
                && sealed.digest != self.digest
            {
                let problem = "its batches are not those that it was sealed with";
                let damage = ReadError::Damaged(Damage::new(&segment.path, at, problem));
                return self.reader.unless_released(&segment, self.from, Err(damage));
            }
            self.index += 1;
        }
        Ok(None)
    }
}

impl Iterator for Scan {
    type Item = Result<StoredEntry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.done {
                return None;
            }
            if let Some((batch, at)) = &mut self.batch
                && let Some(entry) = batch.entries.get(*at)
            {
                *at += 1;
                let node = self.table.segments.get(self.index).map_or(self.reader.shared.node, |s| s.node);
                return Some(Ok(StoredEntry::new(node, batch, entry)));
            }
            match self.next_batch() {
                Ok(Some(batch)) => self.batch = Some(batch),
                Ok(None) => self.done = true,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
