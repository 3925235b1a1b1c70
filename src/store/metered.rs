//! A decorator that measures the calls of a store, as those who wait for them see it.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::{
    Committed, Declaration, Flushed, IndexPage, IndexScan, Purpose, RecordCursor, RecordPage, RefusedRecord,
    SiteCommit, Store, StoreError, StoreFuture,
};
use crate::meter::{End, Meter, Timing};
use crate::model::{ProfileKey, Record, Site};

/// One meter for each kind of call.
#[derive(Clone, Debug)]
pub struct StoreMeters {
    /// Commits.
    pub commits: Meter,
    /// Loads, whoever asks.
    pub loads: Meter,
    /// Loads for reads of profiles; part of `loads`.
    pub gets: Meter,
    /// Scans of indexes and of records.
    pub scans: Meter,
    last_error: Arc<ArcSwap<String>>,
}

impl StoreMeters {
    /// Nothing measured yet.
    pub fn new(now: Instant) -> Self {
        let meter = || Meter::new(now);
        Self { commits: meter(), loads: meter(), gets: meter(), scans: meter(), last_error: Arc::default() }
    }

    /// To be called about once a second.
    pub fn sample(&self, now: Instant) {
        for meter in [&self.commits, &self.loads, &self.gets, &self.scans] {
            meter.sample(now);
        }
    }

    /// The last error of a call; empty if there was none.
    pub fn last_error(&self) -> String {
        self.last_error.load().to_string()
    }

    fn ended<T>(&self, timing: Timing, result: &Result<T, StoreError>) {
        if let Err(error) = result {
            self.last_error.store(Arc::new(error.to_string()));
        }
        timing.end(if result.is_ok() { End::Good } else { End::Error });
    }

    fn measured<T: Send + 'static>(&self, meter: &Meter, call: StoreFuture<T>) -> StoreFuture<T> {
        let (meters, timing) = (self.clone(), meter.begin());
        Box::pin(async move {
            let result = call.await;
            meters.ended(timing, &result);
            result
        })
    }
}

/// A store whose calls are measured.
pub struct Metered {
    inner: Arc<dyn Store>,
    meters: StoreMeters,
}

impl Metered {
    /// Measures `inner`.
    pub fn new(inner: Arc<dyn Store>, meters: StoreMeters) -> Self {
        Self { inner, meters }
    }
}

impl Store for Metered {
    fn declaration(&self) -> Declaration {
        self.inner.declaration()
    }

    fn load(&self, purpose: Purpose, keys: Vec<ProfileKey>) -> StoreFuture<Vec<Option<Arc<Record>>>> {
        let call = self.meters.measured(&self.meters.loads, self.inner.load(purpose, keys));
        if purpose == Purpose::Get { self.meters.measured(&self.meters.gets, call) } else { call }
    }

    fn commit(&self, commit: SiteCommit) -> StoreFuture<Committed> {
        self.meters.measured(&self.meters.commits, self.inner.commit(commit))
    }

    fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage> {
        self.meters.measured(&self.meters.scans, self.inner.scan_index(scan))
    }

    fn scan_records(&self, after: Option<RecordCursor>, limit: usize) -> StoreFuture<RecordPage> {
        self.meters.measured(&self.meters.scans, self.inner.scan_records(after, limit))
    }

    fn load_refused(&self, site: Site, position: u64) -> StoreFuture<Option<RefusedRecord>> {
        self.inner.load_refused(site, position)
    }

    fn flush(&self) -> StoreFuture<Flushed> {
        self.inner.flush()
    }
}
