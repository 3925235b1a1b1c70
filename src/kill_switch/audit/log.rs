//! The log's files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{self, Next, Record};
use super::{Event, State};
use crate::fs::{Fs, FsFile, FsLock, OpenMode, read_small, remove_if_there};

const LOG: &str = "audit.log";
const NEW: &str = "audit.new";
const TORN: &str = "audit.torn";
const UNREADABLE: &str = "audit.unreadable-";
const LOCK: &str = "lock";

/// Nothing that is longer was written here.
const READ_LIMIT: u64 = 64 << 20;
/// A longer log is written anew, unless most of it is state.
const REWRITE_AT: u64 = 4 << 20;
/// Bytes of past events that go along.
const PAST_BYTES: usize = 1 << 20;
/// Unreadable logs that are kept.
const KEPT_UNREADABLE: u32 = 99;

/// Why the log could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Another process uses the directory.
    #[error("{} is used by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// An earlier write failed; the log must be written anew first.
    #[error("an earlier write of the audit log failed")]
    Broken,
    /// It cannot be written down.
    #[error("the audit log's record: {0}")]
    Record(String),
    /// As many unreadable logs as are kept are there.
    #[error("{} has {KEPT_UNREADABLE} unreadable audit logs; move some away", dir.display())]
    TooManyUnreadable {
        /// The directory.
        dir: PathBuf,
    },
}

/// What the directory held.
#[derive(Debug)]
pub enum Found {
    /// Nothing: it is used for the first time.
    Fresh,
    /// A log.
    Log {
        /// What is in force.
        state: State,
        /// The events in it, oldest first.
        events: Vec<Event>,
        /// Whether its end had not been written whole; it was set aside and was never acknowledged.
        torn: bool,
    },
    /// A log of which nothing can be believed.
    Unreadable {
        /// Why.
        problem: String,
        /// No hold had a higher number, as far as can be seen.
        last_hold: u64,
    },
}

/// The log, and the right to write it.
#[derive(Debug)]
pub struct AuditLog {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    /// None until it is written anew.
    file: Option<Box<dyn FsFile>>,
    end: u64,
    /// Its length when it was last written anew.
    begun: u64,
    _lock: Box<dyn FsLock>,
}

impl AuditLog {
    /// Opens the log in `dir`, made if need be. Nothing is written to it before [`rewrite`](Self::rewrite).
    pub fn open(fs: Arc<dyn Fs>, dir: &Path) -> Result<(Self, Found), AuditError> {
        let at = |what, path: &Path| {
            let path = path.to_owned();
            move |error| AuditError::File { what, path, error }
        };
        fs.create_dir_all(dir).map_err(at("make", dir))?;
        let lock_path = dir.join(LOCK);
        let lock = fs.lock(&lock_path).map_err(at("lock", &lock_path))?;
        let lock = lock.ok_or_else(|| AuditError::InUse { dir: dir.to_owned() })?;
        let found = look(fs.as_ref(), dir);
        Ok((Self { fs, dir: dir.to_owned(), file: None, end: 0, begun: 0, _lock: lock }, found))
    }

    /// Whether it has grown so long that it should be written anew, or must be before anything is appended.
    pub fn wants_rewrite(&self) -> bool {
        self.file.is_none() || self.end > REWRITE_AT.max(2 * self.begun)
    }

    /// Whether a write failed and nothing can be appended.
    pub fn is_broken(&self) -> bool {
        self.file.is_none()
    }

    /// Appends an event; it is on disk when this returns.
    pub fn append(&mut self, event: &Event) -> Result<(), AuditError> {
        let mut bytes = Vec::new();
        format::encode(&Record::Event(event.clone()), &mut bytes).map_err(AuditError::Record)?;
        // Taken out: whatever fails, nothing is appended behind it.
        let file = self.file.take().ok_or(AuditError::Broken)?;
        let written = file.write_all_at(&bytes, self.end).and_then(|()| file.sync_data());
        written.map_err(|error| failed("write", &self.dir.join(LOG), error))?;
        self.end += bytes.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Writes it anew: `state` first, then the newest of `past` that have room. The old file is there, whole,
    /// until the new one is.
    pub fn rewrite<'a>(
        &mut self,
        state: &State,
        past: impl DoubleEndedIterator<Item = &'a Event>,
    ) -> Result<(), AuditError> {
        self.file = None;
        let mut kept: Vec<Vec<u8>> = Vec::new();
        let mut room = PAST_BYTES;
        for event in past.rev() {
            let mut bytes = Vec::new();
            format::encode(&Record::Past(event.clone()), &mut bytes).map_err(AuditError::Record)?;
            if bytes.len() > room {
                break;
            }
            room -= bytes.len();
            kept.push(bytes);
        }
        let mut bytes = Vec::new();
        let first = Record::State { state: state.clone(), past: kept.len() };
        format::encode(&first, &mut bytes).map_err(AuditError::Record)?;
        bytes.extend(kept.into_iter().rev().flatten());

        let (new, log) = (self.dir.join(NEW), self.dir.join(LOG));
        let file = self.create(&new, &bytes)?;
        self.fs.rename(&new, &log).map_err(|error| failed("rename", &new, error))?;
        self.fs.sync_dir(&self.dir).map_err(|error| failed("sync", &self.dir, error))?;
        self.file = Some(file);
        self.end = bytes.len() as u64;
        self.begun = self.end;
        Ok(())
    }

