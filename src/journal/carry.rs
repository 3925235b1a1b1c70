//! Carrying entries that still wait into segments of their own, so that the segments they came in can go.
//!
//! What is written here is part of the journal only once [`super::Journal::switch`] has named it: until then the
//! files are called `carry-N`, or have numbers that the manifest knows to be used up, and a start removes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::{At as _, IoFailure};
use super::format::{self, BatchEncoder, BatchSettings, SEGMENT_HEADER, SegmentHeader};
use super::fs::{FsFile, OpenMode};
use super::manifest::{Sealed, SegmentEntry, carry_path, segment_path};
use super::reader::StoredEntry;
use super::table::{Segment, Shared};
use crate::model::EventTime;

/// Writes entries, in order of position. Dropped without [`Carrier::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Carrier {
    shared: Arc<Shared>,
    /// First positions of segments that are kept: no carried one may reach over them.
    kept: Vec<u64>,
    current: Option<Writer>,
    done: Vec<Draft>,
    places: Vec<(u64, u32)>,
    last: u64,
}

/// Carried entries, synced, but not yet part of the journal. Dropped, they leave nothing behind.
#[derive(Debug)]
pub struct Carried {
    /// Where each entry will be: position and offset, in order.
    pub places: Vec<(u64, u32)>,
    pub(crate) drafts: Vec<Draft>,
}

/// The file of a segment that is not part of the journal yet; goes with this unless it is made one.
#[derive(Debug)]
pub(crate) struct Draft {
    shared: Arc<Shared>,
    pub entry: SegmentEntry,
    path: PathBuf,
    file: Option<Box<dyn FsFile>>,
}

impl Draft {
    /// The segment, once the manifest names it.
    pub fn adopt(mut self) -> Option<Segment> {
        Some(Segment::new(&self.entry, &self.shared.dir, self.file.take()?))
    }

    /// Leaves the file where it is: the manifest may name it. A start knows.
    pub fn abandon(mut self) {
        self.file = None;
        self.shared.sizes.stray.fetch_add(self.entry.length, Ordering::Relaxed);
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = self.shared.fs.remove(&self.path)
        {
            let file = self.path.display();
            tracing::warn!(%file, %error, "carried entries that are not needed were not removed; a start will");
        }
    }
}

#[derive(Debug)]
struct Writer {
    draft: Draft,
    seed: u32,
    offset: u64,
    digest: u32,
    /// The batch that is being filled, and what its entries were accepted under.
    encoder: BatchEncoder,
    settings: BatchSettings,
    next: u64,
    accepted_at: EventTime,
    before: EventTime,
}

fn settings_of(entry: &StoredEntry) -> BatchSettings {
    BatchSettings { refresh_after: entry.refresh_after, semantics: entry.semantics }
}

impl Carrier {
    pub(crate) fn new(shared: Arc<Shared>, keep: &[u64]) -> Self {
        let kept = {
            let table = shared.table.read();
            let kept = table.segments.iter().filter(|segment| keep.contains(&segment.number));
            kept.map(|segment| segment.first_position).collect()
        };
        Self { shared, kept, current: None, done: Vec::new(), places: Vec::new(), last: 0 }
    }

    /// Adds an entry as it was read. Positions must rise.
    pub fn push(&mut self, entry: &StoredEntry) -> Result<(), IoFailure> {
        if entry.position <= self.last {
            let problem = format!("entry {} after {}", entry.position, self.last);
            return Err(std::io::Error::other(problem)).at("carry", &self.shared.dir);
        }
        let fits = self.current.as_ref().is_some_and(|writer| {
            let crosses = self.kept.iter().any(|first| (self.last + 1..=entry.position).contains(first));
            writer.draft.entry.node == entry.node
                && !crosses
                && writer.has_room_for(entry, self.shared.sizes.segment_bytes)
        });
        if !fits {
            self.end_segment()?;
            self.current = Some(Writer::begin(&self.shared, entry)?);
        }
        if let Some(writer) = &mut self.current {
            let offset = writer.push(entry, self.shared.sizes.batch_bytes)?;
            self.places.push((entry.position, offset));
        }
        self.last = entry.position;
        Ok(())
    }

    fn end_segment(&mut self) -> Result<(), IoFailure> {
        if let Some(writer) = self.current.take() {
            self.done.push(writer.finish()?);
        }
        Ok(())
    }

