//! Refused entries that have served go.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tower::Service;

use super::{RefusedList, Running, stopped};
use crate::model::{EventTime, Record, Site};
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
        let applier = &self.applier;
        let now = applier.clock.now();
        sweep(&applier.refused, now.minus(applier.requests.window()), now, async |site, positions| {
            // A site that is not known has nothing to forget.
            let Some(site) = applier.sites.get(&site) else { return true };
            let commit = SiteCommit { forget_refused: positions, ..SiteCommit::of(site.site.clone()) };
            match self.commit(&site, &commit, None).await {
                Ok(()) => true,
                // Its breaker says so itself.
                Err(StoreError::Withheld { .. }) => false,
                Err(error) => {
                    tracing::warn!(site = %site.site, %error, "old refused entries are forgotten later");
                    false
                }
            }
        })
        .await;
    }
}

/// Has `forget` forget what was refused before `before`, site by site. What it could not is put off, and so is what is
/// left when this is given up half-way: the store is not asked again before everything younger has had its turn.
async fn sweep(
    refused: &RefusedList,
    before: EventTime,
    now: EventTime,
    mut forget: impl AsyncFnMut(Site, Vec<u64>) -> bool,
) {
    let outlived = refused.outlived(before, AT_ONCE);
    let mut left = Left { refused, now, sites: outlived.into_iter().collect() };
    for at in 0..left.sites.len() {
        let Some((site, positions)) = left.sites.get(at).cloned() else { break };
        if forget(site, positions).await
            && let Some((_, positions)) = left.sites.get_mut(at)
        {
            positions.clear();
        }
    }
}

/// What is not forgotten yet. Dropped, it is put off.
struct Left<'a> {
    refused: &'a RefusedList,
    now: EventTime,
    sites: Vec<(Site, Vec<u64>)>,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        for (site, positions) in &self.sites {
            self.refused.put_off(site, positions, self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::model::{Command, Entry, Refusal};
    use crate::store::RefusedRecord;

    const WINDOW: Duration = Duration::from_mins(10);

    fn add(list: &RefusedList, site: &str, position: u64, at: EventTime) {
        let entry = Entry { site: Site::new(site), command: Command::DiscardRefused { position } };
        let reason = Refusal::ProfileTooLarge;
        let record = RefusedRecord { position, accepted_at: at, entry, reason, listed: false };
        list.add(&record, at);
    }

    /// Sweeps at `now`; `sick` sites refuse. Answers whom it asked for what.
    async fn swept(list: &RefusedList, now: EventTime, sick: &[&str]) -> Vec<(String, Vec<u64>)> {
        let mut asked = Vec::new();
        sweep(list, now.minus(WINDOW), now, async |site, positions| {
            let well = !sick.contains(&site.as_str());
            if well {
                for position in &positions {
                    list.remove(&site, *position);
                }
            }
            asked.push((site.as_str().to_owned(), positions));
            well
        })
        .await;
        asked
    }

    #[tokio::test]
    async fn what_a_sick_store_does_not_forget_is_tried_again_later_and_others_go_on() {
        let (list, begin) = (RefusedList::default(), EventTime::MIN);
        for (site, position) in [("sick", 1), ("well", 2), ("sick", 3)] {
            add(&list, site, position, begin);
        }
        assert_eq!(swept(&list, begin.plus(WINDOW / 2), &[]).await, [], "its time has not come");
        let now = begin.plus(2 * WINDOW);
        let asked = swept(&list, now, &["sick"]).await;
        assert_eq!(asked, [("sick".to_owned(), vec![1, 3]), ("well".to_owned(), vec![2])]);
        // Known all the while, and nobody is asked again and again.
        assert!(list.state(&Site::new("sick"), 3).is_some());
        assert_eq!(swept(&list, now.plus(WINDOW / 2), &["sick"]).await, []);
        let again = now.plus(2 * WINDOW);
        assert_eq!(swept(&list, again, &[]).await, [("sick".to_owned(), vec![1, 3])]);
        assert!(list.state(&Site::new("sick"), 3).is_none());
        assert_eq!(swept(&list, again.plus(9 * WINDOW), &[]).await, []);
    }

    #[tokio::test]
    async fn what_is_given_up_half_way_is_put_off_whole() {
        let (list, begin) = (RefusedList::default(), EventTime::MIN);
        for site in ["a", "b", "c"] {
            add(&list, site, 1, begin);
        }
        let now = begin.plus(2 * WINDOW);
        {
            let hang = async |site: Site, positions: Vec<u64>| {
                if site.as_str() == "b" {
                    std::future::pending::<()>().await;
                }
                list.remove(&site, positions[0]);
                true
            };
            let mut sweeping = Box::pin(sweep(&list, now.minus(WINDOW), now, hang));
            let polled = sweeping.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Pending);
        }
        let asked = swept(&list, now.plus(2 * WINDOW), &[]).await;
        assert_eq!(asked, [("b".to_owned(), vec![1]), ("c".to_owned(), vec![1])]);
    }
}
