//! The drill as one file that a browser shows, with nothing to fetch.

use std::fmt::Write as _;
use std::time::Duration;

use super::chart::{Chart, Scale, escape, round_up};
use super::compare::Judgement;
use super::samples::{Kind, Sample, summary};
use super::{Outcome, none_broken};
use crate::incident::report;

/// Parts of the time that latencies are summed up in.
const PARTS: u32 = 150;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1d2330;--dim:#6b7385;--paper:#fff;--line:#dfe3ea;--good:#1a7f45;--bad:#c0252d}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9f0;--dim:#98a1b3;--paper:#14171e;--line:#2b303b;--good:#4cc38a;--bad:#ff6b6b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2rem}p.sub{color:var(--dim);margin-top:.2rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}td,th{border-bottom:1px solid var(--line);padding:.35rem .5rem;text-align:left;vertical-align:top}
.kept{color:var(--good);font-weight:600;white-space:nowrap}.broken{color:var(--bad);font-weight:600;white-space:nowrap}
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--dim)}
.grid{stroke:var(--line)}.moment{stroke:var(--dim);stroke-dasharray:3 3}
polyline{fill:none;stroke-width:1.6}.w99{stroke:#d9822b}.w50{stroke:#2b6cd9}.r99{stroke:#1a9c8f}.c99{stroke:var(--dim);stroke-width:1}.pending{stroke:#8a4bd0}
rect.fault{fill:#c0252d;opacity:.10}rect.detected{fill:#c0252d;opacity:.55}rect.mitigated{fill:#d9822b;opacity:.55}
rect.probing{fill:#d9c22b;opacity:.6}rect.catching{fill:#2b6cd9;opacity:.5}
.key span{display:inline-block;margin-right:1.2rem}.key i{display:inline-block;width:.9rem;height:.25rem;margin-right:.4rem;vertical-align:middle}
td.at{font-variant-numeric:tabular-nums;white-space:nowrap;color:var(--dim)}pre{white-space:pre-wrap;font-size:.85rem}
";

/// The page.
pub fn page(outcome: &Outcome) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, outcome);
    page
}

fn write_page(page: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let options = &outcome.options;
    let (class, verdict) = summed_up(&outcome.verdicts);
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width\"/><title>Steadfast drill: {}</title><style>{STYLE}</style></head><body>",
        options.scenario.name()
    )?;
    writeln!(page, "<h1>Drill: {}</h1>", escape(options.scenario.title()))?;
    writeln!(
        page,
        "<p class=\"sub\">{} s, {} writes/s and as many reads over {} sites, clients with a deadline of {} ms, seed {}; load average of the machine {} before, {} after</p><p class=\"{class}\">{verdict}</p>",
        options.duration.as_secs_f64(),
        options.rate,
        options.sites,
        options.deadline.as_millis(),
        options.seed,
        escape(&outcome.machine[0]),
        escape(&outcome.machine[1])
    )?;
    writeln!(
        page,
        "<h2>Promises</h2><table><tr><th>promise</th><th></th><th>seen</th><th>April 2020</th></tr>"
    )?;
    for verdict in &outcome.verdicts {
        let class = match verdict.judged {
            Judgement::Kept => "kept",
            Judgement::Broken => "broken",
            Judgement::Unclear | Judgement::Untested => "sub",
        };
        let word = verdict.judged.word();
        let cells = [verdict.promise, &verdict.seen, verdict.in_2020].map(escape);
        let [promise, seen, then] = cells;
        writeln!(
            page,
            "<tr><td>{promise}</td><td class=\"{class}\">{word}</td><td>{seen}</td><td>{then}</td></tr>"
        )?;
    }
    writeln!(page, "</table>")?;
    charts(page, outcome)?;
    writeln!(page, "<h2>Timeline</h2><table>")?;
    for line in &outcome.timeline {
        let at = line.at.as_secs_f64();
        let (from, says) = (escape(line.from), escape(&line.says));
        writeln!(page, "<tr><td class=\"at\">{at:.3} s</td><td>{from}</td><td>{says}</td></tr>")?;
    }
    writeln!(page, "</table><h2>Incidents</h2>")?;
    if outcome.incidents.is_empty() {
        writeln!(page, "<p>None.</p>")?;
    }
    for incident in &outcome.incidents {
        let title = escape(&format!("#{}: {}", incident.number, incident.title));
        let text = escape(&report::markdown(incident));
        writeln!(page, "<details><summary>{title}</summary><pre>{text}</pre></details>")?;
    }
    writeln!(page, "</body></html>")
}

