//! All breakers: one per operation of the backend, and below it, where the backend isolates sites, one per
//! site.
//!
//! A parent trips by its own calls, when calls of several children stall together, or when, over the last
//! two seconds, at least three and at least half of its active children have tripped. Then the children
//! forget their own state and follow it: only the outermost breaker that is not Closed probes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::event::{Event, Listener, Phase, Rule, ScopeName};
use super::overrides::{Override, OverrideError};
use super::scope::{FromChildren, Report, Scope, ScopeHandle, ScopeStatus};
use super::settings::{Settings, SettingsError};

/// Operations of a backend are few.
const OPERATIONS: usize = 64;
/// What "active" and "tripped lately" look back on.
const LOOK_BACK: Duration = Duration::from_secs(2);
/// So many tripped children, and half of the active ones, trip their parent.
const LEAST_TRIPPED: usize = 3;
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// The name under which newcomers to a full registry are judged together.
pub const OVERFLOW: &str = "(others)";

/// Bounds of a registry.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Scopes of sites, all operations together. Newcomers beyond share one scope an operation.
    pub scopes: usize,
    /// A Closed scope without calls for so long may be given to another site.
    pub idle_after: Duration,
}

impl Default for Bounds {
    /// 10,000 scopes; idle after a minute.
    fn default() -> Self {
        Self { scopes: 10_000, idle_after: Duration::from_mins(1) }
    }
}

/// An operation that cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Its settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is one of that name.
    #[error("the operation {0} has a breaker already")]
    Exists(Arc<str>),
    /// There are 64.
    #[error("more than 64 operations")]
    TooMany,
}

#[derive(Debug)]
struct Operation {
    root: &'static Scope,
    settings: Settings,
    sites: HashMap<Arc<str>, &'static Scope>,
    overflow: Option<&'static Scope>,
    /// Scopes that were a site's and are nobody's now.
    free: Vec<&'static Scope>,
}

impl Operation {
    fn children(&self) -> impl Iterator<Item = &'static Scope> {
        self.sites.values().copied().chain(self.overflow)
    }
}

#[derive(Debug, Default)]
struct Turn {
    now: Duration,
    real: Duration,
    tidied: Duration,
    events: Vec<Event>,
}

/// All breakers of a backend. Ticked by a [`Watchdog`](super::Watchdog), or by hand.
pub struct Registry {
    operations: RwLock<HashMap<Arc<str>, Operation>>,
    /// Ticks and operators take turns.
    turn: Mutex<Turn>,
    bounds: Bounds,
    seed: u64,
    listener: Box<dyn Listener>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty one. `seed` makes the jitter of open times.
    pub fn new(bounds: Bounds, seed: u64, listener: impl Listener) -> Self {
        Self {
            operations: RwLock::default(),
            turn: Mutex::default(),
            bounds,
            seed,
            listener: Box::new(listener),
        }
    }

    /// Adds the breaker of an operation.
    pub fn add_operation(&self, name: &str, settings: Settings) -> Result<ScopeHandle, RegistryError> {
        settings.check()?;
        let now = self.turn.lock().now;
        let mut operations = self.operations.write();
        let name: Arc<str> = name.into();
        if operations.contains_key(&name) {
            return Err(RegistryError::Exists(name));
        }
        if operations.len() >= OPERATIONS {
            return Err(RegistryError::TooMany);
        }
        let scope = ScopeName { operation: Arc::clone(&name), site: None };
        let root = Scope::leak(scope, &settings, self.seed_of(&name, ""), now, None);
        let operation = Operation { root, settings, sites: HashMap::new(), overflow: None, free: Vec::new() };
        operations.insert(name, operation);
        Ok(ScopeHandle::new(root))
    }

