//! Questions that are neither writes nor reads by key: what became of a write, which attributes a site has,
//! and all of its profiles.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use tower::Service;

use super::Core;
use crate::applier::RefusedList;
use crate::command::{ExportPage, Lookup, LookupFuture, ProfileView, ReadError, ReadRequest, WriteState};
use crate::guard::GuardedStore;
use crate::journal::JournalReader;
use crate::model::{NodeId, Position, ProfileKey, Site, User};
use crate::read::{Read, of_store};
use crate::sites::{SiteState, Sites};
use crate::store::switch::StoreSwitch;
use crate::store::{AttributeInfo, RecordCursor, StoredItem};

/// How long an export waits for writes that were accepted before it, and how often it looks.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);
const CATCH_UP_LOOK: Duration = Duration::from_millis(10);

/// Answers from what the node has in memory; only exports ask the store.
pub struct NodeLookup {
    node: NodeId,
    sites: Arc<Sites>,
    refused: Arc<RefusedList>,
    reader: JournalReader,
    reads: Read<GuardedStore>,
    store: Arc<StoreSwitch>,
    scans: GuardedStore,
}

impl NodeLookup {
    /// Asks what `core` has; profiles through `reads`.
    pub fn new(core: &Core, reads: Read<GuardedStore>) -> Self {
        Self {
            node: core.shared.node,
            sites: Arc::clone(&core.shared.sites),
            refused: Arc::clone(&core.refused),
            reader: core.shared.journal.reader(),
            reads,
            store: Arc::clone(&core.switch),
            scans: core.guarded(),
        }
    }

    fn state_now(&self, site: &Site, position: Position) -> Result<WriteState, ReadError> {
        let number = position.number;
        if position.node != self.node || !self.reader.issued(number) {
            return Ok(WriteState::Unknown);
        }
        if let Some(found) = self.sites.get(site)
            && found.lane.lock().is_waiting(number)
        {
            return Ok(WriteState::Pending);
        }
        if let Some(refused) = self.refused.state(site, number) {
            return Ok(refused);
        }
        // Without a store it is not known what was refused.
        self.store.check().map_err(of_store)?;
        Ok(WriteState::Applied)
    }
}

impl Lookup for NodeLookup {
    fn write_state(&self, site: Site, position: Position, _deadline: Instant) -> LookupFuture<WriteState> {
        let state = self.state_now(&site, position);
        Box::pin(std::future::ready(state))
    }

    fn attributes(&self, site: Site, _deadline: Instant) -> LookupFuture<Vec<AttributeInfo>> {
        let attributes = self
            .sites
            .get(&site)
            .map(|site| site.registry.load().all().cloned().collect())
            .unwrap_or_default();
        Box::pin(std::future::ready(Ok(attributes)))
    }

    fn export(
        &self,
        site: Site,
        after: Option<RecordCursor>,
        limit: usize,
        deadline: Instant,
    ) -> LookupFuture<ExportPage> {
        if let Err(error) = self.store.check() {
            return Box::pin(std::future::ready(Err(of_store(error))));
        }
        let begins = after.is_none().then(|| self.sites.get(&site)).flatten();
        let after = after.unwrap_or_else(|| RecordCursor::before_site(&site));
        let scans = self.scans.clone();
        let mut reads = self.reads.clone();
        Box::pin(async move {
            if let Some(state) = begins {
                caught_up(&state, deadline).await?;
            }
            let scan = scans.scan_records(&site, Some(after), limit);
            let page = timeout_at(tokio::time::Instant::from_std(deadline), scan)
                .await
                .map_err(|_| ReadError::Deadline)?
                .map_err(of_store)?;
            let mut users: Vec<User> = Vec::new();
            let mut next = page.next;
            for item in page.items {
                match item {
                    StoredItem::Profile { key, .. } if key.site == site => users.push(key.user),
                    // Sites are neighbours: the next one, or another kind of record, is the end of this.
                    _ => {
                        next = None;
                        break;
                    }
                }
            }
            let keys = users.iter().map(|user| ProfileKey::new(site.clone(), user.clone())).collect();
            // Read by key: with what waits laid on top, as any other reader sees them.
            let views: Vec<ProfileView> = reads.call(ReadRequest { keys, deadline }).await?;
            let profiles = users.into_iter().zip(views).filter(|(_, view)| view.profile.is_some()).collect();
            Ok(ExportPage { profiles, next })
        })
    }
}

/// Waits until everything that is accepted now has been applied: a scan of the store then has it.
async fn caught_up(site: &SiteState, deadline: Instant) -> Result<(), ReadError> {
    let Some(last) = site.lane.lock().last_durable() else { return Ok(()) };
    let give_up = deadline.min(Instant::now() + CATCH_UP_WITHIN);
    loop {
        let waiting = {
            let lane = site.lane.lock();
            if lane.low_water().is_none_or(|first| first > last) {
                return Ok(());
            }
            lane.waiting() as u64
        };
        if Instant::now() >= give_up {
            return Err(ReadError::Behind { waiting });
        }
        tokio::time::sleep(CATCH_UP_LOOK).await;
    }
}