fn charts(page: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let last = outcome.looks.last().map_or(Duration::ZERO, |look| look.at);
    let length = outcome.options.duration.max(last);
    let framed = |scale, unit: &str, label: &str| {
        let mut chart = Chart::new(length, scale, unit, label);
        let (from, to) = outcome.trouble;
        chart.band(from, to, "fault", "the fault");
        for line in outcome.timeline.iter().filter(|line| line.from == "drill") {
            chart.moment(line.at, &line.says);
        }
        chart
    };
    let mut latency = framed(Scale::Log(-1, 4), " ms", "latency over time");
    for (kind, share, class) in [
        (Kind::ControlRead, true, "c99"),
        (Kind::Write, false, "w50"),
        (Kind::Write, true, "w99"),
        (Kind::Read, true, "r99"),
    ] {
        latency.line(&latencies(&outcome.samples, kind, share, length), class);
    }
    writeln!(
        page,
        "<h2>Time to the answer</h2><p class=\"key\"><span><i style=\"background:#2b6cd9\"></i>writes, median</span><span><i style=\"background:#d9822b\"></i>writes, p99</span><span><i style=\"background:#1a9c8f\"></i>reads, p99</span><span><i style=\"background:#98a1b3\"></i>reads of a bare service beside it, p99</span><span><i style=\"background:#c0252d;opacity:.3\"></i>the fault</span></p>{}",
        latency.finish()
    )?;
    let mut states = framed(Scale::None, "", "state over time");
    for looks in outcome.looks.chunk_by(|one, other| one.state == other.state) {
        let [first, ..] = looks else { continue };
        let Some(state) = first.state else { continue };
        // Until the first look at which it was another one.
        let next = outcome.looks.iter().find(|look| look.at > first.at && look.state != first.state);
        let class = state.split(' ').next().unwrap_or_default();
        states.band(first.at, next.map_or(last, |look| look.at), class, state);
    }
    writeln!(
        page,
        "<h2>State</h2><p class=\"key\"><span><i style=\"background:#c0252d\"></i>detected</span><span><i style=\"background:#d9822b\"></i>mitigated: kept from the store</span><span><i style=\"background:#d9c22b\"></i>probing</span><span><i style=\"background:#2b6cd9\"></i>catching up</span></p>{}",
        states.finish()
    )?;
    let most = outcome.looks.iter().map(|look| look.pending).max().unwrap_or_default();
    let mut pending = framed(Scale::Linear(round_up(most)), "", "entries that wait");
    let points: Vec<_> = outcome.looks.iter().map(|look| (look.at, look.pending as f64)).collect();
    pending.line(&points, "pending");
    writeln!(page, "<h2>Entries that wait</h2>{}", pending.finish())
}

/// What became of all promises.
fn summed_up(verdicts: &[super::Verdict]) -> (&'static str, &'static str) {
    if !none_broken(verdicts) {
        return ("broken", "a promise was broken");
    }
    if verdicts.iter().any(|verdict| verdict.judged == Judgement::Unclear) {
        ("sub", "no promise was broken; the machine was too busy to judge each of them")
    } else {
        ("kept", "every promise was kept")
    }
}

