//! Every metric's name, in one place. Labels take few values each: never a user, and no site.

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

macro_rules! names {
    ($($(#[doc = $text:literal])+ $kind:ident $name:ident = $value:literal;)*) => {
        $($(#[doc = $text])+ pub const $name: &str = $value;)*

        /// Every metric's name.
        pub const ALL: &[&str] = &[$($name),*];

        /// Tells the recorder what each metric means.
        pub fn describe() {
            $(names!(@describe $kind $name concat!($($text),+).trim());)*
        }
    };
    (@describe counter $name:ident $text:expr) => { metrics::describe_counter!($name, $text) };
    (@describe gauge $name:ident $text:expr) => { metrics::describe_gauge!($name, $text) };
    (@describe histogram $name:ident $text:expr) => { metrics::describe_histogram!($name, $text) };
}

names! {
    /// Calls answered, by method and status code.
    counter CALLS = "steadfast_calls_total";
    /// Seconds until a call's answer was ready, by method.
    histogram CALL_SECONDS = "steadfast_call_seconds";
    /// Calls being worked on.
    gauge CALLS_IN_FLIGHT = "steadfast_calls_in_flight";
    /// Calls refused because too many were in flight.
    counter CALLS_SHED = "steadfast_calls_shed_total";
    /// Calls whose handler panicked, by method.
    counter CALL_PANICS = "steadfast_call_panics_total";
    /// Calls ended because the client did not read their results.
    counter CALLS_UNREAD = "steadfast_calls_unread_total";
    /// Calls to the operations listener without a token that is known.
    counter OPERATIONS_UNAUTHENTICATED = "steadfast_operations_unauthenticated_total";
    /// Open data connections.
    gauge CONNECTIONS = "steadfast_connections";
    /// Data connections accepted.
    counter CONNECTIONS_ACCEPTED = "steadfast_connections_accepted_total";
    /// Data connections refused because there were too many.
    counter CONNECTIONS_REFUSED = "steadfast_connections_refused_total";
    /// Data connections asked to go away, by cause: age, idle, drain.
    counter CONNECTIONS_CLOSED = "steadfast_connections_asked_to_close_total";
    /// Data connections cut with calls in flight, after their grace.
    counter CONNECTIONS_CUT = "steadfast_connections_cut_total";
    /// Failures to accept a connection: no file descriptor to be had, for instance.
    counter ACCEPT_ERRORS = "steadfast_accept_errors_total";
    /// Seconds of a journal write with its sync.
    histogram JOURNAL_SYNC_SECONDS = "steadfast_journal_sync_seconds";
    /// Entries in a journal batch.
    histogram JOURNAL_BATCH_ENTRIES = "steadfast_journal_batch_entries";
    /// Bytes written to the journal.
    counter JOURNAL_BYTES = "steadfast_journal_written_bytes_total";
    /// Entries made durable in the journal.
    counter JOURNAL_ENTRIES = "steadfast_journal_entries_total";
    /// Segments of the journal.
    gauge JOURNAL_SEGMENTS = "steadfast_journal_segments";
    /// Bytes of the journal's total quota in use.
    gauge JOURNAL_USED_BYTES = "steadfast_journal_used_bytes";
    /// Seconds until the journal is full at the rate of the last minutes; infinite: it is not filling.
    gauge JOURNAL_TIME_TO_FULL_SECONDS = "steadfast_journal_time_to_full_seconds";
    /// Whether the journal's disk does not answer: then new writes are refused.
    gauge JOURNAL_STALLED = "steadfast_journal_stalled";
    /// Whether the journal has failed: then nothing more is accepted.
    gauge JOURNAL_FAILED = "steadfast_journal_failed";
    /// Entries that the journal did not take, by reason: overloaded, stalled, full, failed.
    counter JOURNAL_NOT_TAKEN = "steadfast_journal_not_taken_total";
    /// Writes answered from what is durable already, without a journal entry.
    counter WRITES_WITHOUT_JOURNAL = "steadfast_writes_without_journal_total";
    /// Journal entries dealt with by the applier, by how they ended.
    counter ENTRIES_APPLIED = "steadfast_entries_applied_total";
    /// Turns of the applier that failed and are tried again.
    counter APPLY_FAILURES = "steadfast_apply_failures_total";
    /// Turns of the applier that were abandoned, because the store was given up or built anew.
    counter TURNS_ABANDONED = "steadfast_turns_abandoned_total";
    /// Users whose entries were parked, because the store failed on them and on nobody else.
    counter USERS_PARKED = "steadfast_users_parked_total";
    /// Request ids forgotten before their window was over, because the table was full.
    counter REQUEST_IDS_EVICTED_EARLY = "steadfast_request_ids_evicted_early_total";
    /// Request ids that are remembered.
    gauge REQUEST_IDS = "steadfast_request_ids";
    /// Sites that are known.
    gauge SITES = "steadfast_sites";
    /// Entries that are accepted and not yet applied.
    gauge PENDING_ENTRIES = "steadfast_pending_entries";
    /// Journal bytes of entries that are accepted and not yet applied.
    gauge PENDING_BYTES = "steadfast_pending_bytes";
    /// Journal bytes of pending entries of sites that are not being applied.
    gauge STALLED_BYTES = "steadfast_stalled_bytes";
    /// Pending entries held in memory, in bytes.
    gauge PENDING_MEMORY_BYTES = "steadfast_pending_memory_bytes";
    /// Refused entries that wait for an operator's decision.
    gauge REFUSED_ENTRIES = "steadfast_refused_entries";
    /// Bytes of cached profiles.
    gauge PROFILE_CACHE_BYTES = "steadfast_profile_cache_bytes";
    /// Reads of profiles by key, by whether the profile cache had it.
    counter PROFILE_CACHE_READS = "steadfast_profile_cache_reads_total";
    /// Bytes of the attribute index in memory.
    gauge STORE_INDEX_BYTES = "steadfast_store_index_bytes";
    /// Bytes put into the store since its last flush that succeeded.
    gauge STORE_UNFLUSHED_BYTES = "steadfast_store_unflushed_bytes";
    /// Age of the oldest call that runs in the store, seconds.
    gauge STORE_OLDEST_CALL_SECONDS = "steadfast_store_oldest_call_seconds";
    /// Holds in force, by mode: observe, defer, reject.
    gauge HOLDS = "steadfast_holds";
    /// Holds that end by themselves within 10 minutes.
    gauge HOLDS_EXPIRING = "steadfast_holds_expiring";
    /// Holds that are not on disk, and would not survive a restart.
    gauge HOLDS_NOT_DURABLE = "steadfast_holds_not_durable";
    /// Whether the holds could not be read at start, so that all writes are deferred.
    gauge HOLDS_UNREADABLE = "steadfast_holds_unreadable";
    /// Requests that holds stopped, by effect: deferred, rejected.
    counter HELD_REQUESTS = "steadfast_held_requests_total";
    /// Events of holds and overrides that could not be written to the audit log.
    counter AUDIT_FAILURES = "steadfast_audit_failures_total";
    /// Whether there is a store: 0 while calls are answered that it is being rebuilt.
    gauge STORE_COMPLETE = "steadfast_store_complete";
    /// Snapshots and backups that ended, by kind and by how: done, failed.
    counter SNAPSHOTS = "steadfast_snapshots_total";
    /// Seconds that a snapshot or backup took, by kind.
    histogram SNAPSHOT_SECONDS = "steadfast_snapshot_seconds";
    /// Bytes of the current snapshot.
    gauge SNAPSHOT_BYTES = "steadfast_snapshot_bytes";
    /// Bytes of journal entries since the current snapshot.
    gauge SNAPSHOT_JOURNAL_BYTES = "steadfast_snapshot_journal_bytes";
    /// Bytes of the journal's quota that are kept for snapshots.
    gauge SNAPSHOT_RESERVED_BYTES = "steadfast_snapshot_reserved_bytes";
    /// Whether a snapshot is due and none could be taken.
    gauge SNAPSHOT_OVERDUE = "steadfast_snapshot_overdue";
    /// Whether the current snapshot cannot be read back.
    gauge SNAPSHOT_DAMAGED = "steadfast_snapshot_damaged";
    /// Rebuilds of the store, by how they ended.
    counter REBUILDS = "steadfast_rebuilds_total";
    /// Seconds that a rebuild of the store took.
    histogram REBUILD_SECONDS = "steadfast_rebuild_seconds";
    /// Records and entries that the rebuild has dealt with, or the last one had.
    gauge REBUILD_DONE = "steadfast_rebuild_done";
    /// How many there are, as far as known.
    gauge REBUILD_TOTAL = "steadfast_rebuild_total";
    /// Threads that hang in a store, also in one that is out of use.
    gauge STORE_HUNG_THREADS = "steadfast_store_hung_threads";
    /// State of the store's breaker, by operation: 0 closed, 1 recovering, 2 half open, 3 open.
    gauge BREAKER_STATE = "steadfast_breaker_state";
    /// Sites whose own breaker is not closed, by operation.
    gauge BREAKER_SITES_DISTURBED = "steadfast_breaker_sites_not_closed";
    /// Breakers that opened, by operation, rule, and whether it was a site's or the store's.
    counter BREAKER_TRIPS = "steadfast_breaker_trips_total";
    /// Seconds during which the store's breaker was not closed, by operation.
    counter BREAKER_DISTURBED_SECONDS = "steadfast_breaker_not_closed_seconds_total";
    /// Calls kept from the store by a breaker, by operation; turns of the applier that had to wait count too.
    counter BREAKER_REFUSED = "steadfast_breaker_refused_total";
    /// Calls of the store that were judged, by operation: fast, or slow (failed ones included).
    counter BREAKER_VERDICTS = "steadfast_breaker_verdicts_total";
    /// Calls that have not come back from the store although they were given up, by operation.
    gauge STORE_HUNG_CALLS = "steadfast_store_hung_calls";
    /// Entries a second that may be applied at most; +Inf: no limit.
    gauge REPLAY_PACE = "steadfast_replay_pace";
    /// Seconds that a flush of the store took.
    histogram STORE_FLUSH_SECONDS = "steadfast_store_flush_seconds";
    /// Writes answered as deferred: kept, and not applied yet.
    counter WRITES_DEFERRED = "steadfast_writes_deferred_total";
    /// Writes not accepted, or not known to be, for no fault of the caller, by reason.
    counter WRITES_REJECTED = "steadfast_writes_rejected_total";
    /// Reads of profiles not answered, by reason.
    counter READS_REJECTED = "steadfast_reads_rejected_total";
    /// Users whose entries are parked now.
    gauge PARKED_USERS = "steadfast_parked_users";
    /// Incidents since the first start.
    counter INCIDENTS = "steadfast_incidents_total";
    /// Incidents that are not resolved.
    gauge INCIDENTS_OPEN = "steadfast_incidents_open";
    /// Events that no incident records, because too many came or too many incidents were open at once.
    counter INCIDENT_EVENTS_DROPPED = "steadfast_incident_events_dropped_total";
    /// Times that incidents could not be written down; they are then kept in memory only.
    counter INCIDENTS_NOT_SAVED = "steadfast_incidents_not_saved_total";
    /// Files of incidents that could not be read to their end, and were set aside.
    counter INCIDENTS_UNREADABLE = "steadfast_incidents_unreadable_total";
}

/// Shows metrics from the start that would otherwise appear when something first happens: an alert on what is not
/// there never fires, and a rate misses the first time.
pub fn announce() {
    for name in [
        JOURNAL_ENTRIES,
        WRITES_DEFERRED,
        INCIDENTS,
        INCIDENT_EVENTS_DROPPED,
        INCIDENTS_NOT_SAVED,
        INCIDENTS_UNREADABLE,
        AUDIT_FAILURES,
        APPLY_FAILURES,
        USERS_PARKED,
    ] {
        metrics::counter!(name).increment(0);
    }
    for name in [
        INCIDENTS_OPEN,
        HOLDS_EXPIRING,
        HOLDS_UNREADABLE,
        PARKED_USERS,
        JOURNAL_STALLED,
        JOURNAL_FAILED,
        SNAPSHOT_OVERDUE,
    ] {
        metrics::gauge!(name).increment(0.0);
    }
    for end in ["done", "failed"] {
        metrics::counter!(REBUILDS, "end" => end).increment(0);
    }
    metrics::counter!(WRITES_REJECTED, "reason" => "overloaded").increment(0);
    metrics::counter!(READS_REJECTED, "reason" => "overloaded").increment(0);
    metrics::gauge!(HOLDS, "mode" => "defer").increment(0.0);
}

/// Buckets of all histograms, in seconds: 50 us to 60 s.
const SECONDS: [f64; 19] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0, 60.0,
];

/// Makes this process collect metrics, once; the handle renders them.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock();
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new().set_buckets(&SECONDS)?.install_recorder()?;
    describe();
    announce();
    *installed = Some(handle.clone());
    Ok(handle)
}
