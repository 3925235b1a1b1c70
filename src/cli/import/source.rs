//! Where the rows come from: a file that is read twice, or standard input, spooled to a temporary file first.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::rc::Rc;

use xxhash_rust::xxh3::Xxh3;

use crate::cli::connect::new_request_id;
use crate::cli::failure::CliError;

/// The longest record, in bytes. An unclosed quote would otherwise make the rest of a file one cell.
pub const LONGEST_RECORD: u64 = 4 << 20;

/// A file that can be read again from its start.
#[derive(Debug)]
pub struct Source {
    name: String,
    file: File,
}

impl Source {
    /// Opens `path`, or spools standard input (`-`), a pipe or a device to a temporary file without a name.
    pub fn open(path: &Path) -> Result<Self, CliError> {
        let name =
            if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        if path == Path::new("-") {
            return Ok(Self { file: spool(&mut io::stdin().lock())?, name });
        }
        let failed = |error| CliError::file(path, error);
        let mut file = File::open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self { file: if kind.is_file() { file } else { spool(&mut file)? }, name })
    }

    /// The name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error of reading this.
    pub fn error(&self, error: io::Error) -> CliError {
        CliError::file(&self.name, error)
    }

    /// Reads from the start. One reader at a time: they share their place in the file.
    pub fn reader(&self) -> Result<Reader, CliError> {
        let mut file = self.file.try_clone().map_err(|error| self.error(error))?;
        file.rewind().map_err(|error| self.error(error))?;
        Ok(Reader { file, hash: Box::new(Xxh3::new()), since_record: Rc::default() })
    }
}

fn spool(from: &mut dyn Read) -> Result<File, CliError> {
    let path = std::env::temp_dir().join(format!("steadfast-import-{}", new_request_id()?));
    let failed = |error| CliError::file(&path, error);
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    // Unnamed at once: nothing is left behind, however this ends.
    std::fs::remove_file(&path).map_err(failed)?;
    io::copy(from, &mut file).map_err(failed)?;
    Ok(file)
}

/// Reads the file, and hashes what it reads.
pub struct Reader {
    file: File,
    hash: Box<Xxh3>,
    since_record: Rc<Cell<u64>>,
}

impl Reader {
    /// How many bytes were read since this was last set to 0, which is to be done after each record.
    pub fn since_record(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.since_record)
    }

    /// The hash of all that was read.
    pub fn digest(&self) -> u128 {
        self.hash.digest128()
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_record.get() > LONGEST_RECORD {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.file.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        self.since_record.set(self.since_record.get() + count as u64);
        Ok(count)
    }
}