    /// The breaker of a site's part of an operation (given as the handle of the whole). When the registry is
    /// full: the one that newcomers share. Takes a short lock; keep the handle.
    pub fn site(&self, operation: &ScopeHandle, site: &str) -> ScopeHandle {
        let name = operation.operation();
        if let Some(known) = self.operations.read().get(&name).and_then(|op| op.sites.get(site)) {
            return ScopeHandle::new(known);
        }
        let now = self.turn.lock().now;
        let mut operations = self.operations.write();
        let in_use: usize = operations.values().map(|op| op.sites.len()).sum();
        let Some(op) = operations.get_mut(&name) else {
            // A handle of another registry: its own scope is the best answer.
            return operation.clone();
        };
        if let Some(known) = op.sites.get(site) {
            return ScopeHandle::new(known);
        }
        let full = in_use >= self.bounds.scopes;
        if full && let Some(shared) = op.overflow {
            return ScopeHandle::new(shared);
        }
        let label: Arc<str> = if full { OVERFLOW.into() } else { site.into() };
        let scope = ScopeName { operation: Arc::clone(&name), site: Some(Arc::clone(&label)) };
        let passes = op.root.passes();
        let child = if let Some(free) = op.free.pop() {
            free.reuse(scope, now, passes);
            free
        } else {
            let seed = self.seed_of(&name, &label);
            // Many sites, few calls each: no stripes.
            let settings = Settings { stripes: 0, ..op.settings.clone() };
            Scope::leak(scope, &settings, seed, now, Some(op.root))
        };
        child.parent_changed(now, passes, false, &mut Vec::new());
        if full {
            op.overflow = Some(child);
        } else {
            op.sites.insert(label, child);
        }
        ScopeHandle::new(child)
    }

    /// Names are public; the seed of the registry is not.
    fn seed_of(&self, operation: &str, site: &str) -> u64 {
        // FNV-1a: only to spread scopes apart.
        operation
            .bytes()
            .chain([0])
            .chain(site.bytes())
            .fold(self.seed ^ 0xCBF2_9CE4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
            })
    }

    /// Judges everything. `age`: a clock that stands still while the process does (see
    /// [`AgeClock`](super::AgeClock)); `real`: monotonic time, by which overrides expire. Neither goes back.
    pub fn tick(&self, age: Duration, real: Duration) {
        let mut turn = self.turn.lock();
        let turn = &mut *turn;
        let clock = (age, age.saturating_sub(turn.now), real);
        (turn.now, turn.real) = (age, real);
        for operation in self.operations.read().values() {
            tick_operation(operation, clock, &mut turn.events);
        }
        if age.saturating_sub(turn.tidied) >= TIDY_EVERY {
            turn.tidied = age;
            self.tidy(age);
        }
        self.tell(&mut turn.events);
    }

    fn tell(&self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            self.listener.event(&event);
        }
    }

    /// Makes room: when three quarters are in use, idle ones become free.
    fn tidy(&self, now: Duration) {
        let in_use: usize = self.operations.read().values().map(|op| op.sites.len()).sum();
        if in_use < (self.bounds.scopes / 4 * 3).max(1) {
            return;
        }
        for op in self.operations.write().values_mut() {
            let idle_after = self.bounds.idle_after;
            op.free.extend(op.sites.extract_if(|_, scope| scope.is_idle(now, idle_after)).map(|(_, s)| s));
        }
    }

    fn change(&self, scope: &ScopeHandle, act: impl FnOnce(&Scope, bool, &Turn, &mut Vec<Event>) -> bool) {
        let mut turn = self.turn.lock();
        let operations = self.operations.read();
        let Some(operation) = operations.get(&scope.operation()) else { return };
        let mut events = Vec::new();
        let scope = scope.scope();
        let is_root = std::ptr::eq(scope, operation.root);
        let changed = act(scope, is_root || operation.root.passes(), &turn, &mut events);
        if is_root && changed {
            for child in operation.children() {
                child.parent_changed(turn.now, operation.root.passes(), false, &mut events);
            }
        }
        turn.events.append(&mut events);
        drop(operations);
        let turn = &mut *turn;
        self.tell(&mut turn.events);
    }

    /// An operator's word on one breaker; in force when this returns.
    pub fn set_override(&self, scope: &ScopeHandle, order: Override) -> Result<(), OverrideError> {
        order.check()?;
        self.change(scope, |scope, parent_passes, turn, events| {
            let until = order.lasts.map(|lasts| turn.real.saturating_add(lasts));
            scope.set_override(order, until, parent_passes, events)
        });
        Ok(())
    }

    /// The backend has been replaced. Calls that hang in the old one keep no breaker open, and one that is Open
    /// may be probed at once.
    pub fn backend_replaced(&self) {
        let _turn = self.turn.lock();
        for operation in self.operations.read().values() {
            operation.root.renew(true);
            for child in operation.children() {
                child.renew(operation.root.passes());
            }
        }
    }

    /// The breaker of that name, if there is one.
    pub fn find(&self, operation: &str, site: Option<&str>) -> Option<ScopeHandle> {
        let operations = self.operations.read();
        let operation = operations.get(operation)?;
        match site {
            None => Some(ScopeHandle::new(operation.root)),
            Some(site) => operation.sites.get(site).map(|scope| ScopeHandle::new(scope)),
        }
    }

    /// One breaker as of the last tick.
    pub fn status_of(&self, scope: &ScopeHandle) -> ScopeStatus {
        let real = self.turn.lock().real;
        scope.status(real)
    }

    /// All breakers as of the last tick, operations first. From memory alone.
    pub fn status(&self) -> Vec<ScopeStatus> {
        let real = self.turn.lock().real;
        let operations = self.operations.read();
        let roots = operations.values().map(|op| op.root);
        let children = operations.values().flat_map(Operation::children);
        roots.chain(children).map(|scope| scope.status(real)).collect()
    }
}

