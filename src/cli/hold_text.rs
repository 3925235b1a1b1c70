//! Holds as people and programs see them.

use serde_json::{Value as Json, json};

use super::amounts::{count, proto_span, rate, span};
use super::output;
use super::times;
use super::values::printable;
use crate::proto::hold_event::Subject;
use crate::proto::{Hold, HoldEvent, HoldImpact, HoldScope, HoldStatus, Operation, ReleaseHoldResponse};

fn mode(hold: &Hold) -> &'static str {
    hold.mode().as_str_name().trim_start_matches("HOLD_MODE_")
}

fn operations(scope: &HoldScope) -> Vec<&'static str> {
    let name = |operation: Operation| operation.as_str_name().trim_start_matches("OPERATION_");
    scope.operations().map(name).collect()
}

fn scope_text(scope: &HoldScope) -> String {
    let site = match scope.site.as_str() {
        "" => "whole node".to_owned(),
        site => format!("site {}", printable(site)),
    };
    let share = scope.user_percentage.map(|share| format!(", {share} % of the users")).unwrap_or_default();
    format!("{site}{share}, {}", operations(scope).join("+"))
}

fn left(status: &HoldStatus) -> String {
    proto_span(status.time_left.as_ref()).map_or_else(|| "never".to_owned(), span)
}

fn time(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.and_then(times::format)
}

/// What was placed, and what it touches.
pub fn placed(status: &HoldStatus, impact: &HoldImpact, dry_run: bool) -> String {
    let hold = status.hold.clone().unwrap_or_default();
    let scope = hold.scope.clone().unwrap_or_default();
    let ends = match left(status).as_str() {
        "never" => "until it is released".to_owned(),
        left => format!("for {left}"),
    };
    let what = format!("{} {}, {ends}", mode(&hold), scope_text(&scope));
    let mut lines = vec![if dry_run {
        format!("would place: {what}")
    } else {
        format!("{} is in force: {what}", hold.id)
    }];
    if !dry_run && !status.durable {
        lines.push("  NOT on disk yet: it would not survive a restart; see `steadfast holds`".to_owned());
    }
    let full = proto_span(impact.time_to_full.as_ref());
    let full = full.map(|left| format!("; the journal is full in {}", span(left))).unwrap_or_default();
    lines.push(format!(
        "  touches    {} active sites, {} requests/s, {} entries waiting{full}",
        count(impact.active_sites),
        rate(impact.requests_per_second),
        count(impact.pending)
    ));
    let under_way = match (status.in_flight, dry_run) {
        (0, _) => "nothing that was admitted before".to_owned(),
        (left, true) => format!("{} requests", count(left)),
        (left, false) => format!("{} requests that were admitted before", count(left)),
    };
    lines.push(format!("  under way  {under_way}"));
    if !impact.overlapping_hold_ids.is_empty() {
        lines.push(format!("  overlaps   {}", impact.overlapping_hold_ids.join(", ")));
    }
    lines.join("\n")
}

/// What was released.
pub fn released(id: &str, answer: &ReleaseHoldResponse, dry_run: bool) -> String {
    let entries = count(answer.released);
    match (dry_run, answer.durable) {
        (true, _) => format!("would release {id}: {entries} entries would go on"),
        (false, true) => format!("{id} is released: {entries} entries go on, at a rising rate"),
        (false, false) => {
            format!("{id} is still in force: its release is not on disk yet; ask again")
        }
    }
}

/// Holds in rows.
pub fn table(holds: &[HoldStatus]) -> String {
    if holds.is_empty() {
        return "no holds".to_owned();
    }
    let header =
        ["HOLD", "MODE", "SCOPE", "LEFT", "UNDER WAY", "DEFERRED", "REJECTED", "OBSERVED", "OWNER", "REASON"];
    let mut rows = vec![header.map(ToOwned::to_owned).to_vec()];
    for status in holds {
        let hold = status.hold.clone().unwrap_or_default();
        let durable = if status.durable { "" } else { " (not on disk)" };
        rows.push(vec![
            format!("{}{durable}", hold.id),
            mode(&hold).to_owned(),
            scope_text(&hold.scope.clone().unwrap_or_default()),
            left(status),
            count(status.in_flight),
            count(status.deferred),
            count(status.rejected),
            count(status.observed),
            printable(&hold.owner),
            printable(&hold.reason),
        ]);
    }
    output::table(&rows)
}

