//! Bounds of single settings, and what must hold between them.

use std::fmt::Display;

use super::{ByteSize, Config, Span};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// What is wrong with one setting: its key and why.
pub(super) type Fault = (&'static str, String);

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn within<T: PartialOrd + Display>(&mut self, key: &'static str, value: &T, least: &T, most: &T) {
        if value < least || value > most {
            self.0.push((key, format!("{value} is not between {least} and {most}")));
        }
    }

    fn bytes(&mut self, key: &'static str, value: ByteSize, least: u64, most: u64) {
        self.within(key, &value, &ByteSize(least), &ByteSize(most));
    }

    /// Bounds in milliseconds.
    fn span(&mut self, key: &'static str, value: Span, least: u64, most: u64) {
        self.within(key, &value, &super::millis(least), &super::millis(most));
    }

    fn that(&mut self, holds: bool, key: &'static str, otherwise: &str) {
        if !holds {
            self.0.push((key, otherwise.to_owned()));
        }
    }
}

/// Everything that is wrong.
pub(super) fn faults(config: &Config) -> Vec<Fault> {
    let mut found = Faults::default();
    server(config, &mut found);
    rest(config, &mut found);
    found.0
}

fn server(config: &Config, found: &mut Faults) {
    const DAY: u64 = 86_400_000;
    let s = &config.server;
    found.within("server.runtimes", &s.runtimes, &0, &256);
    found.bytes("server.max_message", s.max_message, 1 << 10, 64 * MIB);
    found.bytes("server.max_headers", s.max_headers, 1 << 10, MIB);
    found.within("server.max_connections", &s.max_connections, &1, &1_000_000);
    found.within("server.max_streams", &s.max_streams, &1, &100_000);
    found.within("server.max_in_flight", &s.max_in_flight, &1, &10_000_000);
    found.span("server.keepalive_interval", s.keepalive_interval, 10, DAY);
    found.span("server.keepalive_timeout", s.keepalive_timeout, 10, DAY);
    found.span("server.handshake_timeout", s.handshake_timeout, 10, 600_000);
    found.span("server.idle_timeout", s.idle_timeout, 10, 30 * DAY);
    found.span("server.max_age", s.max_age, 10, 365 * DAY);
    found.span("server.age_grace", s.age_grace, 0, DAY);
    found.span("server.unread_timeout", s.unread_timeout, 10, DAY);
    found.span("server.default_deadline", s.default_deadline, 10, DAY);
    found.span("server.drain_timeout", s.drain_timeout, 0, DAY);
    // HTTP/2 allows windows up to 2^31 - 1 and no useful one below its own default.
    found.bytes("server.stream_window", s.stream_window, 65_535, 1 << 30);
    found.bytes("server.connection_window", s.connection_window, 65_535, 1 << 30);
    found.bytes("server.send_buffer", s.send_buffer, 16 << 10, 1 << 30);
    found.that(
        s.connection_window >= s.stream_window,
        "server.connection_window",
        "is smaller than server.stream_window",
    );
    found.that(
        s.listen.port() == 0 || s.listen != s.operations_listen,
        "server.operations_listen",
        "is the same address as server.listen",
    );
}

