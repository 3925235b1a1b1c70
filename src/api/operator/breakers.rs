//! `OverrideBreaker`, `SetReplayPace`, and the breakers of a status.

use std::time::Duration;

use tonic::Code;

use super::fields::{Caller, duration, text};
use super::holds::DURABLE_WITHIN;
use super::status::backlog;
use super::{Operators, given};
use crate::api::encode::{event_time, span};
use crate::api::status::Failure;
use crate::command::StatusQuery;
use crate::command::breakers::{
    BreakerEvidence, BreakerMode, BreakerOperation, BreakerOrder, BreakerOverride, BreakerRefused,
    BreakerScope, BreakerState, BreakerStatus, Pace, PaceStatus, TripRule,
};
use crate::kill_switch::Persisted;
use crate::model::Site;
use crate::proto::{self, override_breaker_request::Expiry, set_replay_pace_request::Pace as Asked};

/// An override that does not say how long it lasts.
const USUAL: Duration = Duration::from_hours(1);
const LONGEST: Duration = Duration::from_hours(30 * 24);

impl Operators {
    pub(super) async fn order_breaker(
        &self,
        request: proto::OverrideBreakerRequest,
        caller: &Caller,
    ) -> Result<proto::OverrideBreakerResponse, Failure> {
        let cause = caller.cause(&request.owner, &request.reason)?;
        let scope = request.scope.ok_or_else(|| Failure::invalid("scope", "must be given"))?;
        let scope = self.breaker_scope(scope)?;
        let mode = match proto::BreakerOverrideMode::try_from(request.mode) {
            Ok(proto::BreakerOverrideMode::Auto) => BreakerMode::Auto,
            Ok(proto::BreakerOverrideMode::ForceOpen) => BreakerMode::ForceOpen,
            Ok(proto::BreakerOverrideMode::ForceClosed) => BreakerMode::ForceClosed,
            Ok(proto::BreakerOverrideMode::Observe) => BreakerMode::Observe,
            Ok(proto::BreakerOverrideMode::Unspecified) | Err(_) => {
                return Err(Failure::invalid(
                    "mode",
                    "must be given: auto, force open, force closed or observe",
                ));
            }
        };
        let lasts = match request.expiry {
            Some(_) if mode == BreakerMode::Auto => {
                return Err(Failure::invalid("expires_in", "an override that ends has no expiry"));
            }
            None => Some(USUAL),
            Some(Expiry::Never(())) => None,
            Some(Expiry::ExpiresIn(time)) => {
                duration("expires_in", Some(time), Duration::from_millis(1), LONGEST)?
            }
        };
        let ticket = text("ticket", &request.ticket)?;
        let order = BreakerOrder { scope, mode, reason: cause.reason, owner: cause.owner, ticket, lasts };
        let desk = given(self.handles.breakers.as_ref(), "OverrideBreaker")?;
        let scope = order.scope.clone();
        let Persisted { durable, .. } = desk.order(order)?.within(DURABLE_WITHIN).await;
        let breaker = desk.breaker(&scope);
        Ok(proto::OverrideBreakerResponse { breaker: Some(breaker_status(&breaker)), durable })
    }

    pub(super) fn replay_pace(
        &self,
        request: proto::SetReplayPaceRequest,
        caller: &Caller,
    ) -> Result<proto::SetReplayPaceResponse, Failure> {
        let cause = caller.cause(&request.owner, &request.reason)?;
        let site = self.optional_site(request.site)?;
        let pace = match request.pace {
            None => {
                let wanted = "must be given: entries_per_second, paused or automatic";
                return Err(Failure::invalid("pace", wanted));
            }
            Some(Asked::EntriesPerSecond(rate)) => Pace::PerSecond(rate),
            Some(Asked::Paused(())) => Pace::Paused,
            Some(Asked::Automatic(())) => Pace::Automatic,
        };
        let wanted = PaceStatus { site: site.clone(), pace, reason: cause.reason, owner: cause.owner };
        let set = given(self.handles.breakers.as_ref(), "SetReplayPace")?.set_pace(wanted)?;
        let backlog = self.backlog_of(site);
        Ok(proto::SetReplayPaceResponse { pace: Some(replay_pace(&set)), backlog })
    }

    /// What waits of a site, or in all.
    fn backlog_of(&self, site: Option<Site>) -> Option<proto::BacklogStatus> {
        let query = StatusQuery { site, max_sites: 1 };
        let told = self.handles.status.as_ref()?.status(&query);
        match query.site {
            None => Some(backlog(&told.backlog)),
            Some(_) => told.sites.first().map(|site| backlog(&site.backlog)),
        }
    }

