//! An incident as a page for people, in the manner of a public status page, and as JSON. Pure: made of what
//! `GetIncident` answers, so that it reads the same at the server and far from it.

use std::fmt::Write as _;

use jiff::SignedDuration;
use jiff::civil::Date;
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

use crate::proto::{
    BreakerEvidence, BreakerOperation, BreakerScope, Incident, IncidentAccounts, IncidentEvent,
    IncidentEventKind, IncidentState, TripRule,
};

/// The page.
pub fn markdown(incident: &Incident) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, incident);
    page
}

fn write_page(page: &mut String, incident: &Incident) -> std::fmt::Result {
    writeln!(page, "# Incident {}: {}\n", incident.number, incident.title)?;
    let began = incident.started_at.as_ref().map(time).unwrap_or_default();
    match &incident.resolved_at {
        Some(resolved) => {
            let took = incident.time_to_resolve.as_ref().map(span).unwrap_or_default();
            writeln!(page, "**Resolved.** {began} to {} UTC ({took}).\n", time(resolved))?;
        }
        None => writeln!(page, "**{}.** Since {began} UTC.\n", capital(state(incident.state())))?,
    }
    writeln!(page, "## Impact\n")?;
    for line in impact(incident) {
        writeln!(page, "- {line}")?;
    }
    writeln!(
        page,
        "\n## Times\n\nCounted from the first evidence: when the oldest of the calls that showed it began.\n"
    )?;
    writeln!(page, "| | |\n|---|---|")?;
    let line = |duration: &Option<Duration>| duration.as_ref().map_or("not yet".to_owned(), span);
    writeln!(page, "| to detect | {} |", line(&incident.time_to_detect))?;
    writeln!(
        page,
        "| to mitigate: the sick part is kept from the store | {} |",
        line(&incident.time_to_mitigate)
    )?;
    writeln!(page, "| to resolve: all that waited is applied | {} |", line(&incident.time_to_resolve))?;
    writeln!(page, "| most entries waiting at once | {} |", thousands(incident.peak_pending))?;
    timeline(page, incident)?;
    match &incident.accounts {
        Some(accounts) => proof(page, accounts, incident.resolved_at.is_some()),
        None => writeln!(page, "\n## Was anything lost?\n\nThe writes of this incident were not counted."),
    }
}

fn impact(incident: &Incident) -> Vec<String> {
    let mut lines = Vec::new();
    let places: Vec<String> = incident.scopes.iter().map(place).collect();
    if !places.is_empty() {
        lines.push(format!("Affected: {}.", places.join(", ")));
    }
    let operations: Vec<BreakerOperation> = incident.scopes.iter().map(BreakerScope::operation).collect();
    let concerns =
        |operation| operations.iter().any(|one| *one == operation || *one == BreakerOperation::Unspecified);
    let mut untouched = Vec::new();
    if !incident.scopes.is_empty() && incident.scopes.iter().all(|scope| !scope.site.is_empty()) {
        untouched.push("all other sites");
    }
    if !concerns(BreakerOperation::Apply) {
        untouched.push("writes");
    }
    let accounts = incident.accounts.unwrap_or_default();
    if !concerns(BreakerOperation::Load) && !concerns(BreakerOperation::Query) && accounts.reads_rejected == 0
    {
        untouched.push("reads");
    }
    if concerns(BreakerOperation::Apply) {
        let deferred = match (accounts.deferred, accounts.accepted) {
            (0, 0) => "none came".to_owned(),
            (0, accepted) => format!("{} were accepted", thousands(accepted)),
            (deferred, accepted) => format!(
                "{} were accepted, {} of the answers were DEFERRED: kept, and applied later",
                thousands(accepted),
                thousands(deferred)
            ),
        };
        let rejected = match accounts.writes_rejected {
            0 => "none was rejected".to_owned(),
            rejected => format!("{} were rejected, and their callers told so", thousands(rejected)),
        };
        lines.push(format!("Writes: {deferred}; {rejected}."));
    }
    if accounts.reads_rejected > 0 {
        lines.push(format!("Reads: {} were refused.", thousands(accounts.reads_rejected)));
    }
    if !untouched.is_empty() {
        lines.push(format!("Not affected: {}.", untouched.join(", ")));
    }
    lines
}

