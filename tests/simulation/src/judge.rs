//! The breakers, ticked every 25 ms of simulated time.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::breaker::{BUCKET, Bounds, Event, Listener, Phase, Registry, ScopeHandle, Settings};
use crate::random::Random;
use crate::{Micros, SECOND, Trip};

/// Keeps what opened first.
#[derive(Clone, Default)]
struct First(Arc<Mutex<Option<Trip>>>);

impl Listener for First {
    fn event(&self, event: &Event) {
        if let Event::Transition { scope, to: Phase::Open, rule, at, .. } = event {
            let after = at.as_secs_f64();
            let trip = Trip { scope: scope.to_string(), rule: *rule, after, after_first: after };
            self.0.lock().get_or_insert(trip);
        }
    }
}

pub struct Judge {
    registry: Registry,
    scopes: Vec<ScopeHandle>,
    first: First,
    pub next_tick: Micros,
}

impl Judge {
    pub fn new(settings: Settings, sites: usize) -> Self {
        let first = First::default();
        let registry = Registry::new(Bounds::default(), 1, first.clone());
        let root =
            registry.add_operation("store", Settings { stripes: 0, ..settings }).expect("good settings");
        let scopes = if sites == 0 {
            vec![root]
        } else {
            (0..sites).map(|n| registry.site(&root, &format!("site-{n}"))).collect()
        };
        Self { registry, scopes, first, next_tick: BUCKET.as_micros() as Micros }
    }

    /// The breaker of one site, or of all.
    pub fn any(&self, random: &mut Random) -> &ScopeHandle {
        match &*self.scopes {
            [only] => only,
            scopes => &scopes[random.below(scopes.len())],
        }
    }

    /// Answers what has opened, if anything has.
    pub fn tick(&mut self) -> Option<Trip> {
        let now = std::time::Duration::from_micros(self.next_tick);
        self.registry.tick(now, now);
        self.next_tick += BUCKET.as_micros() as Micros;
        self.first.0.lock().clone()
    }
}

/// The time in seconds.
pub fn seconds(at: Micros) -> f64 {
    at as f64 / SECOND
}

/// The other way; for ever is for ever.
pub fn micros(at: f64) -> Micros {
    (at * SECOND) as Micros
}
