//! The switch itself: asked by everybody, changed by few.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::audit::{Event, EventKind, Subject};
use super::control::Control;
use super::epoch::{Epoch, Turnstile};
use super::hold::{HoldId, Mode};
use super::operators::Who;
use super::rules::{AnyUser, Snapshot, Verdict, View, cell};
use super::scope::{Operation, Scope};
use super::scribe::{Order, Then};
use super::service::Held;
use super::{Now, Persisted, Persisting};
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

/// Called after what is in force has changed, a hold or an override, with what happened and who did it; nobody,
/// if it ended by itself. No lock is held meanwhile, so that the switch may be asked.
pub type Changed = Box<dyn Fn(&KillSwitch, EventKind, &Subject, &Who) + Send + Sync>;

/// The holds in force.
pub struct KillSwitch {
    snapshot: ArcSwap<Snapshot>,
    turnstile: Turnstile,
    pub(super) control: Mutex<Control>,
    orders: Sender<Order>,
    resumed: OnceLock<Resumed>,
    /// What holds had let go before anybody was there to go on: those that had expired at the start.
    early: Mutex<Vec<(Scope, View)>>,
    changed: OnceLock<Changed>,
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
            early: Mutex::default(),
            changed: OnceLock::new(),
            effects: Effects { deferred: effect("deferred"), rejected: effect("rejected") },
        };
        (Arc::new(switch), received)
    }

    /// Sets what is called when holds let go, once. Hears at once of those that had ended before.
    pub fn on_resumed(&self, resumed: Resumed) {
        let mut early = self.early.lock();
        let first = self.resumed.set(resumed).is_ok();
        debug_assert!(first, "set once");
        let ended = std::mem::take(&mut *early);
        drop(early);
        for (scope, before) in ended {
            self.resume(&scope, &before);
        }
    }

    /// Sets what is called when something is placed, changed or ended, once.
    pub fn on_changed(&self, changed: Changed) {
        let first = self.changed.set(changed).is_ok();
        debug_assert!(first, "set once");
    }

    /// Says that what is in force has changed. Not to be called under the lock.
    pub(super) fn has_changed(&self, kind: EventKind, subject: &Subject, who: &Who) {
        if let Some(changed) = self.changed.get() {
            changed(self, kind, subject, who);
        }
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
    pub(super) fn publish(&self, control: &Control) {
        let snapshot = control.snapshot();
        let version = snapshot.version;
        self.snapshot.store(Arc::new(snapshot));
        self.turnstile.advance(version);
    }

    /// What time brings. To be called some times a second.
    pub fn tick(&self, now: Now) {
        let mut control = self.control.lock();
        let before = self.view();
        let due = control.tick(now);
        if !due.ended.is_empty() {
            self.publish(&control);
        }
        for (kind, subject) in &due.events {
            tell(*kind, subject);
            let subject = subject.clone();
            let event = Draft { at: now, kind: *kind, owner: String::new(), reason: String::new(), subject };
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
        for (kind, subject) in &due.events {
            self.has_changed(*kind, subject, &Who::default());
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
        let mut early = self.early.lock();
        let Some(resumed) = self.resumed.get() else {
            early.push((scope.clone(), before.clone()));
            return 0;
        };
        drop(early);
        resumed(scope, before, &self.view())
    }

    /// Hands an event to the scribe, in the order of what it tells of.
    pub(super) fn order(&self, control: &mut Control, draft: Draft, then: Then) -> Persisting {
        let (done, heard) = oneshot::channel();
        let rewrite_at = draft.at.instant + REWRITE_AFTER;
        match self.orders.try_send(Order::Write { draft: Box::new(draft), then, done }) {
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
            if kind == EventKind::Expiring {
                tracing::warn!(%id, %scope, reason, "a hold ends in 10 minutes");
            } else {
                tracing::warn!(%id, %scope, reason, "a hold has ended by itself");
            }
        }
        Subject::Override(over) => {
            let (operation, mode) = (&over.operation, &over.mode);
            tracing::warn!(operation, mode, "an override has ended by itself");
        }
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
