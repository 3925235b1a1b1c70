//! Tests of the parts together; each part's own are beside it.

mod layers;
mod operator;
mod probes;
mod properties;
mod transitions;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Keeps what it hears.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Listener for Heard {
    fn event(&self, event: &Event) {
        self.0.lock().push(event.clone());
    }
}

/// A registry whose time is moved by hand.
struct Bench {
    registry: Registry,
    heard: Heard,
    now: Duration,
}

impl Bench {
    fn new(bounds: Bounds) -> Self {
        let heard = Heard::default();
        Self { registry: Registry::new(bounds, 7, heard.clone()), heard, now: Duration::ZERO }
    }

    fn tick(&mut self) {
        self.now += BUCKET;
        self.registry.tick(self.now, self.now);
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.tick();
        }
    }

    /// Ticks until `scope` is in `phase`; how long that took.
    fn until(&mut self, scope: &ScopeHandle, phase: Phase) -> Duration {
        let began = self.now;
        while scope.phase() != phase {
            assert!(self.now < began + ms(120_000), "{} does not become {phase:?}", scope.name());
            self.tick();
        }
        self.now.saturating_sub(began)
    }

    /// What changed since the last time: scope, from, to, rule.
    fn changes(&self) -> Vec<(String, Phase, Phase, Rule)> {
        let events = std::mem::take(&mut *self.heard.0.lock());
        let change = |event| match event {
            Event::Transition { scope, from, to, rule, .. } => Some((scope.to_string(), from, to, rule)),
            _ => None,
        };
        events.into_iter().filter_map(change).collect()
    }
}

fn start(scope: &ScopeHandle, role: Role) -> Result<CallToken, Refused> {
    scope.admit(role, 1).map(|mut token| {
        token.started();
        token
    })
}

/// A call that hangs: its token is kept.
fn hang(scope: &ScopeHandle) -> CallToken {
    start(scope, Role::Caller).expect("passes")
}

/// A call that answers at once, if it may pass.
fn quick(scope: &ScopeHandle, role: Role) -> bool {
    start(scope, role).map(|token| token.finished(Outcome::Good)).is_ok()
}
