//! Puts the status of the node together, from memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::history::{FOLLOWED, History, Sample, time_to_full};
use super::store_view;
use crate::accept::Shared;
use crate::api::Meters;
use crate::app::Core;
use crate::applier::{Permits as _, RefusedList};
use crate::command::breakers::{
    BreakerOperation, BreakerScope, BreakerState, BreakerStatus, Pace, PaceStatus,
};
use crate::command::operate::{RebuildTasks, SnapshotTasks, StatusSource};
use crate::command::{
    BacklogState, BacklogStatus, JournalHealth, JournalStatus, NodeStatus, OperationKind, OperationStatus,
    QuotaStatus, RestartAdvice, ServingState, SiteStatus, SnapshotProgress, StatusQuery, StoreHealth,
    StoreStatus, TaskState,
};
use crate::guard::{self, Guard};
use crate::journal::JournalState;
use crate::kill_switch::KillSwitch;
use crate::meter::{Meter, Recent, WINDOW};
use crate::model::{EventTime, Site};
use crate::rebuild::Rebuilds;
use crate::serve::{Health, Node};
use crate::sites::SiteState;
use crate::store::metered::StoreMeters;
use crate::store::switch::StoreSwitch;

/// Entries that wait no longer than this are under way.
const USUAL_WAIT: Duration = Duration::from_secs(1);

/// Breakers of a status.
const BREAKERS: usize = 100;

/// Holds that are named as what a site waits for.
const NAMED_HOLDS: usize = 3;

/// Lines of `why`.
const WHY: usize = 20;

/// What a status is put together from.
pub struct Watch {
    shared: Arc<Shared>,
    holds: Arc<KillSwitch>,
    refused: Arc<RefusedList>,
    store: Arc<StoreSwitch>,
    hung: Rebuilds,
    guard: Arc<Guard>,
    index_limit: u64,
    connections: Arc<Node>,
    health: Health,
    operations: Meters,
    calls: StoreMeters,
    snapshots: Option<Arc<dyn SnapshotTasks>>,
    rebuilds: Option<Arc<dyn RebuildTasks>>,
    started_at: EventTime,
    history: Mutex<History>,
}

/// What is there besides the core.
pub struct Around {
    /// Counts connections.
    pub connections: Arc<Node>,
    /// Whether writes are accepted.
    pub health: Health,
    /// What services ask for.
    pub operations: Meters,
    /// Memory of the attribute index.
    pub index_limit: u64,
    /// Bytes of the journal's segments.
    pub segment: u64,
    /// The journal's quota as configured.
    pub total_quota: u64,
    /// Takes snapshots.
    pub snapshots: Option<Arc<dyn SnapshotTasks>>,
    /// Rebuilds the store.
    pub rebuilds: Option<Arc<dyn RebuildTasks>>,
}

/// The lanes, added up.
#[derive(Default)]
struct Lanes {
    waiting: Vec<(u64, Arc<SiteState>)>,
    entries: u64,
    bytes: u64,
    parked: u64,
    oldest: Option<u64>,
}

impl Watch {
    /// A status of `core` and what is around it.
    pub fn new(core: &Core, around: Around, now: Instant) -> Self {
        let mut watch = Self {
            shared: Arc::clone(&core.shared),
            holds: Arc::clone(core.holds.switch()),
            refused: Arc::clone(&core.refused),
            store: Arc::clone(&core.switch),
            hung: core.rebuilds.clone(),
            guard: Arc::clone(&core.guard),
            index_limit: around.index_limit,
            connections: around.connections,
            health: around.health,
            operations: around.operations,
            calls: core.meters.clone(),
            snapshots: around.snapshots,
            rebuilds: around.rebuilds,
            started_at: core.shared.clock.now(),
            history: Mutex::new(History::new(now, Sample::default())),
        };
        let first = watch.measure();
        watch.history = Mutex::new(History::new(now, first));
        watch
    }

    /// Notes where things stand; to be called once a second.
    pub fn sample(&self, now: Instant) {
        self.operations.sample(now);
        self.calls.sample(now);
        self.shared.journal.syncs().sample(now);
        let sample = self.measure();
        let mut history = self.history.lock();
        history.add(now, sample);
        let left = self.time_to_full(&history, now);
        drop(history);
        // Prometheus has no value for "never": it is infinite.
        let left = left.map_or(f64::INFINITY, |left| left.as_secs_f64());
        metrics::gauge!(crate::metrics::JOURNAL_TIME_TO_FULL_SECONDS).set(left);
    }

