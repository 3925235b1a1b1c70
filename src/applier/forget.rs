//! Refused entries that have served go.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tower::Service;

use super::{Running, stopped};
use crate::model::Record;
use crate::store::service::Load;
use crate::store::{Committed, SiteCommit, StoreError, StoreFuture};

/// How often refused entries that have served are looked for, and how many go at once.
const EVERY: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 10_000;

impl<S> Running<S>
where
    S: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>
        + Service<SiteCommit, Response = Committed, Error = StoreError, Future = StoreFuture<Committed>>
        + Clone
        + 'static,
{
    /// Version mismatches are only kept for retries, as long as request ids are; then they go.
    pub(super) async fn forget_outlived(self: Rc<Self>, stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = stopped(stop.clone()) => return,
            }
            let Some(_pass) = self.applier.gate.enter() else { continue };
            tokio::select! {
                () = self.applier.gate.closed() => {}
                () = self.forget_once() => {}
            }
        }
    }

    async fn forget_once(&self) {
        let before = self.applier.clock.now().minus(self.applier.requests.window());
        for (site, positions) in self.applier.refused.outlived(before, AT_ONCE) {
            let Some(site) = self.applier.sites.get(&site) else { continue };
            let commit = SiteCommit { forget_refused: positions, ..SiteCommit::of(site.site.clone()) };
            if let Err(error) = self.commit(&site, &commit, None).await {
                // They stay on the disk until the next start finds them again.
                tracing::warn!(site = %site.site, %error, "old refused entries could not be forgotten");
            }
        }
    }
}
