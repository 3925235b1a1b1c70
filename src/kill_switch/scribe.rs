//! Writes down what operators do, one order after the other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use metrics::counter;
use tokio::sync::oneshot;

use super::audit::{AuditError, AuditLog, EVENTS_LIMIT, Event, EventKind, Found, State, Subject};
use super::control::Control;
use super::hold::{Hold, HoldId};
use super::operators::Who;
use super::switch::{Draft, KillSwitch};
use super::{Now, Persisted};
use crate::fs::Fs;
use crate::metrics as names;

/// What the scribe is to do.
pub(super) enum Order {
    /// Write an event down.
    Write {
        /// It.
        draft: Box<Draft>,
        /// What follows when it is on disk.
        then: Then,
        /// Hears how it went.
        done: oneshot::Sender<Persisted>,
    },
    /// Write the log anew, because something is not in it.
    Rewrite {
        /// Hears how it went.
        done: oneshot::Sender<Persisted>,
    },
    /// End.
    Stop,
}

/// What follows when an event is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It tells of what has happened already.
    Nothing,
    /// The hold ends.
    Release(HoldId),
    /// The override that it is about ends.
    Clear,
    /// The unreadable log has been replaced, and its hold ends.
    Recover,
}

/// The one that writes. To be run on a thread of its own.
pub struct Scribe {
    switch: Arc<KillSwitch>,
    log: AuditLog,
    /// Whether what is in the directory must stay as it is.
    unreadable: bool,
    orders: Receiver<Order>,
}

impl std::fmt::Debug for Scribe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scribe").field("log", &self.log).finish_non_exhaustive()
    }
}

impl KillSwitch {
    /// Takes up the holds that are written down in `dir`, made if need be. What cannot be read holds
    /// everything. Blocks. An error: the directory cannot be used at all.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, now: Now) -> Result<(Arc<Self>, Scribe), AuditError> {
        let (log, found) = AuditLog::open(fs, dir)?;
        let fresh = matches!(found, Found::Fresh);
        let mut unreadable = false;
        let control = match found {
            Found::Fresh => Control::new(State::default(), Vec::new(), false, now),
            Found::Log { state, events, torn } => {
                if torn {
                    tracing::warn!(
                        "the last write of the audit log had not been finished and was not acknowledged; it \
                         was kept in audit.torn"
                    );
                }
                Control::new(state, events, true, now)
            }
            Found::Unreadable { problem, last_hold } => {
                tracing::error!(problem, "the holds cannot be read: all writes are deferred");
                unreadable = true;
                let state = State { last_hold, ..State::default() };
                let mut control = Control::new(state, Vec::new(), false, now);
                control.add(Hold::unreadable(&problem, now.wall), None);
                control
            }
        };
        let (switch, orders) = Self::new(control);
        let mut scribe = Scribe { switch: Arc::clone(&switch), log, unreadable, orders };
        if !unreadable {
            // Anew, because what was read may be in memory only.
            let begun = scribe.rewrite();
            if fresh {
                begun?;
            } else if let Err(error) = begun {
                failed(&error);
                scribe.retry(now);
            }
        }
        // What ended while nobody looked.
        switch.tick(now);
        while scribe.step() {}
        Ok((switch, scribe))
    }
}

impl Scribe {
    /// Works until [`KillSwitch::close`].
    pub fn run(mut self) {
        while let Ok(order) = self.orders.recv() {
            if !self.carry_out(order) {
                return;
            }
        }
    }

    /// Does the next thing that is ordered, if there is one.
    pub fn step(&mut self) -> bool {
        self.orders.try_recv().is_ok_and(|order| self.carry_out(order))
    }

    fn carry_out(&mut self, order: Order) -> bool {
        let (persisted, done) = match order {
            Order::Stop => return false,
            Order::Rewrite { done } => {
                let durable = !self.unreadable && self.rewrite().map_err(|error| failed(&error)).is_ok();
                (Persisted { durable, released: 0 }, done)
            }
            Order::Write { draft, then, done } => (self.write(*draft, then), done),
        };
        // Whoever waited may have given up.
        let _ = done.send(persisted);
        true
    }

