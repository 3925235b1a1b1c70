//! The bytes of a snapshot file, as the module's documentation describes them.

use std::path::Path;

use crc32c::{crc32c, crc32c_append};

use super::error::SnapshotError;
use crate::journal::Damage;
use crate::model::{EventTime, NodeId};

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;
/// The format of a block's records.
pub const RECORDS_FORMAT: u8 = 1;
/// Bytes of the header.
pub const HEADER: usize = 80;
/// Bytes of a block's header.
pub const BLOCK_HEADER: usize = 36;
/// Bytes of the footer.
pub const FOOTER: usize = 232;
/// A block is closed when it has so many bytes.
pub const BLOCK_BYTES: usize = 256 << 10;
/// No record is longer: the largest message that can be configured is 64 MiB.
pub const MAX_RECORD: usize = 72 << 20;

const MAGIC: &[u8; 8] = b"STDFSNAP";
const END_MAGIC: &[u8; 8] = b"STDFSEND";
const BLOCK_MAGIC: [u8; 4] = *b"SnBk";
const FOOTER_MAGIC: [u8; 4] = *b"SnFt";

/// What a block holds; in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Profiles.
    Profiles = 0,
    /// What is left of deleted ones.
    Graves = 1,
    /// Refused entries.
    Refused = 2,
    /// Attributes of the registries.
    Attributes = 3,
    /// Request ids that are done.
    RequestIds = 4,
    /// Positions before the snapshot's start that waited.
    Waiting = 5,
}

impl Kind {
    /// All, in order.
    pub const ALL: [Self; 6] =
        [Self::Profiles, Self::Graves, Self::Refused, Self::Attributes, Self::RequestIds, Self::Waiting];

    pub(super) fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The first bytes of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The journal's node when it was taken.
    pub node: NodeId,
    /// Its number among the snapshots of that node.
    pub number: u64,
    /// Replay goes on from this position.
    pub start: u64,
    /// The store's commit number when the scan began.
    pub commit_number: u64,
    /// When it was begun.
    pub created_at: EventTime,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// `bytes` and the checksum of them.
fn sealed(mut bytes: Vec<u8>, seed: u32) -> Vec<u8> {
    let checksum = crc32c_append(seed, &bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Whether the checksum at the end of `bytes` is theirs.
fn is_sealed(bytes: &[u8], seed: u32) -> bool {
    bytes
        .split_last_chunk::<4>()
        .is_some_and(|(body, sum)| crc32c_append(seed, body) == u32::from_le_bytes(*sum))
}

impl Header {
    /// What the checksums of this file start from.
    pub fn seed(&self) -> u32 {
        crc32c_append(crc32c(&self.node.0.to_le_bytes()), &self.number.to_le_bytes())
    }

    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for number in [self.node.0, self.number, self.start, self.commit_number, self.created_at.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.resize(HEADER - 4, 0);
        sealed(bytes, 0)
    }

    /// Reads a header.
    pub fn decode(bytes: &[u8], file: &Path) -> Result<Self, SnapshotError> {
        let damaged = |problem| SnapshotError::Damaged(Damage::new(file, 0, problem));
        let bytes = bytes.get(..HEADER).ok_or_else(|| damaged("shorter than a snapshot's header"))?;
        if !bytes.starts_with(MAGIC) {
            return Err(damaged("not a snapshot"));
        }
        if !is_sealed(bytes, 0) {
            return Err(damaged("the checksum of the header does not match"));
        }
        let short = || damaged("no header");
        check_format(u32_at(bytes, 8).ok_or_else(short)?, FORMAT, file)?;
        let number = |index: usize| u64_at(bytes, 16 + 8 * index).ok_or_else(short);
        Ok(Self {
            node: NodeId(number(0)?),
            number: number(1)?,
            start: number(2)?,
            commit_number: number(3)?,
            created_at: EventTime(number(4)?),
        })
    }
}

fn check_format(found: u32, known: u32, file: &Path) -> Result<(), SnapshotError> {
    if found == known {
        return Ok(());
    }
    Err(SnapshotError::Version { file: file.to_owned(), found, known })
}

/// The head of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// What its records are.
    pub kind: Kind,
    /// How many.
    pub records: u32,
    /// Their bytes.
    pub raw: u32,
    /// Their bytes, compressed: what follows.
    pub compressed: u32,
    /// Its number in the file, from 0.
    pub index: u64,
    /// Over the compressed bytes.
    pub checksum: u32,
}

impl BlockHeader {
    /// The head's bytes.
    pub fn encode(&self, seed: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK_HEADER);
        bytes.extend_from_slice(&BLOCK_MAGIC);
        bytes.extend_from_slice(&[self.kind as u8, RECORDS_FORMAT, 0, 0]);
        for number in [self.records, self.raw, self.compressed] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.index.to_le_bytes());
        bytes.extend_from_slice(&self.checksum.to_le_bytes());
        sealed(bytes, seed)
    }

