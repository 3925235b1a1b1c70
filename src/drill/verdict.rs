//! The promises, each with what the drill saw of it. Pure.

use std::time::Duration;

use super::book::Checked;
use super::operator::Look;
use super::samples::{Answer, Kind, Sample, Summary, summary};
use super::scenario::{Expected, SICK_SITE, SICK_USER, Sick};
use crate::proto::Incident;

/// A write that is not applied by then is answered as deferred.
const REPLY_AFTER: Duration = Duration::from_millis(250);
/// What two fsyncs and a busy machine may add to it. The worst single call is judged by its deadline.
const AND_SYNCS: Duration = Duration::from_millis(150);
/// How much slower neighbours and reads may get at the 99th percentile...
const SLOWER: f64 = 1.2;
/// ... beyond what a machine that also runs the load does to a percentile of a few hundred calls.
const NOISE: Duration = Duration::from_millis(5);
/// The operations listener answers within.
const OPERATIONS: Duration = Duration::from_millis(50);

/// What the drill saw.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What may be expected.
    pub expected: Expected,
    /// All calls.
    pub samples: &'a [Sample],
    /// Until when all was well, from the start.
    pub healthy_until: Duration,
    /// When the fault was there, from the start.
    pub trouble: (Duration, Duration),
    /// When the fault that has to be detected struck, in nanoseconds since 1970; none if there is none.
    pub struck_at: Option<i128>,
    /// All incidents.
    pub incidents: &'a [Incident],
    /// What was read back.
    pub checked: Checked,
    /// Whether all that waited has been applied in the end.
    pub caught_up: bool,
    /// What the operator saw.
    pub looks: &'a [Look],
    /// Looks without an answer.
    pub looks_failed: u64,
    /// The clients' deadline.
    pub deadline: Duration,
}

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The promise.
    pub promise: &'static str,
    /// Whether it was kept; none: this drill cannot tell.
    pub kept: Option<bool>,
    /// What was seen.
    pub seen: String,
    /// What it was in 2020.
    pub in_2020: &'static str,
}

/// All promises.
pub fn verdicts(facts: &Facts<'_>) -> Vec<Verdict> {
    vec![
        accepted_means_kept(facts),
        no_write_waits(facts),
        detected(facts),
        smallest_scope(facts),
        reads(facts),
        operators(facts),
        recovered(facts),
        Verdict {
            promise: "A query cannot be slow",
            kept: None,
            seen: "not part of this drill".to_owned(),
            in_2020: "the way queries were built had a bug",
        },
    ]
}

/// Whether no promise was broken.
pub fn all_kept(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| verdict.kept != Some(false))
}

fn accepted_means_kept(facts: &Facts<'_>) -> Verdict {
    let checked = &facts.checked;
    let sums = facts.incidents.iter().filter_map(|incident| incident.accounts.as_ref());
    let unbalanced = sums.clone().filter(|accounts| !accounts.balanced).count();
    let sums = match (sums.clone().count(), unbalanced) {
        (0, _) => String::new(),
        (all, 0) => format!("; the sums of {all} incident(s) add up"),
        (all, wrong) => format!("; the sums of {wrong} of {all} incident(s) DO NOT add up"),
    };
    Verdict {
        promise: "Accepted means kept",
        kept: Some(checked.is_right() && unbalanced == 0),
        seen: format!(
            "{} writes acknowledged, {} lost, {} too many, {} of {} users with a wrong last value{sums}",
            checked.acknowledged, checked.lost, checked.extra, checked.wrong, checked.users
        ),
        in_2020: "every attribute sent in 63 h 27 min was lost",
    }
}

fn of<'a>(facts: &'a Facts<'_>, kind: Kind) -> impl Iterator<Item = &'a Sample> + Clone {
    facts.samples.iter().filter(move |sample| sample.kind == kind)
}

fn no_write_waits(facts: &Facts<'_>) -> Verdict {
    let all = summary(of(facts, Kind::Write));
    let within = within(facts);
    let trouble = summary(of(facts, Kind::Write).filter(|sample| within(sample)));
    let slow = trouble.p99 > REPLY_AFTER + AND_SYNCS || all.max > facts.deadline;
    let rejected = all.refused > 0 && !facts.expected.may_reject;
    let late = all.unanswered > 0 && !facts.expected.may_reject;
    Verdict {
        promise: "No write waits for a sick store",
        kept: Some(!(rejected || late || (slow && !facts.expected.may_reject))),
        seen: format!(
            "{} writes, {} deferred, {} rejected, {} not answered in time; during the fault p99 {}, longest {} (deadline {})",
            all.calls,
            all.deferred,
            all.refused,
            all.unanswered,
            millis(trouble.p99),
            millis(trouble.max),
            millis(facts.deadline)
        ),
        in_2020: "writes queued up and timed out",
    }
}

