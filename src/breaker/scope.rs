//! One breaker: its counters, and under a lock that calls do not touch while it is Closed, detector and
//! machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::detector::{Alarm, Detector, Finding};
use super::event::{Event, Evidence, Phase, Rule, ScopeName};
use super::flush::FlushRule;
use super::overrides::{Mode, Override};
use super::recovery::Pace;
use super::seat;
use super::settings::Settings;
use super::state::{Decision, Machine, Reason, Role, Seen};
use super::token::{CallToken, Probe};
use super::window::{Begun, Ending, Running, Window};

/// A call that may not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the breaker of {} does not let this call pass ({:?}); again in {:?}", .0.scope, .0.reason, .0.retry_after)]
pub struct Refused(Box<Refusal>);

impl std::ops::Deref for Refused {
    type Target = Refusal;

    fn deref(&self) -> &Refusal {
        &self.0
    }
}

/// Why a call may not pass; boxed in [`Refused`], because what passes should not carry its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which breaker refused: the scope or its parent.
    pub scope: ScopeName,
    /// Why.
    pub reason: Reason,
    /// When to try again.
    pub retry_after: Duration,
}

/// One scope at a glance, as of the last tick.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeStatus {
    /// Which.
    pub name: ScopeName,
    /// Its own state; a child of a parent that is not Closed obeys that one.
    pub phase: Phase,
    /// Until it probes, while it is Open.
    pub open_for: Option<Duration>,
    /// The operator's word, and how long it still holds.
    pub order: Option<(Override, Option<Duration>)>,
    /// Entries a second of a slow start.
    pub rate: Option<f64>,
    /// Percentage that a ramp lets pass.
    pub share: Option<u32>,
    /// Entries that wait, where known.
    pub backlog: Option<u64>,
    /// Calls refused since it exists.
    pub refused: u64,
    /// How long it has been in this state, by the age clock.
    pub for_so_long: Duration,
    /// How often it tripped since it exists.
    pub trips: u64,
    /// Why it tripped last, and what was known then.
    pub tripped_by: Option<(Rule, Evidence)>,
    /// Verdicts since it exists: fast, slow or bad.
    pub judged: (u64, u64),
    /// Score, counts and ages.
    pub evidence: Evidence,
}

const UNKNOWN: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Scope {
    window: Window,
    core: Mutex<Core>,
    handles: AtomicU64,
    backlog: AtomicU64,
    refused: AtomicU64,
    parent: Option<&'static Scope>,
}

#[derive(Debug)]
struct Core {
    name: ScopeName,
    settings: Settings,
    seed: u64,
    now: Duration,
    detector: Detector,
    machine: Machine,
    flush: FlushRule,
    /// The backend said that it cannot go on, since the last tick.
    failed: bool,
    order: Option<(Override, Option<Duration>)>,
    finding: Finding,
    active_at: Duration,
    tripped_at: Option<Duration>,
    changed_at: Duration,
    trips: u64,
    tripped_by: Option<(Rule, Evidence)>,
}

/// What one scope's tick tells its parent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    pub finding: Finding,
    pub hung: u64,
    pub backlog: Option<u64>,
    pub last_end: Duration,
    pub active_at: Duration,
    pub tripped_at: Option<Duration>,
    pub phase: Option<Phase>,
    pub changed: bool,
    pub tripped: bool,
}

/// What a scope's children tell it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FromChildren {
    pub alarm: Option<Rule>,
    pub slow: u64,
    pub hung: u64,
    pub backlog: Option<u64>,
    pub in_flight: u64,
    pub oldest: Option<Duration>,
}

impl Core {
    fn new(name: ScopeName, settings: Settings, seed: u64, now: Duration) -> Self {
        Self {
            detector: Detector::new(settings.timing(), now),
            machine: Machine::new(settings.clone(), seed, now),
            name,
            settings,
            seed,
            now,
            flush: FlushRule::default(),
            failed: false,
            order: None,
            finding: Finding::default(),
            active_at: now,
            tripped_at: None,
            changed_at: now,
            trips: 0,
            tripped_by: None,
        }
    }

    fn evidence(&self, window: &Window, rule: Option<Rule>) -> Evidence {
        let cusum = self.detector.cusum();
        let (slow, total) = cusum.share();
        let oldest = self.finding.oldest;
        let since = match rule {
            Some(Rule::Stall) => oldest.unwrap_or_default(),
            Some(Rule::FlushOverdue { age }) => age,
            Some(Rule::BackendFailed | Rule::Children { .. }) if oldest.is_some() => {
                oldest.unwrap_or_default()
            }
            _ if cusum.score() > 0.0 => self.now.saturating_sub(cusum.since()) + self.settings.slow_after,
            _ => Duration::ZERO,
        };
        Evidence {
            score: cusum.score(),
            slow,
            total,
            since,
            oldest,
            p99: self.detector.p99(),
            in_flight: self.finding.in_flight,
            hung: self.detector.hung(window),
        }
    }

