//! Files in memory that fail where they are told to, and a power cut that forgets what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Fs, FsFile, FsLock, OpenMode};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An input/output error; nothing is done.
    Eio,
    /// No space left; nothing is done.
    Enospc,
    /// Half of a write is done, then no space is left. Other operations: as [`Fault::Enospc`].
    ShortWrite,
    /// The power goes: half of a write is done, and this and every later operation fails until
    /// [`FaultyFs::restart`].
    PowerCut,
}

/// What of the un-synced data a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// Nothing: only what was synced.
    Synced,
    /// Everything that was written (as after the kill of a process).
    Written,
    /// Some blocks of 512 bytes and some names, chosen by this seed.
    Some(u64),
}

#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    synced: Vec<u8>,
}

type Names = BTreeMap<PathBuf, usize>;

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: Names,
    synced_names: Names,
    locked: Vec<PathBuf>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    /// Fails every operation of a kind from now on.
    broken: Option<(Broken, Fault)>,
    dead: bool,
    used: u64,
    space: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Write,
    Sync,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Sync,
    Other,
}

/// Files in memory, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct FaultyFs {
    disk: Arc<Mutex<Disk>>,
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::Eio | Fault::PowerCut => io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
        Fault::Enospc | Fault::ShortWrite => {
            io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
        }
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: not found", path.display()))
}

/// A step of splitmix64 (Steele, Lea, Flood 2014): small, seeded, good enough to pick survivors.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Disk {
    /// Counts an operation and says how it is to fail, if it is. Reads are counted only when they are made to
    /// fail by a dead disk, so that fault points are those that change something.
    fn step(&mut self, kind: Kind) -> Option<Fault> {
        if self.dead {
            return Some(Fault::Eio);
        }
        if kind == Kind::Read {
            return None;
        }
        self.operations += 1;
        match (self.broken, kind) {
            (Some((Broken::Write, fault)), Kind::Write) | (Some((Broken::Sync, fault)), Kind::Sync) => {
                return Some(fault);
            }
            _ => {}
        }
        let fault = self.faults.remove(&self.operations)?;
        if fault == Fault::PowerCut {
            self.dead = true;
        }
        Some(fault)
    }

    fn check(&mut self, kind: Kind) -> io::Result<()> {
        self.step(kind).map_or(Ok(()), |fault| Err(error_of(fault)))
    }

    fn inode(&self, index: usize) -> io::Result<&Inode> {
        self.inodes.get(index).ok_or_else(|| not_found(Path::new("inode")))
    }

    fn resize(&mut self, index: usize, length: usize) -> io::Result<()> {
        let had = self.inode(index)?.now.len();
        let used = self.used + length.saturating_sub(had) as u64;
        if length > had && self.space.is_some_and(|space| used > space) {
            return Err(error_of(Fault::Enospc));
        }
        self.used = used - had.saturating_sub(length) as u64;
        if let Some(inode) = self.inodes.get_mut(index) {
            inode.now.resize(length, 0);
        }
        Ok(())
    }

    fn unlink(&mut self, index: usize) {
        if !self.names.values().any(|other| *other == index) {
            let freed = self.inodes.get(index).map_or(0, |inode| inode.now.len());
            self.used = self.used.saturating_sub(freed as u64);
        }
    }
}

impl FaultyFs {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many operations that change something have been done.
    pub fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// Makes the `nth` operation from now (1 = the next) fail.
    pub fn fail_in(&self, nth: u64, fault: Fault) {
        let mut disk = self.disk.lock();
        let at = disk.operations + nth;
        disk.faults.insert(at, fault);
    }

    /// Makes every sync fail from now on.
    pub fn break_syncs(&self) {
        self.disk.lock().broken = Some((Broken::Sync, Fault::Eio));
    }

    /// Makes every write fail from now on.
    pub fn break_writes(&self, fault: Fault) {
        self.disk.lock().broken = Some((Broken::Write, fault));
    }

