//! The bytes of segments and batches, as the module's documentation describes them.

use bytes::Bytes;
use crc32c::crc32c_append;

use crate::model::{EventTime, NodeId};

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER: u64 = 128;
/// Bytes of a batch's header; as many zeros follow the last batch.
pub const BATCH_HEADER: usize = 36;
/// Bytes around a batch's entries: header and checksum.
pub const BATCH_OVERHEAD: u64 = BATCH_HEADER as u64 + 4;
/// Bytes before an entry's payload.
pub const ENTRY_HEADER: usize = 20;

/// No journal comes so far: to number on from here can never overflow.
pub(crate) const MAX_NUMBER: u64 = 1 << 62;

const SEGMENT_MAGIC: &[u8; 8] = b"STDFSEGM";
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"BtCh";

pub(crate) const TERMINATOR: [u8; BATCH_HEADER] = [0; BATCH_HEADER];

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// What the checksums of a segment start from: two segments of a node never share it (a CRC tells apart any
/// two inputs of one length that differ within 32 bits), so a recycled file's old batches are never valid.
pub(crate) fn seed(node: NodeId, segment: u64) -> u32 {
    crc32c_append(crc32c_append(0, &node.0.to_le_bytes()), &segment.to_le_bytes())
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub node: NodeId,
    pub number: u64,
    /// No entry in it is below this.
    pub first_position: u64,
    /// No entry before it was accepted after this.
    pub accepted_high: EventTime,
    /// Digest of the segment before; 0 for the first.
    pub previous_digest: u32,
    /// Last position before it; 0 if none.
    pub previous_last: u64,
    /// Length of the file.
    pub length: u64,
}

/// Why a segment's header was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderProblem {
    NotASegment,
    Checksum,
    Version(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER as usize);
        bytes.extend_from_slice(SEGMENT_MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.previous_digest.to_le_bytes());
        for word in [
            self.node.0,
            self.number,
            self.first_position,
            self.accepted_high.0,
            self.previous_last,
            self.length,
        ] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize(SEGMENT_HEADER as usize - 4, 0);
        bytes.extend_from_slice(&crc32c_append(0, &bytes).to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderProblem> {
        let body = bytes.get(..SEGMENT_HEADER as usize - 4).ok_or(HeaderProblem::NotASegment)?;
        if !body.starts_with(SEGMENT_MAGIC) {
            return Err(HeaderProblem::NotASegment);
        }
        if u32_at(bytes, body.len()) != Some(crc32c_append(0, body)) {
            return Err(HeaderProblem::Checksum);
        }
        let version = u32_at(body, 8).unwrap_or_default();
        if version != FORMAT {
            return Err(HeaderProblem::Version(version));
        }
        let word = |index: usize| u64_at(body, 16 + 8 * index).unwrap_or_default();
        Ok(Self {
            previous_digest: u32_at(body, 12).unwrap_or_default(),
            node: NodeId(word(0)),
            number: word(1),
            first_position: word(2),
            accepted_high: EventTime(word(3)),
            previous_last: word(4),
            length: word(5),
        })
    }
}

/// What a batch was accepted under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSettings {
    /// A set that repeats the stored value refreshes its time only when it is this much newer.
    pub refresh_after: std::time::Duration,
    /// Version of the rules that entries are evaluated by.
    pub semantics: u8,
}

/// The first bytes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub entries_bytes: u32,
    pub first_position: u64,
    pub count: u32,
    pub settings: BatchSettings,
}

impl BatchHeader {
    fn encode(&self, seed: u32) -> [u8; BATCH_HEADER] {
        let refresh = u64::try_from(self.settings.refresh_after.as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = Vec::with_capacity(BATCH_HEADER);
        bytes.extend_from_slice(&BATCH_MAGIC);
        bytes.extend_from_slice(&self.entries_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.first_position.to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&[self.settings.semantics, 0, 0, 0]);
        bytes.extend_from_slice(&refresh.to_le_bytes());
        bytes.extend_from_slice(&crc32c_append(seed, &bytes).to_le_bytes());
        bytes.try_into().unwrap_or(TERMINATOR)
    }

    /// `None` unless magic and checksum are right.
    pub fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let body = bytes.get(..BATCH_HEADER - 4)?;
        if !body.starts_with(&BATCH_MAGIC) || u32_at(bytes, BATCH_HEADER - 4)? != crc32c_append(seed, body) {
            return None;
        }
        Some(Self {
            entries_bytes: u32_at(body, 4)?,
            first_position: u64_at(body, 8)?,
            count: u32_at(body, 16)?,
            settings: BatchSettings {
                semantics: *body.get(20)?,
                refresh_after: std::time::Duration::from_nanos(u64_at(body, 24)?),
            },
        })
    }

    /// Bytes of the whole batch.
    pub fn total(&self) -> u64 {
        BATCH_OVERHEAD + u64::from(self.entries_bytes)
    }

    pub fn last_position(&self) -> u64 {
        self.first_position.saturating_add(u64::from(self.count)).saturating_sub(1)
    }
}

/// Where bytes that look like a batch could start, at or after `from`.
pub(crate) fn find_batch_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let found = bytes.get(from..)?.windows(4).position(|window| window == BATCH_MAGIC)?;
    Some(from + found)
}

/// The first bytes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub length: u32,
    /// From the start of the batch to the start of the entry.
    pub back: u32,
    pub accepted_at: EventTime,
    pub checksum: u32,
}