    fn measure(&self) -> Sample {
        let mut lanes = self.lanes();
        lanes.waiting.truncate(FOLLOWED);
        let bytes_of = |site: &SiteState| site.lane.lock().bytes();
        Sample {
            wall: self.shared.clock.now(),
            end: self.shared.journal.reader().end(),
            pending: lanes.entries,
            used: self.shared.journal.usage().used,
            pending_bytes: lanes.bytes,
            sites: lanes.waiting.iter().map(|(_, site)| (site.site.clone(), bytes_of(site))).collect(),
        }
    }

    /// All lanes with entries waiting, the longest first.
    fn lanes(&self) -> Lanes {
        let mut lanes = Lanes::default();
        for site in self.shared.sites.all() {
            let lane = site.lane.lock();
            let waiting = lane.waiting() as u64;
            if waiting == 0 {
                continue;
            }
            lanes.entries += waiting;
            lanes.bytes += lane.bytes();
            lanes.parked += lane.parked_entries();
            let first = lane.low_water();
            drop(lane);
            lanes.oldest = lanes.oldest.into_iter().chain(first).min();
            lanes.waiting.push((waiting, site));
        }
        lanes.waiting.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.site.cmp(&b.1.site)));
        lanes
    }

    /// Time until no write fits any more. While snapshots release what is applied only what waits fills the
    /// journal; if one is overdue, everything does.
    fn time_to_full(&self, history: &History, now: Instant) -> Option<Duration> {
        let usage = self.shared.journal.usage();
        let room = usage.limit.saturating_sub(usage.used);
        if self.snapshot().overdue {
            return time_to_full(history, now, room, usage.used, |sample| Some(sample.used));
        }
        let pending = self.shared.usage.pending.load(Ordering::Relaxed);
        time_to_full(history, now, room, pending, |sample| Some(sample.pending_bytes))
    }

    fn snapshot(&self) -> SnapshotProgress {
        self.snapshots.as_ref().map(|snapshots| snapshots.progress()).unwrap_or_default()
    }

    fn journal(&self, history: &History, now: Instant) -> JournalStatus {
        let shared = &self.shared;
        let (usage, reader) = (shared.journal.usage(), shared.journal.reader());
        let health = match shared.journal.state() {
            JournalState::Failed(_) | JournalState::Closed => JournalHealth::Failed,
            JournalState::Stalled(_) => JournalHealth::Stalled,
            JournalState::Running if usage.is_full() => JournalHealth::Full,
            JournalState::Running => JournalHealth::Ok,
        };
        let end = reader.end();
        let syncs = shared.journal.syncs().recent(now);
        JournalStatus {
            health,
            used_bytes: usage.used,
            limit_bytes: usage.limit,
            time_to_full: self.time_to_full(history, now),
            segments: reader.segments().len() as u64,
            first_position: if end == 0 { 0 } else { reader.start() },
            last_position: end,
            entries_per_second: history.rate(now, WINDOW, end, |sample| Some(sample.end)).max(0.0),
            sync_p50: syncs.p50,
            sync_p99: syncs.p99,
            oldest_unsynced: shared.journal.oldest_unsynced(),
        }
    }

    fn backlog(&self, lanes: &Lanes, history: &History, now: Instant, end: u64) -> BacklogStatus {
        let accepted = history.rate(now, WINDOW, end, |sample| Some(sample.end)).max(0.0);
        let growth = history.rate(now, WINDOW, lanes.entries, |sample| Some(sample.pending));
        let applied = (accepted - growth).max(0.0);
        let oldest_age = lanes.oldest.map(|first| self.age(history, first));
        let active = lanes.entries - lanes.parked.min(lanes.entries);
        let resuming = self.guard.is_resuming();
        let usual = oldest_age.is_none_or(|age| age < USUAL_WAIT) && !resuming;
        let state = if active == 0 || usual {
            BacklogState::None
        } else if self.guard.is_open(guard::Operation::Apply) || self.all_left_alone(lanes) {
            BacklogState::Waiting
        } else if applied > accepted || resuming {
            BacklogState::CatchingUp
        } else {
            BacklogState::NotCatchingUp
        };
        let left = active as f64 / (applied - accepted).max(0.001);
        BacklogStatus {
            state,
            entries: lanes.entries,
            bytes: lanes.bytes,
            oldest_age,
            applied_per_second: applied,
            accepted_per_second: accepted,
            time_to_catch_up: (state == BacklogState::CatchingUp && applied > accepted)
                .then(|| Duration::from_secs_f64(left.min(3.2e8))),
            parked: lanes.parked,
            refused: self.refused.listed() as u64,
            pace: self.pace(None),
        }
    }

    /// Whether no lane in which entries wait is being applied, because of holds, breakers or operators.
    fn all_left_alone(&self, lanes: &Lanes) -> bool {
        let holds = self.holds.view();
        let is_held =
            |site: &Site| holds.deferral(site).is_some() && self.guard.resuming(Some(site)).is_none();
        lanes
            .waiting
            .iter()
            .all(|(_, site)| is_held(&site.site) || self.guard.left_alone(&site.site).is_some())
    }

    /// The pace that an operator set for a site, or for all.
    fn pace(&self, site: Option<&Site>) -> Option<PaceStatus> {
        Some(self.guard.pace(site)).filter(|set| set.pace != Pace::Automatic)
    }

    fn paused(&self, site: &Site) -> bool {
        [None, Some(site)].into_iter().any(|site| self.guard.pace(site).pace == Pace::Paused)
    }

    fn age(&self, history: &History, position: u64) -> Duration {
        let now = self.shared.clock.now();
        history.accepted_by(position).map_or(Duration::ZERO, |accepted| now.since(accepted))
    }

    fn site(&self, site: &Arc<SiteState>, history: &History, now: Instant) -> SiteStatus {
        let lane = site.lane.lock();
        let (entries, bytes, stalled) = (lane.waiting() as u64, lane.bytes(), lane.is_stalled());
        let (parked, first) = (lane.parked_entries(), lane.low_water());
        drop(lane);
        let refused_bytes = site.refused_bytes.load(Ordering::Relaxed);
        let (used, limit) = (bytes + refused_bytes, self.shared.site_quota(site));
        let left = time_to_full(history, now, limit.saturating_sub(used), bytes, |sample| {
            sample.sites.get(&site.site).copied()
        });
        let oldest_age = first.map(|first| self.age(history, first));
        let late = oldest_age.is_some_and(|age| age >= USUAL_WAIT);
        let state = match (entries > parked && late, stalled) {
            (false, _) => BacklogState::None,
            (true, true) => BacklogState::Waiting,
            (true, false) => BacklogState::CatchingUp,
        };
        let left_alone = entries > parked && self.guard.left_alone(&site.site).is_some();
        let held: Vec<String> =
            self.holds.deferring(&site.site).iter().map(ToString::to_string).take(NAMED_HOLDS).collect();
        let state = if held.is_empty() || !late { state } else { BacklogState::Waiting };
        let resuming = self.guard.resuming(Some(&site.site)).filter(|_| entries > parked && !left_alone);
        let state = if resuming.is_some() && held.is_empty() { BacklogState::CatchingUp } else { state };
        let waiting_for = match (stalled, parked) {
            _ if !held.is_empty() && entries > 0 => held.join(", "),
            _ if left_alone && self.paused(&site.site) => "an operator: the applier is paused".to_owned(),
            _ if left_alone => "the store: its apply breaker is open".to_owned(),
            _ if resuming.is_some() => {
                let rate = resuming.unwrap_or_default();
                format!("its turn: {rate:.0} entries/s are let in after a hold")
            }
            (true, _) => "the store, which does not take its commits".to_owned(),
            (false, 0) => String::new(),
            (false, parked) => format!("an operator: {parked} entries are parked"),
        };
        SiteStatus {
            site: site.site.clone(),
            backlog: BacklogStatus {
                state,
                entries,
                bytes,
                oldest_age,
                parked,
                refused: self.refused.listed_of(&site.site),
                pace: self.pace(Some(&site.site)),
                ..BacklogStatus::default()
            },
            quota: QuotaStatus {
                site: Some(site.site.clone()),
                used_bytes: used,
                limit_bytes: limit,
                overridden: site.quota.load(Ordering::Relaxed) != 0,
                time_to_full: left,
            },
            waiting_for,
        }
    }
}

