//! What operators do with the switch.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::audit::{Event, EventKind, Override, Subject};
use super::control::Control;
use super::hold::{Hold, HoldId, Invalid, Lasting, Mode, NewHold, check_text};
use super::rules::View;
use super::scope::Scope;
use super::scribe::Then;
use super::switch::{Draft, KillSwitch};
use super::{HoldError, HoldStatus, Impact, Now, Persisted, Persisting};
use crate::model::Site;

impl KillSwitch {
    /// Places a hold: no request of its scope is admitted from here on, unless it says so.
    pub fn place(&self, new: NewHold, now: Now) -> Result<(HoldStatus, Persisting), HoldError> {
        let mut control = self.control.lock();
        let hold = control.place(new, now)?;
        self.publish(&control);
        let who = Who { owner: hold.owner.clone(), reason: hold.reason.clone() };
        let status = control.status(hold.id, now).ok_or(HoldError::NotFound { id: hold.id })?;
        let happened = Happened { kind: EventKind::Placed, subject: Subject::Hold(hold), who };
        Ok((status, self.told(control, happened, now)))
    }

    /// What has been done is written down, and told to whoever listens.
    fn told(&self, mut control: MutexGuard<'_, Control>, happened: Happened, now: Now) -> Persisting {
        let Happened { kind, subject, who } = happened;
        let Who { owner, reason } = who.clone();
        let event = Draft { at: now, kind, owner, reason, subject: subject.clone() };
        let persisting = self.order(&mut control, event, Then::Nothing);
        drop(control);
        self.has_changed(kind, &subject, &who);
        persisting
    }

    /// What placing `new` would touch; nothing is changed.
    pub fn preview(&self, new: &NewHold, now: Now) -> Result<Impact, HoldError> {
        new.check()?;
        Ok(self.impact(&new.scope, now))
    }

    /// What a hold of `scope` touches.
    pub fn impact(&self, scope: &Scope, now: Now) -> Impact {
        let control = self.control.lock();
        Impact {
            requests_per_second: control.requests_per_second(scope, now.instant),
            in_flight: control.under_way(scope),
            overlapping: control.overlapping(scope),
        }
    }

    /// Gives a hold another expiry, from `now` on.
    pub fn extend(
        &self,
        id: HoldId,
        lasting: Lasting,
        who: Who,
        if_version: Option<u64>,
        now: Now,
    ) -> Result<(HoldStatus, Persisting), HoldError> {
        who.check()?;
        let lasts = lasting.span()?;
        if id == HoldId::UNREADABLE {
            return Err(Invalid::new("hold_id", "holds-unreadable never ends by itself").into());
        }
        let mut control = self.control.lock();
        let hold = control.extend(id, lasts, if_version, now)?;
        self.publish(&control);
        let status = control.status(id, now).ok_or(HoldError::NotFound { id })?;
        let happened = Happened { kind: EventKind::Extended, subject: Subject::Hold(hold), who };
        Ok((status, self.told(control, happened, now)))
    }

    /// Releases a hold: it ends when that is on disk, which is when the answer says `durable`. `recover` must
    /// be said for `holds-unreadable`, and only there.
    pub fn release(
        &self,
        id: HoldId,
        who: Who,
        if_version: Option<u64>,
        recover: bool,
        now: Now,
    ) -> Result<(HoldStatus, Persisting), HoldError> {
        who.check()?;
        let mut control = self.control.lock();
        let hold = releasable(&control, id, if_version, recover)?;
        let status = control.status(id, now).ok_or(HoldError::NotFound { id })?;
        let Who { owner, reason } = who;
        let kind = if recover { EventKind::Recovered } else { EventKind::Released };
        let event = Draft { at: now, kind, owner, reason, subject: Subject::Hold(hold) };
        let then = if recover { Then::Recover } else { Then::Release(id) };
        Ok((status, self.order(&mut control, event, then)))
    }

    /// What releasing a hold would let go: its status, and what is deferred before and after.
    pub fn preview_release(
        &self,
        id: HoldId,
        if_version: Option<u64>,
        recover: bool,
        now: Now,
    ) -> Result<(HoldStatus, View, View), HoldError> {
        let control = self.control.lock();
        releasable(&control, id, if_version, recover)?;
        let status = control.status(id, now).ok_or(HoldError::NotFound { id })?;
        Ok((status, self.view(), View(Arc::new(control.snapshot_without(id)))))
    }

    /// Places an override, which takes the place of any other on the same thing. Whoever obeys it hears of it
    /// before this returns ([`Self::on_changed`]).
    pub fn place_override(&self, over: Override, now: Now) -> Result<Persisting, HoldError> {
        check_text("ticket", &over.ticket, false)?;
        let who = Who { owner: over.owner.clone(), reason: over.reason.clone() };
        who.check()?;
        let mut control = self.control.lock();
        control.place_override(&over, now)?;
        let happened = Happened { kind: EventKind::Placed, subject: Subject::Override(over), who };
        Ok(self.told(control, happened, now))
    }

