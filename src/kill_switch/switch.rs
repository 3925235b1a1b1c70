//! The switch itself: asked by everybody, changed by few.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::audit::{Event, EventKind, Override, Subject};
use super::control::Control;
use super::epoch::{Epoch, Turnstile};
use super::hold::{Hold, HoldId, Invalid, Lasting, Mode, NewHold, check_text};
use super::rules::{AnyUser, Snapshot, Verdict, View, cell};
use super::scope::{Operation, Scope};
use super::scribe::{Order, Then};
use super::service::Held;
use super::{HoldError, HoldStatus, Impact, Now, Persisted, Persisting};
use crate::metrics as names;
use crate::model::Site;

/// Orders that may wait for the disk. What does not fit is in force and not durable, until the log is
/// written anew.
pub(super) const ORDERS_LIMIT: usize = 1_024;

/// How long after a failure the log is written anew.
const REWRITE_AFTER: Duration = Duration::from_secs(1);

/// Called when holds have let go of a scope, with what was deferred before and is now. Schedules what it
/// frees, and answers how many entries those are.
pub type Resumed = Box<dyn Fn(&Scope, &View, &View) -> u64 + Send + Sync>;

/// The holds in force.
pub struct KillSwitch {
    snapshot: ArcSwap<Snapshot>,
    turnstile: Turnstile,
    pub(super) control: Mutex<Control>,
    orders: Sender<Order>,
    resumed: OnceLock<Resumed>,
    effects: Effects,
}

/// Looked up once: requests are many.
struct Effects {
    deferred: metrics::Counter,
    rejected: metrics::Counter,
}

impl fmt::Debug for KillSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KillSwitch").field("snapshot", &self.snapshot.load()).finish_non_exhaustive()
    }
}

/// Stands for a request that is under way. Dropping it counts the request off.
#[derive(Debug)]
pub struct Ticket {
    snapshot: Arc<Snapshot>,
    cell: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.snapshot.epoch.leave(self.cell);
    }
}

/// What the switch says to a request.
#[derive(Debug)]
pub enum Admission {
    /// It passes.
    Pass(Ticket),
    /// It is accepted and waits, for so long if that is known.
    Defer(Ticket, Option<Duration>),
    /// It is refused.
    Refuse(Box<Held>),
}

impl KillSwitch {
    pub(super) fn new(control: Control) -> (Arc<Self>, Receiver<Order>) {
        let (orders, received) = crossbeam_channel::bounded(ORDERS_LIMIT);
        let snapshot = control.snapshot();
        let effect = |effect: &'static str| counter!(names::HELD_REQUESTS, "effect" => effect);
        let switch = Self {
            turnstile: Turnstile::new(snapshot.version),
            snapshot: ArcSwap::from_pointee(snapshot),
            control: Mutex::new(control),
            orders,
            resumed: OnceLock::new(),
            effects: Effects { deferred: effect("deferred"), rejected: effect("rejected") },
        };
        (Arc::new(switch), received)
    }

    /// Sets what is called when holds let go, once.
    pub fn on_resumed(&self, resumed: Resumed) {
        let first = self.resumed.set(resumed).is_ok();
        debug_assert!(first, "set once");
    }

    /// Judges a request. `any_user` says whether one of its users passes a test; a request that is not about
    /// single users answers `false`, and is then in no share of the users.
    pub fn admit(&self, site: &Site, operation: Operation, any_user: AnyUser<'_>) -> Admission {
        let cell = cell(site, operation);
        let snapshot = self.turnstile.admit(
            || self.snapshot.load_full(),
            |snapshot| snapshot.version,
            |snapshot| -> &Epoch { &snapshot.epoch },
            cell,
        );
        let ticket = Ticket { snapshot, cell };
        let Some(rules) = &ticket.snapshot.rules else { return Admission::Pass(ticket) };
        let left = |deadline: Option<Instant>| {
            deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
        };
        let defer_for = match rules.judge(site, operation, any_user) {
            Verdict::Pass => None,
            Verdict::Defer(hold) => Some(left(hold.deadline)),
            Verdict::Reject(hold) => {
                self.effects.rejected.increment(1);
                let held = Held::new(&hold.hold, operation, left(hold.deadline));
                return Admission::Refuse(Box::new(held));
            }
        };
        match defer_for {
            None => Admission::Pass(ticket),
            Some(left) => {
                self.effects.deferred.increment(1);
                Admission::Defer(ticket, left)
            }
        }
    }