impl StatusSource for Watch {
    fn status(&self, query: &StatusQuery) -> NodeStatus {
        let (now, at) = (Instant::now(), self.shared.clock.now());
        let lanes = self.lanes();
        let history = self.history.lock();
        let journal = self.journal(&history, now);
        let backlog = self.backlog(&lanes, &history, now, journal.last_position);
        let sites = match &query.site {
            Some(site) => self.shared.sites.get(site).into_iter().collect::<Vec<_>>(),
            None => lanes.waiting.iter().take(query.max_sites).map(|(_, site)| Arc::clone(site)).collect(),
        };
        let sites = sites.iter().map(|site| self.site(site, &history, now)).collect();
        let rebuild = self.rebuilds.as_ref().and_then(|rebuilds| rebuilds.progress());
        let mut store = store_view::look(&self.store, &self.hung, &self.calls, now);
        store.index_limit_bytes = self.index_limit;
        store.cache_miss_share = self.miss_share(now);
        let restart = restart(&lanes, &history, &journal, &store);
        drop(history);
        let mut status = NodeStatus {
            node: self.shared.node,
            started_at: self.started_at,
            at,
            state: ServingState::Serving,
            why: Vec::new(),
            operations: self.operations(now),
            journal,
            backlog,
            sites,
            sites_with_pending: lanes.waiting.len() as u64,
            sites_known: self.shared.sites.len() as u64,
            store,
            rebuild,
            snapshot: self.snapshot(),
            breakers: self.guard.breakers(BREAKERS),
            restart,
            connections: self.connections.connections() as u64,
            connections_limit: self.connections.max_connections() as u64,
        };
        self.judge(&mut status);
        status
    }
}

