//! The applier: moves durable entries from the lanes into the store.
//!
//! One thread with a runtime of its own. Lanes with work stand in line; each gets a turn of a bounded
//! number of entries, has at most one turn under way, and stands in line again if there is more: a site
//! with a million entries delays no other. A turn fetches its entries, loads their records, evaluates
//! them in order (those of one user together) and commits once.

pub(crate) mod batch;
mod conclude;
mod forget;
mod gate;
mod progress;
pub mod refused;
pub mod replay;
mod trouble;
mod turn;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Semaphore, watch};
use tower::Service;

use crate::accept::{End, Requests, Usage};
use crate::clock::Clock;
use crate::ledger::Ledger;
use crate::model::Record;
use crate::read::{EntrySource, ProfileCache};
use crate::sites::{SiteState, Sites};
use crate::store::service::Load;
use crate::store::{Committed, SiteCommit, StoreError};

pub use gate::{Closed, Gate};
pub use progress::Progress;
pub use refused::RefusedList;
use trouble::Trouble;

/// What the applier works on.
pub struct Applier<S> {
    /// The sites and their lanes.
    pub sites: Arc<Sites>,
    /// Where entries are read back from.
    pub entries: EntrySource,
    /// The profile cache, which learns what is committed.
    pub cache: Arc<ProfileCache>,
    /// The request table, which learns what became of ids.
    pub requests: Arc<Requests>,
    /// The refused entries.
    pub refused: Arc<RefusedList>,
    /// Waiting bytes.
    pub usage: Arc<Usage>,
    /// Counts what becomes of entries.
    pub ledger: Arc<Ledger>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What turns pass through on their way to the store.
    pub gate: Arc<Gate>,
    /// Turns under way at once, over all lanes.
    pub turns: usize,
    /// Entries that a lane may take in one turn.
    pub turn_entries: usize,
    /// Loads and commits, through whatever layers there are.
    pub store: S,
    /// How long turns under way may still take when it is to stop. What they do not finish waits for the
    /// next start.
    pub last_turns: Duration,
}

struct Running<S> {
    applier: Applier<S>,
    troubles: RefCell<HashMap<u64, Trouble>>,
    /// Turns that were committed, over all lanes.
    successes: Cell<u64>,
    /// Which opening of the gate the troubles are of.
    opening: Cell<u64>,
    counters: Counters,
}

/// Looked up once: entries are many.
struct Counters {
    applied: metrics::Counter,
    unchanged: metrics::Counter,
    duplicate: metrics::Counter,
    refused: metrics::Counter,
}

impl Counters {
    fn new() -> Self {
        let counter = |end: &'static str| metrics::counter!(crate::metrics::ENTRIES_APPLIED, "end" => end);
        Self {
            applied: counter("applied"),
            unchanged: counter("unchanged"),
            duplicate: counter("duplicate"),
            refused: counter("refused"),
        }
    }

    fn count(&self, end: &End) {
        match end {
            End::Applied { .. } => &self.applied,
            End::Unchanged { .. } => &self.unchanged,
            End::Duplicate { .. } => &self.duplicate,
            End::Refused(_) => &self.refused,
        }
        .increment(1);
    }
}

impl<S> Applier<S>
where
    S: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>
        + Service<SiteCommit, Response = Committed, Error = StoreError>
        + Clone
        + 'static,
{
    /// Gives lanes from `ready` their turns until `stop` says so; then lets the turns that are under way
    /// end. To be run on a single-threaded runtime inside a [`tokio::task::LocalSet`].
    pub async fn run(
        self,
        mut ready: UnboundedReceiver<Arc<SiteState>>,
        again: UnboundedSender<Arc<SiteState>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let running = Rc::new(Running {
            troubles: RefCell::default(),
            successes: Cell::new(0),
            opening: Cell::new(self.gate.changes()),
            counters: Counters::new(),
            applier: self,
        });
        tokio::task::spawn_local(Rc::clone(&running).forget_outlived(stop.clone()));
        let limit = running.applier.turns;
        let turns = Arc::new(Semaphore::new(limit));
        loop {
            let next = async {
                let site = ready.recv().await?;
                running.applier.gate.opened().await;
                // All permits may be with turns that hang.
                Some((site, Arc::clone(&turns).acquire_owned().await.ok()?))
            };
            let next = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                next = next => next,
            };
            let Some((site, permit)) = next else { break };
            let (running, again, stop) = (Rc::clone(&running), again.clone(), stop.clone());
            tokio::task::spawn_local(async move {
                let pause = running.pass(&site).await;
                drop(permit);
                running.pause(site, pause, &again, stop).await;
            });
        }
        // All turns have ended when all permits are back. A store that hangs must not keep us for ever.
        let all = turns.acquire_many(limit as u32);
        if tokio::time::timeout(running.applier.last_turns, all).await.is_err() {
            tracing::warn!(
                "the store did not answer in time; what it has in hand is applied after the next start"
            );
        }
    }
}

impl<S> Running<S>
where
    S: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>
        + Service<SiteCommit, Response = Committed, Error = StoreError>
        + Clone
        + 'static,
{
    /// A turn, if the gate is open.
    async fn pass(&self, site: &Arc<SiteState>) -> Pause {
        let gate = &self.applier.gate;
        let Some(_pass) = gate.enter() else { return Pause::None };
        if self.opening.replace(gate.changes()) != gate.changes() {
            // Behind the gate there may be another store now: what failed on the old one says nothing.
            self.troubles.borrow_mut().clear();
        }
        self.turn(site).await
    }

    /// Puts the lane back into the line when it wants its next turn.
    async fn pause(
        &self,
        site: Arc<SiteState>,
        pause: Pause,
        again: &UnboundedSender<Arc<SiteState>>,
        stop: watch::Receiver<bool>,
    ) {
        let (time, scheduled) = match pause {
            Pause::Idle => return,
            Pause::None => return drop(again.send(site)),
            Pause::For(time) => (time, true),
            Pause::IdleUntil(time) => (time, false),
        };
        let gate = &self.applier.gate;
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = gate.opened_anew(gate.changes()) => {}
            () = stopped(stop) => return,
        }
        if !scheduled {
            self.timer_done(&site);
        }
        let mut lane = site.lane.lock();
        lane.look_again();
        if scheduled || lane.claim() {
            drop(again.send(Arc::clone(&site)));
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    drop(stop.wait_for(|stop| *stop).await);
}

/// When a lane wants its next turn.
enum Pause {
    /// When something becomes durable.
    Idle,
    /// At once.
    None,
    /// After a while: something failed.
    For(Duration),
    /// When something becomes durable, and after a while: some users failed and must wait their time.
    IdleUntil(Duration),
}