    fn write(&mut self, draft: Draft, then: Then) -> Persisted {
        let now = draft.at;
        if let Then::Release(id) = then
            && self.switch.control.lock().hold(id).is_none()
        {
            // Asked for twice.
            return Persisted { durable: true, released: 0 };
        }
        if let (EventKind::Extended, Subject::Hold(hold)) = (draft.kind, &draft.subject)
            && self.switch.control.lock().hold(hold.id).is_none()
        {
            // Released or expired meanwhile: nothing of it is left to be told.
            return Persisted::default();
        }
        let written = match then {
            Then::Recover => self.recover(draft),
            Then::Release(_) | Then::Clear => self.append(draft, false),
            Then::Nothing => self.append(draft, true),
        };
        let event = match written {
            Ok(event) => event,
            Err(error) => {
                failed(&error);
                self.retry(now);
                return Persisted::default();
            }
        };
        let released = match (then, &event.subject) {
            (Then::Release(id), _) => self.switch.let_go(id),
            (Then::Recover, _) => self.switch.let_go(HoldId::UNREADABLE),
            (Then::Clear, Subject::Override(over)) => {
                self.switch.control.lock().remove_override(over);
                0
            }
            (Then::Nothing, Subject::Hold(hold)) => {
                self.switch.control.lock().set_durable(hold);
                0
            }
            (Then::Nothing | Then::Clear, _) => 0,
        };
        if then != Then::Nothing {
            let who = Who { owner: event.owner, reason: event.reason };
            self.switch.has_changed(event.kind, &event.subject, &who);
        }
        Persisted { durable: true, released }
    }

    /// Appends an event. One that has happened, whatever becomes of it here, is kept for listing.
    fn append(&mut self, draft: Draft, happened: bool) -> Result<Event, AuditError> {
        if self.log.wants_rewrite() && !self.unreadable {
            let written = self.rewrite();
            if self.log.is_broken() && !happened {
                written?;
            }
        }
        let number = self.switch.control.lock().last_event + 1;
        let event = draft.numbered(number);
        let appended = if self.unreadable { Err(AuditError::Broken) } else { self.log.append(&event) };
        if appended.is_ok() || happened {
            self.keep(event.clone());
        }
        appended.map(|()| event)
    }

    fn keep(&self, event: Event) {
        let mut control = self.switch.control.lock();
        control.last_event = event.number;
        if control.events.len() >= EVENTS_LIMIT {
            control.events.pop_front();
        }
        control.events.push_back(event);
    }

    /// Sets the unreadable log aside and begins a new one with what is in force besides.
    fn recover(&mut self, draft: Draft) -> Result<Event, AuditError> {
        if !self.unreadable {
            // Asked for twice.
            return Ok(draft.numbered(0));
        }
        let aside = self.log.set_aside()?;
        let number = self.switch.control.lock().last_event + 1;
        let event = draft.numbered(number);
        self.keep(event.clone());
        self.unreadable = false;
        let rewritten = self.rewrite();
        self.unreadable = rewritten.is_err();
        rewritten?;
        tracing::warn!(aside = %aside.display(), "the unreadable audit log was set aside");
        Ok(event)
    }

    /// Writes the log anew with all that is in force.
    fn rewrite(&mut self) -> Result<(), AuditError> {
        let (state, past) = {
            let control = self.switch.control.lock();
            (control.state(), control.events.iter().cloned().collect::<Vec<_>>())
        };
        self.log.rewrite(&state, past.iter())?;
        let mut control = self.switch.control.lock();
        for hold in &state.holds {
            control.set_durable(hold);
        }
        control.rewrite_at = None;
        Ok(())
    }

    /// Has the log written anew before long. While it cannot be read, only an operator can.
    fn retry(&self, now: Now) {
        if !self.unreadable {
            let at = now.instant + Duration::from_secs(1);
            self.switch.control.lock().rewrite_at.get_or_insert(at);
        }
    }
}

fn failed(error: &AuditError) {
    counter!(names::AUDIT_FAILURES).increment(1);
    tracing::error!(%error, "the audit log could not be written");
}
