//! Carrying entries that still wait into segments of their own, so that the segments they came in can go.
//!
//! What is written here is part of the journal only once [`super::Journal::switch`] has named it: until then the
//! files are called `carry-N`, or have numbers that the manifest knows to be used up, and a start removes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::{At as _, IoFailure};
use super::fs::{FsFile, OpenMode};
use super::manifest::{SegmentEntry, carry_path, segment_path};
use super::reader::StoredEntry;
use super::rewrite::Rewriter;
use super::table::{Segment, Shared};

/// Writes entries, in order of position. Dropped without [`Carrier::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Carrier {
    shared: Arc<Shared>,
    /// First positions of segments that are kept: no carried one may reach over them.
    kept: Vec<u64>,
    current: Option<Writer>,
    done: Vec<Draft>,
    places: Vec<(u64, u32)>,
    last: u64,
}

/// Carried entries, synced, but not yet part of the journal. Dropped, they leave nothing behind.
#[derive(Debug)]
pub struct Carried {
    /// Where each entry will be: position and offset, in order.
    pub places: Vec<(u64, u32)>,
    pub(crate) drafts: Vec<Draft>,
}

/// The file of a segment that is not part of the journal yet; goes with this unless it is made one.
#[derive(Debug)]
pub(crate) struct Draft {
    shared: Arc<Shared>,
    pub entry: SegmentEntry,
    path: PathBuf,
    file: Option<Box<dyn FsFile>>,
}

impl Draft {
    /// The segment, once the manifest names it.
    pub fn adopt(mut self) -> Option<Segment> {
        Some(Segment::new(&self.entry, &self.shared.dir, self.file.take()?))
    }

    /// Leaves the file where it is: the manifest may name it. A start knows.
    pub fn abandon(mut self) {
        self.file = None;
        self.shared.sizes.stray.fetch_add(self.entry.length, Ordering::Relaxed);
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = self.shared.fs.remove(&self.path)
        {
            let file = self.path.display();
            tracing::warn!(%file, %error, "carried entries that are not needed were not removed; a start will");
        }
    }
}

/// The segment that is being written.
#[derive(Debug)]
struct Writer {
    draft: Draft,
    rewriter: Rewriter,
}

impl Carrier {
    pub(crate) fn new(shared: Arc<Shared>, keep: &[u64]) -> Self {
        let kept = {
            let table = shared.table.read();
            let kept = table.segments.iter().filter(|segment| keep.contains(&segment.number));
            kept.map(|segment| segment.first_position).collect()
        };
        Self { shared, kept, current: None, done: Vec::new(), places: Vec::new(), last: 0 }
    }

    /// Adds an entry as it was read. Positions must rise.
    pub fn push(&mut self, entry: &StoredEntry) -> Result<(), IoFailure> {
        if entry.position <= self.last {
            let problem = format!("entry {} after {}", entry.position, self.last);
            return Err(std::io::Error::other(problem)).at("carry", &self.shared.dir);
        }
        let fits = self.current.as_ref().is_some_and(|writer| {
            let crosses = self.kept.iter().any(|first| (self.last + 1..=entry.position).contains(first));
            writer.draft.entry.node == entry.node
                && !crosses
                && writer.rewriter.has_room_for(entry, self.shared.sizes.segment_bytes)
        });
        if !fits {
            self.end_segment()?;
            self.current = Some(Writer::begin(&self.shared, entry)?);
        }
        if let Some(writer) = &mut self.current {
            let offset = writer.push(entry, self.shared.sizes.batch_bytes)?;
            self.places.push((entry.position, offset));
        }
        self.last = entry.position;
        Ok(())
    }

    fn end_segment(&mut self) -> Result<(), IoFailure> {
        if let Some(writer) = self.current.take() {
            self.done.push(writer.finish()?);
        }
        Ok(())
    }

    /// Syncs all that was written and gives the files their names.
    pub fn finish(mut self) -> Result<Carried, IoFailure> {
        self.end_segment()?;
        for draft in &mut self.done {
            let path = segment_path(&self.shared.dir, draft.entry.number);
            self.shared.fs.rename(&draft.path, &path).at("rename", &draft.path)?;
            draft.path = path;
        }
        if !self.done.is_empty() {
            self.shared.fs.sync_dir(&self.shared.dir).at("sync", &self.shared.dir)?;
        }
        Ok(Carried { places: std::mem::take(&mut self.places), drafts: std::mem::take(&mut self.done) })
    }
}

impl Writer {
    fn begin(shared: &Arc<Shared>, first: &StoredEntry) -> Result<Self, IoFailure> {
        let number = shared.claim_number();
        // Used up for certain before anything has it.
        shared.change_manifest(|manifest| manifest.next_segment = manifest.next_segment.max(number + 1))?;
        let path = carry_path(&shared.dir, number);
        let file = shared.fs.open(&path, OpenMode::CreateNew).at("create", &path)?;
        let rewriter = Rewriter::new(number, first);
        let entry = rewriter.entry.clone();
        Ok(Self { draft: Draft { shared: Arc::clone(shared), entry, path, file: Some(file) }, rewriter })
    }

    fn push(&mut self, entry: &StoredEntry, batch_bytes: u64) -> Result<u32, IoFailure> {
        let Draft { path, file: Some(file), .. } = &self.draft else { return Ok(0) };
        self.rewriter.push(&**file, path, entry, batch_bytes)
    }

    fn finish(mut self) -> Result<Draft, IoFailure> {
        if let Draft { path, file: Some(file), .. } = &self.draft {
            self.rewriter.finish(&**file, path)?;
        }
        self.draft.entry = self.rewriter.entry;
        Ok(self.draft)
    }
}
