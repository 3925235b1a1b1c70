//! The generations of the store on disk: which one is in use, whether it is trusted, and the notes that
//! decide it at the next start.
//!
//! `<store>/<generation>/sled/` is one generation; `<store>/<generation>/store-note` tells whose it is,
//! `<notes>/store-note`, beside the journal, which one is in use and how far it is known to be written;
//! `<store>/lock` keeps a second process out. A generation that is not trusted is never read: another one is
//! built beside it, or in its place, and takes over when the note names it.

mod candidate;
mod error;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::candidate::{Candidate, Retired, remove_dir, size_of};
use self::error::io;
pub use self::error::{CloseError, OpenError};
use super::note::{self, Distrust, Note, Place, Wanted};
use super::sled::{SledOptions, SledStore};
use super::{Flushed, StoreError};
use crate::model::{LowWater, NodeId};

/// Where the store is and whose it is.
#[derive(Clone)]
pub struct GenerationOptions {
    /// The store's directory; made if missing.
    pub store_dir: PathBuf,
    /// The directory beside the journal that holds the note; it must exist.
    pub note_dir: PathBuf,
    /// The journal's node.
    pub node: NodeId,
    /// The last position that exists in the journal.
    pub journal_end: u64,
    /// How sled is opened.
    pub sled: SledOptions,
}

/// The store at start.
pub struct Opened {
    /// The generation in use, if there is one that is trusted. Otherwise one has to be built:
    /// [`Generations::begin`].
    pub store: Option<Arc<SledStore>>,
    /// Why there is none.
    pub distrust: Option<Distrust>,
    /// How far the store had come, trusted or not: what lies before it has been dealt with.
    pub low_water: LowWater,
    /// A rebuild that the last process did not finish.
    pub rebuild: Option<Wanted>,
}

/// The store's directory, and the note of the generation in use.
pub struct Generations {
    options: GenerationOptions,
    state: Mutex<State>,
    /// Held while a generation that came to nothing is removed: its number may be given again by the next process.
    removing: Mutex<()>,
}

struct State {
    note: Note,
    /// The directory that holds the generation in use.
    base: PathBuf,
    /// Held as long as the process has the store.
    lock: Option<File>,
    /// Whether there is a generation in use: otherwise the note is of one that was given up.
    in_use: bool,
    /// The highest number that was ever given.
    last_number: u64,
}

impl State {
    /// Fails when the lock has been released: what is on the disk is another process's then.
    fn check_held(&self) -> std::io::Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(std::io::Error::other("the store's directory was handed over")),
        }
    }
}

/// The last position that the notes beside the journal and in the store's directory say is applied; 0 if there
/// are none that can be read. For the journal's opening, which comes before the store's.
pub fn last_applied(store_dir: &Path, note_dir: &Path) -> u64 {
    let noted = note::read(note_dir).ok().flatten();
    let base = base_of(noted.as_ref(), store_dir);
    let in_store = list(&base).unwrap_or_default().into_iter().map(|(_, dir)| dir);
    let in_store = in_store.filter_map(|dir| note::read(&dir).ok().flatten());
    in_store.chain(noted).map(|note| note.last_position).max().unwrap_or(0)
}

/// The directory that holds the generation that `note` names. What is configured counts, unless it is the same
/// as when the generation was built elsewhere: the configured directory may be on a disk that hangs, and is
/// not touched then.
fn base_of(note: Option<&Note>, store_dir: &Path) -> PathBuf {
    match note.and_then(|note| note.elsewhere.as_ref()) {
        Some(elsewhere) if elsewhere.configured == store_dir && elsewhere.dir.is_dir() => {
            elsewhere.dir.clone()
        }
        _ => store_dir.to_owned(),
    }
}

