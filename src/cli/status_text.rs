//! The state of a node for people: one screen, at most 80 columns.

use std::fmt::Write as _;
use std::time::Duration;

use super::amounts::{bytes, count, proto_span, rate, span, span_or_dash};
use super::output::{Style, table};
use super::values::printable;
use crate::proto::{
    BacklogState, BacklogStatus, HoldStatus, JournalState, JournalStatus, NodeStatus, RebuildStatus,
    ServingState, SnapshotStatus, StoreCallStatus, StoreState, StoreStatus, TaskState,
};

/// Columns of a terminal that nobody has widened.
const COLUMNS: usize = 80;

/// One screen.
pub fn status_text(status: &NodeStatus, style: Style) -> String {
    let mut screen = Screen { lines: Vec::new(), style };
    screen.head(status);
    screen.operations(status);
    if let Some(journal) = &status.journal {
        screen.journal(journal);
    }
    screen.backlog(status);
    if let Some(store) = &status.store {
        screen.store(store);
    }
    if let Some(snapshot) = &status.snapshot {
        screen.snapshot(snapshot, status);
    }
    if let Some(rebuild) = &status.rebuild {
        screen.rebuild(rebuild);
    }
    for hold in &status.holds {
        screen.hold(hold, status);
    }
    for breaker in
        status.breakers.iter().filter(|breaker| breaker.state() != crate::proto::BreakerState::Closed)
    {
        let scope = breaker.scope.clone().unwrap_or_default();
        let name = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase();
        let operation = name(scope.operation().as_str_name(), "BREAKER_OPERATION_");
        let of = if scope.site.is_empty() { "the store".to_owned() } else { printable(&scope.site) };
        let state = name(breaker.state().as_str_name(), "BREAKER_STATE_").replace('_', " ");
        screen.item("breaker", &format!("{operation} of {of}: {state}"));
    }
    for incident in &status.incidents {
        let state = incident.state().as_str_name().trim_start_matches("INCIDENT_STATE_").to_lowercase();
        let line = format!("{} {}: {}", incident.number, printable(&incident.title), state.replace('_', " "));
        screen.item("incident", &line);
    }
    for fault in &status.faults {
        let left = span_or_dash(fault.lasts.as_ref());
        screen.item("fault", &format!("{} injected, {left} left, {} calls struck", fault.id, fault.struck));
    }
    if let Some(restart) = &status.restart {
        screen.item("restart", &restart.message);
    }
    screen.lines.join("\n")
}

struct Screen {
    lines: Vec<String>,
    style: Style,
}

impl Screen {
    /// Lines under a heading, each cut where the screen ends.
    fn item(&mut self, heading: &str, text: &str) {
        let room = COLUMNS - 10;
        for (at, line) in wrap(text, room).into_iter().enumerate() {
            let heading = if at == 0 { heading } else { "" };
            self.lines.push(format!("{}{line}", self.style.bold(&format!("{heading:<10}"))));
        }
    }

    fn head(&mut self, status: &NodeStatus) {
        let state = match status.state() {
            ServingState::Unspecified => "UNKNOWN",
            ServingState::Starting => "STARTING",
            ServingState::Serving => "SERVING",
            ServingState::Impaired => "IMPAIRED",
            ServingState::NotAccepting => "NOT ACCEPTING WRITES",
            ServingState::Draining => "DRAINING",
        };
        let well = status.state() == ServingState::Serving;
        let shown = if well { self.style.bold(state) } else { self.style.red(state) };
        let up = between(status.started_at.as_ref(), status.at.as_ref());
        let up = up.map_or_else(String::new, |up| format!("  up {}", span(up)));
        let connections = count(status.connections);
        self.lines.push(format!(
            "{shown}  node {}  v{}{up}  {connections} connections",
            status.node, status.software_version
        ));
        for why in &status.why {
            self.item("", &printable(why));
        }
        self.lines.push(String::new());
    }