fn within<'a>(facts: &Facts<'_>) -> impl Fn(&&'a Sample) -> bool + Clone + use<'a> {
    let (from, to) = facts.trouble;
    move |sample| from <= sample.at && sample.at < to
}

fn detected(facts: &Facts<'_>) -> Verdict {
    let (kept, seen) = match facts.struck_at.filter(|_| facts.expected.incident) {
        Some(struck) => detected_after(facts, struck),
        None if facts.incidents.is_empty() => (true, "no incident, as it should be".to_owned()),
        None => {
            let titles: Vec<&str> = facts.incidents.iter().map(|incident| incident.title.as_str()).collect();
            (false, format!("a false alarm: {}", titles.join("; ")))
        }
    };
    Verdict {
        promise: "Trouble is judged by the age of calls",
        kept: Some(kept),
        seen,
        in_2020: "saving was switched off, by hand, after 12 h",
    }
}

fn detected_after(facts: &Facts<'_>, struck: i128) -> (bool, String) {
    let first = facts.incidents.iter().filter_map(|incident| incident.detected_at.as_ref());
    let first = first.map(|at| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos)).min();
    let Some(at) = first else { return (false, "no incident was recorded".to_owned()) };
    let limit = facts.expected.within.as_millis() as i128;
    let took = (at - struck) / 1_000_000;
    if at < struck {
        // Trouble that announced itself.
        return (true, format!("{} ms before the fault: what came before it was enough", -took));
    }
    (took <= limit, format!("{took} ms after the fault (limit {limit} ms), by the incident record"))
}

/// Neighbours of what is sick.
fn smallest_scope(facts: &Facts<'_>) -> Verdict {
    let promise = "The smallest scope gives way";
    let in_2020 = "every customer";
    let expected = &facts.expected;
    if !expected.incident {
        let all = summary(of(facts, Kind::Write));
        return Verdict {
            promise,
            kept: Some(all.refused == 0),
            seen: format!("{} writes, {} refused", all.calls, all.refused),
            in_2020,
        };
    }
    if expected.sick == Sick::Store {
        let rejected = summary(of(facts, Kind::Write)).refused;
        let kept = rejected == 0 || expected.may_reject;
        let seen = format!("the whole store was sick: neighbours are deferred, {rejected} were refused");
        return Verdict { promise, kept: Some(kept), seen, in_2020 };
    }
    let sick = |sample: &&Sample| {
        format!("site-{}", sample.site) == SICK_SITE
            && (expected.sick == Sick::Site || format!("user-{}", sample.user) == SICK_USER)
    };
    let neighbours = |sample: &&Sample| !sick(sample);
    let within = within(facts);
    let before = summary(healthy(facts, Kind::Write).filter(neighbours));
    let during = summary(of(facts, Kind::Write).filter(|sample| within(sample)).filter(neighbours));
    // The turns under way when a user fails are shared with others of the site.
    let allowed = if expected.sick == Sick::User { during.calls / 100 } else { 0 };
    let kept = during.refused == 0 && during.deferred <= allowed && not_slower(&before, &during);
    Verdict {
        promise,
        kept: Some(kept),
        seen: format!("neighbours: {}", compared(&before, &during)),
        in_2020,
    }
}

fn healthy<'a>(facts: &'a Facts<'_>, kind: Kind) -> impl Iterator<Item = &'a Sample> {
    // The first calls meet cold caches and new connections.
    let (from, to) = (facts.healthy_until / 4, facts.healthy_until);
    of(facts, kind).filter(move |sample| from <= sample.at && sample.at < to)
}

fn reads(facts: &Facts<'_>) -> Verdict {
    let within = within(facts);
    let before = summary(healthy(facts, Kind::Read));
    let during = summary(of(facts, Kind::Read).filter(|sample| within(sample)));
    let refused = of(facts, Kind::Read).filter(|sample| !matches!(sample.answer, Answer::Done)).count();
    Verdict {
        promise: "Sick writes leave reads alone",
        kept: Some(refused == 0 && not_slower(&before, &during)),
        seen: format!("{refused} not answered; {}", compared(&before, &during)),
        in_2020: "reads timed out with the writes",
    }
}

fn not_slower(before: &Summary, during: &Summary) -> bool {
    during.p99 <= before.p99.mul_f64(SLOWER).max(before.p99 + NOISE)
}

fn compared(before: &Summary, during: &Summary) -> String {
    let ratio = during.p99.as_secs_f64() / before.p99.as_secs_f64().max(1e-6);
    format!(
        "p99 {} during the fault, {} before ({ratio:.2}x); {} deferred, {} refused",
        millis(during.p99),
        millis(before.p99),
        during.deferred,
        during.refused
    )
}

fn operators(facts: &Facts<'_>) -> Verdict {
    let mut times: Vec<Duration> = facts.looks.iter().map(|look| look.took).collect();
    times.sort_unstable();
    let rank = (times.len() as f64 * 0.99).ceil() as usize;
    let p99 = times.get(rank.saturating_sub(1)).copied().unwrap_or_default();
    Verdict {
        promise: "Operators are answered whatever hangs",
        kept: Some(facts.looks_failed == 0 && !times.is_empty() && p99 <= OPERATIONS),
        seen: format!(
            "{} looks at the status, {} failed, p99 {}",
            times.len(),
            facts.looks_failed,
            millis(p99)
        ),
        in_2020: "",
    }
}

