//! The list of refused and parked entries, and what operators decide on them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout_at;

use super::attributes::NOBODY;
use crate::accept::{Shared, Ticket};
use crate::applier::RefusedList;
use crate::applier::refused::Listed;
use crate::command::operate::{
    Cause, Decision, RefusedDesk, RefusedEntry, RefusedQuery, Resolve, ResolveRefused, ResolveRequest,
};
use crate::command::{Outcome, Receipt};
use crate::model::{Command, Entry, Notes, Position, Site};
use crate::sites::SiteState;
use crate::store::Store;

/// How long the store may take with a refused entry that memory has no room for.
const LOAD: Duration = Duration::from_secs(5);

/// Lists and resolves.
#[derive(Clone)]
pub struct Refusals {
    /// Acceptance.
    pub shared: Arc<Shared>,
    /// The refused entries.
    pub refused: Arc<RefusedList>,
    /// Has those that memory has no room for.
    pub store: Arc<dyn Store>,
    /// Lanes with work go here.
    pub ready: UnboundedSender<Arc<SiteState>>,
}

impl RefusedDesk for Refusals {
    fn list(&self, query: &RefusedQuery) -> Vec<RefusedEntry> {
        let node = self.shared.node;
        let refused = self.refused.list(query).into_iter().map(|listed| {
            let Listed { site, position, entry, reason, accepted_at, refused_at } = listed;
            let user = entry.as_deref().and_then(Entry::profile_key).map(|key| key.user);
            RefusedEntry {
                site,
                position: Position { node, number: position },
                user,
                reason: Some(reason),
                failure: String::new(),
                accepted_at,
                refused_at,
                waiting_behind: 0,
                entry,
            }
        });
        let mut found: Vec<RefusedEntry> = refused.chain(self.parked(query)).collect();
        found.sort_by(|a, b| (&a.site, a.position.number).cmp(&(&b.site, b.position.number)));
        found.truncate(query.limit);
        found
    }

    fn resolve(&self, request: ResolveRequest) -> Decision<Vec<Result<Receipt, ResolveRefused>>> {
        let desk = self.clone();
        Box::pin(async move {
            // All are handed over before the first is waited for.
            join_all(request.positions.iter().map(|position| desk.resolve_one(&request, *position))).await
        })
    }
}

impl Refusals {
    /// The first waiting entry of each parked user.
    fn parked(&self, query: &RefusedQuery) -> Vec<RefusedEntry> {
        let node = self.shared.node;
        let sites = match &query.site {
            Some(site) => self.shared.sites.get(site).into_iter().collect(),
            None => self.shared.sites.all(),
        };
        let mut found = Vec::new();
        for site in sites {
            let parked = site.lane.lock().parked_users();
            for parked in parked {
                let after = query.after.as_ref();
                let behind = after
                    .is_none_or(|(after, number)| (after, *number) < (&site.site, parked.first.position));
                if !behind || query.user.is_some_and(|user| user != parked.first.user) {
                    continue;
                }
                let hot = parked.first.hot.as_ref();
                let entry = hot.map(|pending| Arc::clone(&pending.entry));
                found.push(RefusedEntry {
                    site: site.site.clone(),
                    position: Position { node, number: parked.first.position },
                    user: entry.as_deref().and_then(Entry::profile_key).map(|key| key.user),
                    reason: None,
                    failure: parked.failure,
                    accepted_at: hot
                        .and_then(|pending| pending.accepted_at.get().copied())
                        .unwrap_or(parked.at),
                    refused_at: parked.at,
                    waiting_behind: parked.count - 1,
                    entry,
                });
            }
        }
        found
    }