    /// Syncs all that was written and gives the files their names.
    pub fn finish(mut self) -> Result<Carried, IoFailure> {
        self.end_segment()?;
        for draft in &mut self.done {
            let path = segment_path(&self.shared.dir, draft.entry.number);
            self.shared.fs.rename(&draft.path, &path).at("rename", &draft.path)?;
            draft.path = path;
        }
        if !self.done.is_empty() {
            self.shared.fs.sync_dir(&self.shared.dir).at("sync", &self.shared.dir)?;
        }
        Ok(Carried { places: std::mem::take(&mut self.places), drafts: std::mem::take(&mut self.done) })
    }
}

impl Writer {
    fn begin(shared: &Arc<Shared>, first: &StoredEntry) -> Result<Self, IoFailure> {
        let number = shared.claim_number();
        // Used up for certain before anything has it.
        shared.change_manifest(|manifest| manifest.next_segment = manifest.next_segment.max(number + 1))?;
        let path = carry_path(&shared.dir, number);
        let file = shared.fs.open(&path, OpenMode::CreateNew).at("create", &path)?;
        let seed = format::seed(first.node, number);
        let mut encoder = BatchEncoder::default();
        encoder.start(seed, first.position);
        let entry = SegmentEntry {
            number,
            node: first.node,
            first_position: first.position,
            length: 0,
            sealed: None,
            detached: true,
        };
        Ok(Self {
            draft: Draft { shared: Arc::clone(shared), entry, path, file: Some(file) },
            seed,
            offset: SEGMENT_HEADER,
            digest: 0,
            encoder,
            settings: settings_of(first),
            next: first.position,
            accepted_at: first.accepted_at,
            before: EventTime(first.accepted_at.0.saturating_sub(1)),
        })
    }

    /// Whether the entry's batch, at worst one of its own, still ends within a segment's length.
    fn has_room_for(&self, entry: &StoredEntry, most: u64) -> bool {
        let bytes = format::ENTRY_HEADER as u64 + entry.payload.len() as u64;
        self.offset + self.encoder.total() + format::BATCH_OVERHEAD + bytes <= most
    }

    /// Neighbours that were accepted under the same settings share a batch.
    fn push(&mut self, entry: &StoredEntry, batch_bytes: u64) -> Result<u32, IoFailure> {
        let bytes = format::ENTRY_HEADER as u64 + entry.payload.len() as u64;
        if self.encoder.count() > 0
            && (entry.position != self.next
                || settings_of(entry) != self.settings
                || self.encoder.total() + bytes > batch_bytes)
        {
            self.write_batch()?;
        }
        if self.encoder.count() == 0 {
            self.encoder.start(self.seed, entry.position);
            self.settings = settings_of(entry);
        }
        let (position, back) = self.encoder.push(entry.accepted_at, &entry.payload);
        self.next = position + 1;
        self.accepted_at = entry.accepted_at;
        Ok((self.offset + u64::from(back)) as u32)
    }

    fn write_batch(&mut self) -> Result<(), IoFailure> {
        if self.encoder.count() == 0 {
            return Ok(());
        }
        let (bytes, length, checksum) = self.encoder.finish(self.settings, 0);
        if let Some(file) = &self.draft.file {
            file.write_all_at(bytes, self.offset).at("write", &self.draft.path)?;
        }
        self.offset += length;
        self.digest = format::digest(self.digest, checksum);
        self.encoder.start(self.seed, self.next);
        Ok(())
    }

    fn finish(mut self) -> Result<Draft, IoFailure> {
        self.write_batch()?;
        let entry = &mut self.draft.entry;
        entry.length = self.offset;
        entry.sealed = Some(Sealed {
            end: self.offset,
            last_position: self.next - 1,
            digest: self.digest,
            accepted_high: self.accepted_at,
        });
        let header = SegmentHeader {
            node: entry.node,
            number: entry.number,
            first_position: entry.first_position,
            accepted_high: self.before,
            previous_digest: 0,
            previous_last: entry.first_position - 1,
            length: entry.length,
        };
        if let Some(file) = &self.draft.file {
            file.write_all_at(&header.encode(), 0).at("write", &self.draft.path)?;
            file.sync_data().at("sync", &self.draft.path)?;
        }
        Ok(self.draft)
    }
}
