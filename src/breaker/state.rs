//! The state machine, pure: `now` comes in, decisions come out.
//!
//! ```text
//!            alarm                     time over            5 fast probes             let back in
//!  Closed ----------> Open (1 s x 2^k) ----------> HalfOpen --------------> Recovering ----------> Closed
//!                      ^   <---------------------------|  a probe failed         |
//!                      |_________________________________________________________|  alarm
//! ```
//!
//! Only [`Machine::tick`] and an operator change the state; a probe's result waits for the next tick.

use std::time::Duration;

use super::event::{Phase, Rule};
use super::overrides::Mode;
use super::recovery::{Pace, Ramp, Recovery, SlowStart};
use super::settings::Settings;

/// After so long in Closed the next trip counts as the first again, in units of `open_max`.
const FORGIVEN_AFTER: u32 = 2;

/// Entries of a turn that probes.
const PROBE_ENTRIES: u32 = 16;

/// On whose behalf a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Somebody waits for it: it is never a probe.
    Caller,
    /// Nobody waits (a pending entry, a canary): may probe.
    Background,
}

/// Why a call may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The breaker is Open.
    Open,
    /// It is half open, and this call is not its probe.
    Probing,
    /// Recovering: the slow start's rate is used up.
    Paced,
    /// Recovering: not among the share of calls that pass.
    Ramping,
}

/// What a tick tells the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Why it should trip.
    pub alarm: Option<Rule>,
    /// Slow verdicts.
    pub slow: u64,
    /// Calls of earlier generations that have not come back.
    pub hung: u64,
    /// Entries that wait, where known.
    pub backlog: Option<u64>,
}

#[derive(Debug)]
struct Lease {
    id: u64,
    expires: Duration,
    /// When the backend began it.
    began: Option<Duration>,
}

#[derive(Debug)]
enum State {
    Closed { since: Duration },
    Open { until: Duration },
    HalfOpen { fast: u32, failed: Option<Rule>, lease: Option<Lease>, asked: Duration },
    SlowStart(SlowStart),
    Ramp(Ramp),
}

/// What a tick decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// The state changed.
    Change {
        /// Before.
        from: Phase,
        /// After.
        to: Phase,
        /// Why.
        rule: Rule,
    },
    /// Only observing: would have tripped.
    WouldTrip(Rule),
}

impl Decision {
    /// Why.
    pub fn rule(self) -> Rule {
        match self {
            Self::Change { rule, .. } | Self::WouldTrip(rule) => rule,
        }
    }
}

/// State, attempts, overrides of one scope.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    state: State,
    mode: Mode,
    pace: Pace,
    now: Duration,
    /// Trips in a row.
    attempt: u32,
    leases: u64,
    quiet_until: Duration,
    jitter: u64,
}

impl Machine {
    /// Closed at `now`. `seed` spreads the jitter of scopes that trip together.
    pub fn new(settings: Settings, seed: u64, now: Duration) -> Self {
        Self {
            settings,
            state: State::Closed { since: now },
            mode: Mode::Auto,
            pace: Pace::Auto,
            now,
            attempt: 0,
            leases: 0,
            quiet_until: now,
            jitter: seed,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Closed { .. } => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
            State::SlowStart(_) | State::Ramp(_) => Phase::Recovering,
        }
    }