/// One line of the history.
pub fn event(event: &HoldEvent) -> String {
    let at = time(event.at.as_ref()).unwrap_or_else(|| "-".to_owned());
    let kind = event.kind().as_str_name().trim_start_matches("HOLD_EVENT_KIND_").to_lowercase();
    let what = match &event.subject {
        Some(Subject::Hold(hold)) => {
            let scope = hold.scope.clone().unwrap_or_default();
            format!("{} {} {}", hold.id, mode(hold), scope_text(&scope))
        }
        Some(Subject::BreakerOverride(over)) => {
            let mode = over.mode().as_str_name().trim_start_matches("BREAKER_OVERRIDE_MODE_");
            let scope = over.scope.clone().unwrap_or_default();
            let operation = scope.operation().as_str_name().trim_start_matches("BREAKER_OPERATION_");
            let site = if scope.site.is_empty() { "store".to_owned() } else { printable(&scope.site) };
            format!("breaker {operation} of {site} {mode}")
        }
        None => "-".to_owned(),
    };
    let by = if event.owner.is_empty() {
        "by itself".to_owned()
    } else {
        format!("by {}", printable(&event.owner))
    };
    let reason =
        if event.reason.is_empty() { String::new() } else { format!(": {}", printable(&event.reason)) };
    format!("{at}  {kind:9} {what}  {by}{reason}")
}

fn hold_json(hold: &Hold) -> Json {
    let scope = hold.scope.clone().unwrap_or_default();
    json!({
        "id": hold.id,
        "mode": mode(hold),
        "site": (!scope.site.is_empty()).then_some(&scope.site),
        "user_percentage": scope.user_percentage,
        "operations": operations(&scope),
        "reason": hold.reason,
        "owner": hold.owner,
        "ticket": (!hold.ticket.is_empty()).then_some(&hold.ticket),
        "created_at": time(hold.created_at.as_ref()),
        "expires_at": time(hold.expires_at.as_ref()),
        "version": hold.version,
    })
}

/// A hold and what it has done.
pub fn status_json(status: &HoldStatus) -> Json {
    json!({
        "hold": status.hold.as_ref().map(hold_json),
        "durable": status.durable,
        "time_left_seconds": proto_span(status.time_left.as_ref()).map(|left| left.as_secs_f64()),
        "in_flight": status.in_flight,
        "drained_at": time(status.drained_at.as_ref()),
        "observed": status.observed,
        "deferred": status.deferred,
        "rejected": status.rejected,
    })
}

/// What was placed, and what it touches.
pub fn placed_json(status: &HoldStatus, impact: &HoldImpact) -> Json {
    json!({
        "status": status_json(status),
        "impact": {
            "active_sites": impact.active_sites,
            "requests_per_second": impact.requests_per_second,
            "in_flight": impact.in_flight,
            "pending": impact.pending,
            "time_to_full_seconds": proto_span(impact.time_to_full.as_ref()).map(|left| left.as_secs_f64()),
            "overlapping": impact.overlapping_hold_ids,
        },
    })
}

/// What was released.
pub fn released_json(answer: &ReleaseHoldResponse) -> Json {
    json!({
        "status": answer.hold.as_ref().map(status_json),
        "durable": answer.durable,
        "released": answer.released,
    })
}

/// One line of the history.
pub fn event_json(event: &HoldEvent) -> Json {
    let over = match &event.subject {
        Some(Subject::BreakerOverride(over)) => Some(json!({
            "operation": over.scope.clone().unwrap_or_default().operation().as_str_name(),
            "site": over.scope.as_ref().map(|scope| &scope.site).filter(|site| !site.is_empty()),
            "mode": over.mode().as_str_name(),
        })),
        _ => None,
    };
    let hold = match &event.subject {
        Some(Subject::Hold(hold)) => Some(hold_json(hold)),
        _ => None,
    };
    json!({
        "number": event.number,
        "at": time(event.at.as_ref()),
        "kind": event.kind().as_str_name().trim_start_matches("HOLD_EVENT_KIND_"),
        "owner": event.owner,
        "reason": event.reason,
        "hold": hold,
        "breaker_override": over,
    })
}