    fn breaker_scope(&self, scope: proto::BreakerScope) -> Result<BreakerScope, Failure> {
        let operation = match proto::BreakerOperation::try_from(scope.operation) {
            Ok(proto::BreakerOperation::Apply) => BreakerOperation::Apply,
            Ok(proto::BreakerOperation::Load) => BreakerOperation::Load,
            Ok(proto::BreakerOperation::Query) => BreakerOperation::Query,
            Ok(proto::BreakerOperation::Unspecified) | Err(_) => {
                return Err(Failure::invalid("scope.operation", "must be given: apply, load or query"));
            }
        };
        let site = self.optional_site(scope.site).map_err(|failure| failure.within("scope."))?;
        Ok(BreakerScope { operation, site })
    }
}

impl From<BreakerRefused> for Failure {
    fn from(error: BreakerRefused) -> Self {
        let message = error.to_string();
        match error {
            BreakerRefused::Invalid(_) => Self::new(Code::InvalidArgument, "INVALID_FIELD", message),
            BreakerRefused::NoSites => Self::invalid("scope.site", message),
            BreakerRefused::TooMany(_) => Self::new(Code::ResourceExhausted, "LIMIT_EXCEEDED", message),
            BreakerRefused::Unreadable => Self::new(Code::FailedPrecondition, "HOLDS_UNREADABLE", message),
        }
    }
}

/// The pace as it is sent.
pub(super) fn replay_pace(told: &PaceStatus) -> proto::ReplayPace {
    proto::ReplayPace {
        site: name(told.site.as_ref()),
        entries_per_second: match told.pace {
            Pace::Automatic => None,
            Pace::PerSecond(rate) => Some(rate),
            Pace::Paused => Some(0),
        },
        reason: told.reason.clone(),
        owner: told.owner.clone(),
    }
}

/// A breaker as it is sent.
pub(super) fn breaker_status(told: &BreakerStatus) -> proto::BreakerStatus {
    let state = match told.state {
        BreakerState::Closed => proto::BreakerState::Closed,
        BreakerState::Open => proto::BreakerState::Open,
        BreakerState::HalfOpen => proto::BreakerState::HalfOpen,
        BreakerState::Recovering => proto::BreakerState::Recovering,
    };
    proto::BreakerStatus {
        scope: Some(scope(&told.scope)),
        state: state.into(),
        since: Some(event_time(told.since)),
        tripped_by: told.tripped_by.as_ref().map(evidence),
        evidence: Some(evidence(&told.evidence)),
        next_probe_in: told.next_probe_in.map(span),
        admitted: told.admitted,
        trips: told.trips,
        operator_override: told.ordered.as_ref().map(ordered),
    }
}

fn scope(told: &BreakerScope) -> proto::BreakerScope {
    let operation = match told.operation {
        BreakerOperation::Apply => proto::BreakerOperation::Apply,
        BreakerOperation::Load => proto::BreakerOperation::Load,
        BreakerOperation::Query => proto::BreakerOperation::Query,
    };
    proto::BreakerScope { operation: operation.into(), site: name(told.site.as_ref()) }
}

fn evidence(told: &BreakerEvidence) -> proto::BreakerEvidence {
    let rule = match told.rule {
        None => proto::TripRule::Unspecified,
        Some(TripRule::Stall) => proto::TripRule::Stall,
        Some(TripRule::Share) => proto::TripRule::Share,
        Some(TripRule::Flush) => proto::TripRule::Flush,
        Some(TripRule::Children) => proto::TripRule::Children,
        Some(TripRule::Probe) => proto::TripRule::Probe,
        Some(TripRule::StoreFailed) => proto::TripRule::StoreFailed,
        Some(TripRule::Forced) => proto::TripRule::Forced,
    };
    proto::BreakerEvidence {
        rule: rule.into(),
        score: told.score,
        threshold: told.threshold,
        slow: told.slow,
        total: told.total,
        in_flight: told.in_flight,
        oldest_age: told.oldest.map(span),
        p99: told.p99.map(span),
        last_error: told.last_error.clone(),
    }
}

fn ordered(told: &BreakerOverride) -> proto::BreakerOverride {
    let order = &told.order;
    let mode = match order.mode {
        BreakerMode::Auto => proto::BreakerOverrideMode::Auto,
        BreakerMode::ForceOpen => proto::BreakerOverrideMode::ForceOpen,
        BreakerMode::ForceClosed => proto::BreakerOverrideMode::ForceClosed,
        BreakerMode::Observe => proto::BreakerOverrideMode::Observe,
    };
    proto::BreakerOverride {
        scope: Some(scope(&order.scope)),
        mode: mode.into(),
        reason: order.reason.clone(),
        owner: order.owner.clone(),
        ticket: order.ticket.clone(),
        created_at: Some(event_time(told.created_at)),
        expires_at: told.expires_at.map(event_time),
    }
}

fn name(site: Option<&Site>) -> String {
    site.map(|site| site.as_str().to_owned()).unwrap_or_default()
}
