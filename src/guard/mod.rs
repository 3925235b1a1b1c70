//! The breaker around the store: which of the store's operations are judged, how errors count, and what
//! happens while a breaker is not Closed.
//!
//! The breaker itself is generic; this is what it means here. Four operations are judged apart, so that sick
//! writes leave reads alone and long queries leave gets alone: commits ([`Operation::Apply`]), the applier's
//! loads, gets, queries. Where the backend isolates sites, each site has a breaker of its own below each
//! operation, and the operation's own is judged by the backend's threads.
//!
//! - [`GuardedStore`]: the store as services, behind the breaker;
//! - [`Guard`] as [`Permits`]: which lanes the applier gives turns to, and how large: by the breaker, by what
//!   operators say, and by the slow start of what a hold has let go;
//! - [`Upkeep`]: canaries where nothing else can probe, and the length of backlogs for slow starts;
//! - [`Events`]: what happened, for whoever records it.
//!
//! [`Permits`]: crate::applier::Permits

mod classify;
mod control;
mod errors;
mod events;
mod follow;
mod measure;
mod pace;
mod permits;
mod resume;
mod service;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::breaker::{Bounds, Registry, RegistryError, Role, ScopeHandle, ScopeName, Settings, Watchdog};
use crate::clock::Clock;
use crate::command::breakers::{BreakerOverride, BreakerScope};
use crate::model::Site;
use crate::store::{Declaration, Purpose, StoreError};

pub use events::Events;
pub use pace::{Order, PaceError, PaceSet};
pub use service::GuardedStore;
pub use upkeep::{Backlog, Upkeep};

use errors::Errors;
use follow::Followed;

/// What of the store is judged by a breaker of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Commits of the applier; flushes count here.
    Apply,
    /// Loads of the applier, which has threads of its own for them.
    ApplyLoad,
    /// Loads of profiles by key.
    Load,
    /// Queries and exports.
    Query,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Apply, Self::ApplyLoad, Self::Load, Self::Query];

    /// Its name, as in metrics, events and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::ApplyLoad => "apply_load",
            Self::Load => "load",
            Self::Query => "query",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.as_str() == name)
    }

    /// Which one a load is.
    pub fn of_load(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Get => Self::Load,
            Purpose::Query => Self::Query,
            Purpose::Apply => Self::ApplyLoad,
        }
    }
}

/// How the store is judged. Durations are bounded by [`Settings::check`].
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// A call of this age is slow.
    pub slow_after: Duration,
    /// A call of this age, with none ended meanwhile, trips at once.
    pub stall_after: Duration,
    /// The same for queries.
    pub query_slow_after: Duration,
    /// The same for queries.
    pub query_stall_after: Duration,
    /// How long a breaker is Open the first time.
    pub open_base: Duration,
    /// How long it is Open at most.
    pub open_max: Duration,
    /// Fast probes that end it.
    pub probes: u32,
    /// With more bytes not flushed than this, nothing is applied.
    pub unflushed_limit: u64,
    /// The backend keeps a fault of one site from the others.
    pub isolates_sites: bool,
}

impl Default for GuardOptions {
    fn default() -> Self {
        let (writes, queries) = (Settings::writes(), Settings::queries());
        Self {
            slow_after: writes.slow_after,
            stall_after: writes.stall_after,
            query_slow_after: queries.slow_after,
            query_stall_after: queries.stall_after,
            open_base: writes.open_base,
            open_max: writes.open_max,
            probes: writes.probes,
            unflushed_limit: 256 << 20,
            isolates_sites: false,
        }
    }
}

impl GuardOptions {
    fn settings(&self, operation: Operation) -> Settings {
        let (open_base, open_max, probes) = (self.open_base, self.open_max, self.probes);
        let (base, slow_after, stall_after) = match operation {
            Operation::Apply => (Settings::writes(), self.slow_after, self.stall_after),
            // Threads of their own: one that hangs does not keep the next probe from running.
            Operation::ApplyLoad => {
                (Settings { serial: false, ..Settings::writes() }, self.slow_after, self.stall_after)
            }
            Operation::Load => (Settings::reads(), self.slow_after, self.stall_after),
            Operation::Query => (Settings::queries(), self.query_slow_after, self.query_stall_after),
        };
        let probe_lease = slow_after.saturating_mul(4);
        Settings { slow_after, stall_after, open_base, open_max, probes, probe_lease, ..base }
    }
}

