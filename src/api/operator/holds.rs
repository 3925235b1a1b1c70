//! The kill switch: `PlaceHold`, `ExtendHold`, `ReleaseHold`, `ListHolds`, `ListHoldEvents`.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::fields::{Caller, duration, page, text};
use super::{Operators, given};
use crate::api::encode::{event_time, span};
use crate::api::status::Failure;
use crate::command::HoldImpact;
use crate::command::operate::{Cause, HoldDesk};
use crate::kill_switch::audit::{Event, EventKind, Override, Subject};
use crate::kill_switch::{
    Hold, HoldError, HoldId, HoldStatus, Lasting, Mode, NewHold, Operation, Operations, Persisted,
    Persisting, Scope, UserShare, Who,
};
use crate::proto::{self, extend_hold_request, hold_event, place_hold_request};

/// How long an answer waits for the disk.
pub(super) const DURABLE_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer may wait for requests under way, and how often it looks.
const LONGEST_DRAIN: Duration = Duration::from_mins(1);
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// Holds in a status.
const IN_STATUS: usize = 100;

impl Operators {
    fn holds(&self, method: &str) -> Result<&Arc<dyn HoldDesk>, Failure> {
        given(self.handles.holds.as_ref(), method)
    }

    pub(super) async fn new_hold(
        &self,
        request: proto::PlaceHoldRequest,
        caller: &Caller,
    ) -> Result<proto::PlaceHoldResponse, Failure> {
        let desk = self.holds("PlaceHold")?;
        let Cause { owner, reason } = caller.cause(&request.owner, &request.reason)?;
        let lasting = match request.expiry {
            None => Lasting::Default,
            Some(place_hold_request::Expiry::Never(())) => Lasting::Never,
            Some(place_hold_request::Expiry::ExpiresIn(given)) => Lasting::For(expires_in(given)?),
        };
        let longest = duration("wait_drained", request.wait_drained, Duration::ZERO, LONGEST_DRAIN)?;
        let new = NewHold {
            scope: self.scope(request.scope)?,
            mode: mode(request.mode)?,
            reason,
            owner,
            ticket: text("ticket", &request.ticket)?,
            lasting,
        };
        new.check().map_err(HoldError::from)?;
        let impact = desk.impact(&new);
        if request.dry_run {
            let hold = Some(dry(&new, desk.now().wall, impact.in_flight));
            return Ok(proto::PlaceHoldResponse { hold, impact: Some(encode_impact(&impact)) });
        }
        let (placed, persisting) = desk.switch().place(new, desk.now())?;
        let id = placed.hold.id;
        let durable = persisting.within(DURABLE_WITHIN);
        let (Persisted { durable, .. }, ()) = tokio::join!(durable, drained(desk.as_ref(), id, longest));
        // It may have ended since.
        let status = desk.switch().status(id, desk.now()).unwrap_or(placed);
        let hold = proto::HoldStatus { durable, ..encode_status(&status) };
        Ok(proto::PlaceHoldResponse { hold: Some(hold), impact: Some(encode_impact(&impact)) })
    }

    pub(super) async fn longer_hold(
        &self,
        request: proto::ExtendHoldRequest,
        caller: &Caller,
    ) -> Result<proto::ExtendHoldResponse, Failure> {
        let desk = self.holds("ExtendHold")?;
        let who = who(caller.cause(&request.owner, &request.reason)?);
        let lasting = match request.expiry {
            None => return Err(Failure::invalid("expiry", "must be given: expires_in, or never")),
            Some(extend_hold_request::Expiry::Never(())) => Lasting::Never,
            Some(extend_hold_request::Expiry::ExpiresIn(given)) => Lasting::For(expires_in(given)?),
        };
        let id = hold_id(&request.hold_id)?;
        let (extended, persisting) =
            desk.switch().extend(id, lasting, who, request.if_version, desk.now())?;
        let Persisted { durable, .. } = persisting.within(DURABLE_WITHIN).await;
        let hold = proto::HoldStatus { durable, ..encode_status(&extended) };
        Ok(proto::ExtendHoldResponse { hold: Some(hold) })
    }

    pub(super) async fn end_hold(
        &self,
        request: proto::ReleaseHoldRequest,
        caller: &Caller,
    ) -> Result<proto::ReleaseHoldResponse, Failure> {
        let desk = self.holds("ReleaseHold")?;
        let who = who(caller.cause(&request.owner, &request.reason)?);
        let id = hold_id(&request.hold_id)?;
        let (version, recover) = (request.if_version, request.recover);
        if request.dry_run {
            let (status, before, after) = desk.switch().preview_release(id, version, recover, desk.now())?;
            let released = desk.let_go(&status.hold.scope, &before, &after);
            let hold = Some(encode_status(&status));
            return Ok(proto::ReleaseHoldResponse { hold, durable: false, released });
        }
        let (status, persisting): (HoldStatus, Persisting) =
            desk.switch().release(id, who, version, recover, desk.now())?;
        let Persisted { durable, released } = persisting.within(DURABLE_WITHIN).await;
        Ok(proto::ReleaseHoldResponse { hold: Some(encode_status(&status)), durable, released })
    }

