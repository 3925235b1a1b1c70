//! The store of the moment. Generations come and go behind it; whoever calls the store calls this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::sled::SledStore;
use super::{
    Committed, Declaration, Flushed, IndexPage, IndexScan, Purpose, RecordCursor, RecordPage, RefusedRecord,
    SiteCommit, Store, StoreError, StoreFuture,
};
use crate::model::{ProfileKey, Record, Site};

/// One generation with the layers around it.
#[derive(Clone)]
pub struct InUse {
    /// Its number.
    pub number: u64,
    /// The generation itself.
    pub store: Arc<SledStore>,
    /// What callers call: the same, with whatever layers there are.
    pub calls: Arc<dyn Store>,
}

/// Passes each call to the generation in use at that moment. Without one, calls are answered
/// [`StoreError::Rebuilding`].
#[derive(Default)]
pub struct StoreSwitch {
    current: ArcSwapOption<InUse>,
    done: AtomicU64,
    total: AtomicU64,
}

impl StoreSwitch {
    /// Starts with `first`, or with nothing.
    pub fn new(first: Option<InUse>) -> Self {
        Self { current: ArcSwapOption::new(first.map(Arc::new)), ..Self::default() }
    }

    /// The generation in use, without layers.
    pub fn current(&self) -> Option<Arc<SledStore>> {
        self.current.load().as_ref().map(|in_use| Arc::clone(&in_use.store))
    }

    /// The generation in use.
    pub fn in_use(&self) -> Option<Arc<InUse>> {
        self.current.load_full()
    }

    /// Puts `next` in the place of the generation in use, which is answered. Calls that were made before go on
    /// where they were made.
    pub fn swap(&self, next: Option<InUse>) -> Option<Arc<InUse>> {
        self.current.swap(next.map(Arc::new))
    }

    /// What callers hear while there is no generation.
    pub fn set_progress(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// Fails while there is no generation.
    pub fn check(&self) -> Result<(), StoreError> {
        self.calls().map(drop)
    }

    fn calls(&self) -> Result<Arc<dyn Store>, StoreError> {
        self.current.load().as_ref().map(|in_use| Arc::clone(&in_use.calls)).ok_or_else(|| {
            StoreError::Rebuilding {
                done: self.done.load(Ordering::Relaxed),
                total: self.total.load(Ordering::Relaxed),
            }
        })
    }

    fn run<T: Send + 'static>(&self, call: impl FnOnce(&dyn Store) -> StoreFuture<T>) -> StoreFuture<T> {
        match self.calls() {
            Ok(calls) => call(&*calls),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl Store for StoreSwitch {
    fn declaration(&self) -> Declaration {
        self.calls().map_or(
            // What any generation promises at the least.
            Declaration { durable: false, isolates_sites: false, exclusive: true },
            |calls| calls.declaration(),
        )
    }

    fn load(&self, purpose: Purpose, keys: Vec<ProfileKey>) -> StoreFuture<Vec<Option<Arc<Record>>>> {
        self.run(|store| store.load(purpose, keys))
    }

    fn commit(&self, commit: SiteCommit) -> StoreFuture<Committed> {
        self.run(|store| store.commit(commit))
    }

    fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage> {
        self.run(|store| store.scan_index(scan))
    }

    fn scan_records(&self, after: Option<RecordCursor>, limit: usize) -> StoreFuture<RecordPage> {
        self.run(|store| store.scan_records(after, limit))
    }

    fn load_refused(&self, site: Site, position: u64) -> StoreFuture<Option<RefusedRecord>> {
        self.run(|store| store.load_refused(site, position))
    }

    fn flush(&self) -> StoreFuture<Flushed> {
        self.run(Store::flush)
    }
}
