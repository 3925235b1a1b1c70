//! What readers and the writer share: the live segments, how far they are durable, and the manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::JournalOptions;
use super::error::IoFailure;
use super::format;
use super::fs::{Fs, FsFile, FsLock};
use super::manifest::{Manifest, Sealed, SegmentEntry, segment_path};
use crate::model::{EventTime, NodeId};

/// A segment that is part of the journal.
#[derive(Debug)]
pub(crate) struct Segment {
    pub number: u64,
    pub node: NodeId,
    pub first_position: u64,
    pub length: u64,
    pub seed: u32,
    pub path: PathBuf,
    pub file: Box<dyn FsFile>,
    /// Set once the next segment is there.
    pub sealed: OnceLock<Sealed>,
    /// As in the manifest.
    pub detached: AtomicBool,
}

impl Segment {
    pub fn new(entry: &SegmentEntry, dir: &Path, file: Box<dyn FsFile>) -> Self {
        let sealed = OnceLock::new();
        if let Some(end) = entry.sealed {
            let _first = sealed.set(end);
        }
        Self {
            number: entry.number,
            node: entry.node,
            first_position: entry.first_position,
            length: entry.length,
            seed: format::seed(entry.node, entry.number),
            path: segment_path(dir, entry.number),
            file,
            sealed,
            detached: AtomicBool::new(entry.detached),
        }
    }
}

/// The durable end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// In the last segment.
    pub offset: u64,
    /// 0 if nothing was ever written.
    pub position: u64,
    pub accepted_at: EventTime,
}

/// The live segments, in order, and the durable end in the last one.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub segments: Vec<Arc<Segment>>,
    pub end: End,
}

impl Table {
    /// Index of the segment that holds (or would hold) `position`.
    pub fn find(&self, position: u64) -> Option<usize> {
        self.segments.partition_point(|segment| segment.first_position <= position).checked_sub(1)
    }

    /// Bytes of the segments' files.
    pub fn length(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Bytes of the quota in use: sealed segments whole, the last one as far as it is written.
    pub fn used(&self) -> u64 {
        let sealed: u64 = self.segments.iter().rev().skip(1).map(|segment| segment.length).sum();
        sealed + self.end.offset
    }
}

#[derive(Debug, Default)]
pub(crate) struct Pins {
    next: u64,
    held: BTreeMap<u64, u64>,
}

impl Pins {
    pub fn lowest(&self) -> Option<u64> {
        self.held.values().min().copied()
    }
}

/// Shared by the writer, the readers and the handle.
#[derive(Debug)]
pub(crate) struct Shared {
    pub fs: Arc<dyn Fs>,
    pub dir: PathBuf,
    pub node: NodeId,
    /// The first position this node could issue, and the pairs of positions between which none is an entry's.
    /// Both change only at a start, so nobody who asks waits for the manifest's lock.
    pub origin: u64,
    pub gaps: Vec<(u64, u64)>,
    pub table: RwLock<Table>,
    /// Held while the file is replaced.
    pub manifest: Mutex<Manifest>,
    pub pins: Mutex<Pins>,
    /// Given up when the writer has ended: a reader alone does not keep the next process out.
    pub lock: Mutex<Option<Box<dyn FsLock>>>,
    pub sizes: Sizes,
    /// The next segment number that nobody has claimed.
    pub numbers: AtomicU64,
}

/// How large things may be.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub segment_bytes: u64,
    pub batch_bytes: u64,
    pub max_entry: u64,
    /// Most bytes of segments in all.
    pub quota: AtomicU64,
    /// Bytes of the quota that entries may not take.
    pub reserved: AtomicU64,
    /// Bytes of files that could neither be named nor removed.
    pub stray: AtomicU64,
}

impl Sizes {
    pub fn new(options: &JournalOptions) -> Self {
        Self {
            segment_bytes: options.segment_bytes,
            batch_bytes: options.batch_bytes,
            max_entry: options.max_entry_bytes,
            quota: AtomicU64::new(options.total_quota),
            reserved: AtomicU64::new(0),
            stray: AtomicU64::new(0),
        }
    }

    /// Bytes that entries may take.
    pub fn for_entries(&self) -> u64 {
        self.quota.load(Ordering::Relaxed).saturating_sub(self.reserved.load(Ordering::Relaxed))
    }
}

impl Shared {
    /// A segment number that nobody else gets. What is written under it may hold entries only once the manifest
    /// knows that it is used up.
    pub fn claim_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Bytes of the quota in use.
    pub fn used(&self) -> u64 {
        self.table.read().used() + self.sizes.stray.load(Ordering::Relaxed)
    }

    /// Changes the manifest, on disk first. After an error memory still has the old one.
    pub fn change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> Result<(), IoFailure> {
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        change(&mut next);
        next.store(&*self.fs, &self.dir)?;
        *manifest = next;
        Ok(())
    }

    pub fn pin(self: &Arc<Self>, position: u64) -> Pin {
        let mut pins = self.pins.lock();
        pins.next += 1;
        let id = pins.next;
        pins.held.insert(id, position);
        Pin { shared: Arc::clone(self), id }
    }
}

/// What a release gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Keeps entries from being released while it lives.
#[derive(Debug)]
pub struct Pin {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.pins.lock().held.remove(&self.id);
    }
}