fn timeline(page: &mut String, incident: &Incident) -> std::fmt::Result {
    writeln!(page, "\n## Timeline (UTC)\n\n| time | after | what | evidence |\n|---|---|---|---|")?;
    let start = incident.started_at.as_ref().map_or(0, nanos);
    if let Some(started) = &incident.started_at {
        writeln!(page, "| {} | 0 ms | The first of the calls that showed it began | |", time(started))?;
    }
    let later = incident.events_omitted > 0;
    for (n, event) in incident.events.iter().enumerate() {
        if later && n == incident.events.len() / 2 {
            writeln!(page, "| ... | | {} events are left out | |", thousands(incident.events_omitted))?;
        }
        let at = event.at.unwrap_or_default();
        let after = span_of(nanos(&at).saturating_sub(start).max(0) as u128);
        let seen = event.evidence.as_ref().map(evidence).unwrap_or_default();
        let message = cell(&event.message);
        let what = match event.kind() {
            IncidentEventKind::State => message,
            _ => format!("{message} ({})", state(event.state())),
        };
        writeln!(page, "| {} | {after} | {what} | {seen} |", time(&at))?;
    }
    Ok(())
}

fn proof(page: &mut String, accounts: &IncidentAccounts, resolved: bool) -> std::fmt::Result {
    writeln!(page, "\n## Was anything lost?\n")?;
    match (accounts.first_position, accounts.last_position) {
        (Some(first), Some(last)) => {
            writeln!(
                page,
                "Every entry that the journal accepted meanwhile, positions {first} to {last}:\n"
            )?;
        }
        _ => writeln!(page, "The journal accepted no entry meanwhile.\n")?,
    }
    writeln!(
        page,
        "| accepted | applied | unchanged | duplicate | refused | pending |\n|---|---|---|---|---|---|"
    )?;
    let counts = [
        accounts.accepted,
        accounts.applied,
        accounts.unchanged,
        accounts.duplicate,
        accounts.refused,
        accounts.pending,
    ];
    writeln!(page, "| {} |", counts.map(thousands).join(" | "))?;
    let [accepted, ends @ ..] = counts.map(|count| count.to_string());
    let sum = format!("{accepted} = {}", ends.join(" + "));
    let waits = match (accounts.pending, resolved) {
        (0, _) => String::new(),
        (_, true) => " What is pending is kept in the journal.".to_owned(),
        (_, false) => {
            " What is pending is kept in the journal, and applied when the store takes it.".to_owned()
        }
    };
    if accounts.balanced {
        writeln!(page, "\n{sum}. **Nothing was lost.**{waits}")
    } else {
        writeln!(page, "\n{sum} **does not add up**: keep the journal, and report this.")
    }
}

/// The incident as JSON.
pub fn to_json(incident: &Incident) -> Value {
    let seconds = |duration: &Option<Duration>| duration.as_ref().map(seconds);
    let at = |time: &Option<Timestamp>| time.as_ref().map(iso);
    json!({
        "number": incident.number,
        "title": incident.title,
        "state": state(incident.state()),
        "scopes": incident.scopes.iter().map(scope_json).collect::<Vec<_>>(),
        "started_at": at(&incident.started_at),
        "detected_at": at(&incident.detected_at),
        "mitigated_at": at(&incident.mitigated_at),
        "resolved_at": at(&incident.resolved_at),
        "seconds_to_detect": seconds(&incident.time_to_detect),
        "seconds_to_mitigate": seconds(&incident.time_to_mitigate),
        "seconds_to_resolve": seconds(&incident.time_to_resolve),
        "peak_pending": incident.peak_pending,
        "accounts": incident.accounts.as_ref().map(accounts_json),
        "events": incident.events.iter().map(event_json).collect::<Vec<_>>(),
        "events_omitted": incident.events_omitted,
    })
}

fn accounts_json(accounts: &IncidentAccounts) -> Value {
    json!({
        "accepted": accounts.accepted,
        "applied": accounts.applied,
        "unchanged": accounts.unchanged,
        "duplicate": accounts.duplicate,
        "refused": accounts.refused,
        "pending": accounts.pending,
        "balanced": accounts.balanced,
        "deferred": accounts.deferred,
        "writes_rejected": accounts.writes_rejected,
        "reads_rejected": accounts.reads_rejected,
        "first_position": accounts.first_position,
        "last_position": accounts.last_position,
    })
}

