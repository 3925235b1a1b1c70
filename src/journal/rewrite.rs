//! Writing entries that have their positions already into a segment of their own.

use std::path::Path;

use super::error::{At as _, IoFailure};
use super::format::{self, BatchEncoder, BatchSettings, SEGMENT_HEADER, SegmentHeader};
use super::fs::FsFile;
use super::manifest::{Sealed, SegmentEntry};
use super::reader::StoredEntry;
use crate::model::EventTime;

/// Fills a file with entries in order of position; it becomes as long as its content.
#[derive(Debug)]
pub(crate) struct Rewriter {
    pub entry: SegmentEntry,
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

impl Rewriter {
    /// Segment `number`, which begins with `first`.
    pub fn new(number: u64, first: &StoredEntry) -> Self {
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
        Self {
            entry,
            seed,
            offset: SEGMENT_HEADER,
            digest: 0,
            encoder,
            settings: settings_of(first),
            next: first.position,
            accepted_at: first.accepted_at,
            before: EventTime(first.accepted_at.0.saturating_sub(1)),
        }
    }

    /// Whether the entry's batch, at worst one of its own, still ends within a segment of `most` bytes.
    pub fn has_room_for(&self, entry: &StoredEntry, most: u64) -> bool {
        let bytes = format::ENTRY_HEADER as u64 + entry.payload.len() as u64;
        self.offset + self.encoder.total() + format::BATCH_OVERHEAD + bytes <= most
    }

    /// Adds an entry; its offset. Neighbours that were accepted under the same settings share a batch of at most
    /// `batch_bytes`.
    pub fn push(
        &mut self,
        file: &dyn FsFile,
        path: &Path,
        entry: &StoredEntry,
        batch_bytes: u64,
    ) -> Result<u32, IoFailure> {
        let bytes = format::ENTRY_HEADER as u64 + entry.payload.len() as u64;
        if self.encoder.count() > 0
            && (entry.position != self.next
                || settings_of(entry) != self.settings
                || self.encoder.total() + bytes > batch_bytes)
        {
            self.write_batch(file, path)?;
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

    fn write_batch(&mut self, file: &dyn FsFile, path: &Path) -> Result<(), IoFailure> {
        if self.encoder.count() == 0 {
            return Ok(());
        }
        let (bytes, length, checksum) = self.encoder.finish(self.settings, 0);
        file.write_all_at(bytes, self.offset).at("write", path)?;
        self.offset += length;
        self.digest = format::digest(self.digest, checksum);
        self.encoder.start(self.seed, self.next);
        Ok(())
    }

    /// Writes what is left and the header, and syncs.
    pub fn finish(&mut self, file: &dyn FsFile, path: &Path) -> Result<(), IoFailure> {
        self.write_batch(file, path)?;
        let entry = &mut self.entry;
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
        file.write_all_at(&header.encode(), 0).at("write", path)?;
        file.sync_data().at("sync", path)
    }
}
