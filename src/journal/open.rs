//! Opening a journal, and what is known of it before it takes entries.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};

use super::error::{At as _, IoFailure, OpenError};
use super::format::{self, BatchSettings, SegmentHeader};
use super::fs::{Fs, OpenMode};
use super::handle::Journal;
use super::image::ADOPTING;
use super::log::{CLOCK_TOLERANCE, Log, Tail, make_segment};
use super::manifest::{Manifest, Sealed, SegmentEntry};
use super::reader::JournalReader;
use super::recover::{self, CutTail};
use super::spare::Spares;
use super::table::{End, Segment, Shared, Sizes, Table};
use super::{JournalOptions, Sink};
use crate::clock::Clock;
use crate::model::{EventTime, NodeId};

/// A journal that can be read, and started.
pub struct Opened {
    /// This journal's identity.
    pub node: NodeId,
    /// Those that it continues.
    pub ancestors: Vec<NodeId>,
    /// The last position that exists; 0 if none does.
    pub end: u64,
    /// When that entry was accepted; 1970 if there is none.
    pub accepted_high: EventTime,
    /// Whether it was new.
    pub is_new: bool,
    /// Whether it had been closed in order.
    pub was_clean: bool,
    /// What was cut off.
    pub cut: Option<CutTail>,
    /// Reads what is there.
    pub reader: JournalReader,
    options: JournalOptions,
    clock: Arc<dyn Clock>,
    log: Log,
}

/// A random id that is not 0.
pub(crate) fn new_node() -> Result<NodeId, OpenError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| OpenError::Options(format!("no random numbers: {e}")))?;
    Ok(NodeId(u64::from_le_bytes(bytes).max(1)))
}

/// Opens the journal in `options.dir`, making it if there is none.
pub(crate) fn open(
    options: JournalOptions,
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    options.validate()?;
    let dir = options.dir.clone();
    fs.create_dir_all(&dir).at("create", &dir)?;
    let lock_file = dir.join("lock");
    let lock = fs.lock(&lock_file).at("lock", &lock_file)?.ok_or_else(|| OpenError::Locked(dir.clone()))?;
    let names = fs.list(&dir).at("list", &dir)?;
    let loaded = Manifest::load(&*fs, &dir).map_err(|error| error.into_open(&dir))?;
    let is_new = loaded.is_none();
    let mut manifest = match loaded {
        Some(manifest) => manifest,
        None if options.store_applied > 0 => {
            return Err(OpenError::StoreWithoutJournal { dir, applied: options.store_applied });
        }
        None if names.iter().any(|name| name == ADOPTING) => return Err(OpenError::HalfRestored(dir)),
        None => {
            if let Some(name) = names.iter().find(|name| name.starts_with("segment-")) {
                let problem = "there are segments, but the manifest is missing";
                return Err(recover::damaged(&dir, &dir.join(name), 0, problem));
            }
            let manifest = Manifest::new(new_node()?);
            manifest.store(&*fs, &dir)?;
            manifest
        }
    };
    let mut useless = recover::sweep(&*fs, &dir, &manifest, &names)?;
    // The manifest was the last thing that the restore had to write.
    useless.extend(names.iter().filter(|name| *name == ADOPTING).map(|name| dir.join(name)));

    // Look at everything before anything is changed.
    let mut segments = Vec::new();
    let mut last_header = None;
    for (index, entry) in manifest.segments.iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|before| manifest.segments.get(before));
        let is_last = index + 1 == manifest.segments.len();
        let mode = if is_last { OpenMode::Write } else { OpenMode::Read };
        let (segment, header) = recover::open_segment(&*fs, &dir, entry, previous, mode)?;
        segments.push(segment);
        last_header = Some(header);
    }
    let was_clean = is_new || manifest.segments.is_empty() || manifest.clean.is_some();
    let found = match (segments.last(), last_header) {
        (Some(segment), Some(header)) => {
            let last = recover::walk_last(&dir, segment, &header, manifest.clean.as_ref())?;
            if last.position < options.store_applied {
                let problem = format!(
                    "the journal ends at entry {}, but the store has applied entry {}",
                    last.position, options.store_applied
                );
                return Err(recover::damaged(&dir, &segment.path, last.end, problem));
            }
            Some((header, last))
        }
        _ if options.store_applied > 0 => {
            return Err(OpenError::StoreWithoutJournal { dir, applied: options.store_applied });
        }
        _ => None,
    };
    let accepted_high = found.as_ref().map_or(EventTime(0), |(_, last)| last.accepted_at);
    let behind = accepted_high.since(clock.now());
    if behind > CLOCK_TOLERANCE {
        return Err(OpenError::ClockBehind { behind });
    }

    for path in useless {
        fs.remove(&path).at("remove", &path)?;
    }
    let spares = Arc::new(Spares::open(Arc::clone(&fs), &dir, options.segment_bytes, &names)?);
    let mut cut = None;
    let (end, digest) = match (found, segments.pop()) {
        (Some((_, last)), Some(segment)) if was_clean => {
            manifest.clean = None;
            manifest.store(&*fs, &dir)?;
            segments.push(segment);
            (recover::end_of(&last), last.digest)
        }
        (Some((header, last)), Some(old)) => {
            if let Some(problem) = &last.torn {
                cut = Some(recover::save_tail(&*fs, &dir, &old, &last, problem, options.batch_bytes)?);
            }
            let of_old = (&old, &header, &last);
            let (segment, digest) = recover::rewrite_last(&fs, &dir, &spares, &mut manifest, of_old)?;
            let (path, length) = (old.path.clone(), old.length);
            drop(old);
            spares.recycle(&path, length)?;
            segments.push(segment);
            (recover::end_of(&last), digest)
        }
        _ => {
            segments.push(first_segment(&*fs, &options, &spares, &mut manifest)?);
            (End { offset: format::SEGMENT_HEADER, position: 0, accepted_at: EventTime(0) }, 0)
        }
    };
    let tail = Tail { end, digest, next_position: manifest.next_position.max(end.position + 1) };
    let segments: Vec<Arc<Segment>> = segments.into_iter().map(Arc::new).collect();
    let last = segments.last().map(Arc::clone).ok_or_else(|| {
        OpenError::Options("a journal without a segment".to_owned()) // Cannot be: one was just made.
    })?;
    let (node, ancestors) = (manifest.node, manifest.ancestors.clone());
    let next_segment = manifest.next_segment;
    let shared = Arc::new(Shared {
        fs,
        dir,
        node,
        origin: manifest.origin,
        gaps: manifest.gaps.clone(),
        table: RwLock::new(Table { segments, end }),
        manifest: Mutex::new(manifest),
        pins: Mutex::default(),
        lock: Mutex::new(Some(lock)),
        sizes: Sizes::new(&options),
        numbers: AtomicU64::new(next_segment),
    });
    let reader = JournalReader::new(Arc::clone(&shared));
    let log = Log::new(shared, spares, last, tail);
    Ok(Opened {
        node,
        ancestors,
        end: end.position,
        accepted_high,
        is_new,
        was_clean,
        cut,
        reader,
        options,
        clock,
        log,
    })
}