fn event_json(event: &IncidentEvent) -> Value {
    let kind = event.kind().as_str_name().trim_start_matches("INCIDENT_EVENT_KIND_").to_ascii_lowercase();
    let evidence = event.evidence.as_ref().map(|evidence| {
        json!({
            "rule": rule(evidence.rule()),
            "score": evidence.score,
            "threshold": evidence.threshold,
            "slow": evidence.slow,
            "total": evidence.total,
            "in_flight": evidence.in_flight,
            "oldest_age_seconds": evidence.oldest_age.as_ref().map(seconds),
            "p99_seconds": evidence.p99.as_ref().map(seconds),
            "last_error": evidence.last_error,
        })
    });
    json!({
        "at": event.at.as_ref().map(iso),
        "kind": kind,
        "state": state(event.state()),
        "message": event.message,
        "scope": event.scope.as_ref().map(scope_json),
        "evidence": evidence,
    })
}

fn scope_json(scope: &BreakerScope) -> Value {
    let site = Some(&scope.site).filter(|site| !site.is_empty());
    json!({ "operation": operation(scope.operation()), "site": site })
}

fn operation(operation: BreakerOperation) -> &'static str {
    match operation {
        BreakerOperation::Unspecified => "node",
        BreakerOperation::Apply => "apply",
        BreakerOperation::Load => "load",
        BreakerOperation::Query => "query",
    }
}

fn place(scope: &BreakerScope) -> String {
    let what = match scope.operation() {
        BreakerOperation::Unspecified => "the whole node",
        BreakerOperation::Apply => "applying writes",
        BreakerOperation::Load => "reads of profiles",
        BreakerOperation::Query => "queries",
    };
    if scope.site.is_empty() { what.to_owned() } else { format!("{what} of site {}", scope.site) }
}

/// The state in words.
pub fn state(state: IncidentState) -> &'static str {
    match state {
        IncidentState::Unspecified => "unknown",
        IncidentState::Detected => "detected",
        IncidentState::Mitigated => "mitigated",
        IncidentState::Probing => "probing",
        IncidentState::CatchingUp => "catching up",
        IncidentState::Resolved => "resolved",
    }
}

fn rule(rule: TripRule) -> &'static str {
    match rule {
        TripRule::Unspecified => "none",
        TripRule::Stall => "stall",
        TripRule::Share => "share",
        TripRule::Flush => "flush",
        TripRule::Children => "children",
        TripRule::Probe => "probe",
        TripRule::StoreFailed => "store failed",
        TripRule::Forced => "forced",
    }
}

fn evidence(evidence: &BreakerEvidence) -> String {
    let mut parts = Vec::new();
    if evidence.rule() != TripRule::Unspecified {
        parts.push(format!("rule: {}", rule(evidence.rule())));
    }
    if evidence.score > 0.0 {
        parts.push(format!("S {:.1} of {:.1}", evidence.score, evidence.threshold));
    }
    if evidence.total > 0 {
        parts.push(format!("slow {} of {}", evidence.slow, evidence.total));
    }
    if let Some(oldest) = &evidence.oldest_age {
        parts.push(format!("oldest call {}", span(oldest)));
    }
    if let Some(p99) = &evidence.p99 {
        parts.push(format!("p99 {}", span(p99)));
    }
    if !evidence.last_error.is_empty() {
        parts.push(format!("last error: {}", cell(&evidence.last_error)));
    }
    parts.join(", ")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Text for a table's cell: operators' words may hold anything.
fn cell(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|")
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn nanos(time: &Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn seconds(duration: &Duration) -> f64 {
    duration.seconds as f64 + f64::from(duration.nanos) / 1e9
}

/// A duration for people.
pub fn span(duration: &Duration) -> String {
    span_of((i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos)).max(0) as u128)
}

fn span_of(nanos: u128) -> String {
    let millis = nanos / 1_000_000;
    match millis {
        0..10_000 => format!("{millis} ms"),
        10_000..60_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", millis / 60_000, millis / 1000 % 60),
        _ => format!("{} h {} min", millis / 3_600_000, millis / 60_000 % 60),
    }
}

/// Date and time with milliseconds.
fn time(time: &Timestamp) -> String {
    let at = Date::constant(1970, 1, 1).to_datetime(jiff::civil::Time::midnight());
    // Out of range is shown as it is.
    let Ok(at) = at.checked_add(SignedDuration::from_secs(time.seconds)) else {
        return format!("{} s since 1970", time.seconds);
    };
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
        date.year(),
        date.month(),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        time.nanos / 1_000_000
    )
}

fn iso(at: &Timestamp) -> String {
    format!("{}Z", time(at).replace(' ', "T"))
}

#[cfg(test)]
mod tests;