    fn operations(&mut self, status: &NodeStatus) {
        let head = ["operation", "/s", "errors/s", "deferred/s", "in flight", "p50", "p99"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for told in &status.operations {
            rows.push(vec![
                told.operation().as_str_name().trim_start_matches("OPERATION_").to_lowercase(),
                rate(told.requests_per_second),
                rate(told.errors_per_second),
                rate(told.deferred_per_second),
                count(told.in_flight),
                span_or_dash(told.p50.as_ref()),
                span_or_dash(told.p99.as_ref()),
            ]);
        }
        self.lines.extend(table(&rows).lines().map(str::to_owned));
        self.lines.push(String::new());
    }

    fn journal(&mut self, journal: &JournalStatus) {
        let state = match journal.state() {
            JournalState::Unspecified => "unknown",
            JournalState::Ok => "ok",
            JournalState::Stalled => "STALLED",
            JournalState::Full => "FULL",
            JournalState::Failed => "FAILED",
        };
        let share = journal.used_bytes as f64 * 100.0 / journal.limit_bytes.max(1) as f64;
        let mut text = format!(
            "{state}, {} of {} used ({share:.0} %), {}",
            bytes(journal.used_bytes),
            bytes(journal.limit_bytes),
            match proto_span(journal.time_to_full.as_ref()) {
                Some(left) if left < FILLING => format!("FULL IN {}", span(left)),
                _ => "not filling".to_owned(),
            }
        );
        let _ = write!(text, "\n{} entries/s", rate(journal.entries_per_second));
        if journal.sync_p50.is_some() {
            let (p50, p99) = (journal.sync_p50.as_ref(), journal.sync_p99.as_ref());
            let _ = write!(text, ", fsync p50 {}, p99 {}", span_or_dash(p50), span_or_dash(p99));
        }
        if let Some(age) = proto_span(journal.oldest_unsynced_age.as_ref()) {
            let _ = write!(text, ", oldest unsynced {}", span(age));
        }
        let _ = write!(text, ", last position {}", journal.last_position);
        self.item("journal", &text);
    }

    fn backlog(&mut self, status: &NodeStatus) {
        let Some(backlog) = &status.backlog else { return };
        let mut text = backlog_text(backlog);
        if backlog.entries > 0 {
            let _ = write!(
                text,
                "\n{} accepted/s, {} applied/s, {} of {} sites",
                rate(backlog.accepted_per_second),
                rate(backlog.applied_per_second),
                count(status.sites_with_pending),
                count(status.sites_known)
            );
        }
        if backlog.refused > 0 {
            let _ =
                write!(text, "\n{} refused entries: see `steadfast refused list`", count(backlog.refused));
        }
        self.item("pending", &text);
        for site in &status.sites {
            let Some(backlog) = &site.backlog else { continue };
            let mut text = format!("{}: {}", printable(&site.site), backlog_text(backlog));
            if !site.waiting_for.is_empty() {
                let _ = write!(text, "; waits for {}", printable(&site.waiting_for));
            }
            if let Some(quota) = &site.quota
                && let Some(left) = proto_span(quota.time_to_full.as_ref())
            {
                let _ = write!(text, "; quota of {} full in {}", bytes(quota.limit_bytes), span(left));
            }
            self.item("", &text);
        }
    }

    fn store(&mut self, store: &StoreStatus) {
        let state = match store.state() {
            StoreState::Unspecified => "unknown".to_owned(),
            StoreState::Opening => "opening".to_owned(),
            StoreState::Serving => "serving".to_owned(),
            StoreState::IndexBuilding => {
                format!("building its index ({:.0} %)", store.index_progress.unwrap_or_default() * 100.0)
            }
            StoreState::Rebuilding => "REBUILDING".to_owned(),
            StoreState::Failed => "FAILED".to_owned(),
        };
        let oldest = [&store.commits, &store.loads, &store.scans];
        let oldest = oldest.iter().filter_map(|calls| calls.as_ref()?.oldest_age.as_ref());
        let oldest = oldest.filter_map(|age| proto_span(Some(age))).max();
        let hung = match (store.hung_threads_in_use, store.hung_threads) {
            (0, 0) => "no hung threads".to_owned(),
            (0, earlier) => format!("{earlier} hung threads of a store that was replaced"),
            (hung, _) => format!("{hung} HUNG THREADS"),
        };
        let text = format!(
            "{state}, {} generation {}, {} profiles\noldest call {}, {hung}, {} not flushed\n{}\n{}",
            store.backend,
            store.generation,
            count(store.profiles),
            oldest.map_or_else(|| "-".to_owned(), span),
            bytes(store.unflushed_bytes),
            calls_text("commits", store.commits.as_ref()),
            calls_text("loads", store.loads.as_ref()),
        );
        self.item("store", &text);
        if !store.last_error.is_empty() {
            self.item("", &format!("last error: {}", printable(&store.last_error)));
        }
    }

    fn snapshot(&mut self, snapshot: &SnapshotStatus, status: &NodeStatus) {
        let last = match between(snapshot.last_completed_at.as_ref(), status.at.as_ref()) {
            Some(age) => format!("last {} ago, {}", span(age), bytes(snapshot.last_bytes)),
            None => "none yet".to_owned(),
        };
        let overdue = if snapshot.overdue { ", OVERDUE" } else { "" };
        let now = match snapshot.state() {
            TaskState::Running => {
                format!("\nrunning: {} of {} records", count(snapshot.done), count(snapshot.total))
            }
            TaskState::Failed => format!("\nthe last one FAILED: {}", printable(&snapshot.error)),
            TaskState::Done | TaskState::Unspecified => String::new(),
        };
        self.item("snapshot", &format!("{last}{overdue}{now}"));
    }

    fn rebuild(&mut self, rebuild: &RebuildStatus) {
        let text = match rebuild.state() {
            TaskState::Running => format!(
                "running: {} of {}, {} left, generation {} ({})",
                count(rebuild.done),
                count(rebuild.total),
                span_or_dash(rebuild.time_left.as_ref()),
                rebuild.generation,
                printable(&rebuild.reason)
            ),
            TaskState::Done => {
                let took =
                    between(Some(&rebuild.started_at.unwrap_or_default()), rebuild.finished_at.as_ref());
                let took = took.map_or_else(|| "-".to_owned(), span);
                format!("done in {took}: generation {} ({})", rebuild.generation, printable(&rebuild.reason))
            }
            TaskState::Failed => format!("FAILED: {}", printable(&rebuild.error)),
            TaskState::Unspecified => return,
        };
        self.item("rebuild", &text);
    }

    fn hold(&mut self, told: &HoldStatus, status: &NodeStatus) {
        let Some(hold) = &told.hold else { return };
        let scope = hold.scope.clone().unwrap_or_default();
        let of = if scope.site.is_empty() { "the node".to_owned() } else { printable(&scope.site) };
        let left = match between(status.at.as_ref(), hold.expires_at.as_ref()) {
            Some(left) => format!("{} left", span(left)),
            None => "no expiry".to_owned(),
        };
        let mode = hold.mode().as_str_name().trim_start_matches("HOLD_MODE_").to_lowercase();
        let text = format!(
            "{} {mode} {of}, {left}, by {}: {}",
            hold.id,
            printable(&hold.owner),
            printable(&hold.reason)
        );
        self.item("hold", &text);
    }
}

/// A journal that takes longer than this to be full is not said to fill.
const FILLING: std::time::Duration = std::time::Duration::from_hours(30 * 24);

fn backlog_text(backlog: &BacklogStatus) -> String {
    if backlog.entries == 0 {
        return "nothing waits".to_owned();
    }
    let mut text = format!("{} entries, {}", count(backlog.entries), bytes(backlog.bytes));
    if let Some(age) = proto_span(backlog.oldest_age.as_ref()) {
        let _ = write!(text, ", oldest {}", span(age));
    }
    match backlog.state() {
        BacklogState::CatchingUp => {
            let left = proto_span(backlog.time_to_catch_up.as_ref());
            let left = left.map_or_else(String::new, |left| format!(" {}", span(left)));
            let _ = write!(text, ", catching up{left}");
        }
        BacklogState::NotCatchingUp => text.push_str(", NOT catching up"),
        BacklogState::Waiting => text.push_str(", left alone"),
        BacklogState::None | BacklogState::Unspecified => {}
    }
    if backlog.parked > 0 {
        let _ = write!(text, ", {} parked", count(backlog.parked));
    }
    text
}

fn calls_text(name: &str, calls: Option<&StoreCallStatus>) -> String {
    let calls = calls.copied().unwrap_or_default();
    format!(
        "{name} {}/s, p50 {}, p99 {}, {} running, {} queued",
        rate(calls.calls_per_second),
        span_or_dash(calls.p50.as_ref()),
        span_or_dash(calls.p99.as_ref()),
        count(calls.in_flight),
        count(calls.queued)
    )
}

/// From one instant to another; none if one is missing or they are the other way round.
fn between(from: Option<&prost_types::Timestamp>, to: Option<&prost_types::Timestamp>) -> Option<Duration> {
    let nanos =
        |time: &prost_types::Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let nanos = nanos(to?).checked_sub(nanos(from?))?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// Breaks a text into lines of at most `columns` characters, at its line breaks and blanks.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let width = line.chars().count();
            if width > 0 && width + 1 + word.chars().count() > columns {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            // A word that is longer than a line is cut: nothing that people need is.
            line.extend(word.chars().take(columns));
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    fn seconds(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    #[test]
    fn a_sick_node_fits_on_a_screen_and_says_what_matters() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let status = NodeStatus {
            node: "0123456789abcdef".into(),
            software_version: "0.1.0".into(),
            started_at: time(1_000_000),
            at: time(1_007_260),
            state: ServingState::Impaired.into(),
            why: vec!["2 threads hang inside the store".into()],
            operations: vec![proto::OperationStatus {
                operation: proto::Operation::Identify.into(),
                requests_per_second: 1234.0,
                deferred_per_second: 1200.0,
                p50: Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }),
                ..Default::default()
            }],
            journal: Some(JournalStatus {
                state: JournalState::Ok.into(),
                used_bytes: 1 << 30,
                limit_bytes: 8 << 30,
                time_to_full: Some(seconds(7_300)),
                ..Default::default()
            }),
            backlog: Some(BacklogStatus {
                state: BacklogState::NotCatchingUp.into(),
                entries: 120_000,
                bytes: 48 << 20,
                oldest_age: Some(seconds(61)),
                ..Default::default()
            }),
            sites: vec![proto::SiteStatus {
                site: "a".repeat(64),
                backlog: Some(BacklogStatus { entries: 1, ..Default::default() }),
                waiting_for: "the store".into(),
                ..Default::default()
            }],
            store: Some(StoreStatus {
                state: StoreState::Serving.into(),
                backend: "sled".into(),
                hung_threads: 2,
                hung_threads_in_use: 2,
                commits: Some(StoreCallStatus { oldest_age: Some(seconds(61)), ..Default::default() }),
                ..Default::default()
            }),
            holds: vec![HoldStatus {
                hold: Some(proto::Hold {
                    id: "hold-17".into(),
                    mode: proto::HoldMode::Defer.into(),
                    owner: "alice".into(),
                    reason: "store is slow ".repeat(10),
                    expires_at: time(1_009_060),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            restart: Some(proto::RestartAdvice {
                message: "a restart keeps all 120000 pending; the store hangs: use serve --take-over".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = status_text(&status, Style::plain());
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
        for part in [
            "IMPAIRED  node 0123456789abcdef",
            "up 2 h 1 min",
            "FULL IN 2 h 1 min",
            "120,000 entries, 48.0 MiB, oldest 61 s, NOT catching up",
            "2 HUNG THREADS",
            "oldest call 61 s",
            "hold-17 defer the node, 30 min left, by alice",
            "250 ms",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(status_text(&NodeStatus::default(), Style::plain()).starts_with("UNKNOWN"));
    }
}