fn tick_operation(op: &Operation, clock: (Duration, Duration, Duration), events: &mut Vec<Event>) {
    let now = clock.0;
    let passes = op.root.passes();
    let mut sum = Children::default();
    for child in op.children() {
        let report = child.tick(clock, passes, &FromChildren::default(), events);
        sum.add(now, &op.settings, &report);
    }
    let own = op.root.tick(clock, true, &sum.verdict(now, &op.settings), events);
    if own.changed {
        for child in op.children() {
            child.parent_changed(now, op.root.passes(), own.tripped, events);
        }
    }
}

#[derive(Default)]
struct Children {
    active: usize,
    tripped: usize,
    stuck: usize,
    seen: FromChildren,
    last_end: Duration,
}

impl Children {
    fn add(&mut self, now: Duration, settings: &Settings, report: &Report) {
        let lately = |at: Duration| now.saturating_sub(at) < LOOK_BACK;
        let tripped_lately = report.tripped_at.is_some_and(lately);
        if tripped_lately || (report.active_at > Duration::ZERO && lately(report.active_at)) {
            self.active += 1;
        }
        if tripped_lately && matches!(report.phase, Some(Phase::Open | Phase::HalfOpen)) {
            self.tripped += 1;
        }
        let oldest = report.finding.oldest;
        if oldest.is_some_and(|age| age >= settings.slow_after) || (tripped_lately && report.hung > 0) {
            self.stuck += 1;
        }
        self.seen.oldest = self.seen.oldest.max(oldest);
        self.seen.in_flight += report.finding.in_flight;
        self.seen.slow += report.finding.slow;
        self.seen.hung += report.hung;
        if let Some(entries) = report.backlog {
            *self.seen.backlog.get_or_insert(0) += entries;
        }
        self.last_end = self.last_end.max(report.last_end);
    }

    fn verdict(mut self, now: Duration, settings: &Settings) -> FromChildren {
        let stalled = |age: Duration| age >= settings.stall_after;
        if self.tripped >= LEAST_TRIPPED && self.tripped * 2 >= self.active {
            self.seen.alarm = Some(Rule::Children { tripped: self.tripped, active: self.active });
        } else if self.stuck > 1
            && self.seen.oldest.is_some_and(stalled)
            && stalled(now.saturating_sub(self.last_end))
        {
            // One child alone would be that child's own trouble.
            self.seen.alarm = Some(Rule::Stall);
        }
        self.seen
    }
}