/// The first segment of a journal that has none.
fn first_segment(
    fs: &dyn Fs,
    options: &JournalOptions,
    spares: &Spares,
    manifest: &mut Manifest,
) -> Result<Segment, OpenError> {
    let header = SegmentHeader {
        node: manifest.node,
        number: manifest.next_segment,
        first_position: manifest.next_position,
        accepted_high: EventTime(0),
        previous_digest: 0,
        previous_last: 0,
        length: options.segment_bytes,
    };
    let file = make_segment(fs, &options.dir, spares, &header, |_| Ok(()))?;
    let entry = SegmentEntry {
        number: header.number,
        node: header.node,
        first_position: header.first_position,
        length: header.length,
        sealed: None,
        detached: false,
    };
    manifest.segments.push(entry.clone());
    manifest.next_segment += 1;
    manifest.store(fs, &options.dir)?;
    Ok(Segment::new(&entry, &options.dir, file))
}

/// Begins a segment of the manifest's node behind all that it has, with positions beyond any that could have been
/// given to something; its first position. As after an orderly end. The manifest is not stored.
pub(crate) fn begin_segment(fs: &Arc<dyn Fs>, dir: &Path, manifest: &mut Manifest) -> Result<u64, IoFailure> {
    let seal = manifest.segments.iter().rev().find_map(|segment| segment.sealed);
    let clean = Sealed {
        end: format::SEGMENT_HEADER,
        last_position: seal.map_or(0, |seal| seal.last_position),
        digest: 0,
        accepted_high: seal.map_or(EventTime(0), |seal| seal.accepted_high),
    };
    // Those that entries were carried to are as long as their content: no measure.
    let usual = |s: &&SegmentEntry| s.sealed.is_none_or(|sealed| sealed.end < s.length);
    let length = manifest.segments.iter().filter(usual).map(|s| s.length).max();
    let header = SegmentHeader {
        node: manifest.node,
        number: manifest.next_segment,
        first_position: recover::beyond(clean.last_position.max(manifest.next_position.saturating_sub(1))),
        accepted_high: clean.accepted_high,
        previous_digest: seal.map_or(0, |seal| seal.digest),
        previous_last: clean.last_position,
        length: length.unwrap_or_else(|| JournalOptions::new(dir).segment_bytes),
    };
    let spares = Spares::open(Arc::clone(fs), dir, header.length, &fs.list(dir).at("list", dir)?)?;
    make_segment(&**fs, dir, &spares, &header, |_| Ok(()))?;
    manifest.segments.push(SegmentEntry {
        number: header.number,
        node: header.node,
        first_position: header.first_position,
        length: header.length,
        sealed: None,
        detached: false,
    });
    manifest.next_segment += 1;
    manifest.gaps.push((clean.last_position, header.first_position));
    manifest.next_position = header.first_position;
    manifest.clean = Some(clean);
    Ok(header.first_position)
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("node", &self.node).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Opened {
    /// Starts taking entries. `settings` is asked before each batch.
    pub fn start<T: Send + 'static>(
        self,
        settings: impl Fn() -> BatchSettings + Send + 'static,
        sink: Box<dyn Sink<T>>,
    ) -> Result<Journal<T>, OpenError> {
        Journal::start(&self.options, self.clock, self.log, Box::new(settings), sink)
    }

    /// The writer, for tests that drive it without threads.
    #[cfg(test)]
    pub(crate) fn into_log(self) -> Log {
        self.log
    }
}

/// Whose journal is in `dir`, without opening it: another process may be writing to it. None: there is none.
pub fn node_of(fs: &dyn Fs, dir: &std::path::Path) -> Result<Option<NodeId>, OpenError> {
    let manifest = Manifest::load(fs, dir).map_err(|error| error.into_open(dir))?;
    Ok(manifest.map(|manifest| manifest.node))
}