/// The breakers of the store, and what operators said about them. Shared by all who call the store.
pub struct Guard {
    clock: Arc<dyn Clock>,
    registry: Arc<Registry>,
    roots: [ScopeHandle; 4],
    /// The backend keeps a fault of one site from the others.
    isolates: AtomicBool,
    events: Events,
    paces: pace::Paces,
    resumes: resume::Resumes,
    errors: &'static Errors,
    unflushed_limit: u64,
    /// Tells how many bytes are not flushed.
    unflushed: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
    /// Rises when the store is replaced.
    generation: AtomicU64,
    measured: measure::Measured,
    /// What operators said of breakers.
    orders: Mutex<BTreeMap<BreakerScope, BreakerOverride>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Guard {
    /// All Closed. Nothing is judged until somebody ticks: [`Self::watch`], or [`Self::tick`] by hand.
    pub fn new(options: &GuardOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>, RegistryError> {
        let seed = clock.now().0;
        let errors = Errors::leak();
        let events = Events::new(errors);
        let registry = Registry::new(Bounds::default(), seed, events.clone());
        let add =
            |operation: Operation| registry.add_operation(operation.as_str(), options.settings(operation));
        let [apply, apply_load, load, query] = Operation::ALL;
        let roots = [add(apply)?, add(apply_load)?, add(load)?, add(query)?];
        let [commits, ..] = &roots;
        errors.tell(commits.clone());
        Ok(Arc::new(Self {
            clock,
            registry: Arc::new(registry),
            roots,
            isolates: AtomicBool::new(options.isolates_sites),
            events,
            paces: pace::Paces::default(),
            resumes: resume::Resumes::default(),
            errors,
            unflushed_limit: options.unflushed_limit,
            unflushed: OnceLock::new(),
            generation: AtomicU64::new(0),
            measured: measure::Measured::default(),
            orders: Mutex::default(),
        }))
    }

    /// Starts the thread that judges.
    pub fn watch(&self) -> io::Result<Watchdog> {
        Watchdog::start(Arc::clone(&self.registry))
    }

    /// Judges by hand: see [`Registry::tick`].
    pub fn tick(&self, age: Duration, real: Duration) {
        self.registry.tick(age, real);
    }

    /// What happens, for whoever records it.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Tells what the store had said when the breaker of a name tripped last; empty: nothing.
    pub fn errors_at_trips(&self) -> impl Fn(&ScopeName) -> String + Send + Sync + 'static {
        let errors = self.errors;
        move |scope| errors.at_trip(scope)
    }

    /// Whether the whole store's breaker for `operation` keeps calls from it.
    pub fn is_open(&self, operation: Operation) -> bool {
        self.events.open(operation).withholds_all()
    }

    fn root(&self, operation: Operation) -> &ScopeHandle {
        let [apply, apply_load, load, query] = &self.roots;
        match operation {
            Operation::Apply => apply,
            Operation::ApplyLoad => apply_load,
            Operation::Load => load,
            Operation::Query => query,
        }
    }

    /// The breaker that decides on calls for `site`.
    fn scope(&self, operation: Operation, site: Option<&Site>) -> ScopeHandle {
        self.own(operation, site.filter(|_| self.isolates()))
    }

    /// The breaker of this name, also while the backend does not keep sites apart, so that a site's own decides
    /// nothing.
    fn own(&self, operation: Operation, site: Option<&Site>) -> ScopeHandle {
        let root = self.root(operation);
        site.map_or_else(|| root.clone(), |site| self.registry.site(root, site.as_str()))
    }

    /// Leave for one call, to be followed to where it is done.
    fn admit(
        &self,
        operation: Operation,
        site: Option<&Site>,
        role: Role,
        weight: u32,
    ) -> Result<Followed, StoreError> {
        let scope = self.scope(operation, site);
        let admitted = scope.admit(role, weight);
        let token = admitted.map_err(|refused| classify::withheld(operation, &refused))?;
        if self.isolates() && site.is_some() {
            // The threads of the backend are everybody's: what hangs there is the operation's matter.
            Ok(Followed::of_site(token, self.root(operation).follow(), self.errors))
        } else {
            Ok(Followed::of_store(token, self.errors))
        }
    }

    fn isolates(&self) -> bool {
        self.isolates.load(Ordering::Relaxed)
    }

    /// The store has been replaced by `store`: what hangs in the old one is no sign of the new one, which may be
    /// probed at once.
    pub fn store_replaced(&self, store: Declaration) {
        self.isolates.store(store.isolates_sites, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.registry.backend_replaced();
    }

    /// Lets in gradually what a hold of `site`, or of all, has let go at `now`: lanes, and how many entries of each.
    /// Other lanes go on as before, and so does the store's breaker.
    pub fn resume_slowly(&self, site: Option<&Site>, freed: &[(Site, u64)], now: Instant) {
        self.resumes.begin(site, freed, self.slow_verdicts(), now);
    }

    /// Entries a second at which the lane of `site`, or the whole store, is at present let in after a hold; none: it
    /// is not.
    pub fn resuming(&self, site: Option<&Site>) -> Option<f64> {
        self.resumes.rate(site, |scope| self.paces.pace(scope))
    }

    /// Whether anything is let in gradually after a hold.
    pub fn is_resuming(&self) -> bool {
        self.resumes.any()
    }

    fn slow_verdicts(&self) -> u64 {
        self.registry.status_of(self.root(Operation::Apply)).judged.1
    }
}
