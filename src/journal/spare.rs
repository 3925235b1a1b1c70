//! Spare segments: zero-filled and synced ahead of time, so that the committer overwrites blocks that the file
//! system has allocated (a sync then needs no metadata: measured two to three times faster than appending),
//! and so that a full disk is noticed while there is still a segment's room.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::error::{At as _, IoFailure};
use super::fs::{Fs, FsFile, OpenMode, remove_if_there};

/// Spares that are kept ready.
const READY: usize = 1;
/// Released segments that are kept to be used again, beside those that are ready.
const RECYCLED: usize = 1;
/// How long to wait before a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
const ZEROS: usize = 1 << 20;

#[derive(Debug, Default)]
struct State {
    ready: Vec<PathBuf>,
    next_name: u64,
    /// Whether a thread fills up; otherwise whoever takes one makes it.
    threaded: bool,
    /// One is being filled, and the disk has given the room for it.
    reserved: bool,
    /// The last attempt failed.
    failed: Option<IoFailure>,
    closing: bool,
}

/// The spare segments of a directory.
#[derive(Debug)]
pub(crate) struct Spares {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    length: u64,
    state: Mutex<State>,
    changed: Condvar,
}

pub(crate) fn is_spare(name: &str) -> bool {
    name.starts_with("spare-")
}

impl Spares {
    /// Takes over the spares that are in `dir`; those of another length, or not finished, are removed.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, length: u64, names: &[String]) -> Result<Self, IoFailure> {
        let mut state = State::default();
        for name in names.iter().filter(|name| is_spare(name)) {
            let path = dir.join(name);
            let found = fs.open(&path, OpenMode::Read).and_then(|file| file.len()).at("open", &path)?;
            if found == length && state.ready.len() < READY + RECYCLED {
                state.ready.push(path);
            } else {
                fs.remove(&path).at("remove", &path)?;
            }
            let number = name.trim_start_matches("spare-").parse().unwrap_or(0);
            state.next_name = state.next_name.max(number + 1);
        }
        Ok(Self { fs, dir: dir.to_owned(), length, state: Mutex::new(state), changed: Condvar::new() })
    }

    fn name(&self, state: &mut State) -> PathBuf {
        state.next_name += 1;
        self.dir.join(format!("spare-{:010}", state.next_name - 1))
    }

    /// Zeros, written and synced: a hole or a bare allocation would be paid for at each commit.
    fn make(&self, path: &Path, reserved: &dyn Fn()) -> Result<(), IoFailure> {
        let file = self.fs.open(path, OpenMode::CreateNew).at("create", path)?;
        let made = match file.allocate(self.length) {
            Ok(()) => {
                reserved();
                self.fill(&*file, path)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => self.fill(&*file, path),
            Err(error) => Err(error).at("allocate", path),
        };
        if made.is_err() {
            // A part of one is of no use, and takes room that the manifest may need.
            remove_if_there(&*self.fs, path).at("remove", path)?;
        }
        made
    }

    fn fill(&self, file: &dyn FsFile, path: &Path) -> Result<(), IoFailure> {
        let zeros = vec![0; ZEROS.min(self.length as usize)];
        let mut at = 0;
        while at < self.length {
            let length = zeros.len().min((self.length - at) as usize);
            file.write_all_at(zeros.get(..length).unwrap_or_default(), at).at("write", path)?;
            at += length as u64;
        }
        file.sync_data().at("sync", path)
    }

    /// A spare, to be renamed by the caller. Waits for the thread if it is making one.
    pub fn take(&self) -> Result<PathBuf, IoFailure> {
        let mut state = self.state.lock();
        loop {
            if let Some(path) = state.ready.pop() {
                self.changed.notify_all();
                return Ok(path);
            }
            if !state.threaded {
                let path = self.name(&mut state);
                drop(state);
                self.make(&path, &|| ())?;
                return Ok(path);
            }
            if let Some(failure) = &state.failed {
                return Err(failure.again());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Takes over a file that is no longer needed, or removes it.
    pub fn recycle(&self, path: &Path, length: u64) -> Result<(), IoFailure> {
        let target = {
            let mut state = self.state.lock();
            (length == self.length && state.ready.len() < READY + RECYCLED).then(|| self.name(&mut state))
        };
        let Some(target) = target else { return self.fs.remove(path).at("remove", path) };
        self.fs.rename(path, &target).at("rename", path)?;
        // Before it can be overwritten: the old name must not come back with a new content.
        self.fs.sync_dir(&self.dir).at("sync", &self.dir)?;
        let mut state = self.state.lock();
        state.ready.push(target);
        state.failed = None;
        self.changed.notify_all();
        Ok(())
    }

    /// How many there certainly are (or will be as soon as they are filled), and whether making more has failed.
    pub fn certain(&self) -> (u64, bool) {
        let state = self.state.lock();
        (state.ready.len() as u64 + u64::from(state.reserved), state.failed.is_some())
    }

    /// Why the last one could not be made.
    pub fn failure(&self) -> Option<IoFailure> {
        self.state.lock().failed.as_ref().map(IoFailure::again)
    }

    /// Says that a thread will call [`Spares::run`].
    pub fn set_threaded(&self) {
        self.state.lock().threaded = true;
    }

    /// Keeps spares ready until [`Spares::close`]; `changed` is called when there is room for another, or
    /// there turned out to be none.
    pub fn run(&self, changed: &dyn Fn()) {
        let mut state = self.state.lock();
        while !state.closing {
            if state.ready.len() >= READY {
                self.changed.wait(&mut state);
                continue;
            }
            if state.failed.is_some() {
                // A disk that was full may have room again; what failed in another way is tried as well,
                // because a spare has never held anything.
                self.changed.wait_for(&mut state, RETRY);
                if state.closing || state.ready.len() >= READY {
                    continue;
                }
            }
            let path = self.name(&mut state);
            drop(state);
            let made = self.make(&path, &|| {
                {
                    let mut state = self.state.lock();
                    state.reserved = true;
                    // Who takes it before it is filled must wait, not hear why there was none earlier.
                    state.failed = None;
                }
                changed();
            });
            state = self.state.lock();
            state.reserved = false;
            match made {
                Ok(()) => {
                    state.ready.push(path);
                    state.failed = None;
                }
                Err(failure) => {
                    tracing::warn!(%failure, "no spare journal segment could be made");
                    state.failed = Some(failure);
                }
            }
            self.changed.notify_all();
            drop(state);
            changed();
            state = self.state.lock();
        }
    }

    /// Ends [`Spares::run`].
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.threaded = false;
        self.changed.notify_all();
    }
}