    /// What is deferred now. To be taken under a lane's lock, so that a change is either seen or tells.
    pub fn view(&self) -> View {
        View(self.snapshot.load_full())
    }

    /// Brings the present holds in force. The lock shows that nobody else does.
    fn publish(&self, control: &Control) {
        let snapshot = control.snapshot();
        let version = snapshot.version;
        self.snapshot.store(Arc::new(snapshot));
        self.turnstile.advance(version);
    }

    /// Places a hold: no request of its scope is admitted from here on, unless it says so.
    pub fn place(&self, new: NewHold, now: Now) -> Result<(HoldStatus, Persisting), HoldError> {
        let mut control = self.control.lock();
        let hold = control.place(new, now)?;
        self.publish(&control);
        let (owner, reason) = (hold.owner.clone(), hold.reason.clone());
        let status = control.status(hold.id, now).ok_or(HoldError::NotFound { id: hold.id })?;
        let subject = Subject::Hold(hold);
        let event = Draft { at: now, kind: EventKind::Placed, owner, reason, subject };
        Ok((status, self.order(&mut control, event, Then::Nothing)))
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
        let Who { owner, reason } = who;
        let event = Draft { at: now, kind: EventKind::Extended, owner, reason, subject: Subject::Hold(hold) };
        Ok((status, self.order(&mut control, event, Then::Nothing)))
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
        let hold = self.releasable(&control, id, if_version, recover)?;
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
        self.releasable(&control, id, if_version, recover)?;
        let status = control.status(id, now).ok_or(HoldError::NotFound { id })?;
        Ok((status, self.view(), View(Arc::new(control.snapshot_without(id)))))
    }

    fn releasable(
        &self,
        control: &Control,
        id: HoldId,
        if_version: Option<u64>,
        recover: bool,
    ) -> Result<Hold, HoldError> {
        let hold = control.expect(id, if_version)?.clone();
        match (id == HoldId::UNREADABLE, recover) {
            (true, false) => {
                let problem = "must be said for holds-unreadable: the holds that cannot be read are given up";
                return Err(Invalid::new("recover", problem).into());
            }
            (false, true) => return Err(Invalid::new("recover", "is only for holds-unreadable").into()),
            (false, false) if control.hold(HoldId::UNREADABLE).is_some() => {
                return Err(HoldError::Unreadable);
            }
            _ => Ok(hold),
        }
    }

    /// Records that an override was placed; it takes the place of any other on the same thing.
    pub fn place_override(&self, over: Override, now: Now) -> Result<Persisting, HoldError> {
        check_text("ticket", &over.ticket, false)?;
        let who = Who { owner: over.owner.clone(), reason: over.reason.clone() };
        who.check()?;
        let mut control = self.control.lock();
        control.place_override(&over, now)?;
        let Who { owner, reason } = who;
        let subject = Subject::Override(over);
        let event = Draft { at: now, kind: EventKind::Placed, owner, reason, subject };
        Ok(self.order(&mut control, event, Then::Nothing))
    }

