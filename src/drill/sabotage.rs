//! Faults of the product itself, so that it can be seen that the drill notices them.

use std::sync::Arc;

use crate::model::{ProfileKey, Record, Site};
use crate::store::{
    Committed, Declaration, Flushed, IndexPage, IndexScan, Purpose, RecordCursor, RecordPage, RefusedRecord,
    SiteCommit, Store, StoreFuture,
};

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// What was applied for one user in ten is not there after the last start
    ForgetfulStore,
    /// The breaker for writes is forced closed
    BreakerOff,
}

/// A store that has forgotten some users.
pub struct Forgetful(pub Arc<dyn Store>);

fn forgotten(key: &ProfileKey) -> bool {
    key.user.as_str().ends_with('7')
}

impl Store for Forgetful {
    fn declaration(&self) -> Declaration {
        self.0.declaration()
    }

    fn load(&self, purpose: Purpose, keys: Vec<ProfileKey>) -> StoreFuture<Vec<Option<Arc<Record>>>> {
        let lost: Vec<bool> = keys.iter().map(forgotten).collect();
        let loaded = self.0.load(purpose, keys);
        Box::pin(async move {
            let records = loaded.await?.into_iter().zip(lost);
            Ok(records.map(|(record, lost)| record.filter(|_| !lost)).collect())
        })
    }

    fn commit(&self, commit: SiteCommit) -> StoreFuture<Committed> {
        self.0.commit(commit)
    }

    fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage> {
        self.0.scan_index(scan)
    }

    fn scan_records(&self, after: Option<RecordCursor>, limit: usize) -> StoreFuture<RecordPage> {
        self.0.scan_records(after, limit)
    }

    fn load_refused(&self, site: Site, position: u64) -> StoreFuture<Option<RefusedRecord>> {
        self.0.load_refused(site, position)
    }

    fn flush(&self) -> StoreFuture<Flushed> {
        self.0.flush()
    }
}