    /// Calls pass without asking.
    pub fn passes(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// What an operator said.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Entries a second of a slow start, or `None`.
    pub fn rate(&self) -> Option<f64> {
        match &self.state {
            State::SlowStart(start) => Some(start.rate(self.pace)),
            _ => None,
        }
    }

    /// How many entries a turn should have now; `None`: as many as it likes.
    pub fn turn(&self) -> Option<u32> {
        match &self.state {
            State::SlowStart(start) => Some(start.turn(self.pace)),
            // A probe should not be slow because it is large.
            State::HalfOpen { .. } => Some(PROBE_ENTRIES),
            _ => None,
        }
    }

    /// The percentage of calls that a ramp lets pass, or `None`.
    pub fn share(&self) -> Option<u32> {
        match &self.state {
            State::Ramp(ramp) => Some(ramp.share()),
            _ => None,
        }
    }

    /// How long it stays Open, or `None`.
    pub fn open_for(&self) -> Option<Duration> {
        match self.state {
            State::Open { until } if self.mode != Mode::ForceOpen => Some(until.saturating_sub(self.now)),
            _ => None,
        }
    }

    /// How long ago the last probe was let through, while it is half open.
    pub fn probe_age(&self, now: Duration) -> Duration {
        match self.state {
            State::HalfOpen { asked, .. } => now.saturating_sub(asked),
            _ => Duration::ZERO,
        }
    }

    /// The pace of slow starts.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Decides. `passed` since the last tick.
    pub fn tick(&mut self, now: Duration, passed: Duration, seen: &Seen) -> Option<Decision> {
        self.now = now;
        match self.mode {
            Mode::ForceOpen | Mode::ForceClosed => return None,
            Mode::Observe => {
                let rule = seen.alarm.filter(|_| now >= self.quiet_until)?;
                self.quiet_until = now + self.settings.open_max;
                return Some(Decision::WouldTrip(rule));
            }
            Mode::Auto => {}
        }
        if let Some(rule) = seen.alarm
            && !matches!(self.state, State::Open { .. })
        {
            return Some(self.trip(rule));
        }
        let settings = &self.settings;
        match &mut self.state {
            State::Closed { since } => {
                if now.saturating_sub(*since) >= settings.open_max * FORGIVEN_AFTER {
                    self.attempt = 0;
                }
                None
            }
            State::Open { until } => {
                // One thread serves a serial backend: a probe would only queue behind the call that hangs.
                let waits = seen.alarm.is_some() || (settings.serial && seen.hung > 0);
                if now < *until || waits {
                    return None;
                }
                let half_open = State::HalfOpen { fast: 0, failed: None, lease: None, asked: now };
                Some(self.change(half_open, Rule::OpenTimeOver))
            }
            State::HalfOpen { fast, failed, lease, .. } => {
                if let Some(probe) = lease {
                    let slow =
                        probe.began.is_some_and(|began| now.saturating_sub(began) >= settings.slow_after);
                    if slow || now >= probe.expires {
                        *failed = Some(if slow { Rule::ProbeSlow } else { Rule::ProbeExpired });
                    }
                }
                if let Some(rule) = *failed {
                    return Some(self.trip(rule));
                }
                (*fast >= settings.probes).then(|| self.recover(Rule::ProbesFast))
            }
            State::SlowStart(start) => {
                if !start.tick(now, passed, seen.slow, seen.backlog, self.pace) {
                    return None;
                }
                let empty = seen.backlog == Some(0);
                let rule = if empty { Rule::BacklogEmpty } else { Rule::FullRate };
                Some(self.change(State::Closed { since: now }, rule))
            }
            State::Ramp(ramp) => {
                ramp.tick(now, seen.slow).then(|| self.change(State::Closed { since: now }, Rule::FullRate))
            }
        }
    }

    fn change(&mut self, state: State, rule: Rule) -> Decision {
        let from = self.phase();
        self.state = state;
        Decision::Change { from, to: self.phase(), rule }
    }

    fn trip(&mut self, rule: Rule) -> Decision {
        let open_for = self.open_time();
        self.attempt = self.attempt.saturating_add(1);
        self.change(State::Open { until: self.now + open_for }, rule)
    }

    fn recover(&mut self, rule: Rule) -> Decision {
        let state = match self.settings.recovery {
            Recovery::SlowStart => State::SlowStart(SlowStart::new(self.now)),
            Recovery::Ramp => State::Ramp(Ramp::new(self.now)),
        };
        self.change(state, rule)
    }

    /// `open_base` x 2^attempt up to `open_max`, +-20 %.
    fn open_time(&mut self) -> Duration {
        let doubled = self.settings.open_base.saturating_mul(1 << self.attempt.min(16));
        let spread = 0.8 + 0.4 * self.random();
        doubled.min(self.settings.open_max).mul_f64(spread)
    }

    /// Evenly in [0, 1), by `SplitMix64` (Steele, Lea, Flood, 2014).
    fn random(&mut self) -> f64 {
        self.jitter = self.jitter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// May this call of `weight` entries pass? A number when it does so as a probe: its lease.
    pub fn admit(&mut self, role: Role, weight: u32) -> Result<Option<u64>, (Reason, Duration)> {
        let slow_after = self.settings.slow_after;
        match &mut self.state {
            State::Closed { .. } => Ok(None),
            State::Open { until } => {
                let left = until.saturating_sub(self.now);
                Err((Reason::Open, left.clamp(slow_after, self.settings.open_max)))
            }
            State::HalfOpen { fast, failed, lease, asked } => {
                let wanted = *fast < self.settings.probes && failed.is_none() && lease.is_none();
                if role == Role::Caller || !wanted {
                    return Err((Reason::Probing, slow_after));
                }
                self.leases += 1;
                let expires = self.now + self.settings.probe_lease;
                *lease = Some(Lease { id: self.leases, expires, began: None });
                *asked = self.now;
                Ok(Some(self.leases))
            }
            State::SlowStart(start) => match start.take(weight, self.pace) {
                Ok(()) => Ok(None),
                Err(wait) => Err((Reason::Paced, wait)),
            },
            State::Ramp(ramp) => {
                if ramp.take() {
                    Ok(None)
                } else {
                    Err((Reason::Ramping, Duration::from_secs(1)))
                }
            }
        }
    }

    /// The backend began the probe with this lease. A lease that is over changes nothing, here and below.
    pub fn probe_began(&mut self, id: u64) {
        if let State::HalfOpen { lease: Some(lease), .. } = &mut self.state
            && lease.id == id
        {
            lease.began = Some(self.now);
        }
    }

    /// The probe ended: `Some(true)` answered, `Some(false)` failed, `None` given up.
    pub fn probe_ended(&mut self, id: u64, answered: Option<bool>) {
        if let State::HalfOpen { fast, failed, lease, .. } = &mut self.state
            && lease.as_ref().is_some_and(|lease| lease.id == id)
        {
            *lease = None;
            match answered {
                Some(true) => *fast += 1,
                Some(false) => *failed = Some(Rule::ProbeFailed),
                None => {}
            }
        }
    }

    /// An operator's word. Back to [`Mode::Auto`] from [`Mode::ForceOpen`] goes through probes and recovery.
    pub fn set_mode(&mut self, mode: Mode) -> Option<Decision> {
        let was = std::mem::replace(&mut self.mode, mode);
        let state = match (was, mode) {
            (_, Mode::ForceOpen) | (Mode::ForceOpen, Mode::Auto) => State::Open { until: self.now },
            (_, Mode::Auto) => return None,
            (_, Mode::ForceClosed | Mode::Observe) => State::Closed { since: self.now },
        };
        self.attempt = 0;
        let decision = self.change(state, Rule::Operator);
        matches!(decision, Decision::Change { from, to, .. } if from != to).then_some(decision)
    }

    /// Its parent tripped: follow it, with nothing of one's own.
    pub fn follow(&mut self) -> Option<Decision> {
        if self.mode == Mode::ForceOpen || self.passes() {
            return None;
        }
        Some(self.change(State::Closed { since: self.now }, Rule::ParentTripped))
    }

    /// The backend has been replaced: whatever time was to be waited for the old one, the new one may be probed.
    pub fn renew(&mut self) {
        self.attempt = 0;
        if let State::Open { until } = &mut self.state {
            *until = self.now;
        }
    }
}
