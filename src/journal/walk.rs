//! Walking through a segment's batches, every checksum verified.

use std::io;

use bytes::Bytes;

use super::format::{self, BATCH_HEADER, BATCH_OVERHEAD, BatchHeader, RawEntry, SEGMENT_HEADER};
use super::fs::FsFile;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// A batch that has been verified.
#[derive(Debug)]
pub(crate) struct Batch {
    pub offset: u64,
    pub header: BatchHeader,
    pub entries: Vec<RawEntry>,
    pub checksum: u32,
}

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Step {
    Batch(Batch),
    /// The zeros after the last batch, or the limit.
    End,
    /// Bytes that are no batch and no end.
    Bad(String),
}

/// Reads a segment from front to back.
#[derive(Debug)]
pub(crate) struct Walker<'a> {
    file: &'a dyn FsFile,
    seed: u32,
    /// Length of the segment.
    length: u64,
    /// Where the last batch is known to end, if it is.
    limit: Option<u64>,
    offset: u64,
    chunk: Bytes,
    chunk_at: u64,
}

impl<'a> Walker<'a> {
    pub fn new(file: &'a dyn FsFile, seed: u32, length: u64, limit: Option<u64>) -> Self {
        Self::from_offset(file, seed, length, limit, SEGMENT_HEADER)
    }

    pub fn from_offset(
        file: &'a dyn FsFile,
        seed: u32,
        length: u64,
        limit: Option<u64>,
        offset: u64,
    ) -> Self {
        Self { file, seed, length, limit, offset, chunk: Bytes::new(), chunk_at: 0 }
    }

    /// Where it stands, to be taken up again by [`Walker::resume`].
    pub fn place(self) -> (u64, Bytes, u64) {
        (self.offset, self.chunk, self.chunk_at)
    }

    /// Goes on where another walker of the same segment stood.
    pub fn resume(&mut self, (offset, chunk, chunk_at): (u64, Bytes, u64)) {
        self.offset = offset;
        self.chunk = chunk;
        self.chunk_at = chunk_at;
    }

    /// Where the next batch starts.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The `wanted` bytes at the current place; fewer at the end of the file.
    fn bytes(&mut self, wanted: usize) -> io::Result<Bytes> {
        let within = self.offset.checked_sub(self.chunk_at).map(|start| start as usize);
        if let Some(start) = within
            && start + wanted <= self.chunk.len()
        {
            return Ok(self.chunk.slice(start..start + wanted));
        }
        let bound = self.limit.unwrap_or(self.length).saturating_sub(self.offset) as usize;
        self.chunk = Bytes::from(self.file.read_up_to(wanted.max(CHUNK).min(bound), self.offset)?);
        self.chunk_at = self.offset;
        Ok(self.chunk.slice(..wanted.min(self.chunk.len())))
    }

    pub fn step(&mut self) -> io::Result<Step> {
        let bound = self.limit.unwrap_or(self.length);
        let left = bound.saturating_sub(self.offset);
        if self.offset == bound {
            return Ok(Step::End);
        }
        let head = self.bytes(BATCH_HEADER.min(left as usize))?;
        let Some(header) = BatchHeader::decode(&head, self.seed) else {
            if self.limit.is_none() && head.len() as u64 == left.min(BATCH_HEADER as u64) {
                if head.iter().all(|byte| *byte == 0) {
                    return Ok(Step::End);
                }
                return Ok(Step::Bad("neither a batch nor the end of the segment".to_owned()));
            }
            return Ok(Step::Bad("no batch where one was written".to_owned()));
        };
        if header.total() > left {
            return Ok(Step::Bad(format!("a batch of {} bytes where {left} are left", header.total())));
        }
        let bytes = self.bytes(header.total() as usize)?;
        if (bytes.len() as u64) < header.total() {
            return Ok(Step::Bad("the file ends within a batch".to_owned()));
        }
        match format::decode_batch(self.seed, &header, &bytes) {
            Err(problem) => Ok(Step::Bad(problem)),
            Ok(entries) => {
                let offset = self.offset;
                self.offset += header.total();
                let checksum = format::batch_checksum(&bytes);
                Ok(Step::Batch(Batch { offset, header, entries, checksum }))
            }
        }
    }

    /// The next place after the current one where a whole valid batch starts, if there is any.
    pub fn find_later_batch(&self) -> io::Result<Option<u64>> {
        let mut from = self.offset + 1;
        while from + BATCH_OVERHEAD <= self.length {
            let window = self.file.read_up_to(CHUNK.min((self.length - from) as usize), from)?;
            let mut at = 0;
            while let Some(found) = format::find_batch_magic(&window, at) {
                let place = from + found as u64;
                let mut there = Self::from_offset(self.file, self.seed, self.length, None, place);
                // The header's own checksum is looked at first: most of what only looks like a batch ends
                // there, without a chunk being read.
                let head = self.file.read_up_to(BATCH_HEADER, place)?;
                if BatchHeader::decode(&head, self.seed).is_some() && matches!(there.step()?, Step::Batch(_))
                {
                    return Ok(Some(place));
                }
                at = found + 1;
            }
            if window.len() < BATCH_HEADER {
                break;
            }
            // Magic bytes that straddle two windows are in the next one whole.
            from += window.len() as u64 - 3;
        }
        Ok(None)
    }
}