    pub(super) fn list_all_holds(
        &self,
        request: proto::ListHoldsRequest,
    ) -> Result<proto::ListHoldsResponse, Failure> {
        let site = self.optional_site(request.site)?;
        let concerns =
            |status: &HoldStatus| site.as_ref().is_none_or(|site| status.hold.scope.concerns(site));
        let holds = self.holds("ListHolds")?.list();
        let holds = holds.iter().filter(|status| concerns(status)).map(encode_status).collect();
        Ok(proto::ListHoldsResponse { holds })
    }

    pub(super) fn list_events(
        &self,
        request: &proto::ListHoldEventsRequest,
    ) -> Result<proto::ListHoldEventsResponse, Failure> {
        let of = match request.hold_id.as_str() {
            "" => None,
            id => Some(hold_id(id)?),
        };
        let limit = page(request.page_size)?;
        let before = match request.page_token.as_str() {
            "" => u64::MAX,
            token => token.parse().map_err(|_| Failure::page_token_invalid("page_token"))?,
        };
        let mut events = self.holds("ListHoldEvents")?.switch().events(of, before, limit + 1);
        let more = events.len() > limit;
        events.truncate(limit);
        let last = events.last().filter(|_| more);
        let next_page_token = last.map(|event| event.number.to_string()).unwrap_or_default();
        let events = events.into_iter().map(encode_event).collect();
        Ok(proto::ListHoldEventsResponse { events, next_page_token })
    }

    /// The holds for a status.
    pub(super) fn holds_in_status(&self) -> Vec<proto::HoldStatus> {
        let holds = self.handles.holds.as_ref().map(|desk| desk.list()).unwrap_or_default();
        holds.iter().take(IN_STATUS).map(encode_status).collect()
    }

    fn scope(&self, scope: Option<proto::HoldScope>) -> Result<Scope, Failure> {
        let Some(scope) = scope else { return Ok(Scope::ALL_WRITES) };
        let share = match scope.user_percentage {
            None => None,
            Some(percent) => UserShare::new(percent)
                .map_err(|problem| Failure::invalid("scope.user_percentage", problem))?,
        };
        let mut operations = Operations::NONE;
        for (at, operation) in scope.operations.iter().enumerate() {
            operations = match proto::Operation::try_from(*operation) {
                Ok(proto::Operation::Identify) => operations.with(Operation::Identify),
                Ok(proto::Operation::Delete) => operations.with(Operation::Delete),
                Ok(proto::Operation::Query) => operations.with(Operation::Query),
                Ok(proto::Operation::Get) => operations.with(Operation::Get),
                Ok(proto::Operation::Writes) => operations.with(Operation::Identify).with(Operation::Delete),
                Ok(proto::Operation::Unspecified) | Err(_) => {
                    let problem = format!("{operation} is not a known value");
                    return Err(Failure::invalid(format!("scope.operations[{at}]"), problem));
                }
            };
        }
        if scope.operations.is_empty() {
            operations = Operations::WRITES;
        }
        let site = self.optional_site(scope.site).map_err(|failure| failure.at("scope.site"))?;
        Ok(Scope { site, share, operations })
    }
}

