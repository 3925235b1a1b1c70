//! The promises, each with what the drill saw of it. Pure.
//!
//! What is counted (lost writes, refusals, deferrals of neighbours, breakers that open) is counted exactly. What is
//! measured is judged beside the control, so that a busy machine neither breaks a promise nor keeps one: see
//! [`compare`](super::compare).

use std::collections::BTreeMap;
use std::time::Duration;

use super::compare::Judgement;
use super::facts::Facts;
use super::samples::{Answer, Kind, Sample, machine_took, summary};
use super::scenario::Sick;

/// A write that is not applied by then is answered as deferred.
const REPLY_AFTER: Duration = Duration::from_millis(250);
/// What sending, scheduling and the like may add to it, syncs apart.
const ROUND: Duration = Duration::from_millis(50);
/// The operations listener answers within.
const OPERATIONS: Duration = Duration::from_millis(50);
/// A disk or machine that stands still for so long opens breakers rightly.
const STANDSTILL: Duration = Duration::from_millis(500);
/// The control takes so long for a call only when the machine has something else to do: it excuses single calls.
const HELD_UP: Duration = Duration::from_millis(100);

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The promise.
    pub promise: &'static str,
    /// What became of it.
    pub judged: Judgement,
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
    ]
}

/// Whether no promise was broken.
pub fn none_broken(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| verdict.judged != Judgement::Broken)
}

/// The worse of two: broken, then not judged.
fn both(one: Judgement, other: Judgement) -> Judgement {
    let has = |judged| one == judged || other == judged;
    [Judgement::Broken, Judgement::Unclear, Judgement::Kept]
        .into_iter()
        .find(|judged| has(*judged))
        .unwrap_or(one)
}

/// Kept, unless one of `wrong` is not excused.
fn each_excused<'a>(
    wrong: impl IntoIterator<Item = &'a Sample>,
    excused: impl Fn(&Sample) -> bool,
) -> Judgement {
    wrong.into_iter().fold(Judgement::Kept, |judged, sample| both(judged, Judgement::beyond(excused(sample))))
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
    let kept = checked.is_right() && unbalanced == 0;
    Verdict {
        promise: "Accepted means kept",
        judged: if kept { Judgement::Kept } else { Judgement::Broken },
        seen: format!(
            "{} writes acknowledged, {} lost, {} too many, {} of {} users with a wrong last value{sums}",
            checked.acknowledged, checked.lost, checked.extra, checked.wrong, checked.users
        ),
        in_2020: "every attribute sent in 63 h 27 min was lost",
    }
}

