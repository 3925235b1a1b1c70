//! A ticket: what the callers that wait for one entry hear of it, and when.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::command::WriteError;
use crate::model::{Notes, Refusal};

/// What became of an entry in the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its place in the journal.
    pub position: u64,
    /// How it ended.
    pub end: End,
}

/// How an entry ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum End {
    /// The profile has a new version.
    Applied {
        /// The new version.
        version: u64,
        /// Attributes that were not changed.
        notes: Notes,
    },
    /// There was nothing to change.
    Unchanged {
        /// The profile's version, if there is one.
        version: Option<u64>,
        /// Attributes that were not changed.
        notes: Notes,
    },
    /// The profile knew the request id already.
    Duplicate {
        /// The version that it made then.
        version: u64,
    },
    /// It could not be applied.
    Refused(Refusal),
}

/// What a waiting caller hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It is durable at this position.
    Durable(u64),
    /// It has been dealt with.
    Ended(Verdict),
    /// It was not accepted, or is not known to be.
    Failed(WriteError),
}

/// Shared by the entry and all callers that ask for it (retries with the same request id join).
#[derive(Debug, Default)]
pub struct Ticket(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    position: u64,
    end: Option<Heard>,
    waiting: SmallVec<[Waiter; 1]>,
}

#[derive(Debug)]
struct Waiter {
    durable_is_enough: bool,
    tell: oneshot::Sender<Heard>,
}

/// How many callers may wait for one entry. Further ones hear at once that it is durable; or, before it is,
/// that it is not known whether it will be.
const MAX_WAITERS: usize = 64;

impl Ticket {
    /// A ticket for an entry found in the journal.
    pub fn durable_at(position: u64) -> Self {
        Self(Mutex::new(State { position, ..State::default() }))
    }

    /// Waits for the end, or for durability if that is enough.
    pub fn wait(&self, durable_is_enough: bool) -> oneshot::Receiver<Heard> {
        let (tell, heard) = oneshot::channel();
        let mut state = self.0.lock();
        if state.waiting.len() >= MAX_WAITERS {
            // Those that have had their answer otherwise, or have gone.
            state.waiting.retain(|waiter| !waiter.tell.is_closed());
        }
        let full = state.waiting.len() >= MAX_WAITERS;
        let now = match &state.end {
            Some(end) => Some(end.clone()),
            None if (durable_is_enough || full) && state.position != 0 => {
                Some(Heard::Durable(state.position))
            }
            None if full => Some(Heard::Failed(WriteError::AcceptanceUnknown)),
            None => None,
        };
        match now {
            // The receiver is in our hands: it cannot have been dropped.
            Some(now) => drop(tell.send(now)),
            None => state.waiting.push(Waiter { durable_is_enough, tell }),
        }
        heard
    }

    /// Where the entry is; 0 until it is durable.
    pub fn position(&self) -> u64 {
        self.0.lock().position
    }

    /// The entry is durable.
    pub fn durable(&self, position: u64) {
        let mut state = self.0.lock();
        state.position = position;
        let waiting = std::mem::take(&mut state.waiting);
        for waiter in waiting {
            if waiter.durable_is_enough {
                // A caller that has gone away does not hear it; nothing depends on that.
                drop(waiter.tell.send(Heard::Durable(position)));
            } else {
                state.waiting.push(waiter);
            }
        }
    }

    /// The entry has been dealt with.
    pub fn end(&self, verdict: Verdict) {
        self.finish(Heard::Ended(verdict));
    }

    /// The entry was not accepted, or is not known to be.
    pub fn fail(&self, error: WriteError) {
        self.finish(Heard::Failed(error));
    }

    fn finish(&self, heard: Heard) {
        let mut state = self.0.lock();
        for waiter in state.waiting.drain(..) {
            drop(waiter.tell.send(heard.clone()));
        }
        state.end = Some(heard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(mut receiver: oneshot::Receiver<Heard>) -> Option<Heard> {
        receiver.try_recv().ok()
    }

    fn verdict(position: u64) -> Verdict {
        Verdict { position, end: End::Applied { version: 1, notes: Notes::default() } }
    }

    #[test]
    fn each_hears_what_it_waits_for() {
        let ticket = Ticket::default();
        let (durable, ended, gone) = (ticket.wait(true), ticket.wait(false), ticket.wait(false));
        drop(gone);
        ticket.durable(7);
        assert_eq!(heard(durable), Some(Heard::Durable(7)));
        assert_eq!(heard(ticket.wait(true)), Some(Heard::Durable(7)));
        ticket.end(verdict(7));
        assert_eq!(heard(ended), Some(Heard::Ended(verdict(7))));
        assert_eq!(heard(ticket.wait(true)), Some(Heard::Ended(verdict(7))));
        assert_eq!(heard(Ticket::durable_at(9).wait(true)), Some(Heard::Durable(9)));
    }

    #[test]
    fn a_failure_is_heard_by_all_also_later() {
        let ticket = Ticket::default();
        let waiting = ticket.wait(false);
        ticket.fail(WriteError::JournalStalled);
        for receiver in [waiting, ticket.wait(true)] {
            assert_eq!(heard(receiver), Some(Heard::Failed(WriteError::JournalStalled)));
        }
    }

    #[test]
    fn those_that_gave_up_take_no_place() {
        let ticket = Ticket::durable_at(7);
        for _ in 0..10 * MAX_WAITERS {
            assert_eq!(heard(ticket.wait(false)), None);
        }
        let patient: Vec<_> = (0..MAX_WAITERS).map(|_| ticket.wait(false)).collect();
        // The entry is kept: one more must not hear anything else.
        assert_eq!(heard(ticket.wait(false)), Some(Heard::Durable(7)));
        ticket.end(verdict(7));
        assert!(patient.into_iter().all(|receiver| heard(receiver) == Some(Heard::Ended(verdict(7)))));

        let ticket = Ticket::default();
        let _patient: Vec<_> = (0..MAX_WAITERS).map(|_| ticket.wait(false)).collect();
        assert_eq!(heard(ticket.wait(false)), Some(Heard::Failed(WriteError::AcceptanceUnknown)));
    }
}
