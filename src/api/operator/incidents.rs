//! `ListIncidents` and `GetIncident`.

use tonic::Code;

use super::fields::page;
use super::{Operators, given};
use crate::api::encode::{event_time, span};
use crate::api::status::Failure;
use crate::incident::{
    self, Breaker, Change, Event, Evidence, Head, Incidents, Operation, Rule, Scope, State,
};
use crate::ledger::Sums;
use crate::proto;

/// The sum at which a breaker trips, told with its evidence.
const THRESHOLD: f64 = crate::breaker::THRESHOLD;
/// Incidents in a status.
const IN_STATUS: usize = 20;

impl Operators {
    pub(super) fn incidents(
        &self,
        request: &proto::ListIncidentsRequest,
    ) -> Result<proto::ListIncidentsResponse, Failure> {
        let incidents = given(self.handles.incidents.as_ref(), "ListIncidents")?;
        let size = page(request.page_size)?;
        let wanted = proto::IncidentState::try_from(request.state)
            .map_err(|_| Failure::invalid("state", "is no state that this server knows"))?;
        let since =
            request.since.as_ref().map(|at| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos));
        let below = match request.page_token.as_str() {
            "" => u64::MAX,
            token => token.parse().map_err(|_| Failure::page_token_invalid("page_token"))?,
        };
        let fits = |head: &Head| {
            let ended = head.resolved_at.map(|at| i128::from(at.0));
            head.number < below
                && (wanted == proto::IncidentState::Unspecified || wanted == state(head.state))
                && since.is_none_or(|since| ended.is_none_or(|ended| ended >= since))
        };
        let mut found = incidents.list().into_iter().filter(fits);
        let page: Vec<proto::Incident> = found.by_ref().take(size).map(|head| encode(&head)).collect();
        let last = page.last().map(|incident| incident.number.to_string()).unwrap_or_default();
        let next_page_token = if found.next().is_some() { last } else { String::new() };
        Ok(proto::ListIncidentsResponse { incidents: page, next_page_token })
    }

    pub(super) fn incident(
        &self,
        request: proto::GetIncidentRequest,
    ) -> Result<proto::GetIncidentResponse, Failure> {
        let incidents = given(self.handles.incidents.as_ref(), "GetIncident")?;
        let found = incidents.get(request.number).ok_or_else(|| {
            let message = format!("there is no incident {}", request.number);
            Failure::new(Code::NotFound, "INCIDENT_NOT_FOUND", message)
        })?;
        let events = found.events.iter().map(event).collect();
        let incident = proto::Incident { events, ..encode(&found.head) };
        Ok(proto::GetIncidentResponse { incident: Some(incident) })
    }
}

/// Those that are not resolved, for a status.
pub(super) fn open(incidents: Option<&Incidents>) -> Vec<proto::Incident> {
    let heads = incidents.map(Incidents::list).unwrap_or_default();
    heads.iter().filter(|head| !head.is_resolved()).take(IN_STATUS).map(encode).collect()
}

fn encode(head: &Head) -> proto::Incident {
    proto::Incident {
        number: head.number,
        title: head.title.clone(),
        state: state(head.state).into(),
        scopes: head.scopes.iter().map(scope).collect(),
        started_at: Some(event_time(head.started_at)),
        detected_at: Some(event_time(head.detected_at)),
        mitigated_at: head.mitigated_at.map(event_time),
        resolved_at: head.resolved_at.map(event_time),
        time_to_detect: Some(span(head.time_to_detect())),
        time_to_mitigate: head.time_to_mitigate().map(span),
        time_to_resolve: head.time_to_resolve().map(span),
        accounts: head.sums.as_ref().map(accounts),
        peak_pending: head.peak_pending,
        events: Vec::new(),
        events_omitted: head.omitted,
    }
}

