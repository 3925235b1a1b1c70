//! Writing a snapshot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32c::crc32c_append;

use super::error::SnapshotError;
use super::format::{BLOCK_BYTES, BlockHeader, Footer, Header, Kind, Section};
use super::reader::Counts;
use super::waiting::Waiting;
use super::{file_name, records, temporary};
use crate::accept::DoneId;
use crate::fs::{Fs, FsFile, OpenMode};
use crate::journal::IoFailure;
use crate::store::{StoredItem, keys};

/// zstd's level: higher ones take several times as long for a tenth less.
const LEVEL: i32 = 1;

/// Writes one snapshot, front to back, under a name that does not count until [`Written::publish`].
pub struct SnapshotWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    path: PathBuf,
    file: Box<dyn FsFile>,
    header: Header,
    seed: u32,
    compressor: zstd::bulk::Compressor<'static>,
    offset: u64,
    checksum: u32,
    footer: Footer,
    kind: Kind,
    block: Vec<u8>,
    records: u32,
    blocks: u64,
}

/// A snapshot that is complete and durable, under its temporary name.
#[derive(Debug)]
pub struct Written {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    path: PathBuf,
    /// Its number.
    pub number: u64,
    /// Its length.
    pub bytes: u64,
    /// What is in it.
    pub counts: Counts,
}

fn at<T>(result: std::io::Result<T>, operation: &'static str, file: &Path) -> Result<T, IoFailure> {
    result.map_err(|source| IoFailure { operation, file: file.to_owned(), source })
}

impl SnapshotWriter {
    /// Begins a file in `dir`, which must be there.
    pub fn create(fs: Arc<dyn Fs>, dir: &Path, header: Header) -> Result<Self, SnapshotError> {
        let path = dir.join(temporary(header.number));
        at(crate::fs::remove_if_there(&*fs, &path), "remove", &path)?;
        let file = at(fs.open(&path, OpenMode::CreateNew), "create", &path)?;
        let compressor = at(zstd::bulk::Compressor::new(LEVEL), "compress for", &path)?;
        let mut writer = Self {
            fs,
            dir: dir.to_owned(),
            path,
            file,
            seed: header.seed(),
            header,
            compressor,
            offset: 0,
            checksum: 0,
            footer: Footer::default(),
            kind: Kind::Profiles,
            block: Vec::with_capacity(2 * BLOCK_BYTES),
            records: 0,
            blocks: 0,
        };
        let head = header.encode();
        writer.write(&head)?;
        writer.begin(Kind::Profiles);
        Ok(writer)
    }

    /// Adds a record. They come in the order of their kinds: profiles, graves, refused, registry, request ids.
    pub fn push(&mut self, item: &StoredItem) -> Result<(), SnapshotError> {
        self.append(records::kind_of(item), &records::encode_item(item))
    }

    /// Adds a request id, behind all records.
    pub fn push_id(&mut self, id: &DoneId) -> Result<(), SnapshotError> {
        self.append(Kind::RequestIds, &keys::encode(id))
    }

    /// Adds the waiting set, behind everything else, and makes the file durable.
    pub fn finish(mut self, waiting: &Waiting) -> Result<Written, SnapshotError> {
        for record in waiting.encode() {
            self.append(Kind::Waiting, &record)?;
        }
        self.advance(Kind::Waiting)?;
        self.end_block()?;
        self.footer.waiting = waiting.len();
        self.footer.offset = self.offset;
        self.footer.checksum = self.checksum;
        let footer = self.footer.encode(self.seed);
        self.write(&footer)?;
        at(self.file.sync_data(), "sync", &self.path)?;
        Ok(Written {
            counts: Counts::of(&self.footer),
            number: self.header.number,
            bytes: self.offset,
            fs: self.fs,
            dir: self.dir,
            path: self.path,
        })
    }

    /// Records written so far.
    pub fn records(&self) -> u64 {
        self.footer.sections.iter().map(|section| section.records).sum::<u64>() + u64::from(self.records)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    #[cfg(test)]
    pub(super) fn push_encoded_for_test(&mut self, record: &[u8]) {
        self.append(Kind::Profiles, record).unwrap();
    }

    fn append(&mut self, kind: Kind, record: &[u8]) -> Result<(), SnapshotError> {
        self.advance(kind)?;
        records::append(&mut self.block, record).map_err(SnapshotError::Invalid)?;
        self.records += 1;
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    /// Goes on to the section of `kind`; those between stay empty.
    fn advance(&mut self, kind: Kind) -> Result<(), SnapshotError> {
        if kind == self.kind {
            return Ok(());
        }
        if kind < self.kind {
            return Err(SnapshotError::Invalid(format!("{kind:?} after {:?}", self.kind)));
        }
        self.end_block()?;
        let current = self.kind;
        for next in Kind::ALL.into_iter().filter(|next| *next > current && *next <= kind) {
            self.begin(next);
        }
        self.kind = kind;
        Ok(())
    }

    fn begin(&mut self, kind: Kind) {
        if let Some(section) = self.footer.sections.get_mut(kind as usize) {
            *section = Section { offset: self.offset, ..Section::default() };
        }
    }

    fn end_block(&mut self) -> Result<(), SnapshotError> {
        if self.records == 0 {
            return Ok(());
        }
        let compressed = at(self.compressor.compress(&self.block), "compress for", &self.path)?;
        let head = BlockHeader {
            kind: self.kind,
            records: self.records,
            raw: self.block.len() as u32,
            compressed: compressed.len() as u32,
            index: self.blocks,
            checksum: crc32c_append(self.seed, &compressed),
        };
        let mut bytes = head.encode(self.seed);
        bytes.extend_from_slice(&compressed);
        self.write(&bytes)?;
        if let Some(section) = self.footer.sections.get_mut(self.kind as usize) {
            section.blocks += 1;
            section.records += u64::from(self.records);
            section.raw += self.block.len() as u64;
        }
        self.blocks += 1;
        self.records = 0;
        self.block.clear();
        self.block.shrink_to(2 * BLOCK_BYTES);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        at(self.file.write_all_at(bytes, self.offset), "write", &self.path)?;
        self.checksum = crc32c_append(self.checksum, bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

impl Written {
    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, durably. It counts once the journal's manifest names it.
    pub fn publish(self) -> Result<String, SnapshotError> {
        let name = file_name(self.number);
        let path = self.dir.join(&name);
        at(self.fs.rename(&self.path, &path), "rename", &self.path)?;
        at(self.fs.sync_dir(&self.dir), "sync", &self.dir)?;
        Ok(name)
    }
}