fn rest(config: &Config, found: &mut Faults) {
    let w = &config.writes;
    found.span("writes.reply_after", w.reply_after, 1, 60_000);
    found.span("writes.refresh_after", w.refresh_after, 0, 30 * 86_400_000);
    found.span("writes.load_within", w.load_within, 0, 1_000);
    found.that(
        w.reply_after < config.server.default_deadline,
        "writes.reply_after",
        "is not below server.default_deadline",
    );

    // The upper ends are what the format and the index can hold.
    let l = &config.limits;
    found.within("limits.site_chars", &l.site_chars, &1, &64);
    found.within("limits.user_bytes", &l.user_bytes, &1, &256);
    found.within("limits.name_chars", &l.name_chars, &1, &50);
    found.within("limits.string_chars", &l.string_chars, &1, &10_000);
    found.within("limits.changes_per_write", &l.changes_per_write, &1, &1_000);
    found.within("limits.attributes_per_site", &l.attributes_per_site, &1, &10_000);
    found.within("limits.sites", &l.sites, &1, &10_000_000);

    let j = &config.journal;
    found.bytes("journal.segment", j.segment, MIB, 1 << 30);
    found.bytes("journal.batch", j.batch, 64 << 10, 64 * MIB);
    found.within("journal.queue_entries", &j.queue_entries, &1, &10_000_000);
    found.bytes("journal.queue", j.queue, MIB, 4 << 30);
    found.bytes("journal.total_quota", j.total_quota, 4 * MIB, 64 * TIB);
    found.bytes("journal.site_quota", j.site_quota, MIB, 64 * TIB);
    found.that(j.site_quota <= j.total_quota, "journal.site_quota", "is more than journal.total_quota");
    found.that(
        j.segment.0.saturating_mul(4) <= j.total_quota.0,
        "journal.segment",
        "is more than a quarter of journal.total_quota",
    );
    found.that(j.batch <= j.segment, "journal.batch", "is more than journal.segment");

    found.bytes("snapshots.journal_bytes", config.snapshots.journal_bytes, MIB, 64 * TIB);
    found.within("snapshots.pace", &config.snapshots.pace, &1, &100);

    let s = &config.store;
    // The store's directory may be lost, and is thrown away.
    for (key, dir) in [
        ("journal.dir", &config.journal.dir),
        ("snapshots.dir", &config.snapshots.dir),
        ("control.dir", &config.control.dir),
    ] {
        found.that(!dir.starts_with(&s.dir), key, "is in store.dir, which may be lost");
    }
    found.bytes("store.cache_capacity", s.cache_capacity, MIB, 16 * TIB);
    found.bytes("store.index_capacity", s.index_capacity, 0, 16 * TIB);
    found.within("store.get_threads", &s.get_threads, &1, &256);
    found.within("store.query_threads", &s.query_threads, &1, &256);
    found.within("store.apply_threads", &s.apply_threads, &1, &256);
    found.within("store.pool_queue", &s.pool_queue, &1, &1_000_000);
    found.span("store.checkpoint_every", s.checkpoint_every, 10, 60_000);

    found.bytes("cache.profile_capacity", config.cache.profile_capacity, MIB, 16 * TIB);
    found.span("requests.window", config.requests.window, 1_000, 86_400_000);
    found.within("requests.capacity", &config.requests.capacity, &1_000, &100_000_000);
    found.within("applier.outstanding", &config.applier.outstanding, &1, &4_096);
    found.within("applier.commit_entries", &config.applier.commit_entries, &1, &10_000);
    breaker(config, found);
    let filter = config.log.level.parse::<tracing_subscriber::filter::EnvFilter>();
    found.that(filter.is_ok(), "log.level", "is not a level or filter");
}

fn breaker(config: &Config, found: &mut Faults) {
    let b = &config.breaker;
    // A call is judged in steps of 25 ms.
    found.span("breaker.slow_after", b.slow_after, 25, 30_000);
    found.span("breaker.stall_after", b.stall_after, 25, 60_000);
    found.span("breaker.query_slow_after", b.query_slow_after, 25, 30_000);
    found.span("breaker.query_stall_after", b.query_stall_after, 25, 60_000);
    found.span("breaker.open_first", b.open_first, 25, 3_600_000);
    found.span("breaker.open_longest", b.open_longest, 25, 3_600_000);
    found.within("breaker.probes", &b.probes, &1, &1_000);
    found.bytes("breaker.unflushed_limit", b.unflushed_limit, MIB, TIB);
    found.that(b.slow_after <= b.stall_after, "breaker.stall_after", "is less than breaker.slow_after");
    found.that(
        b.query_slow_after <= b.query_stall_after,
        "breaker.query_stall_after",
        "is less than breaker.query_slow_after",
    );
    found.that(b.open_first <= b.open_longest, "breaker.open_longest", "is less than breaker.open_first");
}
