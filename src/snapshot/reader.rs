//! Reading a snapshot back. Whatever is returned has been verified.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32c::crc32c_append;

use super::error::SnapshotError;
use super::file_name;
use super::format::{BLOCK_HEADER, BlockHeader, FOOTER, Footer, HEADER, Header, Kind, Section};
use super::records::{self, Wrong};
use super::waiting::Waiting;
use crate::accept::DoneId;
use crate::fs::{Fs, FsFile, OpenMode, RealFs};
use crate::journal::{Damage, IoFailure, SnapshotRef};
use crate::model::Site;
use crate::store::{AttributeInfo, RefusedRecord, StoredItem};

/// What a whole file is read in.
const CHUNK: usize = 1 << 20;

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Profiles.
    pub profiles: u64,
    /// Graves of deleted ones.
    pub graves: u64,
    /// Refused entries.
    pub refused: u64,
    /// Attributes of all registries.
    pub attributes: u64,
    /// Request ids that are done.
    pub request_ids: u64,
    /// Positions of the waiting set.
    pub waiting: u64,
    /// Bytes of all that before compression.
    pub raw_bytes: u64,
}

impl Counts {
    pub(super) fn of(footer: &Footer) -> Self {
        let records = |kind| footer.place(kind).0.records;
        Self {
            profiles: records(Kind::Profiles),
            graves: records(Kind::Graves),
            refused: records(Kind::Refused),
            attributes: records(Kind::Attributes),
            request_ids: records(Kind::RequestIds),
            waiting: footer.waiting,
            raw_bytes: footer.sections.iter().fold(0, |sum, section| sum.saturating_add(section.raw)),
        }
    }

    /// The records that [`SnapshotReader::items`] gives.
    pub fn items(&self) -> u64 {
        [self.profiles, self.graves, self.refused, self.attributes]
            .iter()
            .fold(0, |sum, n| sum.saturating_add(*n))
    }
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: Box<dyn FsFile>,
    header: Header,
    footer: Footer,
    seed: u32,
    length: u64,
}

impl Open {
    fn damaged(&self, offset: u64, problem: impl Into<String>) -> SnapshotError {
        SnapshotError::Damaged(Damage::new(&self.path, offset, problem))
    }

    fn wrong(&self, offset: u64, wrong: Wrong) -> SnapshotError {
        match wrong {
            Wrong::Problem(problem) => self.damaged(offset, problem),
            Wrong::Version(found) => SnapshotError::Version {
                file: self.path.clone(),
                found: found.into(),
                known: crate::model::codec::RECORD_FORMAT.into(),
            },
        }
    }

    fn read(&self, length: usize, offset: u64) -> Result<Vec<u8>, SnapshotError> {
        Ok(read(&*self.file, &self.path, length, offset)?)
    }
}

fn read(file: &dyn FsFile, path: &Path, length: usize, offset: u64) -> Result<Vec<u8>, IoFailure> {
    let failed = |source| IoFailure { operation: "read", file: path.to_owned(), source };
    file.read_up_to(length, offset).map_err(failed)
}

/// Reads one snapshot. Cheap to clone; the file stays open, also when it is removed.
#[derive(Clone, Debug)]
pub struct SnapshotReader(Arc<Open>);

impl SnapshotReader {
    /// Opens the snapshot that a manifest names, in `dir`. Header and footer are checked; the rest where it is
    /// read.
    pub fn open(dir: &Path, snapshot: &SnapshotRef) -> Result<Self, SnapshotError> {
        Self::open_in(&RealFs, dir, snapshot)
    }

    /// As [`Self::open`], on `fs`.
    pub fn open_in(fs: &dyn Fs, dir: &Path, snapshot: &SnapshotRef) -> Result<Self, SnapshotError> {
        // The name comes out of a file: it must not lead anywhere else.
        let reader =
            Self::open_file(fs, &dir.join(Path::new(&snapshot.name).file_name().unwrap_or_default()))?;
        let Open { header, length, path, .. } = &*reader.0;
        let foreign = |problem: String| SnapshotError::Foreign { file: path.clone(), problem };
        if header.start != snapshot.start {
            return Err(foreign(format!("it starts at {}, not at {}", header.start, snapshot.start)));
        }
        if *length != snapshot.bytes {
            return Err(foreign(format!("it has {length} bytes, not {}", snapshot.bytes)));
        }
        if file_name(header.number) != snapshot.name {
            return Err(foreign(format!("it is number {}, not {}", header.number, snapshot.name)));
        }
        Ok(reader)
    }

