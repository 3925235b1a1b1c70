//! What operators see and change: the holds in force, under one lock that is never held over I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::audit::{Event, EventKind, OVERRIDES_LIMIT, Override, State, Subject};
use super::epoch::{CELLS, Epoch};
use super::hold::{Expiry, HOLDS_LIMIT, Hold, HoldId, NewHold};
use super::rules::{InForce, Rules, Snapshot, cells};
use super::scope::Scope;
use super::{HoldError, HoldStatus, Now};
use crate::model::{EventTime, Site};

/// A hold that lasts longer than this is warned of so long before it ends.
pub const WARN_BEFORE: Duration = Duration::from_mins(10);

/// Epochs that are kept while requests of them are under way. When there are more, a hold begins none of
/// its own, and counts requests as under way that were admitted after the one before it.
const EPOCHS_LIMIT: usize = 256;

/// Seconds over which rates are told.
const RATE_SECONDS: usize = 60;

/// A hold in force and how it stands.
#[derive(Debug)]
struct Entry {
    force: InForce,
    durable: bool,
    warned: bool,
    /// Requests of earlier epochs were admitted before it.
    epoch: u64,
    drained_at: Option<EventTime>,
}

/// An override in force.
#[derive(Debug)]
struct OverrideEntry {
    over: Override,
    deadline: Option<Instant>,
}

/// All of it.
#[derive(Debug)]
pub struct Control {
    holds: Vec<Entry>,
    overrides: Vec<OverrideEntry>,
    /// The number of the last hold.
    last_hold: u64,
    /// The number of the last event; the scribe gives them out.
    pub last_event: u64,
    /// The newest events, oldest first.
    pub events: VecDeque<Event>,
    version: u64,
    /// Holds placed so far, in this process.
    placed: u64,
    /// The present epoch, and the hold that began it.
    epoch: (u64, Arc<Epoch>),
    /// Earlier epochs with requests under way.
    earlier: Vec<(u64, Arc<Epoch>)>,
    /// Requests admitted by the end of each of the last seconds, by counter, with the moment.
    admitted: VecDeque<(Instant, Box<[u64]>)>,
    /// Requests of epochs that are over, by counter.
    admitted_before: Box<[u64]>,
    /// When the log is to be written anew at the latest, because something is not in it.
    pub rewrite_at: Option<Instant>,
}

/// What ended by itself, or is about to.
#[derive(Debug, Default)]
pub struct Due {
    /// What is to be written down.
    pub events: Vec<(EventKind, Subject)>,
    /// Scopes that holds have let go.
    pub ended: Vec<Scope>,
}

impl Control {
    /// Takes up what was in force when the last process ended.
    pub fn new(state: State, events: Vec<Event>, durable: bool, now: Now) -> Self {
        let mut control = Self {
            holds: Vec::new(),
            overrides: Vec::new(),
            last_hold: state.last_hold,
            last_event: state.last_event,
            events: events.into(),
            version: 1,
            placed: 1,
            epoch: (1, Arc::new(Epoch::new(CELLS))),
            earlier: Vec::new(),
            admitted: VecDeque::new(),
            admitted_before: vec![0; CELLS].into(),
            rewrite_at: None,
        };
        let deadline =
            |expiry: &Option<Expiry>| expiry.map(|expiry| now.instant + expiry.left_at_start(now.wall));
        for hold in state.holds {
            let deadline = deadline(&hold.expiry);
            let force = InForce { hold: Arc::new(hold), deadline, counts: Arc::default() };
            control.holds.push(Entry { force, durable, warned: false, epoch: 1, drained_at: Some(now.wall) });
        }
        control.overrides = state
            .overrides
            .into_iter()
            .map(|over| OverrideEntry { deadline: deadline(&over.expiry), over })
            .collect();
        control
    }

    /// What requests meet.
    pub fn snapshot(&self) -> Snapshot {
        let rules = Rules::new(self.holds.iter().map(|entry| &entry.force));
        Snapshot { version: self.version, epoch: Arc::clone(&self.epoch.1), rules }
    }