    /// Reads the head of the block at `offset`.
    pub fn decode(bytes: &[u8], seed: u32, file: &Path, offset: u64) -> Result<Self, SnapshotError> {
        let damaged = |problem| SnapshotError::Damaged(Damage::new(file, offset, problem));
        let bytes = bytes.get(..BLOCK_HEADER).ok_or_else(|| damaged("the file ends in a block's head"))?;
        if !bytes.starts_with(&BLOCK_MAGIC) || !is_sealed(bytes, seed) {
            return Err(damaged("no block begins here"));
        }
        let short = || damaged("no block");
        let format = bytes.get(5).copied().ok_or_else(short)?;
        check_format(format.into(), RECORDS_FORMAT.into(), file)?;
        let kind =
            bytes.get(4).copied().and_then(Kind::of).ok_or_else(|| damaged("a block of no known kind"))?;
        let number = |index: usize| u32_at(bytes, 8 + 4 * index).ok_or_else(short);
        let head = Self {
            kind,
            records: number(0)?,
            raw: number(1)?,
            compressed: number(2)?,
            index: u64_at(bytes, 20).ok_or_else(short)?,
            checksum: u32_at(bytes, 28).ok_or_else(short)?,
        };
        // A block is closed as soon as it is full: only its last record may reach beyond that.
        if head.raw as usize > BLOCK_BYTES + MAX_RECORD || head.records == 0 {
            return Err(damaged("a block of an impossible size"));
        }
        Ok(head)
    }
}

/// Where the blocks of a kind are, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Where the first one begins.
    pub offset: u64,
    /// Blocks.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the records.
    pub raw: u64,
}

/// The last bytes of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// By [`Kind`].
    pub sections: [Section; 6],
    /// How many positions the waiting set has.
    pub waiting: u64,
    /// Where the footer begins.
    pub offset: u64,
    /// Over everything before the footer.
    pub checksum: u32,
}

impl Footer {
    /// The footer's bytes.
    pub fn encode(&self, seed: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER);
        bytes.extend_from_slice(&FOOTER_MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        for section in self.sections {
            for number in [section.offset, section.blocks, section.records, section.raw] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&self.waiting.to_le_bytes());
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes.extend_from_slice(&self.checksum.to_le_bytes());
        let mut bytes = sealed(bytes, seed);
        bytes.extend_from_slice(END_MAGIC);
        bytes
    }

    /// Reads the footer, the last [`FOOTER`] bytes of a file of `length` bytes.
    pub fn decode(bytes: &[u8], seed: u32, length: u64, file: &Path) -> Result<Self, SnapshotError> {
        let offset = length.saturating_sub(FOOTER as u64);
        let damaged = |problem| SnapshotError::Damaged(Damage::new(file, offset, problem));
        let body = bytes.strip_suffix(END_MAGIC).ok_or_else(|| damaged("the end is missing"))?;
        if bytes.len() != FOOTER || !body.starts_with(&FOOTER_MAGIC) || !is_sealed(body, seed) {
            return Err(damaged("the checksum of the footer does not match"));
        }
        let short = || damaged("no footer");
        check_format(u32_at(body, 4).ok_or_else(short)?, FORMAT, file)?;
        let number = |index: usize| u64_at(body, 8 + 8 * index).ok_or_else(short);
        let mut footer = Self {
            waiting: number(24)?,
            offset: number(25)?,
            checksum: u32_at(body, 216).ok_or_else(short)?,
            ..Self::default()
        };
        for (index, section) in footer.sections.iter_mut().enumerate() {
            *section = Section {
                offset: number(4 * index)?,
                blocks: number(4 * index + 1)?,
                records: number(4 * index + 2)?,
                raw: number(4 * index + 3)?,
            };
        }
        let in_order = footer.sections.is_sorted_by_key(|section| section.offset)
            && footer.sections.first().is_some_and(|first| first.offset == HEADER as u64)
            && footer.sections.last().is_some_and(|last| last.offset <= footer.offset);
        if footer.offset != offset || !in_order {
            return Err(damaged("the sections are not where they can be"));
        }
        Ok(footer)
    }

    /// Where the section of `kind` begins and ends, and the number of its first block.
    pub fn place(&self, kind: Kind) -> (Section, u64, u64) {
        let index = kind as usize;
        let section = self.sections.get(index).copied().unwrap_or_default();
        let end = self.sections.get(index + 1).map_or(self.offset, |next| next.offset);
        let before = self.sections.iter().take(index).fold(0_u64, |sum, s| sum.saturating_add(s.blocks));
        (section, end, before)
    }
}
