//! The generations of the store on disk: which one is in use, whether it is trusted, and the notes that
//! decide it at the next start.
//!
//! `<store>/<generation>/sled/` is one generation; `<store>/<generation>/store-note` tells whose it is,
//! `<notes>/store-note`, beside the journal, how far it is known to be written; `<store>/lock` keeps a
//! second process out. A generation that is not trusted is never read: an empty one takes its place and is
//! filled from the journal.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::note::{self, Distrust, Note, Place};
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
    /// The generation in use.
    pub store: Arc<SledStore>,
    /// Why the generation before was given up, if it was: then this one is empty, replay brings
    /// everything, and [`Generations::set_complete`] is called at its end.
    pub distrust: Option<Distrust>,
    /// Where replay starts.
    pub low_water: LowWater,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store in {0} is in use by another process")]
    InUse(PathBuf),
    /// It belongs to another node's journal.
    #[error(
        "the store in {dir} belongs to the journal of node {owner}, not to that of node {node}: give each \
         node a store directory of its own; if that journal is gone for good, remove the store directory"
    )]
    Foreign {
        /// The generation's directory.
        dir: PathBuf,
        /// Whose it is.
        owner: NodeId,
        /// Whose journal this is.
        node: NodeId,
    },
    /// It holds what the journal does not have.
    #[error(
        "the store in {dir} has applied position {applied}, but the journal ends at {end}: this is an older \
         copy of the journal, or part of it is missing; bring the journal back, or, to go on without what \
         it has lost, remove the store directory"
    )]
    AheadOfJournal {
        /// The generation's directory.
        dir: PathBuf,
        /// The highest position applied.
        applied: u64,
        /// The journal's last position.
        end: u64,
    },
    /// A new generation could not be opened.
    #[error("a new store cannot be opened in {dir}: {error}")]
    Store {
        /// The generation's directory.
        dir: PathBuf,
        /// Why.
        error: StoreError,
    },
    /// A file or directory could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Why the store was not closed in order. It is sound all the same: the next start decides.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Calls still run, or the last flush failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be synced or the note not written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// The store's directory, and the note of the generation in use.
pub struct Generations {
    options: GenerationOptions,
    note: Mutex<Note>,
    // Held as long as the process has the store.
    _lock: File,
}

/// The last position that the notes beside the journal and in the store's directory say is applied; 0 if there
/// are none that can be read. For the journal's opening, which comes before the store's.
pub fn last_applied(store_dir: &Path, note_dir: &Path) -> u64 {
    let in_store = list(store_dir).unwrap_or_default().into_iter().map(|(_, dir)| dir);
    let dirs = std::iter::once(note_dir.to_owned()).chain(in_store);
    dirs.filter_map(|dir| note::read(&dir).ok().flatten()).map(|note| note.last_position).max().unwrap_or(0)
}

impl Generations {
    /// Opens the store: the generation in use if it is trusted, otherwise an empty new one in its place.
    /// Blocks.
    pub fn open(options: GenerationOptions) -> Result<(Self, Opened), OpenError> {
        let dir = &options.store_dir;
        fs::create_dir_all(dir).map_err(|e| io(dir, e))?;
        let lock = lock(dir)?;
        let here = Place::of(dir);
        let existing = list(dir)?;
        for (_, path) in &existing {
            refuse_foreign(&options, path)?;
        }
        let (distrust, note) = match trusted(&options, &here, &existing)? {
            Ok((store, note)) => {
                let low_water = note.low_water.clone();
                remove_others(&existing, note.generation);
                let opened = Opened { store: Arc::new(store), distrust: None, low_water };
                return Ok((Self { options, note: Mutex::new(note), _lock: lock }, opened));
            }
            Err((distrust, note)) => (distrust, note),
        };
        // Not a number that was used before, whatever is left of it.
        let last = existing.iter().map(|(n, _)| *n).chain(note.map(|note| note.generation)).max();
        let note = Note {
            node: options.node,
            generation: last.unwrap_or(0) + 1,
            commit_number: 0,
            last_position: 0,
            low_water: LowWater::default(),
            complete: false,
            clean: false,
            place: here,
        };
        let path = generation_dir(dir, note.generation);
        note::write(&options.note_dir, &note).map_err(|e| io(&options.note_dir, e))?;
        // The old one goes first: there may be no room for two, and nothing reads it any more.
        remove_others(&existing, note.generation);
        fs::create_dir(&path).map_err(|e| io(&path, e))?;
        note::write(&path, &note).map_err(|e| io(&path, e))?;
        note::sync_dir(dir).map_err(|e| io(dir, e))?;
        let store = SledStore::open(&path.join("sled"), options.node, &options.sled)
            .map_err(|error| OpenError::Store { dir: path, error })?;
        let low_water = LowWater::default();
        let opened = Opened { store: Arc::new(store), distrust: Some(distrust), low_water };
        Ok((Self { options, note: Mutex::new(note), _lock: lock }, opened))
    }