impl Watch {
    fn operations(&self, now: Instant) -> Vec<OperationStatus> {
        let meters = &self.operations;
        let each: [(OperationKind, &Meter); 4] = [
            (OperationKind::Identify, &meters.identify),
            (OperationKind::Get, &meters.get),
            (OperationKind::Query, &meters.query),
            (OperationKind::Delete, &meters.delete),
        ];
        each.into_iter()
            .map(|(operation, meter)| {
                let Recent { per_second, errors_per_second, deferred_per_second, in_flight, p50, p99 } =
                    meter.recent(now);
                OperationStatus {
                    operation,
                    requests_per_second: per_second,
                    errors_per_second,
                    deferred_per_second,
                    in_flight,
                    p50,
                    p99,
                }
            })
            .collect()
    }

    /// The share of reads that the cache did not answer, so that the store was asked.
    fn miss_share(&self, now: Instant) -> f64 {
        let (reads, loads) = (self.operations.get.recent(now), self.calls.gets.recent(now));
        if reads.per_second == 0.0 { 0.0 } else { (loads.per_second / reads.per_second).min(1.0) }
    }

    /// Says what the node does as a whole, and why not more.
    fn judge(&self, status: &mut NodeStatus) {
        let mut why = Vec::new();
        let draining = self.shared.draining.load(Ordering::Relaxed);
        let refusing = self.health.refusing();
        if let Some(reason) = &refusing {
            why.push(reason.to_string());
        }
        if status.journal.health == JournalHealth::Full {
            why.push("the journal is full: new writes are refused".to_owned());
        }
        let (store, backlog) = (&status.store, &status.backlog);
        match store.health {
            StoreHealth::Rebuilding => why.push("the store is being filled from the journal".to_owned()),
            StoreHealth::Failed => why.push(format!("the store failed: {}", store.last_error)),
            StoreHealth::Serving | StoreHealth::IndexBuilding => {}
        }
        if store.hung_in_use > 0 {
            why.push(format!("{} threads hang inside the store", store.hung_in_use));
        }
        why.extend(status.breakers.iter().filter(|b| b.state != BreakerState::Closed).map(told));
        if let Some(pace) = &backlog.pace {
            why.push(match pace.pace {
                Pace::Paused => format!("the applier is paused by {}: {}", pace.owner, pace.reason),
                _ => format!("the pace of the applier is set by {}: {}", pace.owner, pace.reason),
            });
        }
        let running = |rebuild: &crate::command::RebuildProgress| rebuild.state == TaskState::Running;
        if status.rebuild.as_ref().is_some_and(running) {
            why.push("the store is being rebuilt".to_owned());
        }
        match backlog.state {
            BacklogState::CatchingUp => why.push(format!("catching up: {} entries wait", backlog.entries)),
            BacklogState::NotCatchingUp => {
                why.push(format!("NOT catching up: {} entries wait", backlog.entries));
            }
            BacklogState::Waiting => why.push(format!("{} entries wait", backlog.entries)),
            BacklogState::None => {}
        }
        if self.guard.is_resuming() && backlog.entries > 0 {
            why.push("what a hold let go is applied at a rising rate".to_owned());
        }
        let holds = self.holds.in_force();
        if holds > 0 {
            let are = if holds == 1 { "hold is" } else { "holds are" };
            why.push(format!("{holds} {are} in force: see `steadfast holds`"));
        }
        if backlog.parked > 0 {
            why.push(format!("{} entries are parked: see `steadfast refused list`", backlog.parked));
        }
        if status.snapshot.overdue {
            why.push("a snapshot is overdue".to_owned());
        }
        status.state = if draining || refusing.as_ref().is_some_and(|why| why.starts_with("draining")) {
            ServingState::Draining
        } else if refusing.is_some() || status.journal.health == JournalHealth::Full {
            ServingState::NotAccepting
        } else if why.is_empty() {
            ServingState::Serving
        } else {
            ServingState::Impaired
        };
        why.truncate(WHY);
        status.why = why;
    }
}

