//! Incidents: the record of each disturbance, from the first evidence until all is applied, with the times that
//! matter and the proof that nothing was lost.
//!
//! - [`Transition`]: something happened, at a [`Scope`], on some [`Evidence`];
//! - [`Recorder`]: groups transitions into incidents; pure;
//! - [`file`](mod@file): what a restart knows of them;
//! - [`Incidents`]: the handle that everybody reports to, and the thread behind it;
//! - [`report`]: an incident as a page for people.

mod answers;
mod breakers;
mod event;
pub mod file;
mod record;
mod recorder;
pub mod report;
mod service;
mod watch;

pub use answers::{Answers, Counted};
pub use breakers::BreakerEvents;
pub use event::{
    Breaker, Change, Event, Evidence, JournalLevel, MAX_MESSAGE, Operation, Rule, Scope, State, Transition,
};
pub use record::{Cause, Condition, Head, Incident};
pub use recorder::{Backlog, Effect, MAX_INCIDENTS, Record, Recorder};
pub use service::{IncidentOptions, IncidentThread, Incidents};
pub use watch::{JournalRoom, JournalWatch, ParkedWatch};