    /// The same without one hold.
    pub fn snapshot_without(&self, id: HoldId) -> Snapshot {
        let rest = self.holds.iter().filter(|entry| entry.force.hold.id != id);
        let rules = Rules::new(rest.map(|entry| &entry.force));
        Snapshot { version: self.version, epoch: Arc::clone(&self.epoch.1), rules }
    }

    /// Brings a hold in force. Requests admitted from now on are counted apart.
    pub fn place(&mut self, new: NewHold, now: Now) -> Result<Hold, HoldError> {
        new.check()?;
        let lasts = new.lasting.span()?;
        if self.holds.iter().filter(|entry| entry.force.hold.id != HoldId::UNREADABLE).count() >= HOLDS_LIMIT
        {
            return Err(HoldError::TooMany { limit: HOLDS_LIMIT });
        }
        self.last_hold += 1;
        let hold = Hold {
            id: HoldId(self.last_hold),
            scope: new.scope,
            mode: new.mode,
            reason: new.reason,
            owner: new.owner,
            ticket: new.ticket,
            created_at: now.wall,
            expiry: lasts.map(|lasts| Expiry::after(lasts, now.wall)),
            version: 1,
        };
        self.add(hold.clone(), lasts.map(|lasts| now.instant + lasts));
        Ok(hold)
    }

    /// Puts `hold` in force as it is.
    pub fn add(&mut self, hold: Hold, deadline: Option<Instant>) {
        self.begin_epoch();
        self.version += 1;
        let force = InForce { hold: Arc::new(hold), deadline, counts: Arc::default() };
        let epoch = self.placed;
        self.holds.push(Entry { force, durable: false, warned: false, epoch, drained_at: None });
    }

    fn begin_epoch(&mut self) {
        self.forget_drained();
        self.placed += 1;
        if self.earlier.len() < EPOCHS_LIMIT {
            let next = (self.placed, Arc::new(Epoch::new(CELLS)));
            self.earlier.push(std::mem::replace(&mut self.epoch, next));
        }
    }

    /// Requests under way of epochs that began before `number`.
    fn under_way_before(&self, number: u64, scope: &Scope) -> u64 {
        let epochs = self.earlier.iter().chain(std::iter::once(&self.epoch));
        let earlier = epochs.filter(|(epoch, _)| *epoch < number);
        earlier.map(|(_, epoch)| epoch.under_way(cells(scope))).sum()
    }

    fn forget_drained(&mut self) {
        let over = self.earlier.extract_if(.., |(_, epoch)| epoch.all_under_way() == 0);
        for (_, epoch) in over {
            for (cell, sum) in self.admitted_before.iter_mut().enumerate() {
                *sum += epoch.admitted(cell);
            }
        }
    }

    /// Gives a hold another expiry, at once.
    pub fn extend(
        &mut self,
        id: HoldId,
        lasts: Option<Duration>,
        if_version: Option<u64>,
        now: Now,
    ) -> Result<Hold, HoldError> {
        self.expect(id, if_version)?;
        let entry = self.entry_mut(id).ok_or(HoldError::NotFound { id })?;
        let mut hold = Hold::clone(&entry.force.hold);
        hold.expiry = lasts.map(|lasts| Expiry::after(lasts, now.wall));
        hold.version += 1;
        entry.force.hold = Arc::new(hold.clone());
        entry.force.deadline = lasts.map(|lasts| now.instant + lasts);
        entry.warned = false;
        entry.durable = false;
        self.version += 1;
        Ok(hold)
    }

    /// The hold, if it is in force and as expected.
    pub fn expect(&self, id: HoldId, if_version: Option<u64>) -> Result<&Hold, HoldError> {
        let hold = self.hold(id).ok_or(HoldError::NotFound { id })?;
        match if_version {
            Some(version) if version != hold.version => {
                Err(HoldError::VersionMismatch { id, current: hold.version })
            }
            _ => Ok(hold),
        }
    }