/// The median, or the 99th percentile, of the calls of each part of the time, in ms.
fn latencies(samples: &[Sample], kind: Kind, worst: bool, length: Duration) -> Vec<(Duration, f64)> {
    let part = (length / PARTS).max(Duration::from_millis(1));
    let mut parts: Vec<Vec<&Sample>> = vec![Vec::new(); PARTS as usize + 1];
    for sample in samples.iter().filter(|sample| sample.kind == kind) {
        let at = (sample.at.as_nanos() / part.as_nanos()) as usize;
        if let Some(part) = parts.get_mut(at) {
            part.push(sample);
        }
    }
    let mut points = Vec::new();
    for (n, calls) in (0_u32..).zip(parts) {
        if !calls.is_empty() {
            let sum = summary(calls);
            let time = if worst { sum.p99 } else { sum.p50 };
            points.push((part * n + part / 2, time.as_secs_f64() * 1000.0));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::super::samples::Answer;
    use super::super::{Figures, Line, Look, Options, Scenario, Verdict};
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_trusts_nobody() {
        let second = Duration::from_secs(1);
        let outcome = Outcome {
            options: Options {
                scenario: Scenario::Hang,
                no_fix: false,
                duration: 30 * second,
                rate: 10.0,
                sites: 2,
                users: 3,
                seed: 1,
                deadline: second,
                dir: None,
                sabotage: None,
            },
            samples: (0..300)
                .map(|n| Sample {
                    at: second * n / 10,
                    took: Duration::from_millis(u64::from(n)),
                    kind: if n % 2 == 0 { Kind::Write } else { Kind::Read },
                    site: 0,
                    user: 0,
                    answer: Answer::Done,
                })
                .collect(),
            looks: vec![
                Look { at: second, took: second, pending: 3, state: Some("catching up"), cpu: second },
                Look { at: 2 * second, took: second, pending: 0, state: None, cpu: second },
            ],
            timeline: vec![Line { at: second, from: "drill", says: "<script>alert(1)</script>".to_owned() }],
            incidents: vec![crate::proto::Incident { title: "a & b".to_owned(), ..Default::default() }],
            verdicts: vec![Verdict {
                promise: "p",
                judged: Judgement::Broken,
                seen: "x < y".to_owned(),
                in_2020: "no",
            }],
            trouble: (second, 2 * second),
            figures: Figures::default(),
            machine: ["0.1 0.2 0.3".to_owned(), String::new()],
        };
        let page = page(&outcome);
        for needed in ["a promise was broken", "BROKEN", "a &amp; b", "x &lt; y", "catching", "</html>"] {
            assert!(page.contains(needed), "{needed}");
        }
        for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert_eq!(page.matches("<svg").count(), 3);
        is_well_formed(&page);
        // Everything that is drawn has somewhere to be.
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        assert!(page.matches("<polyline").count() == 5, "{}", page.matches("<polyline").count());
    }

    /// Every element is closed, in order, its attributes are quoted, and no character stands where it may not.
    fn is_well_formed(page: &str) {
        let mut rest = page.strip_prefix("<!doctype html>\n").unwrap();
        let mut open = Vec::new();
        while let Some((text, tail)) = rest.split_once('<') {
            let is_style = open.last() == Some(&"style");
            assert!(is_style || !text.contains('>'), "{text}");
            for entity in text.split('&').skip(1) {
                let name = entity.split_once(';').unwrap().0;
                assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "{name}");
            }
            let (tag, tail) = tail.split_once('>').unwrap();
            rest = tail;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "{text}");
                continue;
            }
            let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert_eq!(attributes.matches('"').count() % 2, 0, "{tag}");
            for attribute in attributes.split('"').step_by(2).filter(|part| !part.trim().is_empty()) {
                assert!(attribute.ends_with('='), "{tag}");
            }
            if !closed {
                open.push(name);
            }
        }
        assert_eq!((open.len(), rest.trim()), (0, ""));
    }
}
