//! The audit log: what was done about holds and overrides, by whom, when and why.
//!
//! It is the only file. What is in force is its fold: the state at its beginning, changed by each event
//! after it. It is written anew, state first, at each start, when it has grown, and after a failed write
//! (after a failed sync nobody knows what of a file is on the disk); the newest events go along, so that
//! they can still be listed.
//!
//! # Format
//! Records of whole 512-byte blocks, each synced before the next is written:
//!
//! `SFA1 LLLLLLLL CCCCCCCC HHHHHHHH {json} ... \n`
//!
//! in which L is the number of bytes after these 32, C the CRC-32C of those bytes, H that of the first 23
//! of these, all in hex. The JSON is filled up with spaces, and a newline ends the record: the file can be
//! read with a pager. The first record is the state; as many records of past events as it says follow, and
//! then events that change it.
//!
//! # What is read
//! Only the last record can have been torn by a crash, and a torn record shows it: it ends before its
//! length, or a whole block of it is zeros. It is saved aside, and was never acknowledged. Everything else
//! that is not as it was written is damage; then nothing is believed, and everything is held.

mod format;
mod log;

use serde::{Deserialize, Serialize};

use super::hold::{Expiry, Hold, HoldId};
use crate::model::{EventTime, Site};

pub use log::{AuditError, AuditLog, Found};

/// Overrides in force at once.
pub const OVERRIDES_LIMIT: usize = 1_000;
/// Events that are kept for listing.
pub const EVENTS_LIMIT: usize = 2_000;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// It was placed.
    Placed,
    /// Its expiry was changed.
    Extended,
    /// It will expire soon.
    Expiring,
    /// An operator ended it.
    Released,
    /// It ended by itself.
    Expired,
    /// The unreadable log was set aside, and a new one begun.
    Recovered,
}

/// An operator's override of something else than requests, such as a breaker. The words are those of
/// whoever obeys it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The tenant; none: all.
    pub site: Option<Site>,
    /// What it is about.
    pub operation: String,
    /// What is wanted.
    pub mode: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who placed it.
    pub owner: String,
    /// A ticket or link; may be empty.
    pub ticket: String,
    /// When it was placed.
    pub created_at: EventTime,
    /// When it ends by itself; none: never.
    pub expiry: Option<Expiry>,
}

impl Override {
    /// Whether both are about the same thing, so that the later one takes the place of the other.
    pub fn replaces(&self, other: &Self) -> bool {
        (&self.site, &self.operation) == (&other.site, &other.operation)
    }
}

/// What an event is about, as it was afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A hold.
    Hold(Hold),
    /// An override.
    Override(Override),
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1, rising.
    pub number: u64,
    /// When it happened, by the wall clock.
    pub at: EventTime,
    /// What happened.
    pub kind: EventKind,
    /// Who did it; empty for what the server did itself.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// To what.
    pub subject: Subject,
}

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The holds, oldest first.
    pub holds: Vec<Hold>,
    /// The overrides.
    pub overrides: Vec<Override>,
    /// The number of the last hold that was placed.
    pub last_hold: u64,
    /// The number of the last event.
    pub last_event: u64,
}

impl State {
    /// What is in force after `event`. Doing it twice is doing it once.
    pub fn fold(&mut self, event: &Event) {
        self.last_event = self.last_event.max(event.number);
        match (&event.subject, event.kind) {
            (Subject::Hold(hold), EventKind::Placed | EventKind::Extended) => {
                self.last_hold = self.last_hold.max(hold.id.0);
                match self.holds.iter_mut().find(|known| known.id == hold.id) {
                    Some(known) if known.version <= hold.version => known.clone_from(hold),
                    None if event.kind == EventKind::Placed => self.holds.push(hold.clone()),
                    Some(_) | None => {}
                }
            }
            (Subject::Hold(hold), EventKind::Released | EventKind::Expired | EventKind::Recovered) => {
                self.holds.retain(|known| known.id != hold.id);
            }
            (Subject::Override(over), EventKind::Placed | EventKind::Extended) => {
                self.overrides.retain(|known| !over.replaces(known));
                self.overrides.push(over.clone());
            }
            (Subject::Override(over), EventKind::Released | EventKind::Expired | EventKind::Recovered) => {
                self.overrides.retain(|known| !over.replaces(known));
            }
            (_, EventKind::Expiring) => {}
        }
    }

    /// The hold of this name.
    pub fn hold(&self, id: HoldId) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.id == id)
    }
}

#[cfg(test)]
mod tests;