    /// The holds in force, oldest first.
    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.holds.iter().map(|entry| entry.force.hold.as_ref())
    }

    /// The hold, if it is in force.
    pub fn hold(&self, id: HoldId) -> Option<&Hold> {
        self.entry(id).map(|entry| entry.force.hold.as_ref())
    }

    fn entry(&self, id: HoldId) -> Option<&Entry> {
        self.holds.iter().find(|entry| entry.force.hold.id == id)
    }

    fn entry_mut(&mut self, id: HoldId) -> Option<&mut Entry> {
        self.holds.iter_mut().find(|entry| entry.force.hold.id == id)
    }

    /// Takes a hold out of force.
    pub fn remove(&mut self, id: HoldId) -> Option<Hold> {
        let at = self.holds.iter().position(|entry| entry.force.hold.id == id)?;
        self.version += 1;
        Some(Hold::clone(&self.holds.remove(at).force.hold))
    }

    /// Notes that this version of a hold is on disk.
    pub fn set_durable(&mut self, hold: &Hold) {
        if let Some(entry) = self.entry_mut(hold.id)
            && entry.force.hold.version == hold.version
        {
            entry.durable = true;
        }
    }

    /// Puts an override in the place of any other on the same thing.
    pub fn place_override(&mut self, over: &Override, now: Now) -> Result<(), HoldError> {
        self.overrides.retain(|known| !over.replaces(&known.over));
        if self.overrides.len() >= OVERRIDES_LIMIT {
            return Err(HoldError::TooMany { limit: OVERRIDES_LIMIT });
        }
        let deadline = over.expiry.map(|expiry| now.instant + expiry.lasts);
        self.overrides.push(OverrideEntry { over: over.clone(), deadline });
        Ok(())
    }

    /// Takes away an override, unless another has its place by now.
    pub fn remove_override(&mut self, over: &Override) {
        self.overrides.retain(|known| known.over != *over);
    }

    /// The override on something, if there is one.
    pub fn override_on(&self, site: Option<&Site>, operation: &str) -> Option<&Override> {
        let is = |over: &&Override| over.site.as_ref() == site && over.operation == operation;
        self.overrides.iter().map(|entry| &entry.over).find(is)
    }

    /// The overrides in force, and how long they last from `now` on.
    pub fn overrides(&self, now: Instant) -> Vec<(Override, Option<Duration>)> {
        let left = |entry: &OverrideEntry| entry.deadline.map(|end| end.saturating_duration_since(now));
        self.overrides.iter().map(|entry| (entry.over.clone(), left(entry))).collect()
    }

    /// What is in force, to be written down. The hold for an unreadable log is not: it would outlive it.
    pub fn state(&self) -> State {
        let holds = self.holds.iter().map(|entry| Hold::clone(&entry.force.hold));
        State {
            holds: holds.filter(|hold| hold.id != HoldId::UNREADABLE).collect(),
            overrides: self.overrides.iter().map(|entry| entry.over.clone()).collect(),
            last_hold: self.last_hold,
            last_event: self.last_event,
        }
    }

    /// A hold's status.
    pub fn status(&self, id: HoldId, now: Now) -> Option<HoldStatus> {
        self.entry(id).map(|entry| self.status_of(entry, now))
    }

    /// The status of all holds, oldest first.
    pub fn list(&self, now: Now) -> Vec<HoldStatus> {
        self.holds.iter().map(|entry| self.status_of(entry, now)).collect()
    }

    fn status_of(&self, entry: &Entry, now: Now) -> HoldStatus {
        let InForce { hold, deadline, counts } = &entry.force;
        let in_flight = match entry.drained_at {
            Some(_) => 0,
            None => self.under_way_before(entry.epoch, &hold.scope),
        };
        HoldStatus {
            hold: Hold::clone(hold),
            durable: entry.durable,
            time_left: deadline.map(|deadline| deadline.saturating_duration_since(now.instant)),
            in_flight,
            drained_at: entry.drained_at.or((in_flight == 0).then_some(now.wall)),
            observed: counts.observed.load(Ordering::Relaxed),
            deferred: counts.deferred.load(Ordering::Relaxed),
            rejected: counts.rejected.load(Ordering::Relaxed),
        }
    }

    /// Requests of `scope` under way.
    pub fn under_way(&self, scope: &Scope) -> u64 {
        self.under_way_before(u64::MAX, scope)
    }

    /// Holds whose scope overlaps, at most 100.
    pub fn overlapping(&self, scope: &Scope) -> Vec<HoldId> {
        let holds = self.holds.iter().map(|entry| &entry.force.hold);
        holds.filter(|hold| hold.scope.overlaps(scope)).map(|hold| hold.id).take(100).collect()
    }

    /// Requests of `scope` per second over the last minute, by its share of the users.
    pub fn requests_per_second(&self, scope: &Scope, now: Instant) -> f64 {
        let Some((since, before)) = self.admitted.front() else { return 0.0 };
        let seconds = now.saturating_duration_since(*since).as_secs_f64().max(1.0);
        let present = self.admitted_now();
        let at = |counters: &[u64], cell: usize| counters.get(cell).copied().unwrap_or(0);
        let sum: u64 = cells(scope).map(|cell| at(&present, cell).saturating_sub(at(before, cell))).sum();
        let share = scope.share.map_or(1.0, |share| share.percent() / 100.0);
        sum as f64 / seconds * share
    }

    fn admitted_now(&self) -> Box<[u64]> {
        let epochs = || self.earlier.iter().chain(std::iter::once(&self.epoch));
        let sum = |cell| epochs().map(|(_, epoch)| epoch.admitted(cell)).sum::<u64>();
        self.admitted_before.iter().enumerate().map(|(cell, before)| before + sum(cell)).collect()
    }

    /// What time brings: drained holds, warnings, ends. `None` for the snapshot means that it stays.
    pub fn tick(&mut self, now: Now) -> Due {
        self.forget_drained();
        let drained: Vec<bool> = self
            .holds
            .iter()
            .map(|entry| self.under_way_before(entry.epoch, &entry.force.hold.scope) == 0)
            .collect();
        let mut due = Due::default();
        for (entry, drained) in self.holds.iter_mut().zip(drained) {
            if drained && entry.drained_at.is_none() {
                entry.drained_at = Some(now.wall);
            }
            let lasts = entry.force.hold.expiry.is_some_and(|expiry| expiry.lasts > WARN_BEFORE);
            let soon = entry.force.deadline.is_some_and(|deadline| deadline <= now.instant + WARN_BEFORE);
            if lasts && soon && !entry.warned {
                entry.warned = true;
                due.events.push((EventKind::Expiring, Subject::Hold(Hold::clone(&entry.force.hold))));
            }
        }
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now.instant);
        for entry in self.holds.extract_if(.., |entry| is_over(entry.force.deadline)) {
            let hold = Hold::clone(&entry.force.hold);
            due.ended.push(hold.scope.clone());
            due.events.push((EventKind::Expired, Subject::Hold(hold)));
        }
        for entry in self.overrides.extract_if(.., |entry| is_over(entry.deadline)) {
            due.events.push((EventKind::Expired, Subject::Override(entry.over)));
        }
        if !due.ended.is_empty() {
            self.version += 1;
        }
        let second = Duration::from_secs(1);
        if self.admitted.back().is_none_or(|(last, _)| now.instant.saturating_duration_since(*last) >= second)
        {
            if self.admitted.len() >= RATE_SECONDS {
                self.admitted.pop_front();
            }
            self.admitted.push_back((now.instant, self.admitted_now()));
        }
        due
    }

    /// How many holds there are, by mode, of those that end within the warning time, and of those that are
    /// not on disk.
    pub fn figures(&self, now: Instant) -> Figures {
        let mut figures = Figures::default();
        for entry in &self.holds {
            if let Some(count) = figures.by_mode.get_mut(entry.force.hold.mode as usize) {
                *count += 1;
            }
            let soon = entry.force.deadline.is_some_and(|deadline| deadline <= now + WARN_BEFORE);
            figures.expiring += usize::from(soon);
            figures.not_durable += usize::from(!entry.durable);
            figures.unreadable |= entry.force.hold.id == HoldId::UNREADABLE;
        }
        figures
    }
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Holds, in the order of the modes.
    pub by_mode: [usize; 3],
    /// Holds that end within the warning time.
    pub expiring: usize,
    /// Holds that are not on disk.
    pub not_durable: usize,
    /// Whether the audit log cannot be read.
    pub unreadable: bool,
}