/// Why calls were refused, and how often.
fn reasons<'a>(samples: impl Iterator<Item = &'a Sample>) -> String {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for sample in samples {
        if let Answer::Refused(reason) = sample.answer {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let each: Vec<String> = reasons.iter().map(|(reason, times)| format!("{times} {reason}")).collect();
    if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
}

fn no_write_waits(facts: &Facts<'_>) -> Verdict {
    let promise = "No write waits for a sick store";
    let in_2020 = "writes queued up and timed out";
    let all = summary(facts.of(Kind::Write));
    let reasons = reasons(facts.of(Kind::Write));
    if facts.expected.sick == Sick::Journal {
        // Nothing can be promised without a journal, but what is refused has to say so, and soon.
        let wrong = facts.during(Kind::Write).filter(|sample| {
            matches!(sample.answer, Answer::Refused(reason) if reason != "JOURNAL_STALLED")
                || sample.took > facts.deadline
        });
        let judged = each_excused(wrong, |sample| facts.excused(sample, HELD_UP));
        let seen = format!(
            "the journal is sick, not the store: {} of {} writes refused{reasons}, none of them kept; {} unanswered \
             within the deadline before that was noticed, and asked again afterwards",
            all.refused, all.calls, all.unanswered
        );
        return Verdict { promise, judged, seen, in_2020 };
    }
    let during = summary(facts.during(Kind::Write));
    let log = summary(facts.during(Kind::ControlWrite));
    let limit = REPLY_AFTER + 2 * log.p99 + ROUND;
    let slow = if during.p99 <= limit { Judgement::Kept } else { Judgement::Broken };
    let wrong = facts.of(Kind::Write).filter(|sample| {
        matches!(sample.answer, Answer::Refused(_) | Answer::Unanswered) || sample.took > facts.deadline
    });
    // What is left of the deadline for the machine.
    let slack = facts.deadline.saturating_sub(REPLY_AFTER).min(HELD_UP);
    let single = each_excused(wrong, |sample| facts.excused(sample, slack));
    Verdict {
        promise,
        judged: both(slow, single),
        seen: format!(
            "{} writes, {} deferred, {} refused{reasons}, {} not answered within {}; during the fault p99 {} (limit {}: \
             250 ms, two syncs of a bare log beside it, and 50 ms for the way), longest {}",
            all.calls,
            all.deferred,
            all.refused,
            all.unanswered,
            millis(facts.deadline),
            millis(during.p99),
            millis(limit),
            millis(during.max),
        ),
        in_2020,
    }
}

fn detected(facts: &Facts<'_>) -> Verdict {
    let (judged, seen) = match facts.struck_at.filter(|_| facts.expected.incident) {
        Some(struck) => detected_after(facts, struck),
        None => no_false_alarm(facts),
    };
    Verdict {
        promise: "Trouble is judged by the age of calls",
        judged,
        seen,
        in_2020: "saving was switched off, by hand, after 12 h",
    }
}

fn detected_after(facts: &Facts<'_>, struck: Duration) -> (Judgement, String) {
    let found = facts.incident().and_then(|incident| incident.detected_at.as_ref());
    let Some(at) = found else { return (Judgement::Broken, "no incident tells of it".to_owned()) };
    let took = facts.since(at) - struck.as_secs_f64();
    if took < 0.0 {
        // Trouble that announced itself.
        let early = facts.expected.announced;
        let says = format!("{:.0} ms before the fault: what announced it was enough", -took * 1000.0);
        return (if early { Judgement::Kept } else { Judgement::Broken }, says);
    }
    let limit = facts.expected.within;
    let says =
        format!("{:.0} ms after the fault, by the incident record (limit {})", took * 1000.0, millis(limit));
    let took = Duration::from_secs_f64(took);
    if took <= limit {
        return (Judgement::Kept, says);
    }
    let machine = machine_took(facts.samples, struck, struck + took);
    if machine >= HELD_UP && took <= limit + machine {
        let says = format!("{says}; meanwhile the machine held a bare service up for {}", millis(machine));
        return (Judgement::Unclear, says);
    }
    (Judgement::Broken, says)
}

fn no_false_alarm(facts: &Facts<'_>) -> (Judgement, String) {
    let (judged, trips) = false_trips(facts);
    match (judged, facts.incidents.is_empty()) {
        (Judgement::Kept, true) => (judged, "no incident, as it should be".to_owned()),
        (Judgement::Kept, false) => {
            let titles: Vec<&str> = facts.incidents.iter().map(|incident| incident.title.as_str()).collect();
            (judged, format!("no breaker opened; the machine itself had this: {}", titles.join("; ")))
        }
        _ => (judged, format!("a false alarm: {trips}")),
    }
}

/// Breakers that opened without need, and which.
fn false_trips(facts: &Facts<'_>) -> (Judgement, String) {
    let (mut judged, mut says) = (Judgement::Kept, Vec::new());
    for (scope, incident) in facts.false_trips() {
        let at = |at: &Option<prost_types::Timestamp>| {
            Duration::from_secs_f64(at.as_ref().map_or(0.0, |at| facts.since(at).max(0.0)))
        };
        let machine = machine_took(facts.samples, at(&incident.started_at), at(&incident.detected_at));
        judged = both(judged, Judgement::beyond(machine >= STANDSTILL));
        let operation =
            scope.operation().as_str_name().trim_start_matches("BREAKER_OPERATION_").to_lowercase();
        let of = if scope.site.is_empty() { "the store" } else { &scope.site };
        let stood = if machine >= STANDSTILL {
            format!(" while the machine held a bare service up for {}", millis(machine))
        } else {
            String::new()
        };
        let line = format!("the breaker of {operation} for {of} opened{stood}");
        if !says.contains(&line) {
            says.push(line);
        }
    }
    (judged, says.join("; "))
}

/// Neighbours of what is sick.
fn smallest_scope(facts: &Facts<'_>) -> Verdict {
    let promise = "The smallest scope gives way";
    let in_2020 = "every customer";
    let expected = &facts.expected;
    let (tripped, trips) = false_trips(facts);
    let trips = if trips.is_empty() { trips } else { format!("; {trips}") };
    if !expected.incident || expected.sick == Sick::Journal {
        let seen = "nothing of the store is sick in this drill".to_owned() + &trips;
        let judged = if tripped == Judgement::Kept { Judgement::Untested } else { tripped };
        return Verdict { promise, judged, seen, in_2020 };
    }
    if expected.sick == Sick::Store {
        let refused = facts.of(Kind::Write).filter(|sample| matches!(sample.answer, Answer::Refused(_)));
        let judged = each_excused(refused, |sample| facts.excused(sample, HELD_UP));
        let all = summary(facts.of(Kind::Write));
        let seen = format!(
            "the whole store was sick: {} writes deferred, {} refused; writes alone{}",
            all.deferred,
            all.refused,
            if trips.is_empty() { " were kept from it".to_owned() } else { trips }
        );
        return Verdict { promise, judged: both(judged, tripped), seen, in_2020 };
    }
    let neighbour = |sample: &Sample| !facts.is_sick(sample);
    let during = summary(facts.during(Kind::Write).filter(|sample| neighbour(sample)));
    let not_done = facts
        .during(Kind::Write)
        .filter(|sample| neighbour(sample) && !matches!(sample.answer, Answer::Done | Answer::Unanswered));
    let mut judged = each_excused(not_done.clone(), |sample| facts.excused(sample, HELD_UP));
    // The turns under way when a user fails are shared with others of the site.
    let shared = matches!(expected.sick, Sick::User) && during.refused == 0;
    if shared && not_done.count() as u64 <= during.calls / 100 {
        judged = Judgement::Kept;
    }
    let compared = facts.compare(Kind::Write, neighbour);
    Verdict {
        promise,
        judged: both(both(judged, tripped), compared.judged()),
        seen: format!(
            "neighbours: {} writes, {} deferred, {} refused; {}{trips}",
            during.calls,
            during.deferred,
            during.refused,
            compared.says()
        ),
        in_2020,
    }
}

fn reads(facts: &Facts<'_>) -> Verdict {
    let compared = facts.compare(Kind::Read, |_| true);
    let wrong = || facts.of(Kind::Read).filter(|sample| !matches!(sample.answer, Answer::Done));
    let answered = each_excused(wrong(), |sample| facts.excused(sample, HELD_UP));
    // A burst is more work for everybody.
    let slower = if facts.expected.same_load { compared.judged() } else { Judgement::Kept };
    Verdict {
        promise: "Sick writes leave reads alone",
        judged: both(answered, slower),
        seen: format!(
            "{} reads, {} not answered{}; {}",
            facts.of(Kind::Read).count(),
            wrong().count(),
            reasons(wrong()),
            if facts.expected.same_load {
                compared.says()
            } else {
                "the load changes, and with it what they take".to_owned()
            }
        ),
        in_2020: "reads timed out with the writes",
    }
}

fn operators(facts: &Facts<'_>) -> Verdict {
    let mut times: Vec<Duration> = facts.looks.iter().map(|look| look.took).collect();
    times.sort_unstable();
    let rank = (times.len() as f64 * 0.99).ceil() as usize;
    let p99 = times.get(rank.saturating_sub(1)).copied().unwrap_or_default();
    let control = summary(facts.of(Kind::ControlRead)).p99;
    let judged = if facts.looks_failed > 0 || times.is_empty() {
        Judgement::Broken
    } else if p99 <= OPERATIONS {
        Judgement::Kept
    } else {
        Judgement::beyond(p99 <= OPERATIONS + control)
    };
    Verdict {
        promise: "Operators are answered whatever hangs",
        judged,
        seen: format!(
            "{} looks at the status, {} failed, p99 {} (limit {}; a bare service beside it {})",
            times.len(),
            facts.looks_failed,
            millis(p99),
            millis(OPERATIONS),
            millis(control)
        ),
        in_2020: "",
    }
}

fn recovered(facts: &Facts<'_>) -> Verdict {
    let open = facts.incidents.iter().filter(|incident| incident.resolved_at.is_none()).count();
    let peak = facts.incidents.iter().map(|incident| incident.peak_pending).max().unwrap_or_default();
    let seen = match (facts.caught_up, open, facts.figures().caught_up) {
        (true, 0, Some(after)) if after >= 0.0 => {
            format!("all is applied, {after:.1} s after the cure; at most {peak} entries waited")
        }
        (true, 0, _) => "all is applied".to_owned(),
        (true, open, _) => format!("all is applied, but {open} incident(s) are not resolved"),
        (false, ..) => "not everything was applied in the end".to_owned(),
    };
    let kept = facts.caught_up && open == 0;
    Verdict {
        promise: "It catches up",
        judged: if kept { Judgement::Kept } else { Judgement::Broken },
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
mod tests;