impl Generations {
    /// Opens the generation in use if it is trusted. One that is not is removed. Blocks.
    pub fn open(options: GenerationOptions) -> Result<(Self, Opened), OpenError> {
        let noted = note::read(&options.note_dir).map_err(|e| io(&options.note_dir, e))?;
        let noted = noted.filter(|note| note.node == options.node);
        let base = base_of(noted.as_ref(), &options.store_dir);
        fs::create_dir_all(&base).map_err(|e| io(&base, e))?;
        let lock = lock(&base)?;
        let here = Place::of(&base);
        let existing = list(&base)?;
        for (_, path) in &existing {
            refuse_foreign(&options, path, options.journal_end)?;
        }
        let last = existing.iter().map(|(number, _)| *number).max().unwrap_or(0);
        let (distrust, note) = match trusted(&options, &here, &existing, noted)? {
            Ok((store, note)) => {
                remove_others(&existing, note.generation);
                let opened = Opened {
                    store: Some(Arc::new(store)),
                    distrust: None,
                    low_water: note.low_water.clone(),
                    rebuild: note.rebuild.clone(),
                };
                let last_number = note.generation.max(last);
                let state = State { note, base, lock: Some(lock), in_use: true, last_number };
                return Ok((Self { options, state: Mutex::new(state), removing: Mutex::default() }, opened));
            }
            Err((distrust, note)) => (distrust, note),
        };
        let rebuild = note.as_ref().and_then(|note| note.rebuild.clone());
        let note = match note {
            Some(note) => {
                // Whatever comes now, it is not to be trusted any more; what it says of the journal stays true.
                let condemned =
                    Note { complete: false, clean: false, generation: note.generation.max(last), ..note };
                note::write(&options.note_dir, &condemned).map_err(|e| io(&options.note_dir, e))?;
                condemned
            }
            None => Note {
                node: options.node,
                generation: last,
                commit_number: 0,
                last_position: 0,
                low_water: LowWater::default(),
                complete: false,
                clean: false,
                place: here,
                elsewhere: None,
                rebuild: None,
            },
        };
        remove_others(&existing, 0);
        let opened =
            Opened { store: None, distrust: Some(distrust), low_water: note.low_water.clone(), rebuild };
        let last_number = note.generation.max(last);
        let state = State { note, base, lock: Some(lock), in_use: false, last_number };
        Ok((Self { options, state: Mutex::new(state), removing: Mutex::default() }, opened))
    }

    /// The generation in use, or the last one that was.
    pub fn generation(&self) -> u64 {
        self.state.lock().note.generation
    }

    /// Whether there is a generation in use that may be trusted at the next start.
    pub fn is_complete(&self) -> bool {
        let state = self.state.lock();
        state.in_use && state.note.complete
    }

    /// The generation has met damage: notes that it is not to be trusted at the next start, whatever comes.
    /// Answers whether that is news. Blocks on two syncs.
    pub fn condemn(&self) -> std::io::Result<bool> {
        let mut state = self.state.lock();
        if !state.in_use || !state.note.complete {
            return Ok(false);
        }
        let condemned = Note { complete: false, ..state.note.clone() };
        note::write(&self.options.note_dir, &condemned)?;
        state.note = condemned;
        Ok(true)
    }

    /// Notes what a flush of `generation`, if it is in use still, has written out. `low_water` is how far the applier had come *before* the flush
    /// was asked for. Blocks on two syncs.
    pub fn write_note(&self, generation: u64, flushed: Flushed, low_water: LowWater) -> std::io::Result<()> {
        let mut state = self.state.lock();
        if !state.in_use || state.note.generation != generation {
            return Ok(());
        }
        let note = Note {
            commit_number: flushed.commit_number,
            last_position: low_water.applied_to,
            low_water,
            clean: false,
            ..state.note.clone()
        };
        note::write(&self.options.note_dir, &note)?;
        let dir = generation_dir(&state.base, note.generation);
        state.note = note;
        note::write(&dir, &state.note)
    }

    /// Closes the store, syncs its files and notes that it is clean. Nothing commits any more, and the
    /// applier has come to `low_water`. Blocks, for running calls at most `limit`.
    pub fn close_clean(
        &self,
        store: &SledStore,
        low_water: LowWater,
        limit: Duration,
    ) -> Result<(), CloseError> {
        store.close(limit)?;
        let mark = store.mark();
        let mut state = self.state.lock();
        if !state.in_use {
            return Ok(());
        }
        let dir = generation_dir(&state.base, state.note.generation);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| CloseError::Io { path, error }
        };
        note::sync_all(&dir).map_err(io(&dir))?;
        note::sync_dir(&state.base).map_err(io(&state.base))?;
        let note = &mut state.note;
        note.commit_number = mark.commit_number;
        note.last_position = mark.last_position;
        note.low_water = low_water;
        note.clean = true;
        note::write(&dir, note).map_err(io(&dir))?;
        note::write(&self.options.note_dir, note).map_err(io(&self.options.note_dir))
    }

    /// Lets another process have the store's directory: after the store was closed, or left to its hanging
    /// threads, and the journal released. Nothing is written or removed from here on.
    pub fn release_lock(&self) {
        // One that takes longer hangs in the kernel, and will not be heard of again.
        let _removing = self.removing.try_lock_for(CLOSE_LIMIT);
        let mut state = self.state.lock();
        state.in_use = false;
        state.lock = None;
    }
}