    /// The generation in use.
    pub fn generation(&self) -> u64 {
        self.note.lock().generation
    }

    /// Whether the first replay into the generation has been finished.
    pub fn is_complete(&self) -> bool {
        self.note.lock().complete
    }

    /// The first replay into the generation has been finished; the next note says so.
    pub fn set_complete(&self) {
        self.note.lock().complete = true;
    }

    /// The generation has met damage: notes that it is not to be trusted at the next start, whatever comes.
    /// Answers whether that is news. Blocks on two syncs.
    pub fn condemn(&self) -> std::io::Result<bool> {
        let mut note = self.note.lock();
        if !note.complete {
            return Ok(false);
        }
        let condemned = Note { complete: false, ..note.clone() };
        note::write(&self.options.note_dir, &condemned)?;
        note::write(&self.dir(note.generation), &condemned)?;
        *note = condemned;
        Ok(true)
    }

    /// Notes what a flush has written out. `low_water` is how far the applier had come *before* the flush
    /// was asked for. Blocks on two syncs.
    pub fn write_note(&self, flushed: Flushed, low_water: LowWater) -> std::io::Result<()> {
        let mut note = self.note.lock();
        note.commit_number = flushed.commit_number;
        note.last_position = low_water.applied_to;
        note.low_water = low_water;
        note.clean = false;
        note::write(&self.options.note_dir, &note)?;
        note::write(&self.dir(note.generation), &note)
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
        let mut note = self.note.lock();
        let dir = self.dir(note.generation);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| CloseError::Io { path, error }
        };
        note::sync_all(&dir).map_err(io(&dir))?;
        note::sync_dir(&self.options.store_dir).map_err(io(&self.options.store_dir))?;
        note.commit_number = mark.commit_number;
        note.last_position = mark.last_position;
        note.low_water = low_water;
        note.clean = true;
        note::write(&dir, &note).map_err(io(&dir))?;
        note::write(&self.options.note_dir, &note).map_err(io(&self.options.note_dir))
    }

    fn dir(&self, generation: u64) -> PathBuf {
        generation_dir(&self.options.store_dir, generation)
    }
}

/// The generation in use with its note, or why it is not trusted.
type Judged = Result<(SledStore, Note), (Distrust, Option<Note>)>;

fn trusted(
    options: &GenerationOptions,
    here: &Place,
    existing: &[(u64, PathBuf)],
) -> Result<Judged, OpenError> {
    let note = note::read(&options.note_dir).map_err(|e| io(&options.note_dir, e))?;
    let Some(mut note) = note.filter(|note| note.node == options.node) else {
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
        // From here on the files may change, so "clean" must be gone for good before sled sees them. What
        // has been synced holds for a crash of this process.
        let opened = Note { clean: false, place: here.clone(), ..note.clone() };
        note::write(&options.note_dir, &opened).map_err(|e| io(&options.note_dir, e))?;
    }
    let store = match SledStore::open(&dir.join("sled"), options.node, &options.sled) {
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
        refuse_ahead(options, dir, mark.last_position)?;
    }
    if let Err(distrust) = note::judge(&note, mark.as_ref(), here) {
        // Its files are removed next: sled must have let go of them.
        if let Err(error) = store.close(CLOSE_LIMIT) {
            tracing::warn!(%error, "closing a store that is not trusted");
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
fn refuse_foreign(options: &GenerationOptions, dir: &Path) -> Result<(), OpenError> {
    let Some(note) = note::read(dir).map_err(|e| io(dir, e))? else { return Ok(()) };
    if note.node != options.node {
        return Err(OpenError::Foreign { dir: dir.to_owned(), owner: note.node, node: options.node });
    }
    refuse_ahead(options, dir, note.last_position)
}

fn refuse_ahead(options: &GenerationOptions, dir: &Path, applied: u64) -> Result<(), OpenError> {
    let end = options.journal_end;
    if applied > end { Err(OpenError::AheadOfJournal { dir: dir.to_owned(), applied, end }) } else { Ok(()) }
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
        if *number != keep
            && let Err(error) = fs::remove_dir_all(path)
        {
            tracing::warn!(%error, dir = %path.display(), "an old generation cannot be removed");
        }
    }
}

fn generation_dir(store_dir: &Path, generation: u64) -> PathBuf {
    store_dir.join(format!("{generation:08}"))
}

fn io(path: &Path, error: std::io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests;