fn recovered(facts: &Facts<'_>) -> Verdict {
    let open = facts.incidents.iter().filter(|incident| incident.resolved_at.is_none()).count();
    let last = facts.incidents.iter().filter_map(|incident| incident.time_to_resolve.as_ref());
    let longest = last.map(crate::incident::report::span).next_back();
    let peak = facts.incidents.iter().map(|incident| incident.peak_pending).max().unwrap_or_default();
    let seen = match (facts.caught_up, open, longest) {
        (true, 0, Some(longest)) => {
            format!("all is applied; resolved after {longest}, at most {peak} entries waited")
        }
        (true, 0, None) => "all is applied".to_owned(),
        (true, open, _) => format!("all is applied, but {open} incident(s) are not resolved"),
        (false, ..) => "not everything was applied in the end".to_owned(),
    };
    Verdict {
        promise: "It catches up",
        kept: Some(facts.caught_up && open == 0),
        seen,
        in_2020: "back after 63 h 27 min",
    }
}

/// A time in milliseconds.
pub fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Scenario;
    use super::*;
    use crate::proto::IncidentAccounts;

    fn sample(at: u64, took: u64, kind: Kind, answer: Answer) -> Sample {
        let (at, took) = (Duration::from_millis(at), Duration::from_millis(took));
        Sample { at, took, kind, site: 1, user: 1, answer }
    }

    fn incident() -> Incident {
        Incident {
            detected_at: Some(prost_types::Timestamp { seconds: 100, nanos: 800_000_000 }),
            resolved_at: Some(prost_types::Timestamp { seconds: 120, nanos: 0 }),
            accounts: Some(IncidentAccounts { balanced: true, ..IncidentAccounts::default() }),
            ..Incident::default()
        }
    }

    fn kept(
        scenario: Scenario,
        samples: &[Sample],
        incidents: &[Incident],
        checked: Checked,
    ) -> Vec<&'static str> {
        let facts = Facts {
            expected: scenario.expected(),
            samples,
            healthy_until: Duration::from_secs(10),
            trouble: (Duration::from_secs(10), Duration::from_secs(20)),
            struck_at: Some(100_000_000_000),
            incidents,
            checked,
            caught_up: true,
            looks: &[Look { at: Duration::ZERO, took: Duration::ZERO, pending: 0, state: None }],
            looks_failed: 0,
            deadline: Duration::from_millis(500),
        };
        let broken = verdicts(&facts).into_iter().filter(|verdict| verdict.kept == Some(false));
        broken.map(|verdict| verdict.promise).collect()
    }

    #[test]
    fn a_hang_that_is_a_non_event_breaks_nothing() {
        let samples: Vec<Sample> = (0..2000)
            .map(|n| {
                let at = n * 10;
                let kind = if n % 2 == 0 { Kind::Write } else { Kind::Read };
                let hangs = at >= 10_000 && kind == Kind::Write;
                sample(
                    at,
                    if hangs { 255 } else { 2 },
                    kind,
                    if hangs { Answer::Deferred } else { Answer::Done },
                )
            })
            .collect();
        let none: Vec<&str> = Vec::new();
        assert_eq!(kept(Scenario::Hang, &samples, &[incident()], Checked::default()), none);
        // The same as a site's trouble: neighbours were deferred.
        let broken = kept(Scenario::SlowSite, &samples, &[incident()], Checked::default());
        assert_eq!(broken, ["The smallest scope gives way"]);
        let lost = Checked { lost: 1, ..Checked::default() };
        assert_eq!(kept(Scenario::Hang, &samples, &[incident()], lost), ["Accepted means kept"]);
        let broken = kept(Scenario::Hang, &samples, &[], Checked::default());
        assert_eq!(broken, ["Trouble is judged by the age of calls"]);
        let broken = kept(Scenario::StallsNoFault, &samples, &[incident()], Checked::default());
        assert_eq!(broken, ["Trouble is judged by the age of calls"]);
    }

    #[test]
    fn refused_late_and_slow_calls_are_seen() {
        let none = Checked::default();
        let rejected = [sample(11_000, 1, Kind::Write, Answer::Refused("OVERLOADED"))];
        let broken = kept(Scenario::Hang, &rejected, &[incident()], none);
        assert_eq!(broken, ["No write waits for a sick store", "The smallest scope gives way"]);
        let late = [sample(11_000, 500, Kind::Write, Answer::Unanswered)];
        assert_eq!(kept(Scenario::Hang, &late, &[incident()], none), ["No write waits for a sick store"]);
        let slow = [sample(9_000, 1, Kind::Read, Answer::Done), sample(11_000, 90, Kind::Read, Answer::Done)];
        assert_eq!(kept(Scenario::Hang, &slow, &[incident()], none), ["Sick writes leave reads alone"]);
    }
}
