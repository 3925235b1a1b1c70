//! File access through a small trait, so that every failure of a disk can be produced in a test.
//!
//! [`RealFs`] is the operating system's; [`FaultyFs`] lives in memory, forgets what was not synced when its
//! power is cut, and fails where it is told to.

mod faulty;
mod real;
mod slow;

use std::fmt;
use std::io;
use std::path::Path;

pub use faulty::{Fault, FaultyFs, Survivors};
pub use real::RealFs;
pub use slow::{SlowFs, SyncGate};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and overwrite.
    Write,
    /// A new file, to read and write; an error if it exists.
    CreateNew,
}

/// A directory tree.
pub trait Fs: Send + Sync + fmt::Debug + 'static {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>>;
    /// The names of the files in `dir`, sorted; names that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes `dir` and what leads to it, and makes their names durable.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file, replacing what has the new name. Durable after [`Fs::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`Fs::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on `path`, made if need be; `None` if another holder has it. It is held
    /// until what is returned is dropped.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FsLock>>>;
}

/// A lock that is held; dropping it gives it up.
pub trait FsLock: Send + Sync + fmt::Debug {}

/// An open file.
pub trait FsFile: Send + Sync + fmt::Debug {
    /// Reads at `offset`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may write fewer bytes than given.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes content and length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) to `length` bytes.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Takes room on the disk for `length` bytes; `Unsupported` where that cannot be said beforehand.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Whether it still has a name: what is written to a removed file is gone when it is closed.
    fn has_name(&self) -> io::Result<bool>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads up to `length` bytes at `offset`; fewer only at the end of the file.
    fn read_up_to(&self, length: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }
}

/// Reads a whole small file; `None` if there is none. More than `bound` bytes are an error.
pub fn read_small(fs: &dyn Fs, path: &Path, bound: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match fs.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.len()?;
    if length > bound {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{length} bytes; at most {bound}")));
    }
    file.read_up_to(length as usize, 0).map(Some)
}

/// Removes a file if it is there.
pub fn remove_if_there(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