impl EntryHeader {
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            length: u32_at(bytes, 0)?,
            back: u32_at(bytes, 4)?,
            accepted_at: EventTime(u64_at(bytes, 8)?),
            checksum: u32_at(bytes, 16)?,
        })
    }

    fn checksum_of(seed: u32, position: u64, head: &[u8], payload: &[u8]) -> u32 {
        crc32c_append(crc32c_append(crc32c_append(seed, &position.to_le_bytes()), head), payload)
    }

    /// Whether `bytes` (header and payload) are the entry of `position`.
    pub fn verifies(&self, seed: u32, position: u64, bytes: &[u8]) -> bool {
        let (Some(head), Some(payload)) = (bytes.get(..16), bytes.get(ENTRY_HEADER..)) else { return false };
        payload.len() == self.length as usize
            && self.checksum == Self::checksum_of(seed, position, head, payload)
    }
}

/// One entry of a batch.
#[derive(Clone, Debug)]
pub(crate) struct RawEntry {
    pub position: u64,
    pub accepted_at: EventTime,
    /// From the start of the batch.
    pub back: u32,
    pub payload: Bytes,
}

/// Builds one batch in a buffer that is used again.
#[derive(Debug, Default)]
pub(crate) struct BatchEncoder {
    buffer: Vec<u8>,
    seed: u32,
    first_position: u64,
    count: u32,
}

impl BatchEncoder {
    /// Starts a batch in the segment of `seed`.
    pub fn start(&mut self, seed: u32, first_position: u64) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&TERMINATOR);
        self.seed = seed;
        self.first_position = first_position;
        self.count = 0;
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes that the batch will have.
    pub fn total(&self) -> u64 {
        self.buffer.len() as u64 + 4
    }

    /// Adds an entry; its position, and its offset from the start of the batch.
    pub fn push(&mut self, accepted_at: EventTime, payload: &[u8]) -> (u64, u32) {
        let position = self.first_position + u64::from(self.count);
        let back = self.buffer.len() as u32;
        let mut head = [0; 16];
        let (length, rest) = head.split_at_mut(4);
        let (offset, time) = rest.split_at_mut(4);
        length.copy_from_slice(&(payload.len() as u32).to_le_bytes());
        offset.copy_from_slice(&back.to_le_bytes());
        time.copy_from_slice(&accepted_at.0.to_le_bytes());
        let checksum = EntryHeader::checksum_of(self.seed, position, &head, payload);
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        self.buffer.extend_from_slice(payload);
        self.count += 1;
        (position, back)
    }

    /// The batch's bytes followed by up to `room` zeros that end the segment here, the batch's length, and its
    /// checksum.
    pub fn finish(&mut self, settings: BatchSettings, room: u64) -> (&[u8], u64, u32) {
        let header = BatchHeader {
            entries_bytes: (self.buffer.len() - BATCH_HEADER) as u32,
            first_position: self.first_position,
            count: self.count,
            settings,
        };
        if let Some(target) = self.buffer.get_mut(..BATCH_HEADER) {
            target.copy_from_slice(&header.encode(self.seed));
        }
        let checksum = crc32c_append(self.seed, &self.buffer);
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        let length = self.buffer.len();
        let zeros = room.saturating_sub(length as u64).min(BATCH_HEADER as u64);
        self.buffer.extend_from_slice(TERMINATOR.get(..zeros as usize).unwrap_or_default());
        (&self.buffer, length as u64, checksum)
    }

    /// Gives memory back after an unusually large batch.
    pub fn shrink(&mut self, to: usize) {
        if self.buffer.capacity() > to.saturating_mul(2) {
            self.buffer = Vec::with_capacity(to);
        }
    }
}

/// Checks a whole batch (its header has been) and splits it; `Err` says what is wrong.
pub(crate) fn decode_batch(seed: u32, header: &BatchHeader, bytes: &Bytes) -> Result<Vec<RawEntry>, String> {
    let end = bytes.len().checked_sub(4).ok_or("a batch without a checksum")?;
    let body = bytes.get(..end).unwrap_or_default();
    if u32_at(bytes, end) != Some(crc32c_append(seed, body)) {
        return Err("the checksum of a batch does not match its bytes".to_owned());
    }
    let mut entries = Vec::with_capacity((header.count as usize).min(body.len() / ENTRY_HEADER));
    let mut at = BATCH_HEADER;
    while at < end {
        let position = header.first_position.saturating_add(entries.len() as u64);
        let entry = body.get(at..).and_then(EntryHeader::decode).ok_or("an entry is cut short")?;
        let until = at + ENTRY_HEADER + entry.length as usize;
        let whole = body.get(at..until).ok_or("an entry reaches beyond its batch")?;
        if entry.back as usize != at || !entry.verifies(seed, position, whole) {
            return Err(format!("the checksum of entry {position} does not match its bytes"));
        }
        entries.push(RawEntry {
            position,
            accepted_at: entry.accepted_at,
            back: entry.back,
            payload: bytes.slice(at + ENTRY_HEADER..until),
        });
        at = until;
    }
    if entries.len() != header.count as usize || entries.is_empty() {
        return Err(format!("a batch of {} entries holds {}", header.count, entries.len()));
    }
    Ok(entries)
}

/// Carries a segment's digest on over a batch's checksum.
pub(crate) fn digest(so_far: u32, batch_checksum: u32) -> u32 {
    crc32c_append(so_far, &batch_checksum.to_le_bytes())
}

/// The checksum at the end of a batch.
pub(crate) fn batch_checksum(bytes: &[u8]) -> u32 {
    bytes.len().checked_sub(4).and_then(|at| u32_at(bytes, at)).unwrap_or_default()
}