/// A breaker that is not closed, in words.
fn told(breaker: &BreakerStatus) -> String {
    let BreakerScope { operation, site } = &breaker.scope;
    let whose = site.as_ref().map_or_else(|| "the store".to_owned(), |site| format!("site {site}"));
    let state = match breaker.state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "trying the store",
        BreakerState::Recovering => "letting load back in",
    };
    let means = match (breaker.state, operation) {
        (BreakerState::Recovering | BreakerState::Closed, _) => "",
        (_, BreakerOperation::Apply) => ": writes are deferred",
        (_, BreakerOperation::Load) => ": only cached profiles are served",
        (_, BreakerOperation::Query) => ": queries are refused",
    };
    let by = breaker.ordered.as_ref().map_or_else(String::new, |ordered| {
        format!(" (by {}: {})", ordered.order.owner, ordered.order.reason)
    });
    format!("the {} breaker of {whose} is {state}{by}{means}", operation.as_str())
}

/// What a start would have to do: read the entries of the last minutes for their request ids and those that
/// wait, and open the store. Both rates are what one core of a small machine reached.
fn restart(lanes: &Lanes, history: &History, journal: &JournalStatus, store: &StoreStatus) -> RestartAdvice {
    const ENTRIES_PER_SECOND: f64 = 300_000.0;
    const PROFILES_PER_SECOND: f64 = 1_000_000.0;
    let pending = lanes.entries;
    let read = history.lately(journal.last_position) + pending;
    let seconds = 0.5 + read as f64 / ENTRIES_PER_SECOND + store.profiles as f64 / PROFILES_PER_SECOND;
    let trusted = matches!(store.health, StoreHealth::Serving | StoreHealth::IndexBuilding);
    let well = matches!(journal.health, JournalHealth::Ok | JournalHealth::Full);
    let safe = trusted && well && store.hung_in_use == 0;
    let message = if safe {
        format!("restart is safe: {pending} pending, about {} s", seconds.ceil() as u64)
    } else if !well {
        "a restart keeps what is accepted, but the journal is not well: see to its disk first".to_owned()
    } else if store.hung_in_use > 0 {
        format!("a restart keeps all {pending} pending; the store hangs: use serve --take-over")
    } else {
        format!("a restart keeps all {pending} pending and builds the store anew")
    };
    let estimated_time = safe.then(|| Duration::from_secs_f64(seconds));
    RestartAdvice { safe, pending, estimated_time, message }
}
