//! A latency breaker: notices within a second that a backend is slow or hangs, keeps calls away from it, and
//! lets them back in gradually. Generic; learns nothing, guesses nothing.
//!
//! Calls are judged by their **age**: one that hangs counts when it is too old, not when it ends. The parts:
//! - [`window`](Window): the counters that calls touch, without a lock;
//! - [`Detector`]: the pure judge over them; [`Machine`]: the pure states;
//! - [`Registry`]: scopes (operation, and site within it), overrides, events;
//! - [`BreakerLayer`]: the tower layer; [`CallToken`]: for work that outlives its caller;
//! - [`Watchdog`]: the thread that ticks.

mod ages;
mod cusum;
mod detector;
mod event;
mod flush;
mod future;
mod gate;
mod layer;
mod overrides;
mod owned;
mod recovery;
mod registry;
mod scope;
mod seat;
mod service;
mod settings;
mod state;
mod sync;
mod token;
mod watchdog;
mod window;

#[cfg(test)]
mod tests;

pub use cusum::{Cusum, THRESHOLD};
pub use detector::{Alarm, BUCKET, Detector, Finding, Timing};
pub use event::{Event, Evidence, Listener, Phase, Rule, ScopeName};
pub use flush::FlushRule;
pub use future::{Classify, ResponseFuture};
pub use layer::BreakerLayer;
pub use overrides::{Mode, Override, OverrideError};
pub use recovery::{Pace, Ramp, Recovery, SlowStart};
pub use registry::{Bounds, OVERFLOW, Registry, RegistryError};
pub use scope::{Refusal, Refused, ScopeHandle, ScopeStatus};
pub use service::{BreakerError, BreakerService, Guarded, HandOver, InFuture, fixed};
pub use settings::{Settings, SettingsError};
pub use state::{Decision, Machine, Reason, Role, Seen};
pub use token::{CallToken, Outcome};
pub use watchdog::{AgeClock, Watchdog};
pub use window::{Begun, Counts, Ending, Gate, Running, Window};