    /// Opens a snapshot by its path, whatever it is called.
    pub fn open_file(fs: &dyn Fs, path: &Path) -> Result<Self, SnapshotError> {
        let failed = |operation| move |source| IoFailure { operation, file: path.to_owned(), source };
        let file = fs.open(path, OpenMode::Read).map_err(failed("open"))?;
        let length = file.len().map_err(failed("read"))?;
        if length < (HEADER + FOOTER) as u64 {
            let problem = "shorter than the shortest snapshot";
            return Err(SnapshotError::Damaged(Damage::new(path, length, problem)));
        }
        let header = Header::decode(&read(&*file, path, HEADER, 0)?, path)?;
        let seed = header.seed();
        let end = read(&*file, path, FOOTER, length - FOOTER as u64)?;
        let footer = Footer::decode(&end, seed, length, path)?;
        Ok(Self(Arc::new(Open { path: path.to_owned(), file, header, footer, seed, length })))
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// What is in it.
    pub fn counts(&self) -> Counts {
        Counts::of(&self.0.footer)
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.0.length
    }

    /// The records: profiles, graves, refused entries, attributes.
    pub fn items(&self) -> Items {
        Items { blocks: Blocks::of(self, Kind::Profiles), block: None }
    }

    /// The attributes of all registries.
    pub fn registry(&self) -> Result<Vec<(Site, AttributeInfo)>, SnapshotError> {
        let mut found = Vec::new();
        self.each(Kind::Attributes, |record| {
            if let StoredItem::Attribute { site, info } = records::decode_item(Kind::Attributes, record)? {
                found.push((site, info));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The refused entries.
    pub fn refused(&self) -> Result<Vec<RefusedRecord>, SnapshotError> {
        let mut found = Vec::new();
        self.each(Kind::Refused, |record| {
            if let StoredItem::Refused(refused) = records::decode_item(Kind::Refused, record)? {
                found.push(refused);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The request ids that were done.
    pub fn request_ids(&self) -> Result<Vec<DoneId>, SnapshotError> {
        let mut ids = Vec::new();
        self.each(Kind::RequestIds, |record| {
            ids.push(records::decode_id(record)?);
            Ok(())
        })?;
        Ok(ids)
    }

    /// The positions before the start that waited.
    pub fn waiting(&self) -> Result<Waiting, SnapshotError> {
        let mut waiting = Waiting::before(self.0.header.start);
        self.each(Kind::Waiting, |record| waiting.extend(record))?;
        if waiting.len() == self.0.footer.waiting {
            return Ok(waiting);
        }
        Err(self.0.damaged(self.0.footer.offset, "not as many positions as the footer says"))
    }

    fn each(
        &self,
        kind: Kind,
        mut take: impl FnMut(&[u8]) -> Result<(), Wrong>,
    ) -> Result<(), SnapshotError> {
        let mut blocks = Blocks::of(self, kind);
        while let Some(block) = blocks.next()? {
            let mut rest = block.bytes.as_slice();
            for _ in 0..block.records {
                let wrong = |wrong| self.0.wrong(block.offset, wrong);
                let record = records::next(&mut rest);
                let record = record.ok_or_else(|| wrong("fewer records than it says".to_owned().into()))?;
                take(record).map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// Reads everything back: checksums, every record, all counts. `pause` is told the records read so far, now
    /// and then; what it answers ends the reading.
    pub fn verify(
        &self,
        pause: &mut dyn FnMut(u64) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let Open { footer, .. } = &*self.0;
        let (mut checksum, mut offset) = (0, 0);
        while offset < footer.offset {
            let wanted = (footer.offset - offset).min(CHUNK as u64);
            let bytes = self.0.read(wanted as usize, offset)?;
            if bytes.len() as u64 != wanted {
                return Err(self.0.damaged(offset, "the file has become shorter"));
            }
            checksum = crc32c_append(checksum, &bytes);
            offset += wanted;
            pause(0)?;
        }
        if checksum != footer.checksum {
            return Err(self.0.damaged(0, "the checksum of the whole file does not match"));
        }
        let mut items = self.items();
        let mut read = 0;
        while let Some(item) = items.next() {
            item?;
            read += 1;
            if items.is_at_a_block_end() {
                pause(read)?;
            }
        }
        self.request_ids()?;
        self.waiting()?;
        Ok(())
    }
}

/// The records of a snapshot, in order. Ends after the first error.
#[derive(Debug)]
pub struct Items {
    blocks: Blocks,
    block: Option<(Block, usize)>,
}

impl Items {
    fn is_at_a_block_end(&self) -> bool {
        self.block.as_ref().is_none_or(|(block, _)| block.records == 0)
    }

    fn take(&mut self) -> Result<Option<StoredItem>, SnapshotError> {
        loop {
            if let Some((block, at)) = &mut self.block
                && block.records > 0
            {
                let open = &self.blocks.open;
                let mut rest = block.bytes.get(*at..).unwrap_or_default();
                let record = records::next(&mut rest)
                    .ok_or_else(|| open.damaged(block.offset, "fewer records than it says"))?;
                let item = records::decode_item(block.kind, record)
                    .map_err(|wrong| open.wrong(block.offset, wrong))?;
                block.records -= 1;
                *at = block.bytes.len() - rest.len();
                return Ok(Some(item));
            }
            match self.blocks.next()? {
                Some(block) => self.block = Some((block, 0)),
                None => match self.blocks.kind {
                    Kind::Profiles => self.blocks = self.blocks.go_on(Kind::Graves),
                    Kind::Graves => self.blocks = self.blocks.go_on(Kind::Refused),
                    Kind::Refused => self.blocks = self.blocks.go_on(Kind::Attributes),
                    Kind::Attributes | Kind::RequestIds | Kind::Waiting => return Ok(None),
                },
            }
        }
    }
}

impl Iterator for Items {
    type Item = Result<StoredItem, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.blocks.failed {
            return None;
        }
        let taken = self.take();
        self.blocks.failed = taken.is_err();
        taken.transpose()
    }
}

/// A block, decompressed.
#[derive(Debug)]
struct Block {
    kind: Kind,
    offset: u64,
    records: u32,
    bytes: Vec<u8>,
}

/// The blocks of one section.
#[derive(Debug)]
struct Blocks {
    open: Arc<Open>,
    kind: Kind,
    section: Section,
    end: u64,
    offset: u64,
    index: u64,
    /// What has been read of the section.
    seen: Section,
    failed: bool,
}

impl Blocks {
    fn of(reader: &SnapshotReader, kind: Kind) -> Self {
        let (section, end, index) = reader.0.footer.place(kind);
        let seen = Section { offset: section.offset, ..Section::default() };
        Self {
            open: Arc::clone(&reader.0),
            kind,
            section,
            end,
            offset: section.offset,
            index,
            seen,
            failed: false,
        }
    }

    fn go_on(&self, kind: Kind) -> Self {
        Self::of(&SnapshotReader(Arc::clone(&self.open)), kind)
    }

    fn next(&mut self) -> Result<Option<Block>, SnapshotError> {
        let open = &self.open;
        if self.offset == self.end {
            if self.seen != self.section {
                return Err(open.damaged(self.end, "not as much in a section as the footer says"));
            }
            return Ok(None);
        }
        let offset = self.offset;
        let head = open.read(BLOCK_HEADER, offset)?;
        let head = BlockHeader::decode(&head, open.seed, &open.path, offset)?;
        let next = offset + BLOCK_HEADER as u64 + u64::from(head.compressed);
        if head.kind != self.kind || head.index != self.index || next > self.end {
            return Err(open.damaged(offset, "a block that does not belong here"));
        }
        let compressed = open.read(head.compressed as usize, offset + BLOCK_HEADER as u64)?;
        if compressed.len() != head.compressed as usize
            || crc32c_append(open.seed, &compressed) != head.checksum
        {
            return Err(open.damaged(offset, "the checksum of the block does not match"));
        }
        let raw = head.raw as usize;
        let bytes = zstd::bulk::decompress(&compressed, raw)
            .ok()
            .filter(|bytes| bytes.len() == raw)
            .ok_or_else(|| open.damaged(offset, "the block cannot be decompressed"))?;
        check_records(&bytes, head.records).map_err(|problem| open.damaged(offset, problem))?;
        self.offset = next;
        self.index = self.index.saturating_add(1);
        self.seen.blocks += 1;
        self.seen.records += u64::from(head.records);
        self.seen.raw += u64::from(head.raw);
        Ok(Some(Block { kind: self.kind, offset, records: head.records, bytes }))
    }
}

/// Whether a block is made of exactly so many records.
fn check_records(block: &[u8], records: u32) -> Result<(), &'static str> {
    let mut rest = block;
    for _ in 0..records {
        records::next(&mut rest).ok_or("a block that ends in a record")?;
    }
    if rest.is_empty() { Ok(()) } else { Err("a block with something behind its last record") }
}