    /// Records that an operator ended an override; `over` says whose and how.
    pub fn clear_override(&self, over: Override, who: Who, now: Now) -> Result<Persisting, HoldError> {
        who.check()?;
        let mut control = self.control.lock();
        control.clear_override(&over);
        let Who { owner, reason } = who;
        let subject = Subject::Override(over);
        let event = Draft { at: now, kind: EventKind::Released, owner, reason, subject };
        Ok(self.order(&mut control, event, Then::Nothing))
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

    /// What time brings. To be called some times a second.
    pub fn tick(&self, now: Now) {
        let mut control = self.control.lock();
        let before = self.view();
        let due = control.tick(now);
        if !due.ended.is_empty() {
            self.publish(&control);
        }
        for (kind, subject) in due.events {
            tell(kind, &subject);
            let event = Draft { at: now, kind, owner: String::new(), reason: String::new(), subject };
            // Nobody waits for it: what ended by its time ends by it after a restart too.
            drop(self.order(&mut control, event, Then::Nothing));
        }
        if control.rewrite_at.is_some_and(|at| at <= now.instant) {
            control.rewrite_at = Some(now.instant + REWRITE_AFTER);
            let (done, _) = oneshot::channel();
            // A full queue has others that will bring it about.
            drop(self.orders.try_send(Order::Rewrite { done }));
        }
        let figures = control.figures(now.instant);
        drop(control);
        let modes =
            [Mode::Observe, Mode::Defer, Mode::Reject].into_iter().zip(["observe", "defer", "reject"]);
        for ((_, name), count) in modes.zip(figures.by_mode) {
            gauge!(names::HOLDS, "mode" => name).set(count as f64);
        }
        gauge!(names::HOLDS_EXPIRING).set(figures.expiring as f64);
        gauge!(names::HOLDS_NOT_DURABLE).set(figures.not_durable as f64);
        gauge!(names::HOLDS_UNREADABLE).set(f64::from(u8::from(figures.unreadable)));
        for scope in due.ended {
            self.resume(&scope, &before);
        }
    }

    /// Ends the scribe when it has done what was ordered before. Nothing is persisted afterwards.
    pub fn close(&self) {
        // Only a scribe that hangs leaves it full.
        if self.orders.send_timeout(Order::Stop, Duration::from_secs(2)).is_err() {
            tracing::error!("the audit log's disk does not answer; the last events of holds are not on it");
        }
    }

    /// Takes a hold out of force, when that is on disk.
    pub(super) fn let_go(&self, id: HoldId) -> u64 {
        let mut control = self.control.lock();
        let before = self.view();
        let Some(hold) = control.remove(id) else { return 0 };
        self.publish(&control);
        drop(control);
        self.resume(&hold.scope, &before)
    }

    fn resume(&self, scope: &Scope, before: &View) -> u64 {
        self.resumed.get().map_or(0, |resumed| resumed(scope, before, &self.view()))
    }

    /// Hands an event to the scribe, in the order of what it tells of.
    fn order(&self, control: &mut Control, draft: Draft, then: Then) -> Persisting {
        let (done, heard) = oneshot::channel();
        let rewrite_at = draft.at.instant + REWRITE_AFTER;
        match self.orders.try_send(Order::Write { draft, then, done }) {
            Ok(()) => {}
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => {
                counter!(names::AUDIT_FAILURES).increment(1);
                tracing::error!("the audit log's disk does not answer; what operators do now is not on it");
                control.rewrite_at.get_or_insert(rewrite_at);
                if let Order::Write { done, .. } = order {
                    let _ = done.send(Persisted::default());
                }
            }
        }
        Persisting(heard)
    }
}

fn tell(kind: EventKind, subject: &Subject) {
    match subject {
        Subject::Hold(hold) => {
            let (id, scope, reason) = (hold.id, &hold.scope, &hold.reason);
            match kind {
                EventKind::Expiring => tracing::warn!(%id, %scope, reason, "a hold ends in 10 minutes"),
                _ => tracing::warn!(%id, %scope, reason, "a hold has ended by itself"),
            }
        }
        Subject::Override(over) => {
            let (operation, mode) = (&over.operation, &over.mode);
            tracing::warn!(operation, mode, "an override has ended by itself");
        }
    }
}

/// Who does something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// An event without its number.
#[derive(Debug)]
pub(super) struct Draft {
    pub at: Now,
    pub kind: EventKind,
    pub owner: String,
    pub reason: String,
    pub subject: Subject,
}

impl Draft {
    pub fn numbered(self, number: u64) -> Event {
        let Self { at, kind, owner, reason, subject } = self;
        Event { number, at: at.wall, kind, owner, reason, subject }
    }
}