    /// Ends the override on something, when that is on disk, which is when the answer says `durable`. None there:
    /// there is nothing to end.
    pub fn clear_override(
        &self,
        site: Option<&Site>,
        operation: &str,
        who: Who,
        now: Now,
    ) -> Result<Persisting, HoldError> {
        who.check()?;
        let mut control = self.control.lock();
        let Some(over) = control.override_on(site, operation) else {
            return Ok(Persisting::done(Persisted { durable: true, released: 0 }));
        };
        if control.hold(HoldId::UNREADABLE).is_some() {
            return Err(HoldError::Unreadable);
        }
        let Who { owner, reason } = who;
        let subject = Subject::Override(over.clone());
        let event = Draft { at: now, kind: EventKind::Released, owner, reason, subject };
        Ok(self.order(&mut control, event, Then::Clear))
    }

    /// The override on something, if there is one.
    pub fn override_on(&self, site: Option<&Site>, operation: &str) -> Option<Override> {
        self.control.lock().override_on(site, operation).cloned()
    }

    /// The overrides in force, with the time that is left.
    pub fn overrides(&self, now: Now) -> Vec<(Override, Option<Duration>)> {
        self.control.lock().overrides(now.instant)
    }

    /// One hold.
    pub fn status(&self, id: HoldId, now: Now) -> Option<HoldStatus> {
        self.control.lock().status(id, now)
    }

    /// The holds in force, oldest first.
    pub fn list(&self, now: Now) -> Vec<HoldStatus> {
        self.control.lock().list(now)
    }

    /// How many holds are in force that do more than observe.
    pub fn in_force(&self) -> usize {
        self.control.lock().holds().filter(|hold| hold.mode != Mode::Observe).count()
    }

    /// The holds that defer writes of `site`, or some of them.
    pub fn deferring(&self, site: &Site) -> Vec<HoldId> {
        let control = self.control.lock();
        let defers = |hold: &&Hold| hold.mode == Mode::Defer && hold.scope.concerns(site);
        control.holds().filter(defers).map(|hold| hold.id).collect()
    }

    /// At most `limit` of the kept events with a smaller number than `before`, newest first; of one hold, or
    /// all.
    pub fn events(&self, of: Option<HoldId>, before: u64, limit: usize) -> Vec<Event> {
        let concerns = |event: &&Event| match (&of, &event.subject) {
            (None, _) => true,
            (Some(id), Subject::Hold(hold)) => hold.id == *id,
            (Some(_), Subject::Override(_)) => false,
        };
        let control = self.control.lock();
        let older = control.events.iter().rev().filter(|event| event.number < before);
        older.filter(concerns).take(limit).cloned().collect()
    }

    /// Places a hold on all writes, unless one that never ends is there; for a start that shall apply nothing.
    pub fn hold_all(&self, owner: &str, reason: &str, now: Now) -> Result<Option<Persisting>, HoldError> {
        let is_there = self.control.lock().list(now).iter().any(|status| {
            let hold = &status.hold;
            hold.mode == Mode::Defer && hold.scope == Scope::ALL_WRITES && hold.expiry.is_none()
        });
        if is_there {
            return Ok(None);
        }
        let new = NewHold {
            scope: Scope::ALL_WRITES,
            mode: Mode::Defer,
            reason: reason.to_owned(),
            owner: owner.to_owned(),
            ticket: String::new(),
            lasting: Lasting::Never,
        };
        self.place(new, now).map(|(_, persisting)| Some(persisting))
    }
}

fn releasable(
    control: &Control,
    id: HoldId,
    if_version: Option<u64>,
    recover: bool,
) -> Result<Hold, HoldError> {
    let hold = control.expect(id, if_version)?.clone();
    match (id == HoldId::UNREADABLE, recover) {
        (true, false) => {
            let problem = "must be said for holds-unreadable: the holds that cannot be read are given up";
            Err(Invalid::new("recover", problem).into())
        }
        (false, true) => Err(Invalid::new("recover", "is only for holds-unreadable").into()),
        (false, false) if control.hold(HoldId::UNREADABLE).is_some() => Err(HoldError::Unreadable),
        _ => Ok(hold),
    }
}

/// What was done, to what, and by whom.
struct Happened {
    kind: EventKind,
    subject: Subject,
    who: Who,
}

/// Who does something, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Who.
    pub owner: String,
    /// Why.
    pub reason: String,
}

impl Who {
    fn check(&self) -> Result<(), Invalid> {
        check_text("reason", &self.reason, true)?;
        check_text("owner", &self.owner, true)
    }
}
