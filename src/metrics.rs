//! Every metric's name, in one place. Labels take few values each: never a user, and no site.

macro_rules! names {
    ($($(#[doc = $text:literal])+ $kind:ident $name:ident = $value:literal;)*) => {
        $($(#[doc = $text])+ pub const $name: &str = $value;)*

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
    /// Writes answered from what is durable already, without a journal entry.
    counter WRITES_WITHOUT_JOURNAL = "steadfast_writes_without_journal_total";
    /// Journal entries dealt with by the applier, by how they ended.
    counter ENTRIES_APPLIED = "steadfast_entries_applied_total";
    /// Turns of the applier that failed and are tried again.
    counter APPLY_FAILURES = "steadfast_apply_failures_total";
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
    /// Seconds that a flush of the store took.
    histogram STORE_FLUSH_SECONDS = "steadfast_store_flush_seconds";
}