    /// Turns a decision into its event and its effect on the counters.
    fn apply(
        &mut self,
        decision: Decision,
        window: &Window,
        parent_passes: bool,
        evidence: Evidence,
    ) -> Event {
        let (scope, at) = (self.name.clone(), self.now);
        match decision {
            Decision::WouldTrip(rule) => Event::WouldTrip { scope, rule, at, evidence },
            Decision::Change { from, to, rule } => {
                self.changed_at = at;
                if to == Phase::Open {
                    self.tripped_at = Some(at);
                    self.trips += 1;
                    self.tripped_by = Some((rule, evidence));
                }
                let passes = self.machine.passes() && parent_passes;
                // From Recovering to Closed calls in flight stay what they are; otherwise the results of those that
                // began before count no more.
                if matches!(rule, Rule::FullRate | Rule::BacklogEmpty) {
                    window.set_passes(passes);
                } else {
                    self.detector.next_generation(at, window, passes);
                    self.finding = Finding::default();
                }
                Event::Transition { scope, from, to, rule, at, evidence }
            }
        }
    }
}

impl Scope {
    /// Lives as long as the process: a call's token then needs no count of references. The registry bounds
    /// how many there are, and uses them again.
    pub fn leak(
        name: ScopeName,
        settings: &Settings,
        seed: u64,
        now: Duration,
        parent: Option<&'static Self>,
    ) -> &'static Self {
        let window = Window::new(settings.timing().buckets(), settings.stripes);
        Box::leak(Box::new(Self {
            window,
            core: Mutex::new(Core::new(name, settings.clone(), seed, now)),
            handles: AtomicU64::new(0),
            backlog: AtomicU64::new(UNKNOWN),
            refused: AtomicU64::new(0),
            parent,
        }))
    }

    /// Makes an idle scope somebody else's.
    pub fn reuse(&self, name: ScopeName, now: Duration, parent_passes: bool) {
        let mut core = self.core.lock();
        let (settings, seed) = (core.settings.clone(), core.seed);
        core.detector.next_generation(now, &self.window, parent_passes);
        let mut next = Core::new(name, settings, seed, now);
        // It knows what is still out; everything else it has just forgotten.
        std::mem::swap(&mut next.detector, &mut core.detector);
        *core = next;
        self.backlog.store(UNKNOWN, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
    }

    /// Nobody holds it, nothing happens in it, and nothing would be lost with it.
    pub fn is_idle(&self, now: Duration, idle_after: Duration) -> bool {
        let core = self.core.lock();
        self.handles.load(Ordering::Acquire) == 0
            && core.machine.passes()
            && core.machine.mode() == Mode::Auto
            && core.finding.in_flight == 0
            && core.detector.hung(&self.window) == 0
            && now.saturating_sub(core.active_at) >= idle_after
    }

    pub fn name(&self) -> ScopeName {
        self.core.lock().name.clone()
    }

    pub fn passes(&self) -> bool {
        self.core.lock().machine.passes()
    }

    #[inline]
    pub fn begin(&self, call: &mut Running) -> Begun {
        self.window.begin(call, seat::number())
    }

    #[inline]
    pub fn end(&self, running: &Running, ending: Ending) -> bool {
        self.window.end(running, ending, seat::number())
    }

    pub fn end_outdated(&self) {
        self.window.end_outdated();
    }

    pub fn probe_began(&self, lease: u64) {
        self.core.lock().machine.probe_began(lease);
    }

    pub fn probe_ended(&self, lease: u64, answered: Option<bool>) {
        self.core.lock().machine.probe_ended(lease, answered);
    }

    #[inline]
    fn admit(&'static self, role: Role, weight: u32) -> Result<CallToken, Refused> {
        let gate = self.window.gate();
        if gate.passes() {
            return Ok(CallToken::new(self, gate.generation()));
        }
        self.ask(role, weight)
    }

    /// The parent is asked first: only the outermost scope that is not Closed probes.
    #[cold]
    fn ask(&'static self, role: Role, weight: u32) -> Result<CallToken, Refused> {
        let of_parent = match self.parent {
            Some(parent) => parent.decide(role, weight)?.0,
            None => None,
        };
        match self.decide(role, weight) {
            Ok((own, generation)) => Ok(CallToken::new(self, generation).probing(own.or(of_parent))),
            Err(refused) => {
                if let Some(probe) = of_parent {
                    probe.scope.probe_ended(probe.lease, None);
                }
                Err(refused)
            }
        }
    }

    fn decide(&'static self, role: Role, weight: u32) -> Result<(Option<Probe>, u32), Refused> {
        let mut core = self.core.lock();
        match core.machine.admit(role, weight) {
            Ok(lease) => {
                let probe = lease.map(|lease| Probe { scope: self, lease });
                Ok((probe, self.window.gate().generation()))
            }
            Err((reason, retry_after)) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(Refused(Box::new(Refusal { scope: core.name.clone(), reason, retry_after })))
            }
        }
    }

    /// One tick. `now`, `passed`: by the age clock; `real`: monotonic time, for what an operator ordered.
    pub fn tick(
        &self,
        (now, passed, real): (Duration, Duration, Duration),
        parent_passes: bool,
        children: &FromChildren,
        events: &mut Vec<Event>,
    ) -> Report {
        let mut core = self.core.lock();
        let core = &mut *core;
        core.now = now;
        if let Some((order, _)) = core.order.take_if(|(_, until)| until.is_some_and(|until| real >= until)) {
            events.push(Event::OverrideExpired { scope: core.name.clone(), order });
            self.set_mode(core, Mode::Auto, parent_passes, events);
        }
        if let Some(mut finding) = core.detector.tick(now, &self.window) {
            finding.oldest = finding.oldest.max(children.oldest);
            finding.in_flight += children.in_flight;
            core.finding = finding;
        } else {
            core.finding = Finding { fast: 0, slow: 0, active: false, alarm: None, ..core.finding };
        }
        let finding = core.finding;
        if finding.active {
            core.active_at = now;
        }
        let alarm = match finding.alarm {
            _ if std::mem::take(&mut core.failed) => Some(Rule::BackendFailed),
            _ if let Some(age) = core.flush.overdue(now) => Some(Rule::FlushOverdue { age }),
            Some(Alarm::Stall) => Some(Rule::Stall),
            Some(Alarm::Slowness) => Some(Rule::PartialSlowness),
            None => children.alarm,
        };
        let hung = core.detector.hung(&self.window);
        let backlog = self.backlog();
        let seen = Seen {
            alarm,
            slow: finding.slow + children.slow,
            hung: hung + children.hung,
            backlog: backlog.or(children.backlog),
        };
        let mut report = Report {
            finding,
            hung,
            backlog,
            last_end: core.detector.last_end(),
            active_at: core.active_at,
            ..Report::default()
        };
        let rule = seen.alarm;
        let before = core.evidence(&self.window, rule);
        let probed = core.machine.probe_age(now);
        if let Some(decision) = core.machine.tick(now, passed, &seen) {
            report.changed = matches!(decision, Decision::Change { .. });
            report.tripped = matches!(decision, Decision::Change { to: Phase::Open, .. });
            let seen = before.with_probe(decision.rule(), probed);
            let event = core.apply(decision, &self.window, parent_passes, seen);
            events.push(event);
        }
        report.tripped_at = core.tripped_at;
        report.phase = Some(core.machine.phase());
        report
    }

    /// Its parent's state changed; `tripped`: it opened, so that nothing of this one's own matters now.
    pub fn parent_changed(&self, now: Duration, passes: bool, tripped: bool, events: &mut Vec<Event>) {
        let mut core = self.core.lock();
        let core = &mut *core;
        core.now = now;
        if !tripped {
            self.window.set_passes(core.machine.passes() && passes);
            return;
        }
        let evidence = core.evidence(&self.window, None);
        if let Some(decision) = core.machine.follow() {
            let event = core.apply(decision, &self.window, passes, evidence);
            events.push(event);
        } else {
            core.detector.next_generation(now, &self.window, core.machine.passes() && passes);
            core.finding = Finding::default();
        }
    }

    /// An operator's word, from now on until `until` (monotonic).
    pub fn set_override(
        &self,
        order: Override,
        until: Option<Duration>,
        parent_passes: bool,
        events: &mut Vec<Event>,
    ) -> bool {
        let mut core = self.core.lock();
        let core = &mut *core;
        let mode = order.mode;
        events.push(Event::Overridden { scope: core.name.clone(), order: order.clone() });
        core.order = (mode != Mode::Auto).then_some((order, until));
        self.set_mode(core, mode, parent_passes, events)
    }

    fn set_mode(&self, core: &mut Core, mode: Mode, parent_passes: bool, events: &mut Vec<Event>) -> bool {
        let evidence = core.evidence(&self.window, None);
        let Some(decision) = core.machine.set_mode(mode) else { return false };
        let event = core.apply(decision, &self.window, parent_passes, evidence);
        events.push(event);
        true
    }

    /// The backend has been replaced: calls that hang in the old one, and its flush, keep nothing closed up.
    pub fn renew(&self, parent_passes: bool) {
        let mut core = self.core.lock();
        let core = &mut *core;
        let passes = core.machine.passes() && parent_passes;
        core.detector.forgive(core.now, &self.window, passes);
        core.finding = Finding::default();
        core.flush = FlushRule::default();
        core.failed = false;
        core.machine.renew();
    }

    fn backlog(&self) -> Option<u64> {
        Some(self.backlog.load(Ordering::Relaxed)).filter(|&entries| entries != UNKNOWN)
    }

    pub fn status(&self, real: Duration) -> ScopeStatus {
        let core = self.core.lock();
        ScopeStatus {
            name: core.name.clone(),
            phase: core.machine.phase(),
            open_for: core.machine.open_for(),
            order: core.order.clone().map(|(order, until)| {
                let left = until.map(|until| until.saturating_sub(real));
                (order, left)
            }),
            rate: core.machine.rate(),
            share: core.machine.share(),
            backlog: self.backlog(),
            refused: self.refused.load(Ordering::Relaxed),
            for_so_long: core.now.saturating_sub(core.changed_at),
            trips: core.trips,
            tripped_by: core.tripped_by,
            judged: core.detector.judged(),
            evidence: core.evidence(&self.window, None),
        }
    }
}

