//! Breakers and paces as operators see and steer them.

use std::time::{Duration, Instant};

use super::pace::{Order, PaceSet};
use super::{Guard, Operation};
use crate::breaker::{Evidence, Mode, Override, Phase, Rule, ScopeStatus, THRESHOLD};
use crate::command::breakers::{
    BreakerEvidence, BreakerMode, BreakerOperation, BreakerOrder, BreakerOverride, BreakerRefused,
    BreakerScope, BreakerState, BreakerStatus, Breakers, Pace, PaceStatus, TripRule,
};
use crate::model::Site;

/// Orders in force at once.
const ORDERS: usize = 1_000;

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
            tripped_by: told.tripped_by.map(|(rule, seen)| evidence(Some(rule), &seen)),
            evidence: evidence(None, &told.evidence),
            next_probe_in: told.open_for,
            admitted: told.rate.or(told.share.map(f64::from)),
            trips: told.trips,
            refused: told.refused,
            ordered,
        }
    }

    fn status_of(&self, scope: &BreakerScope) -> BreakerStatus {
        let all = meant(scope.operation).iter().map(|&operation| {
            let handle = self.scope(operation, scope.site.as_ref());
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
        Rule::Children { .. } => TripRule::Children,
        Rule::ProbeFailed | Rule::ProbeSlow | Rule::ProbeExpired => TripRule::Probe,
        Rule::Operator => TripRule::Forced,
        _ => return None,
    })
}

fn evidence(rule: Option<Rule>, seen: &Evidence) -> BreakerEvidence {
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

impl Breakers for Guard {
    fn breakers(&self, most: usize) -> Vec<BreakerStatus> {
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

    fn order(&self, order: BreakerOrder) -> Result<(BreakerStatus, bool), BreakerRefused> {
        if order.scope.site.is_some() && !self.isolates() {
            return Err(BreakerRefused::NoSites);
        }
        let (scope, now) = (order.scope.clone(), self.clock.now());
        let wanted = Override {
            mode: mode(order.mode),
            reason: order.reason.clone(),
            owner: order.owner.clone(),
            lasts: order.lasts,
        };
        wanted.check().map_err(|error| BreakerRefused::Invalid(error.to_string()))?;
        let mut orders = self.orders.lock();
        orders.retain(|_, known| known.expires_at.is_none_or(|at| at > now));
        if order.mode == BreakerMode::Auto {
            orders.remove(&scope);
        } else if orders.len() >= ORDERS && !orders.contains_key(&scope) {
            let problem =
                format!("{ORDERS} breakers have orders already; give some of them back to themselves");
            return Err(BreakerRefused::TooMany(problem));
        } else {
            let expires_at = order.lasts.map(|lasts| now.plus(lasts));
            orders.insert(scope.clone(), BreakerOverride { order, created_at: now, expires_at });
        }
        drop(orders);
        for &operation in meant(scope.operation) {
            let handle = self.scope(operation, scope.site.as_ref());
            let set = self.registry.set_override(&handle, wanted.clone());
            set.map_err(|error| BreakerRefused::Invalid(error.to_string()))?;
        }
        Ok((self.status_of(&scope), false))
    }

    fn set_pace(&self, pace: PaceStatus) -> Result<PaceStatus, BreakerRefused> {
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
        Ok(self.pace(site.as_ref()))
    }

    fn pace(&self, site: Option<&Site>) -> PaceStatus {
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
