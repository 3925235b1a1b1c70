//! Breakers report to incidents.

use std::fmt::Write as _;

use super::event::{Breaker, Change, Evidence, Operation, Rule, Scope, Transition};
use super::service::Incidents;
use crate::breaker::{self, Event, Listener, Phase, ScopeName};
use crate::model::Site;

/// The breaker of the applier's loads.
const LOADS: &str = "apply_load";

/// Hears of every event of the breakers.
pub struct BreakerEvents {
    incidents: Incidents,
    last_error: Box<dyn Fn(&ScopeName) -> String + Send + Sync>,
}

impl BreakerEvents {
    /// Reports to `incidents`. `last_error` tells what the backend had said when a breaker tripped.
    pub fn new(
        incidents: Incidents,
        last_error: impl Fn(&ScopeName) -> String + Send + Sync + 'static,
    ) -> Self {
        Self { incidents, last_error: Box::new(last_error) }
    }
}

impl Listener for BreakerEvents {
    fn event(&self, event: &Event) {
        let Some(mut transition) = transition(event) else { return };
        if let (Event::Transition { scope, to: Phase::Open, .. }, Some(evidence)) =
            (event, &mut transition.evidence)
        {
            evidence.last_error = (self.last_error)(scope);
        }
        self.incidents.report(transition);
    }
}

/// None for operators' orders: whoever takes them tells of them, once for all breakers that they concern.
fn transition(event: &Event) -> Option<Transition> {
    Some(match event {
        Event::Transition { scope: name, from: _, to, rule, at: _, evidence } => {
            let state = match to {
                Phase::Closed => Breaker::Closed,
                Phase::Open => Breaker::Open,
                Phase::HalfOpen => Breaker::HalfOpen,
                Phase::Recovering => Breaker::Recovering,
            };
            let of_loads = &*name.operation == LOADS;
            let change = if of_loads { Change::LoadBreaker(state) } else { Change::Breaker(state) };
            let message = message(name, *to, *rule, evidence);
            Transition { scope: scope(name), change, message, evidence: Some(seen(*to, *rule, evidence)) }
        }
        Event::WouldTrip { scope: name, rule, .. } => Transition {
            scope: scope(name),
            change: Change::Hold,
            message: format!("Breaker {name} only observes; it would have opened: {}", words(*rule)),
            evidence: None,
        },
        Event::Overridden { .. } | Event::OverrideExpired { .. } => return None,
    })
}

/// An operation that is not known here counts as the whole node's.
fn scope(name: &ScopeName) -> Scope {
    let site = name.site.as_deref().map(Site::new);
    Scope { operation: Operation::named(&name.operation), site }
}

fn seen(to: Phase, rule: breaker::Rule, evidence: &breaker::Evidence) -> Evidence {
    use breaker::Rule as R;
    let rule = match rule {
        R::Stall => Some(Rule::Stall),
        R::PartialSlowness => Some(Rule::Share),
        R::FlushOverdue { .. } => Some(Rule::Flush),
        R::BackendFailed => Some(Rule::StoreFailed),
        R::Children { .. } => Some(Rule::Children),
        R::ProbeFailed | R::ProbeSlow | R::ProbeExpired => Some(Rule::Probe),
        R::Operator => Some(Rule::Forced),
        _ => None,
    };
    Evidence {
        rule: rule.filter(|_| to == Phase::Open),
        score: evidence.score,
        slow: evidence.slow,
        total: evidence.total,
        in_flight: evidence.in_flight,
        since: evidence.since,
        oldest: evidence.oldest,
        p99: Some(evidence.p99).filter(|p99| !p99.is_zero()),
        last_error: String::new(),
    }
}

fn words(rule: breaker::Rule) -> String {
    use breaker::Rule as R;
    match rule {
        R::Stall => "a call hangs and none ends".to_owned(),
        R::PartialSlowness => "too large a share of the calls is slow or fails".to_owned(),
        R::BackendFailed => "the store takes no more writes".to_owned(),
        R::FlushOverdue { age } => format!("a flush takes {:.1} s", age.as_secs_f64()),
        R::Children { tripped, active } => format!("{tripped} of {active} active sites tripped"),
        R::ParentTripped => "the whole store's breaker opened; this one follows it".to_owned(),
        R::OpenTimeOver => "time to try".to_owned(),
        R::ProbeFailed => "a probe failed".to_owned(),
        R::ProbeSlow => "a probe was slow".to_owned(),
        R::ProbeExpired => "a probe did not come back".to_owned(),
        R::ProbesFast => "the probes came back fast".to_owned(),
        R::FullRate => "the whole load passes again".to_owned(),
        R::BacklogEmpty => "nothing waits any more".to_owned(),
        R::Operator => "an operator said so".to_owned(),
    }
}

fn message(name: &ScopeName, to: Phase, rule: breaker::Rule, evidence: &breaker::Evidence) -> String {
    let did = match to {
        Phase::Closed => "closed",
        Phase::Open => "opened",
        Phase::HalfOpen => "tries the store",
        Phase::Recovering => "lets calls back in",
    };
    let mut text = format!("Breaker {name} {did}: {}", words(rule));
    if to == Phase::Open {
        // Writing to a string does not fail.
        if let Some(oldest) = evidence.oldest {
            let _ = write!(text, "; oldest call {} ms", oldest.as_millis());
        }
        if evidence.total > 0 {
            let _ = write!(text, "; {} of {} calls slow or failed", evidence.slow, evidence.total);
        }
        if evidence.hung > 0 {
            let _ = write!(text, "; {} hang from before", evidence.hung);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_trip_is_told_with_its_evidence() {
        let evidence = breaker::Evidence {
            since: Duration::from_millis(760),
            oldest: Some(Duration::from_millis(760)),
            in_flight: 1,
            ..breaker::Evidence::default()
        };
        let name = ScopeName { operation: "apply".into(), site: Some("acme".into()) };
        let event = Event::Transition {
            scope: name,
            from: Phase::Closed,
            to: Phase::Open,
            rule: breaker::Rule::Stall,
            at: Duration::ZERO,
            evidence,
        };
        let transition = transition(&event).unwrap();
        assert_eq!(transition.scope, Scope::site(Operation::Apply, Site::new("acme")));
        assert_eq!(transition.change, Change::Breaker(Breaker::Open));
        assert_eq!(
            transition.message,
            "Breaker apply/acme opened: a call hangs and none ends; oldest call 760 ms"
        );
        let evidence = transition.evidence.unwrap();
        assert_eq!((evidence.rule, evidence.since), (Some(Rule::Stall), Duration::from_millis(760)));
    }
}
