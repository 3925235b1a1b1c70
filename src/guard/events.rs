//! What the breakers report: handed to whoever records it, counted, and kept as far as the hot path wants to
//! know it without a lock.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Operation;
use super::errors::Errors;
use crate::breaker::{Event, Listener, OVERFLOW, Phase, ScopeName};
use crate::metrics as names;
use crate::model::Site;

/// The breakers' events.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

/// An operation, or a site's part of it.
type Named = (Operation, Option<Arc<str>>);

struct Inner {
    listeners: Mutex<Vec<Box<dyn Listener>>>,
    errors: &'static Errors,
    open: [Withheld; 4],
    /// Those that are not Closed; few.
    phases: Mutex<BTreeMap<Named, Phase>>,
    half_open: AtomicUsize,
    changed: Notify,
}

/// Which calls of an operation would be refused now: Open or half open.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    all: AtomicBool,
    sites: ArcSwap<HashSet<Arc<str>>>,
}

impl Withheld {
    /// Whether all would.
    pub fn withholds_all(&self) -> bool {
        self.all.load(Ordering::Acquire)
    }

    /// Whether those for `site` would.
    pub fn withholds(&self, site: &Site) -> bool {
        if self.withholds_all() {
            return true;
        }
        let sites = self.sites.load();
        // Sites that share a breaker because there are too many share its state; a few too many are deferred.
        !sites.is_empty() && (sites.contains(site.as_str()) || sites.contains(OVERFLOW))
    }

    fn set(&self, site: Option<&Arc<str>>, withheld: bool) {
        let Some(site) = site else { return self.all.store(withheld, Ordering::Release) };
        if self.sites.load().contains(site) != withheld {
            let mut sites = HashSet::clone(&self.sites.load());
            if withheld {
                sites.insert(Arc::clone(site));
            } else {
                sites.remove(site);
            }
            self.sites.store(Arc::new(sites));
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(errors: &'static Errors) -> Self {
        Self(Arc::new(Inner {
            listeners: Mutex::default(),
            errors,
            open: Default::default(),
            phases: Mutex::default(),
            half_open: AtomicUsize::new(0),
            changed: Notify::new(),
        }))
    }

    /// `listener` hears of everything from now on, in order; see [`Listener`] for what it may do. The operation of
    /// a scope is one of [`Operation`]'s names.
    pub fn attach(&self, listener: impl Listener) {
        self.0.listeners.lock().push(Box::new(listener));
    }

    /// What would be refused now.
    pub(super) fn open(&self, operation: Operation) -> &Withheld {
        let [apply, apply_load, load, query] = &self.0.open;
        match operation {
            Operation::Apply => apply,
            Operation::ApplyLoad => apply_load,
            Operation::Load => load,
            Operation::Query => query,
        }
    }

    /// Whether any breaker wants probes.
    pub(super) fn any_half_open(&self) -> bool {
        self.0.half_open.load(Ordering::Acquire) > 0
    }

    /// The breakers that are not Closed.
    pub(super) fn disturbed(&self) -> Vec<(Operation, Option<Arc<str>>, Phase)> {
        let phases = self.0.phases.lock();
        phases.iter().map(|((operation, site), phase)| (*operation, site.clone(), *phase)).collect()
    }

    /// Returns when a state has changed since this was called last.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn enter(&self, scope: &ScopeName, to: Phase) {
        let Some(operation) = Operation::named(&scope.operation) else { return };
        let withheld = matches!(to, Phase::Open | Phase::HalfOpen);
        self.open(operation).set(scope.site.as_ref(), withheld);
        let mut phases = self.0.phases.lock();
        let key = (operation, scope.site.clone());
        match to {
            Phase::Closed => drop(phases.remove(&key)),
            other => drop(phases.insert(key, other)),
        }
        let half_open = phases.values().filter(|phase| **phase == Phase::HalfOpen).count();
        self.0.half_open.store(half_open, Ordering::Release);
        drop(phases);
        self.0.changed.notify_one();
    }
}

impl Listener for Events {
    fn event(&self, event: &Event) {
        match event {
            Event::Transition { scope, from, to, rule, evidence, .. } => {
                self.enter(scope, *to);
                if *to == Phase::Open {
                    self.0.errors.tripped(scope, Instant::now());
                    let (operation, rule) = (scope.operation.to_string(), rule.as_str());
                    let whose = if scope.site.is_some() { "site" } else { "store" };
                    metrics::counter!(names::BREAKER_TRIPS, "operation" => operation, "scope" => whose, "rule" => rule)
                        .increment(1);
                }
                tracing::warn!(
                    %scope,
                    from = from.as_str(),
                    to = to.as_str(),
                    rule = rule.as_str(),
                    score = evidence.score,
                    slow = evidence.slow,
                    total = evidence.total,
                    oldest = ?evidence.oldest.unwrap_or_default(),
                    hung = evidence.hung,
                    error = if *to == Phase::Open { self.0.errors.at_trip(scope) } else { String::new() },
                    "a breaker changed its state"
                );
            }
            Event::WouldTrip { scope, rule, .. } => {
                tracing::warn!(%scope, rule = rule.as_str(), "a breaker would trip, but only observes");
            }
            Event::Overridden { scope, order } => {
                tracing::warn!(%scope, mode = ?order.mode, owner = order.owner, reason = order.reason, "a breaker is overridden");
            }
            Event::OverrideExpired { scope, .. } => {
                tracing::warn!(%scope, "the override of a breaker has expired");
            }
        }
        for listener in &*self.0.listeners.lock() {
            listener.event(event);
        }
    }
}