    async fn resolve_one(
        &self,
        request: &ResolveRequest,
        position: Position,
    ) -> Result<Receipt, ResolveRefused> {
        if position.node != self.shared.node {
            return Err(ResolveRefused::Unknown);
        }
        let (site, number) = (&request.site, position.number);
        if self.unpark(request, position)? {
            return Ok(Receipt {
                outcome: Outcome::Deferred,
                version: None,
                position: Some(position),
                notes: Notes::default(),
            });
        }
        // From here on nobody else resolves it: a retry must not become two.
        if !self.refused.claim(site, number) {
            return Err(ResolveRefused::Unknown);
        }
        let submitted = match request.action {
            Resolve::Discard => self.submit(site, number, None),
            Resolve::Retry => match self.content(site, number, request.deadline).await {
                Ok(entry) => self.submit(site, number, Some(entry)),
                Err(error) => Err(error),
            },
        };
        let ticket = match submitted {
            Ok(ticket) => ticket,
            Err(error) => {
                self.refused.give_back(site, number);
                return Err(error);
            }
        };
        let Cause { owner, reason } = &request.cause;
        tracing::info!(owner, reason, %site, position = number, action = ?request.action, "a refused entry was resolved");
        let mut receipt = self.shared.answer(ticket, false, request.deadline).await?;
        if request.action == Resolve::Discard {
            receipt.version = None;
        }
        Ok(receipt)
    }

    /// Lets the applier try a parked user again; whether there was one at this position.
    fn unpark(&self, request: &ResolveRequest, position: Position) -> Result<bool, ResolveRefused> {
        let Some(site) = self.shared.sites.get(&request.site) else { return Err(ResolveRefused::Unknown) };
        let mut lane = site.lane.lock();
        let parked = lane.parked_users();
        let Some(user) = parked.iter().find(|user| user.first.position == position.number) else {
            return Ok(false);
        };
        if request.action == Resolve::Discard {
            return Err(ResolveRefused::Parked);
        }
        if lane.unpark(user.first.user) {
            // The applier outlives this; without it there is nobody to wake.
            drop(self.ready.send(Arc::clone(&site)));
        }
        Ok(true)
    }

    /// A refused entry, with the time that it happened at.
    async fn content(&self, site: &Site, position: u64, deadline: Instant) -> Result<Entry, ResolveRefused> {
        let (entry, accepted_at) = match self.refused.entry(site, position) {
            Some((Some(entry), accepted_at)) => ((*entry).clone(), accepted_at),
            Some((None, _)) => {
                let load = self.store.load_refused(site.clone(), position);
                let until = deadline.min(Instant::now() + LOAD);
                let loaded = timeout_at(tokio::time::Instant::from_std(until), load).await;
                let loaded =
                    loaded.map_err(|_| ResolveRefused::NotRead("the store does not answer".to_owned()))?;
                let record = loaded.map_err(|error| ResolveRefused::NotRead(error.to_string()))?;
                let record = record.ok_or(ResolveRefused::Unknown)?;
                (record.entry, record.accepted_at)
            }
            None => return Err(ResolveRefused::Unknown),
        };
        let Entry { site, command: Command::Write(mut write) } = entry else {
            return Err(ResolveRefused::Unknown);
        };
        // It happened when it happened, and its request id has been answered.
        write.occurred_at.get_or_insert(accepted_at);
        write.request_id = None;
        Ok(Entry { site, command: Command::Write(write) })
    }

    /// Hands the retry, if it is one, and the end of the refused entry to the journal: both or none.
    fn submit(
        &self,
        site: &Site,
        position: u64,
        retry: Option<Entry>,
    ) -> Result<Arc<Ticket>, ResolveRefused> {
        if self.shared.draining.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(crate::command::WriteError::Draining.into());
        }
        let discard = Entry { site: site.clone(), command: Command::DiscardRefused { position } };
        let (first, last) = (Arc::new(Ticket::default()), Arc::new(Ticket::default()));
        let mut entries = Vec::with_capacity(2);
        let is_retry = retry.is_some();
        if let Some(retry) = retry {
            let user = retry.profile_key().map_or(NOBODY, |key| key.hash64());
            entries.push((user, retry, Arc::clone(&first)));
        }
        entries.push((NOBODY, discard, Arc::clone(&last)));
        self.shared.submit_together(entries)?;
        Ok(if is_retry { first } else { last })
    }
}
