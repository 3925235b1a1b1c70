//! A call's token: from admission to the end of the work.

use super::event::ScopeName;
use super::scope::Scope;
use super::window::{Begun, Ending, Running};

/// How a call ended, as the one who knows the error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered (a refusal for the caller's own fault is an answer).
    Good,
    /// The backend failed.
    Bad,
    /// Says nothing about the backend.
    Ignored,
}

impl Outcome {
    #[inline]
    fn ending(self) -> Ending {
        match self {
            Self::Good => Ending::Good,
            Self::Bad => Ending::Bad,
            Self::Ignored => Ending::Void,
        }
    }
}

/// A whole word, as is [`Running`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Stage {
    Queued,
    Running,
    Outdated,
    /// Ended, or begun in a bucket that was full.
    Uncounted,
}

#[derive(Debug)]
pub(super) struct Probe {
    pub scope: &'static Scope,
    pub lease: u64,
}

/// Leave for one call. It belongs to whoever does the work: give it to the thread that runs the job, say
/// [`started`](Self::started) when the backend begins and [`finished`](Self::finished) at the end. However
/// the two interleave with the breaker's ticks, the call gets at most one verdict:
/// - it reaches the age at which calls are slow: slow, then and there, however it ends later;
/// - it ended well before: fast; badly: bad;
/// - it is dropped before: none (bad, if by a panic);
/// - it never started, or its generation was over before it ended: none.
#[derive(Debug)]
#[must_use = "a token that is dropped gives no verdict"]
pub struct CallToken {
    scope: &'static Scope,
    /// Boxed because it is rare, and a token is moved with every call.
    probe: Option<Box<Probe>>,
    running: Running,
    stage: Stage,
}

impl CallToken {
    #[inline]
    pub(super) fn new(scope: &'static Scope, generation: u32) -> Self {
        Self { scope, probe: None, running: Running::not_yet(generation), stage: Stage::Queued }
    }

    pub(super) fn probing(mut self, probe: Option<Probe>) -> Self {
        self.probe = probe.map(Box::new);
        self
    }

    /// The breaker that judges this call. Takes a short lock.
    pub fn scope(&self) -> ScopeName {
        self.scope.name()
    }

    /// This call decides on the state of an Open breaker: let it go first.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// The backend begins: the call's age counts from now. Said twice, the first counts.
    #[inline]
    pub fn started(&mut self) {
        if self.stage != Stage::Queued {
            return;
        }
        self.stage = match self.scope.begin(&mut self.running) {
            Begun::Running => Stage::Running,
            Begun::Outdated => Stage::Outdated,
            Begun::Full => Stage::Uncounted,
        };
        if self.probe.is_some() {
            self.probe_began();
        }
    }

    #[cold]
    fn probe_began(&self) {
        if let Some(probe) = &self.probe {
            probe.scope.probe_began(probe.lease);
        }
    }

    /// The work is done. Without [`started`](Self::started) before: no verdict.
    #[inline]
    pub fn finished(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// [`finished`](Self::finished), where the token lies: the next `Drop` does nothing.
    #[inline]
    pub(super) fn end(&mut self, outcome: Outcome) {
        if self.stage == Stage::Running && self.probe.is_none() {
            self.stage = Stage::Uncounted;
            self.scope.end(&self.running, outcome.ending());
        } else {
            self.end_otherwise(outcome);
        }
    }

    #[cold]
    fn end_otherwise(&mut self, outcome: Outcome) {
        let ran = match std::mem::replace(&mut self.stage, Stage::Uncounted) {
            Stage::Running => {
                self.scope.end(&self.running, outcome.ending());
                true
            }
            Stage::Outdated => {
                self.scope.end_outdated();
                true
            }
            Stage::Queued | Stage::Uncounted => false,
        };
        if let Some(probe) = self.probe.take() {
            let answered = (ran && outcome != Outcome::Ignored).then_some(outcome == Outcome::Good);
            probe.scope.probe_ended(probe.lease, answered);
        }
    }

    #[cold]
    fn give_up(&mut self) {
        let outcome = if std::thread::panicking() { Outcome::Bad } else { Outcome::Ignored };
        self.end(outcome);
    }
}

impl Drop for CallToken {
    #[inline]
    fn drop(&mut self) {
        if self.stage != Stage::Uncounted || self.probe.is_some() {
            self.give_up();
        }
    }
}