/// A scope, held: it is not given to anybody else while a handle exists. Keep it where the calls come from
/// (a lane, a service) rather than looking it up for each.
#[derive(Debug)]
pub struct ScopeHandle(&'static Scope);

impl ScopeHandle {
    pub(super) fn new(scope: &'static Scope) -> Self {
        scope.handles.fetch_add(1, Ordering::AcqRel);
        Self(scope)
    }

    pub(super) fn scope(&self) -> &'static Scope {
        self.0
    }

    /// May a call of `weight` entries pass? Never waits. While the scope is Closed: one atomic load.
    #[inline]
    pub fn admit(&self, role: Role, weight: u32) -> Result<CallToken, Refused> {
        self.0.admit(role, weight)
    }

    /// A token for a call that another scope has admitted, so that it is judged here too: by the threads of a
    /// backend, for example, when its sites have scopes of their own. Costs nothing of this scope's rate.
    pub fn follow(&self) -> CallToken {
        CallToken::new(self.0, self.0.window.gate().generation())
    }

    /// How many entries a turn should have now; `None`: as many as it likes.
    pub fn turn(&self) -> Option<u32> {
        let of = |scope: &Scope| {
            if scope.window.gate().passes() { None } else { scope.core.lock().machine.turn() }
        };
        let (own, parents) = (of(self.0), self.0.parent.and_then(of));
        own.into_iter().chain(parents).min()
    }

    /// This scope at a glance; `real` as in the last tick.
    pub fn status(&self, real: Duration) -> ScopeStatus {
        self.0.status(real)
    }

    /// Its name.
    pub fn name(&self) -> ScopeName {
        self.0.name()
    }

    /// The state that a call would meet: its own or the parent's, whichever lets less through.
    pub fn phase(&self) -> Phase {
        let parent = self.0.parent.map(|parent| parent.core.lock().machine.phase());
        let own = self.0.core.lock().machine.phase();
        parent.map_or(own, |parent| own.max(parent))
    }

    /// How many entries wait: a slow start ends when none has for a second.
    pub fn set_backlog(&self, entries: u64) {
        self.0.backlog.store(entries.min(UNKNOWN - 1), Ordering::Relaxed);
    }

    /// The pace of slow starts, now and later.
    pub fn set_pace(&self, pace: Pace) {
        self.0.core.lock().machine.set_pace(pace);
    }

    /// The backend said that it cannot go on: trips at the next tick, whatever it has seen before.
    pub fn backend_failed(&self) {
        self.0.core.lock().failed = true;
    }

    /// A flush of the backend began (as of the last tick); see [`FlushRule`].
    pub fn flush_started(&self) {
        let mut core = self.0.core.lock();
        let now = core.now;
        core.flush.started(now);
    }

    /// The flush ended.
    pub fn flush_finished(&self) {
        let mut core = self.0.core.lock();
        let now = core.now;
        core.flush.finished(now);
    }

    /// Is this the scope of that name's operation as a whole?
    pub(super) fn operation(&self) -> Arc<str> {
        self.0.core.lock().name.operation.clone()
    }
}

impl Clone for ScopeHandle {
    fn clone(&self) -> Self {
        Self::new(self.0)
    }
}

impl Drop for ScopeHandle {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Ordering::AcqRel);
    }
}
