//! A new generation: begun, adopted or abandoned. Until it is adopted the notes do not know it, and the next
//! start removes what is left of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::io;
use super::{Generations, OpenError, State, generation_dir, list, lock, open_store, refuse_foreign};
use crate::model::LowWater;
use crate::store::Flushed;
use crate::store::note::{self, Elsewhere, Note, Place, Wanted};
use crate::store::sled::SledStore;

/// How long to wait until a generation that came to nothing lets go of its files.
const LET_GO: Duration = Duration::from_secs(10);

/// A generation that is being filled.
pub struct Candidate {
    /// Its number.
    pub number: u64,
    /// Its directory.
    pub dir: PathBuf,
    /// The store.
    pub store: Arc<SledStore>,
    base: PathBuf,
    /// Of a base that is not the one in use.
    lock: Option<File>,
}

/// A generation that is out of use: what is left of it on the disk.
#[must_use]
pub struct Retired {
    /// Its directory, to be removed; none: there was no generation.
    pub dir: Option<PathBuf>,
    /// Held until it is.
    _lock: Option<File>,
}

impl Generations {
    /// Where a new generation would be: in `dir`, or beside the one in use.
    pub fn base(&self, dir: Option<&Path>) -> PathBuf {
        dir.map_or_else(|| self.state.lock().base.clone(), Path::to_owned)
    }

    /// The number that the next generation gets, unless it is taken where it will be.
    pub fn next_number(&self) -> u64 {
        self.state.lock().last_number + 1
    }

    /// The directory of the generation in use.
    pub fn dir_in_use(&self) -> Option<PathBuf> {
        let state = self.state.lock();
        state.in_use.then(|| generation_dir(&state.base, state.note.generation))
    }

    /// Begins an empty generation in `dir`, or beside the one in use. Blocks.
    pub fn begin(&self, dir: Option<&Path>) -> Result<Candidate, OpenError> {
        let (own, last) = {
            let state = self.state.lock();
            state.check_held().map_err(|e| io(&state.base, e))?;
            (state.base.clone(), state.last_number)
        };
        let base = dir.map_or_else(|| own.clone(), Path::to_owned);
        fs::create_dir_all(&base).map_err(|e| io(&base, e))?;
        let lock = if base == own { self.relock(&base)? } else { Some(lock(&base)?) };
        let existing = list(&base)?;
        for (_, path) in &existing {
            refuse_foreign(&self.options, path, u64::MAX)?;
        }
        let last = existing.iter().map(|(number, _)| *number).fold(last, u64::max);
        let number = last + 1;
        // Not given to another one, whatever becomes of this.
        self.state.lock().last_number = number;
        let path = generation_dir(&base, number);
        fs::create_dir(&path).map_err(|e| io(&path, e))?;
        let note = Note {
            node: self.options.node,
            generation: number,
            commit_number: 0,
            last_position: 0,
            low_water: LowWater::default(),
            complete: false,
            clean: false,
            place: Place::of(&base),
            elsewhere: None,
            rebuild: None,
        };
        note::write(&path, &note).map_err(|e| io(&path, e))?;
        note::sync_dir(&base).map_err(|e| io(&base, e))?;
        let store = open_store(&self.options, &path, number);
        let store = store.map_err(|error| OpenError::Store { dir: path.clone(), error })?;
        Ok(Candidate { number, dir: path, store: Arc::new(store), base, lock })
    }

    /// The lock again, if its file was removed together with the store's directory.
    fn relock(&self, base: &Path) -> Result<Option<File>, OpenError> {
        use std::os::unix::fs::MetadataExt as _;
        let held = self.state.lock().lock.as_ref().and_then(|file| file.metadata().ok()).map(|m| m.ino());
        let there = fs::metadata(base.join("lock")).ok().map(|m| m.ino());
        if held.is_some() && held == there { Ok(None) } else { lock(base).map(Some) }
    }

    /// Puts `candidate` in the place of the generation in use: from here on the next start finds it.
    /// `flushed` is its last flush, `low_water` how far it has come. Blocks on two syncs. The answer is the
    /// generation that was in use.
    pub fn adopt(
        &self,
        candidate: &mut Candidate,
        flushed: Flushed,
        low_water: LowWater,
    ) -> std::io::Result<Retired> {
        let configured = &self.options.store_dir;
        let elsewhere = (candidate.base != *configured)
            .then(|| Elsewhere { dir: candidate.base.clone(), configured: configured.clone() });
        let note = Note {
            node: self.options.node,
            generation: candidate.number,
            commit_number: flushed.commit_number,
            last_position: low_water.applied_to,
            low_water,
            complete: true,
            clean: false,
            place: Place::of(&candidate.base),
            elsewhere,
            rebuild: None,
        };
        note::write(&candidate.dir, &note)?;
        let mut state = self.state.lock();
        state.check_held()?;
        note::write(&self.options.note_dir, &note)?;
        let dir = state.in_use.then(|| generation_dir(&state.base, state.note.generation));
        let lock = candidate.lock.take().and_then(|lock| state.lock.replace(lock));
        let last_number = state.last_number;
        let lock_in_use = state.lock.take();
        *state = State { note, base: candidate.base.clone(), lock: lock_in_use, in_use: true, last_number };
        Ok(Retired { dir, _lock: lock })
    }

    /// Removes a generation that came to nothing. Blocks until it has let go of its files, within bounds.
    /// Answers whether all of its threads have ended.
    pub fn abandon(&self, candidate: &Candidate) -> bool {
        let ended = candidate.store.retire(LET_GO);
        let _removing = self.removing.lock();
        // Otherwise it is for the process that has the store's directory now.
        if self.state.lock().lock.is_some() {
            remove_dir(&candidate.dir);
        }
        ended
    }

    /// Gives up the generation in use before there is another one: notes that it is not to be trusted. Blocks on
    /// a sync.
    pub fn give_up(&self) -> std::io::Result<Retired> {
        let mut state = self.state.lock();
        if !state.in_use {
            return Ok(Retired { dir: None, _lock: None });
        }
        let condemned = Note { complete: false, clean: false, ..state.note.clone() };
        note::write(&self.options.note_dir, &condemned)?;
        let dir = generation_dir(&state.base, condemned.generation);
        state.note = condemned;
        state.in_use = false;
        Ok(Retired { dir: Some(dir), _lock: None })
    }

    /// Notes that a rebuild is wanted, until one is adopted or it is said that none is. Blocks on a sync.
    pub fn want(&self, rebuild: Option<Wanted>) -> std::io::Result<()> {
        let mut state = self.state.lock();
        if state.note.rebuild == rebuild {
            return Ok(());
        }
        state.check_held()?;
        let note = Note { rebuild, ..state.note.clone() };
        note::write(&self.options.note_dir, &note)?;
        state.note = note;
        Ok(())
    }
}

/// Removes a generation's directory, as far as it can be: what is left goes at the next start.
pub fn remove_dir(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "a generation of the store cannot be removed");
        }
    }
}

/// Bytes that the files under `dir` take on the disk.
pub fn size_of(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { size_of(&entry.path())? } else { found.blocks() * 512 };
    }
    Ok(bytes)
}
