//! The applier: moves durable entries from the lanes into the store.
//!
//! One thread with a runtime of its own. Lanes with work stand in line; each gets a turn of a bounded
//! number of entries, has at most one turn under way, and stands in line again if there is more: a site
//! with a million entries delays no other. A turn fetches its entries, loads their records, evaluates
//! them in order (those of one user together) and commits once. Whoever may keep the store from being written
//! to is asked before ([`Permits`]).

pub(crate) mod batch;
mod conclude;
mod forget;
mod gate;
mod line;
mod permits;
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
use tokio::sync::{Notify, watch};
use tower::Service;

use crate::accept::{End, Requests, Usage};
use crate::clock::Clock;
use crate::kill_switch::KillSwitch;
use crate::ledger::Ledger;
use crate::model::Record;
use crate::read::{EntrySource, ProfileCache};
use crate::sites::{SiteState, Sites};
use crate::store::service::Load;
use crate::store::{Committed, SiteCommit, StoreError, StoreFuture};

pub use gate::{Closed, Gate};
use line::{Kind, Line};
pub use permits::{Leave, Permits, Wait};
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
    /// Who may keep it from lanes.
    pub permits: Arc<dyn Permits>,
    /// Which entries are to be left alone.
    pub holds: Arc<KillSwitch>,
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
    /// Lanes that wait for a turn.
    line: RefCell<Line<Arc<SiteState>>>,
    /// The turns under way that count.
    begun: RefCell<HashMap<u64, Kind>>,
    /// A turn has ended.
    freed: Notify,
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
        + Service<SiteCommit, Response = Committed, Error = StoreError, Future = StoreFuture<Committed>>
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
            line: RefCell::new(Line::new(self.turns)),
            begun: RefCell::default(),
            freed: Notify::new(),
            counters: Counters::new(),
            applier: self,
        });
        tokio::task::spawn_local(Rc::clone(&running).forget_outlived(stop.clone()));
        let stopping = stop.clone();
        loop {
            let next = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                next = running.next(&mut ready, &again, &stopping) => next,
            };
            let Some((site, kind)) = next else { break };
            running.begun.borrow_mut().insert(lane_id(&site), kind);
            let (running, again, stop) = (Rc::clone(&running), again.clone(), stopping.clone());
            tokio::task::spawn_local(async move {
                let pause = running.pass(&site).await;
                running.release(&site);
                running.pause(site, pause, &again, stop).await;
            });
        }
        // A store that hangs must not keep us for ever.
        if tokio::time::timeout(running.applier.last_turns, running.all_ended()).await.is_err() {
            tracing::warn!(
                "the store did not answer in time; what it has in hand is applied after the next start"
            );
        }
    }
}

impl<S> Running<S>
where
    S: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>
        + Service<SiteCommit, Response = Committed, Error = StoreError, Future = StoreFuture<Committed>>
        + Clone
        + 'static,
{
    /// The lane whose turn begins. Lanes that are to be left alone do not stand in line.
    async fn next(
        self: &Rc<Self>,
        ready: &mut UnboundedReceiver<Arc<SiteState>>,
        again: &UnboundedSender<Arc<SiteState>>,
        stop: &watch::Receiver<bool>,
    ) -> Option<(Arc<SiteState>, Kind)> {
        loop {
            while let Ok(site) = ready.try_recv() {
                self.stand_in_line(site, again, stop);
            }
            self.applier.gate.opened().await;
            let next = self.line.borrow_mut().next();
            if next.is_some() {
                return next;
            }
            tokio::select! {
                site = ready.recv() => self.stand_in_line(site?, again, stop),
                () = self.freed.notified() => {}
            }
        }
    }

    fn stand_in_line(
        self: &Rc<Self>,
        site: Arc<SiteState>,
        again: &UnboundedSender<Arc<SiteState>>,
        stop: &watch::Receiver<bool>,
    ) {
        if let Some(time) = self.applier.permits.left_alone(&site.site) {
            self.set_stalled(&site, true);
            let (running, again, stop) = (Rc::clone(self), again.clone(), stop.clone());
            tokio::task::spawn_local(async move {
                running.pause(site, Pause::For(time), &again, stop).await;
            });
            return;
        }
        let backlog = site.lane.lock().waiting() > self.applier.turn_entries;
        let kind = if backlog { Kind::Backlog } else { Kind::Fresh };
        self.line.borrow_mut().push(site, kind);
    }

    /// The turn has ended, or hangs: others may have its place.
    fn release(&self, site: &Arc<SiteState>) {
        if let Some(kind) = self.begun.borrow_mut().remove(&lane_id(site)) {
            self.line.borrow_mut().done(kind);
            self.freed.notify_one();
        }
    }

    async fn all_ended(&self) {
        while self.line.borrow().running() > 0 {
            self.freed.notified().await;
        }
    }

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

fn lane_id(site: &Arc<SiteState>) -> u64 {
    Arc::as_ptr(site) as u64
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
    /// After a while: something failed, or it is to be left alone.
    For(Duration),
    /// When something becomes durable, and after a while: some users failed and must wait their time.
    IdleUntil(Duration),
}
