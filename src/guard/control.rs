//! Breakers and paces as operators see and steer them.

use std::time::{Duration, Instant};

use super::pace::{Order, PaceSet};
use super::{Guard, Operation};
use crate::breaker::{Evidence, Mode, Override, Pace as SlowStartPace, Phase, Rule, ScopeStatus, THRESHOLD};
use crate::command::breakers::{
    BreakerEvidence, BreakerMode, BreakerOperation, BreakerOverride, BreakerRefused, BreakerScope,
    BreakerState, BreakerStatus, Pace, PaceStatus, TripRule,
};
use crate::command::operate::Cause;
use crate::model::Site;

/// The applier's commits and loads are one thing to operators: of the two, the one that lets less through.
fn shown(operation: Operation) -> BreakerOperation {
    match operation {
        Operation::Apply | Operation::ApplyLoad => BreakerOperation::Apply,
        Operation::Load => BreakerOperation::Load,
        Operation::Query => BreakerOperation::Query,
    }
}

fn meant(operation: BreakerOperation) -> &'static [Operation] {
    match operation {
        BreakerOperation::Apply => &[Operation::Apply, Operation::ApplyLoad],
        BreakerOperation::Load => &[Operation::Load],
        BreakerOperation::Query => &[Operation::Query],
    }
}

impl Guard {
    fn status(&self, operation: Operation, told: &ScopeStatus) -> BreakerStatus {
        let site = told.name.site.as_ref().map(|site| Site::new(&**site));
        let scope = BreakerScope { operation: shown(operation), site };
        let ordered = told.order.as_ref().and_then(|_| self.orders.lock().get(&scope).cloned());
        BreakerStatus {
            scope,
            state: state(told.phase),
            since: self.clock.now().minus(told.for_so_long),
            tripped_by: told
                .tripped_by
                .map(|(rule, seen)| evidence(Some(rule), &seen, self.errors.at_trip(&told.name))),
            evidence: evidence(None, &told.evidence, self.errors.recent(&told.name, Instant::now())),
            next_probe_in: told.open_for,
            admitted: told.rate.or(told.share.map(f64::from)),
            trips: told.trips,
            refused: told.refused,
            ordered,
        }
    }

    /// One breaker; a site's that is not there yet is made.
    pub fn status_of(&self, scope: &BreakerScope) -> BreakerStatus {
        let all = meant(scope.operation).iter().map(|&operation| {
            let handle = self.own(operation, scope.site.as_ref());
            self.status(operation, &self.registry.status_of(&handle))
        });
        // There is at least one.
        all.reduce(worse).unwrap_or_else(|| {
            let told = self.registry.status_of(self.root(Operation::Apply));
            self.status(Operation::Apply, &told)
        })
    }
}

/// Of two breakers of one scope the one that lets less through.
fn worse(a: BreakerStatus, b: BreakerStatus) -> BreakerStatus {
    if rank(b.state) > rank(a.state) { b } else { a }
}

fn rank(state: BreakerState) -> u8 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::Recovering => 1,
        BreakerState::HalfOpen => 2,
        BreakerState::Open => 3,
    }
}

fn state(phase: Phase) -> BreakerState {
    match phase {
        Phase::Closed => BreakerState::Closed,
        Phase::Open => BreakerState::Open,
        Phase::HalfOpen => BreakerState::HalfOpen,
        Phase::Recovering => BreakerState::Recovering,
    }
}

/// The rule behind a trip; none for other changes.
pub(super) fn trip_rule(rule: Rule) -> Option<TripRule> {
    Some(match rule {
        Rule::Stall => TripRule::Stall,
        Rule::PartialSlowness => TripRule::Share,
        Rule::FlushOverdue { .. } => TripRule::Flush,
        Rule::BackendFailed => TripRule::StoreFailed,
        Rule::Children { .. } => TripRule::Children,
        Rule::ProbeFailed | Rule::ProbeSlow | Rule::ProbeExpired => TripRule::Probe,
        Rule::Operator => TripRule::Forced,
        _ => return None,
    })
}

fn evidence(rule: Option<Rule>, seen: &Evidence, last_error: String) -> BreakerEvidence {
    BreakerEvidence {
        rule: rule.and_then(trip_rule),
        score: seen.score,
        threshold: THRESHOLD,
        slow: seen.slow,
        total: seen.total,
        in_flight: seen.in_flight,
        oldest: seen.oldest,
        p99: Some(seen.p99).filter(|p99| *p99 > Duration::ZERO),
        hung: seen.hung,
        last_error,
    }
}