    /// Keeps a copy of the unreadable log under another name. The log itself stays until it is written anew.
    pub fn set_aside(&mut self) -> Result<PathBuf, AuditError> {
        let log = self.dir.join(LOG);
        let names = self.fs.list(&self.dir).map_err(|error| failed("list", &self.dir, error))?;
        let aside = (1..=KEPT_UNREADABLE)
            .map(|number| format!("{UNREADABLE}{number}"))
            .find(|name| !names.contains(name))
            .map(|name| self.dir.join(name))
            .ok_or_else(|| AuditError::TooManyUnreadable { dir: self.dir.clone() })?;
        if let Ok(bytes) = read_small(self.fs.as_ref(), &log, READ_LIMIT) {
            self.create(&aside, &bytes.unwrap_or_default())?;
        } else {
            // What cannot be copied can still be named otherwise. While there is no log but this, nothing is
            // believed either.
            self.fs.rename(&log, &aside).map_err(|error| failed("rename", &log, error))?;
        }
        self.fs.sync_dir(&self.dir).map_err(|error| failed("sync", &self.dir, error))?;
        Ok(aside)
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> Result<Box<dyn FsFile>, AuditError> {
        let create = || {
            remove_if_there(self.fs.as_ref(), path)?;
            let file = self.fs.open(path, OpenMode::CreateNew)?;
            file.write_all_at(bytes, 0)?;
            file.sync_data()?;
            Ok(file)
        };
        create().map_err(|error| failed("write", path, error))
    }
}

fn failed(what: &'static str, path: &Path, error: io::Error) -> AuditError {
    AuditError::File { what, path: path.to_owned(), error }
}

/// Reads the log. What is wrong with it is no error, but a reason to hold everything.
fn look(fs: &dyn Fs, dir: &Path) -> Found {
    let unreadable = |problem: String, last_hold| Found::Unreadable { problem, last_hold };
    let path = dir.join(LOG);
    let bytes = match read_small(fs, &path, READ_LIMIT) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return match fs.list(dir) {
                // It is only ever replaced: where such a file is, there was a log.
                Ok(names) if names.iter().any(|name| name == TORN || name.starts_with(UNREADABLE)) => {
                    unreadable(format!("{} is missing", path.display()), UNKNOWN_LAST_HOLD)
                }
                Ok(_) => Found::Fresh,
                Err(error) => unreadable(format!("{}: {error}", dir.display()), UNKNOWN_LAST_HOLD),
            };
        }
        Err(error) => return unreadable(format!("{}: {error}", path.display()), UNKNOWN_LAST_HOLD),
    };
    match read(&bytes) {
        Ok(Read { state, events, torn_at }) => {
            if let Some(offset) = torn_at
                && let Err(error) = save_torn(fs, dir, bytes.get(offset..).unwrap_or_default())
            {
                return unreadable(
                    format!("{}: its torn end could not be saved: {error}", path.display()),
                    last_hold_in(&bytes),
                );
            }
            Found::Log { state, events, torn: torn_at.is_some() }
        }
        Err(problem) => unreadable(format!("{}: {problem}", path.display()), last_hold_in(&bytes)),
    }
}

/// Beyond every number that was given out, for all that can be known.
const UNKNOWN_LAST_HOLD: u64 = 1_000_000;

struct Read {
    state: State,
    events: Vec<Event>,
    torn_at: Option<usize>,
}

fn read(bytes: &[u8]) -> Result<Read, String> {
    let (mut state, past, mut offset) = match format::next(bytes, 0) {
        Next::Record(record, offset) => match *record {
            Record::State { state, past } => (state, past, offset),
            Record::Past(_) | Record::Event(_) => return Err("it does not begin with a state".to_owned()),
        },
        // The first records were whole before the file got its name.
        Next::End | Next::Torn => return Err("its beginning is missing".to_owned()),
        Next::Damaged(problem) => return Err(format!("the record at byte 0: {problem}")),
    };
    let mut events = Vec::new();
    loop {
        let record = match format::next(bytes, offset) {
            Next::Record(record, next) => {
                offset = next;
                *record
            }
            Next::End if events.len() >= past => return Ok(Read { state, events, torn_at: None }),
            Next::Torn if events.len() >= past => return Ok(Read { state, events, torn_at: Some(offset) }),
            Next::End | Next::Torn => return Err(format!("it ends too early, at byte {offset}")),
            Next::Damaged(problem) => return Err(format!("the record at byte {offset}: {problem}")),
        };
        match record {
            Record::Past(event) if events.len() < past => events.push(event),
            Record::Event(event) if events.len() >= past => {
                if event.number != state.last_event + 1 {
                    let (found, last) = (event.number, state.last_event);
                    return Err(format!("event {found} follows event {last}"));
                }
                state.fold(&event);
                events.push(event);
            }
            _ => return Err(format!("the record before byte {offset} is in the wrong place")),
        }
    }
}

fn save_torn(fs: &dyn Fs, dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = dir.join(TORN);
    remove_if_there(fs, &path)?;
    let file = fs.open(&path, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    fs.sync_dir(dir)
}

/// The highest number after `hold-` anywhere, rounded up well: the numbers that cannot be read are not to be
/// used again.
fn last_hold_in(bytes: &[u8]) -> u64 {
    const MARK: &[u8] = b"hold-";
    let mut last = 0_u64;
    for (at, _) in bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK) {
        let digits = bytes.get(at + MARK.len()..).unwrap_or_default().iter();
        let number = digits
            .take_while(|byte| byte.is_ascii_digit())
            .take(15)
            .fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
        last = last.max(number);
    }
    (last / 1_000 + 1) * 1_000
}