/// Waits until no request that was admitted before the hold is under way.
async fn drained(desk: &dyn HoldDesk, id: HoldId, longest: Option<Duration>) {
    let Some(longest) = longest else { return };
    let look = async {
        while desk.switch().status(id, desk.now()).is_some_and(|status| status.in_flight > 0) {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    // What is still under way then is told.
    let _ = tokio::time::timeout(longest, look).await;
}

fn who(Cause { owner, reason }: Cause) -> Who {
    Who { owner, reason }
}

fn hold_id(given: &str) -> Result<HoldId, Failure> {
    given
        .parse()
        .map_err(|error: crate::kill_switch::NotAHoldId| Failure::invalid("hold_id", error.to_string()))
}

fn expires_in(given: prost_types::Duration) -> Result<Duration, Failure> {
    Duration::try_from(given).map_err(|_| Failure::invalid("expires_in", "must be above 0"))
}

fn mode(given: i32) -> Result<Mode, Failure> {
    match proto::HoldMode::try_from(given) {
        Ok(proto::HoldMode::Observe) => Ok(Mode::Observe),
        Ok(proto::HoldMode::Defer) => Ok(Mode::Defer),
        Ok(proto::HoldMode::Reject) => Ok(Mode::Reject),
        Ok(proto::HoldMode::Unspecified) => {
            Err(Failure::invalid("mode", "must be given: observe, defer or reject"))
        }
        Err(_) => Err(Failure::invalid("mode", format!("{given} is not a known value"))),
    }
}

impl From<HoldError> for Failure {
    fn from(error: HoldError) -> Self {
        let message = error.to_string();
        match error {
            HoldError::Invalid(invalid) => Self::invalid(invalid.field, invalid.problem),
            HoldError::TooMany { .. } => Self::new(Code::ResourceExhausted, "TOO_MANY_HOLDS", message),
            HoldError::NotFound { .. } => Self::new(Code::NotFound, "HOLD_NOT_FOUND", message),
            HoldError::VersionMismatch { current, .. } => {
                Self::new(Code::Aborted, "VERSION_MISMATCH", message)
                    .with("current_version", current.to_string())
            }
            HoldError::Unreadable => Self::new(Code::FailedPrecondition, "HOLDS_UNREADABLE", message),
        }
    }
}

/// A hold as it would be.
fn dry(new: &NewHold, now: crate::model::EventTime, in_flight: u64) -> proto::HoldStatus {
    let lasts = new.lasting.span().ok().flatten();
    proto::HoldStatus {
        hold: Some(proto::Hold {
            id: String::new(),
            scope: Some(encode_scope(&new.scope)),
            mode: encode_mode(new.mode),
            reason: new.reason.clone(),
            owner: new.owner.clone(),
            ticket: new.ticket.clone(),
            created_at: Some(event_time(now)),
            expires_at: lasts.map(|lasts| event_time(now.plus(lasts))),
            version: 0,
        }),
        time_left: lasts.map(span),
        in_flight,
        ..Default::default()
    }
}

fn encode_mode(mode: Mode) -> i32 {
    match mode {
        Mode::Observe => proto::HoldMode::Observe,
        Mode::Defer => proto::HoldMode::Defer,
        Mode::Reject => proto::HoldMode::Reject,
    }
    .into()
}

fn encode_scope(scope: &Scope) -> proto::HoldScope {
    let operation = |operation| match operation {
        Operation::Identify => proto::Operation::Identify.into(),
        Operation::Delete => proto::Operation::Delete.into(),
        Operation::Query => proto::Operation::Query.into(),
        Operation::Get => proto::Operation::Get.into(),
    };
    proto::HoldScope {
        site: scope.site.as_ref().map(ToString::to_string).unwrap_or_default(),
        user_percentage: scope.share.map(UserShare::percent),
        operations: scope.operations.iter().map(operation).collect(),
    }
}

fn encode_hold(hold: &Hold) -> proto::Hold {
    proto::Hold {
        id: hold.id.to_string(),
        scope: Some(encode_scope(&hold.scope)),
        mode: encode_mode(hold.mode),
        reason: hold.reason.clone(),
        owner: hold.owner.clone(),
        ticket: hold.ticket.clone(),
        created_at: Some(event_time(hold.created_at)),
        expires_at: hold.expiry.map(|expiry| event_time(expiry.at)),
        version: hold.version,
    }
}

fn encode_status(status: &HoldStatus) -> proto::HoldStatus {
    proto::HoldStatus {
        hold: Some(encode_hold(&status.hold)),
        durable: status.durable,
        time_left: status.time_left.map(span),
        in_flight: status.in_flight,
        drained_at: status.drained_at.map(event_time),
        observed: status.observed,
        deferred: status.deferred,
        rejected: status.rejected,
    }
}

fn encode_impact(impact: &HoldImpact) -> proto::HoldImpact {
    proto::HoldImpact {
        active_sites: impact.active_sites,
        requests_per_second: impact.requests_per_second,
        in_flight: impact.in_flight,
        pending: impact.pending,
        time_to_full: impact.time_to_full.map(span),
        overlapping_hold_ids: impact.overlapping.iter().map(ToString::to_string).collect(),
    }
}

fn encode_event(event: Event) -> proto::HoldEvent {
    let kind = match event.kind {
        EventKind::Placed => proto::HoldEventKind::Placed,
        EventKind::Extended => proto::HoldEventKind::Extended,
        EventKind::Expiring => proto::HoldEventKind::Expiring,
        EventKind::Released => proto::HoldEventKind::Released,
        EventKind::Expired => proto::HoldEventKind::Expired,
        EventKind::Recovered => proto::HoldEventKind::Recovered,
    };
    let subject = match &event.subject {
        Subject::Hold(hold) => hold_event::Subject::Hold(encode_hold(hold)),
        Subject::Override(over) => hold_event::Subject::BreakerOverride(encode_override(over)),
    };
    proto::HoldEvent {
        number: event.number,
        at: Some(event_time(event.at)),
        kind: kind.into(),
        owner: event.owner,
        reason: event.reason,
        subject: Some(subject),
    }
}

/// The words of an override are the names of the API's values, without what all of a kind begin with.
fn encode_override(over: &Override) -> proto::BreakerOverride {
    let operation = format!("BREAKER_OPERATION_{}", over.operation.to_ascii_uppercase());
    let mode = format!("BREAKER_OVERRIDE_MODE_{}", over.mode.to_ascii_uppercase());
    proto::BreakerOverride {
        scope: Some(proto::BreakerScope {
            operation: proto::BreakerOperation::from_str_name(&operation).unwrap_or_default().into(),
            site: over.site.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
        mode: proto::BreakerOverrideMode::from_str_name(&mode).unwrap_or_default().into(),
        reason: over.reason.clone(),
        owner: over.owner.clone(),
        ticket: over.ticket.clone(),
        created_at: Some(event_time(over.created_at)),
        expires_at: over.expiry.map(|expiry| event_time(expiry.at)),
    }
}