fn accounts(sums: &Sums) -> proto::IncidentAccounts {
    proto::IncidentAccounts {
        accepted: sums.accepted,
        applied: sums.applied,
        unchanged: sums.unchanged,
        duplicate: sums.duplicate,
        refused: sums.refused,
        pending: sums.pending,
        balanced: sums.is_balanced(),
        deferred: sums.deferred,
        writes_rejected: sums.writes_rejected,
        reads_rejected: sums.reads_rejected,
        first_position: Some(sums.first).filter(|at| *at > 0),
        last_position: Some(sums.last).filter(|at| *at > 0),
    }
}

fn event(event: &Event) -> proto::IncidentEvent {
    use proto::IncidentEventKind as Kind;
    let kind = match event.change {
        None | Some(Change::Restart) => Kind::State,
        Some(Change::Breaker(_) | Change::LoadBreaker(_)) => Kind::Breaker,
        Some(Change::Hold) => Kind::Hold,
        Some(Change::RebuildStarted) => Kind::RebuildStarted,
        Some(Change::RebuildFinished) => Kind::RebuildFinished,
        Some(Change::RebuildFailed) => Kind::RebuildFailed,
        Some(Change::Journal(_)) => Kind::Journal,
        Some(Change::Parked(_)) => Kind::Parked,
    };
    let breaker = match event.change {
        Some(Change::Breaker(state) | Change::LoadBreaker(state)) => match state {
            Breaker::Closed => proto::BreakerState::Closed,
            Breaker::Open => proto::BreakerState::Open,
            Breaker::HalfOpen => proto::BreakerState::HalfOpen,
            Breaker::Recovering => proto::BreakerState::Recovering,
        },
        _ => proto::BreakerState::Unspecified,
    };
    proto::IncidentEvent {
        at: Some(event_time(event.at)),
        kind: kind.into(),
        state: state(event.state).into(),
        message: event.message.clone(),
        scope: matches!(kind, Kind::Breaker).then(|| scope(&event.scope)),
        breaker_state: breaker.into(),
        evidence: event.evidence.as_ref().map(evidence),
    }
}

fn scope(scope: &Scope) -> proto::BreakerScope {
    let operation = match scope.operation {
        Some(Operation::Apply) => proto::BreakerOperation::Apply,
        Some(Operation::Load) => proto::BreakerOperation::Load,
        Some(Operation::Query) => proto::BreakerOperation::Query,
        None => proto::BreakerOperation::Unspecified,
    };
    let site = scope.site.as_ref().map(ToString::to_string).unwrap_or_default();
    proto::BreakerScope { operation: operation.into(), site }
}

fn evidence(evidence: &Evidence) -> proto::BreakerEvidence {
    let rule = match evidence.rule {
        None => proto::TripRule::Unspecified,
        Some(Rule::Stall) => proto::TripRule::Stall,
        Some(Rule::Share) => proto::TripRule::Share,
        Some(Rule::Flush) => proto::TripRule::Flush,
        Some(Rule::Children) => proto::TripRule::Children,
        Some(Rule::Probe) => proto::TripRule::Probe,
        Some(Rule::StoreFailed) => proto::TripRule::StoreFailed,
        Some(Rule::Forced) => proto::TripRule::Forced,
    };
    proto::BreakerEvidence {
        rule: rule.into(),
        score: evidence.score,
        threshold: THRESHOLD,
        slow: evidence.slow,
        total: evidence.total,
        in_flight: evidence.in_flight,
        oldest_age: evidence.oldest.map(span),
        p99: evidence.p99.map(span),
        last_error: evidence.last_error.clone(),
    }
}

fn state(state: State) -> proto::IncidentState {
    match state {
        incident::State::Detected => proto::IncidentState::Detected,
        incident::State::Mitigated => proto::IncidentState::Mitigated,
        incident::State::Probing => proto::IncidentState::Probing,
        incident::State::CatchingUp => proto::IncidentState::CatchingUp,
        incident::State::Resolved => proto::IncidentState::Resolved,
    }
}