    /// Limits the space for files to `bytes`; `None` lifts the limit.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.disk.lock().space = bytes;
    }

    /// Bytes in files.
    pub fn used(&self) -> u64 {
        self.disk.lock().used
    }

    /// What a machine finds that starts after the power was cut (or the process killed): un-synced data and
    /// names survive as told, faults and locks are gone. Old handles keep working on the old disk.
    #[must_use]
    pub fn restart(&self, survivors: Survivors) -> Self {
        let disk = self.disk.lock();
        let mut random = match survivors {
            Survivors::Some(seed) => seed,
            _ => 0,
        };
        let names = match survivors {
            Survivors::Synced => disk.synced_names.clone(),
            // A directory's changes reach the disk together or not at all.
            Survivors::Some(_) if next_random(&mut random) & 1 == 0 => disk.synced_names.clone(),
            Survivors::Written | Survivors::Some(_) => disk.names.clone(),
        };
        let mut after = Disk { names: names.clone(), synced_names: names, ..Disk::default() };
        for inode in &disk.inodes {
            let content = match survivors {
                Survivors::Synced => inode.synced.clone(),
                Survivors::Written => inode.now.clone(),
                Survivors::Some(_) => mix(&inode.synced, &inode.now, &mut random),
            };
            after.inodes.push(Inode { synced: content.clone(), now: content });
        }
        after.used =
            after.names.values().filter_map(|i| after.inodes.get(*i)).map(|i| i.now.len() as u64).sum();
        Self { disk: Arc::new(Mutex::new(after)) }
    }

    /// The content of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk.lock();
        disk.names.get(path).and_then(|index| disk.inodes.get(*index)).map(|inode| inode.now.clone())
    }

    /// Replaces (or makes) a file, durably; no fault strikes this.
    pub fn set_content(&self, path: &Path, content: Vec<u8>) {
        let mut disk = self.disk.lock();
        let index = disk.inodes.len();
        disk.used += content.len() as u64;
        disk.inodes.push(Inode { synced: content.clone(), now: content });
        disk.names.insert(path.to_owned(), index);
        disk.synced_names.insert(path.to_owned(), index);
    }

    /// Flips the bits of `mask` in one byte of a file, durably.
    pub fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let mut disk = self.disk.lock();
        let Some(index) = disk.names.get(path).copied() else { return };
        if let Some(inode) = disk.inodes.get_mut(index) {
            for content in [&mut inode.now, &mut inode.synced] {
                if let Some(byte) = content.get_mut(offset) {
                    *byte ^= mask;
                }
            }
        }
    }
}

fn mix(synced: &[u8], now: &[u8], random: &mut u64) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut mixed = if next_random(random) & 1 == 0 { synced.to_vec() } else { now.to_vec() };
    for (index, block) in mixed.chunks_mut(BLOCK).enumerate() {
        let source = if next_random(random) & 1 == 0 { synced } else { now };
        let from = source.get(index * BLOCK..).unwrap_or_default();
        for (byte, old) in block.iter_mut().zip(from.iter().copied().chain(std::iter::repeat(0))) {
            *byte = old;
        }
    }
    mixed
}

#[derive(Debug)]
struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    index: usize,
}

#[derive(Debug)]
struct MemoryLock {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
}

impl FsLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.lock().locked.retain(|path| *path != self.path);
    }
}

impl Fs for FaultyFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let mut disk = self.disk.lock();
        disk.check(if mode == OpenMode::CreateNew { Kind::Other } else { Kind::Read })?;
        let found = disk.names.get(path).copied();
        let index = match (mode, found) {
            (OpenMode::CreateNew, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::CreateNew, None) => {
                let index = disk.inodes.len();
                disk.inodes.push(Inode::default());
                disk.names.insert(path.to_owned(), index);
                index
            }
            (_, Some(index)) => index,
            (_, None) => return Err(not_found(path)),
        };
        Ok(Box::new(MemoryFile { disk: Arc::clone(&self.disk), index }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Read)?;
        let names = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.disk.lock().check(Kind::Read)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Other)?;
        let index = disk.names.remove(from).ok_or_else(|| not_found(from))?;
        if let Some(replaced) = disk.names.insert(to.to_owned(), index) {
            disk.unlink(replaced);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Other)?;
        let index = disk.names.remove(path).ok_or_else(|| not_found(path))?;
        disk.unlink(index);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Sync)?;
        let Disk { names, synced_names, .. } = &mut *disk;
        synced_names.retain(|path, _| path.parent() != Some(dir));
        synced_names.extend(
            names.iter().filter(|(path, _)| path.parent() == Some(dir)).map(|(path, i)| (path.clone(), *i)),
        );
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FsLock>>> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Read)?;
        if disk.locked.iter().any(|locked| locked == path) {
            return Ok(None);
        }
        disk.locked.push(path.to_owned());
        Ok(Some(Box::new(MemoryLock { disk: Arc::clone(&self.disk), path: path.to_owned() })))
    }
}

impl FsFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Read)?;
        let rest = disk.inode(self.index)?.now.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        let fault = disk.step(Kind::Write);
        let (bytes, result) = match fault {
            None => (bytes, Ok(bytes.len())),
            Some(fault @ (Fault::ShortWrite | Fault::PowerCut)) => {
                (bytes.get(..bytes.len() / 2).unwrap_or_default(), Err(error_of(fault)))
            }
            Some(fault) => return Err(error_of(fault)),
        };
        let end = offset as usize + bytes.len();
        if end > disk.inode(self.index)?.now.len() {
            disk.resize(self.index, end)?;
        }
        if let Some(target) =
            disk.inodes.get_mut(self.index).and_then(|i| i.now.get_mut(offset as usize..end))
        {
            target.copy_from_slice(bytes);
        }
        result
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Sync)?;
        if let Some(inode) = disk.inodes.get_mut(self.index) {
            inode.synced.clone_from(&inode.now);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Read)?;
        Ok(disk.inode(self.index)?.now.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Write)?;
        disk.resize(self.index, length as usize)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check(Kind::Write)?;
        let length = disk.inode(self.index)?.now.len().max(length as usize);
        disk.resize(self.index, length)
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.disk.lock().names.values().any(|index| *index == self.index))
    }
}
