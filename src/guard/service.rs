//! The store as services behind the breaker.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::Service;

use super::{Guard, Operation};
use crate::breaker::Role;
use crate::model::{Record, Site};
use crate::store::service::Load;
use crate::store::watch::{self, carrying};
use crate::store::{
    Committed, IndexPage, IndexScan, Purpose, RecordCursor, RecordPage, SiteCommit, Store, StoreError,
    StoreFuture,
};

/// Calls the store if the breaker lets it. Refuses in `call`, without a wait, with [`StoreError::Withheld`].
#[derive(Clone)]
pub struct GuardedStore {
    pub(super) store: Arc<dyn Store>,
    guard: Arc<Guard>,
}

impl std::fmt::Debug for GuardedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedStore").finish_non_exhaustive()
    }
}

impl GuardedStore {
    /// `store` behind `guard`.
    pub fn new(store: Arc<dyn Store>, guard: Arc<Guard>) -> Self {
        Self { store, guard }
    }

    /// Index entries, as a query.
    pub fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage> {
        let site = scan.site.clone();
        self.guarded(Operation::Query, Some(&site), Role::Caller, 1, |store| store.scan_index(scan))
    }

    /// Records of `site`, as a query.
    pub fn scan_records(
        &self,
        site: &Site,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> StoreFuture<RecordPage> {
        self.guarded(Operation::Query, Some(site), Role::Caller, 1, |store| store.scan_records(after, limit))
    }

    fn guarded<T: Send + 'static>(
        &self,
        operation: Operation,
        site: Option<&Site>,
        role: Role,
        weight: u32,
        call: impl FnOnce(&dyn Store) -> StoreFuture<T>,
    ) -> StoreFuture<T> {
        match self.guard.admit(operation, site, role, weight) {
            Ok(followed) => carrying(Some(followed.watch()), || call(&*self.store)),
            Err(refused) => Box::pin(std::future::ready(Err(refused))),
        }
    }
}

impl Service<Load> for GuardedStore {
    type Response = Vec<Option<Arc<Record>>>;
    type Error = StoreError;
    type Future = StoreFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, load: Load) -> Self::Future {
        let Load { purpose, keys } = load;
        let site = keys.first().map(|key| key.site.clone());
        let (role, weight) = match purpose {
            Purpose::Get | Purpose::Query => (Role::Caller, 1),
            Purpose::Apply => (Role::Background, keys.len() as u32),
        };
        let operation = Operation::of_load(purpose);
        self.guarded(operation, site.as_ref(), role, weight, |store| store.load(purpose, keys))
    }
}

impl Service<SiteCommit> for GuardedStore {
    type Response = Committed;
    type Error = StoreError;
    type Future = StoreFuture<Committed>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, commit: SiteCommit) -> Self::Future {
        // A turn of the applier brings the leave that it was given before it took its entries.
        if let Some(leave) = watch::take() {
            return carrying(Some(leave), || self.store.commit(commit));
        }
        let site = commit.site.clone();
        self.guarded(Operation::Apply, Some(&site), Role::Background, 1, |store| store.commit(commit))
    }
}
