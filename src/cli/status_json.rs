//! The state of a node for programs. Times are RFC 3339, lengths of time seconds, what is not known is null.

use serde_json::{Value as Json, json};

use super::amounts::proto_span;
use super::times;
use crate::proto::{
    BacklogStatus, HoldStatus, NodeStatus, QuotaStatus, RebuildStatus, SnapshotStatus, StoreCallStatus,
};

/// The whole status.
pub fn status_json(status: &NodeStatus) -> Json {
    let operations: Vec<Json> = status
        .operations
        .iter()
        .map(|told| {
            json!({
                "operation": name(told.operation().as_str_name(), "OPERATION_"),
                "requests_per_second": told.requests_per_second,
                "errors_per_second": told.errors_per_second,
                "deferred_per_second": told.deferred_per_second,
                "in_flight": told.in_flight,
                "p50": span(told.p50.as_ref()), "p99": span(told.p99.as_ref()),
            })
        })
        .collect();
    let journal = status.journal.as_ref().map(|told| {
        json!({
            "state": name(told.state().as_str_name(), "JOURNAL_STATE_"),
            "used_bytes": told.used_bytes, "limit_bytes": told.limit_bytes,
            "time_to_full": span(told.time_to_full.as_ref()),
            "segments": told.segments, "first_position": told.first_position, "last_position": told.last_position,
            "entries_per_second": told.entries_per_second,
            "sync_p50": span(told.sync_p50.as_ref()), "sync_p99": span(told.sync_p99.as_ref()),
            "oldest_unsynced_age": span(told.oldest_unsynced_age.as_ref()),
        })
    });
    let sites: Vec<Json> = status
        .sites
        .iter()
        .map(|told| {
            json!({
                "site": told.site, "backlog": told.backlog.as_ref().map(backlog_json),
                "quota": told.quota.as_ref().map(quota_json), "waiting_for": told.waiting_for,
            })
        })
        .collect();
    let store = status.store.as_ref().map(|told| {
        json!({
            "backend": told.backend, "state": name(told.state().as_str_name(), "STORE_STATE_"),
            "generation": told.generation, "directory": told.directory, "profiles": told.profiles,
            "commits": told.commits.as_ref().map(calls_json), "loads": told.loads.as_ref().map(calls_json),
            "scans": told.scans.as_ref().map(calls_json), "hung_threads": told.hung_threads,
            "hung_threads_in_use": told.hung_threads_in_use,
            "unflushed_bytes": told.unflushed_bytes, "flush_age": span(told.flush_age.as_ref()),
            "cache_miss_share": told.cache_miss_share, "index_bytes": told.index_bytes,
            "index_limit_bytes": told.index_limit_bytes, "index_progress": told.index_progress,
            "last_error": told.last_error,
        })
    });
    let restart = status.restart.as_ref().map(|told| {
        json!({
            "safe": told.safe, "pending": told.pending, "estimated_time": span(told.estimated_time.as_ref()),
            "message": told.message,
        })
    });
    json!({
        "node": status.node, "software_version": status.software_version,
        "started_at": time(status.started_at.as_ref()), "at": time(status.at.as_ref()),
        "state": name(status.state().as_str_name(), "SERVING_STATE_"), "why": status.why,
        "operations": operations, "journal": journal,
        "backlog": status.backlog.as_ref().map(backlog_json), "sites": sites,
        "sites_with_pending": status.sites_with_pending, "sites_known": status.sites_known,
        "store": store, "rebuild": status.rebuild.as_ref().map(rebuild_json),
        "snapshot": status.snapshot.as_ref().map(snapshot_json),
        "breakers": status.breakers.iter().map(super::breaker::breaker_json).collect::<Vec<_>>(), "holds": status.holds.iter().map(hold_json).collect::<Vec<_>>(),
        "incidents": status.incidents.iter().map(|incident| incident.number).collect::<Vec<_>>(),
        "faults": status.faults.iter().map(|fault| fault.id.clone()).collect::<Vec<_>>(),
        "restart": restart,
        "connections": status.connections, "connections_limit": status.connections_limit,
    })
}

fn backlog_json(told: &BacklogStatus) -> Json {
    json!({
        "state": name(told.state().as_str_name(), "BACKLOG_STATE_"),
        "entries": told.entries, "bytes": told.bytes, "oldest_age": span(told.oldest_age.as_ref()),
        "applied_per_second": told.applied_per_second, "accepted_per_second": told.accepted_per_second,
        "time_to_catch_up": span(told.time_to_catch_up.as_ref()), "parked": told.parked, "refused": told.refused,
    })
}

/// A share of the journal.
pub fn quota_json(told: &QuotaStatus) -> Json {
    json!({
        "site": told.site, "used_bytes": told.used_bytes, "limit_bytes": told.limit_bytes,
        "overridden": told.overridden, "time_to_full": span(told.time_to_full.as_ref()),
    })
}

fn calls_json(told: &StoreCallStatus) -> Json {
    json!({
        "calls_per_second": told.calls_per_second, "in_flight": told.in_flight, "queued": told.queued,
        "oldest_age": span(told.oldest_age.as_ref()), "p50": span(told.p50.as_ref()), "p99": span(told.p99.as_ref()),
    })
}

/// A rebuild.
pub fn rebuild_json(told: &RebuildStatus) -> Json {
    json!({
        "state": name(told.state().as_str_name(), "TASK_STATE_"), "generation": told.generation,
        "reason": told.reason, "owner": told.owner, "started_at": time(told.started_at.as_ref()),
        "finished_at": time(told.finished_at.as_ref()), "done": told.done, "total": told.total,
        "time_left": span(told.time_left.as_ref()), "reads_served": told.reads_served, "error": told.error,
        "directory": told.directory,
    })
}

/// Snapshots.
pub fn snapshot_json(told: &SnapshotStatus) -> Json {
    json!({
        "state": name(told.state().as_str_name(), "TASK_STATE_"), "started_at": time(told.started_at.as_ref()),
        "done": told.done, "total": told.total, "error": told.error,
        "last_completed_at": time(told.last_completed_at.as_ref()), "last_position": told.last_position,
        "last_bytes": told.last_bytes, "overdue": told.overdue, "backup_directory": told.backup_directory,
    })
}

fn hold_json(told: &HoldStatus) -> Json {
    let hold = told.hold.clone().unwrap_or_default();
    let scope = hold.scope.clone().unwrap_or_default();
    json!({
        "id": hold.id, "mode": name(hold.mode().as_str_name(), "HOLD_MODE_"), "site": scope.site,
        "owner": hold.owner, "reason": hold.reason, "expires_at": time(hold.expires_at.as_ref()),
        "durable": told.durable, "in_flight": told.in_flight,
    })
}

/// `SERVING_STATE_SERVING` as `SERVING`.
fn name(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_owned()
}

fn span(given: Option<&prost_types::Duration>) -> Json {
    proto_span(given).map_or(Json::Null, |span| json!(span.as_secs_f64()))
}

fn time(given: Option<&prost_types::Timestamp>) -> Json {
    given.and_then(times::format).map_or(Json::Null, Json::String)
}