/// The generation in use with its note, or why it is not trusted.
type Judged = Result<(SledStore, Note), (Distrust, Option<Note>)>;

fn trusted(
    options: &GenerationOptions,
    here: &Place,
    existing: &[(u64, PathBuf)],
    note: Option<Note>,
) -> Result<Judged, OpenError> {
    let Some(mut note) = note else {
        let distrust = if existing.is_empty() { Distrust::NoStore } else { Distrust::NoNote };
        return Ok(Err((distrust, None)));
    };
    let Some((_, dir)) = existing.iter().find(|(number, _)| *number == note.generation) else {
        return Ok(Err((Distrust::NoGeneration, Some(note))));
    };
    if let Err(distrust) = note::judge_note(&note, here) {
        return Ok(Err((distrust, Some(note))));
    }
    if note.clean {
        // Before sled changes anything: from now on it is no longer as it was closed, but as long as what
        // has been synced holds for a crash of this process.
        let opened = Note { clean: false, place: here.clone(), ..note.clone() };
        note::write(&options.note_dir, &opened).map_err(|e| io(&options.note_dir, e))?;
    }
    let store = match open_store(options, dir, note.generation) {
        Ok(store) => store,
        Err(error) => {
            tracing::error!(%error, dir = %dir.display(), "the store cannot be opened");
            return Ok(Err((Distrust::CannotOpen, Some(note))));
        }
    };
    let mark = store.stored_mark();
    if let Some(mark) = mark
        && mark.node == options.node
    {
        refuse_ahead(dir, mark.last_position, options.journal_end)?;
    }
    if let Err(distrust) = note::judge(&note, mark.as_ref(), here) {
        // Its files are removed next: sled must have let go of them.
        if !store.retire(CLOSE_LIMIT) {
            tracing::warn!("a store that is not trusted has not let go of its files");
        }
        return Ok(Err((distrust, Some(note))));
    }
    note.clean = false;
    note.place = here.clone();
    Ok(Ok((store, note)))
}

/// How long to wait for a generation that is given up at start; nothing but its index builder runs.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Another node's generation, or one that has applied what the journal does not have, is not ours to
/// remove. One that does not tell is damaged.
fn refuse_foreign(options: &GenerationOptions, dir: &Path, end: u64) -> Result<(), OpenError> {
    let Some(note) = note::read(dir).map_err(|e| io(dir, e))? else { return Ok(()) };
    if note.node != options.node {
        return Err(OpenError::Foreign { dir: dir.to_owned(), owner: note.node, node: options.node });
    }
    refuse_ahead(dir, note.last_position, end)
}

fn refuse_ahead(dir: &Path, applied: u64, end: u64) -> Result<(), OpenError> {
    if applied > end { Err(OpenError::AheadOfJournal { dir: dir.to_owned(), applied, end }) } else { Ok(()) }
}

/// Opens the files of a generation; it may be a new one.
fn open_store(options: &GenerationOptions, dir: &Path, number: u64) -> Result<SledStore, StoreError> {
    let sled = SledOptions { generation: number, ..options.sled.clone() };
    SledStore::open(&dir.join("sled"), options.node, &sled)
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|e| io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(io(&path, error)),
    }
}

/// The generations in `dir`.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io(dir, e))? {
        let entry = entry.map_err(|e| io(dir, e))?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    Ok(found)
}

fn remove_others(existing: &[(u64, PathBuf)], keep: u64) {
    for (number, path) in existing {
        if *number != keep {
            remove_dir(path);
        }
    }
}

fn generation_dir(base: &Path, generation: u64) -> PathBuf {
    base.join(format!("{generation:08}"))
}

#[cfg(test)]
mod tests;