fn mode(mode: BreakerMode) -> Mode {
    match mode {
        BreakerMode::Auto => Mode::Auto,
        BreakerMode::ForceOpen => Mode::ForceOpen,
        BreakerMode::ForceClosed => Mode::ForceClosed,
        BreakerMode::Observe => Mode::Observe,
    }
}

impl Guard {
    /// The breakers of the operations, and those of sites that are not Closed or have an order; no more than
    /// `most`.
    pub fn breakers(&self, most: usize) -> Vec<BreakerStatus> {
        let mut all: Vec<BreakerStatus> = Vec::new();
        for told in self.registry.status() {
            let is_of_interest =
                told.name.site.is_none() || told.phase != Phase::Closed || told.order.is_some();
            let Some(operation) = Operation::named(&told.name.operation).filter(|_| is_of_interest) else {
                continue;
            };
            let status = self.status(operation, &told);
            match all.iter_mut().find(|other| other.scope == status.scope) {
                Some(other) if rank(status.state) > rank(other.state) => *other = status,
                Some(_) => {}
                None => all.push(status),
            }
        }
        all.sort_by(|a, b| (a.scope.site.is_some(), &a.scope).cmp(&(b.scope.site.is_some(), &b.scope)));
        all.truncate(most);
        all
    }

    /// Whether each site has breakers of its own, because the backend keeps sites apart.
    pub fn keeps_sites_apart(&self) -> bool {
        self.isolates()
    }

    /// Does what an operator wants of a breaker from now on, or, without an order, lets it decide by itself again
    /// because `cause` says so. A site's breaker that is not there yet is made. How long an order holds, and that
    /// it survives a restart, is for others to see to.
    pub fn obey(&self, scope: &BreakerScope, order: Option<BreakerOverride>, cause: &Cause) {
        let said = order.as_ref().map_or((BreakerMode::Auto, &cause.reason, &cause.owner), |known| {
            (known.order.mode, &known.order.reason, &known.order.owner)
        });
        let wanted =
            Override { mode: mode(said.0), reason: said.1.clone(), owner: said.2.clone(), lasts: None };
        let mut orders = self.orders.lock();
        match order {
            Some(order) => drop(orders.insert(scope.clone(), order)),
            None => drop(orders.remove(scope)),
        }
        drop(orders);
        for &operation in meant(scope.operation) {
            let handle = self.own(operation, scope.site.as_ref());
            if let Err(error) = self.registry.set_override(&handle, wanted.clone()) {
                tracing::error!(%error, operation = operation.as_str(), "a breaker does not do as it is told");
            }
        }
    }

    /// Sets the pace of a site, or of all. It lasts until it is changed or the process ends.
    pub fn set_pace(&self, pace: PaceStatus) -> Result<PaceStatus, BreakerRefused> {
        let order = match pace.pace {
            Pace::Automatic => None,
            Pace::PerSecond(0) => {
                return Err(BreakerRefused::Invalid("at least one entry a second; or paused".to_owned()));
            }
            Pace::PerSecond(rate) => Some(Order::PerSecond(rate)),
            Pace::Paused => Some(Order::Paused),
        };
        let (reason, owner) = (pace.reason, pace.owner);
        tracing::warn!(site = ?pace.site, pace = ?pace.pace, owner, reason, "the pace of the applier is set");
        let set = order.map(|order| PaceSet { order, reason, owner });
        let site = pace.site.clone();
        let set = self.paces.set(pace.site, set, Instant::now());
        set.map_err(|error| BreakerRefused::TooMany(error.to_string()))?;
        // A slow start of the breaker goes by it too; where sites have none of their own, the store's does not go by
        // theirs.
        if site.is_none() || self.isolates() {
            self.own(Operation::Apply, site.as_ref())
                .set_pace(order.map_or(SlowStartPace::Auto, Order::pace));
        }
        Ok(self.pace(site.as_ref()))
    }

    /// The pace of a site, or of all.
    pub fn pace(&self, site: Option<&Site>) -> PaceStatus {
        let site = site.cloned();
        match self.paces.get(site.as_ref()) {
            None => PaceStatus { site, pace: Pace::Automatic, reason: String::new(), owner: String::new() },
            Some(PaceSet { order, reason, owner }) => {
                let pace = match order {
                    Order::PerSecond(rate) => Pace::PerSecond(rate),
                    Order::Paused => Pace::Paused,
                };
                PaceStatus { site, pace, reason, owner }
            }
        }
    }
}
