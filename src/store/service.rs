//! The store as tower services: what the applier and the readers call, and where layers such as a
//! breaker go around.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::Service;

use super::{Committed, Purpose, SiteCommit, Store, StoreError, StoreFuture};
use crate::model::{ProfileKey, Record};

/// A load of some records of one site.
#[derive(Clone, Debug)]
pub struct Load {
    /// On whose behalf.
    pub purpose: Purpose,
    /// Which, all of one site.
    pub keys: Vec<ProfileKey>,
}

/// Calls the store of the moment.
#[derive(Clone)]
pub struct StoreService {
    store: Arc<dyn Store>,
}

impl StoreService {
    /// Calls `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

impl std::fmt::Debug for StoreService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreService").finish_non_exhaustive()
    }
}

impl Service<Load> for StoreService {
    type Response = Vec<Option<Arc<Record>>>;
    type Error = StoreError;
    type Future = StoreFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, load: Load) -> Self::Future {
        self.store.load(load.purpose, load.keys)
    }
}

impl Service<SiteCommit> for StoreService {
    type Response = Committed;
    type Error = StoreError;
    type Future = StoreFuture<Committed>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, commit: SiteCommit) -> Self::Future {
        self.store.commit(commit)
    }
}
