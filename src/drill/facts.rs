//! What a drill saw, and what can be counted and measured of it. Pure.

use std::time::Duration;

use super::book::Checked;
use super::compare::{Comparison, tail, tail_of_blocks};
use super::operator::Look;
use super::samples::{Answer, Kind, Sample, machine_took};
use super::scenario::{Expected, SICK_SITE, SICK_USER, Sick};
use crate::proto::{BreakerOperation, BreakerScope, BreakerState, Incident, IncidentEventKind};

/// What the drill saw. Times count from when the clients began.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What may be expected.
    pub expected: Expected,
    /// All calls.
    pub samples: &'a [Sample],
    /// When the clients began, in nanoseconds since 1970.
    pub began: u64,
    /// Until when all was well.
    pub healthy_until: Duration,
    /// When the fault was there.
    pub trouble: (Duration, Duration),
    /// When the fault that has to be detected struck; none if there is none.
    pub struck_at: Option<Duration>,
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

/// The figures of a drill.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// From the fault to its detection, by the incident record; negative: it announced itself.
    pub detected: Option<f64>,
    /// From the fault until the sick part was kept from the store.
    pub mitigated: Option<f64>,
    /// From the fault until everything was applied.
    pub resolved: Option<f64>,
    /// From the cure until everything was applied.
    pub caught_up: Option<f64>,
    /// Writes acknowledged.
    pub accepted: u64,
    /// Of them, answered as deferred.
    pub deferred: u64,
    /// Writes refused.
    pub refused: u64,
    /// Acknowledged writes that were not there.
    pub lost: u64,
    /// How many times slower reads got.
    pub reads: Option<f64>,
    /// How many times slower writes of neighbours got.
    pub neighbours: Option<f64>,
}

/// The breakers that opened in an incident, each as often as it did.
fn opened(incident: &Incident) -> impl Iterator<Item = &BreakerScope> {
    let opened = incident.events.iter().filter(|event| event.breaker_state() == BreakerState::Open);
    opened.filter_map(|event| event.scope.as_ref())
}

impl Facts<'_> {
    /// Calls of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Sample> + Clone {
        self.samples.iter().filter(move |sample| sample.kind == kind)
    }

    /// Calls of one kind during the fault.
    pub fn during(&self, kind: Kind) -> impl Iterator<Item = &Sample> + Clone {
        let (from, to) = self.trouble;
        self.of(kind).filter(move |sample| from <= sample.at && sample.at < to)
    }

    /// Calls of one kind before anything was wrong.
    pub fn before(&self, kind: Kind) -> impl Iterator<Item = &Sample> + Clone {
        // The first calls meet cold caches and new connections.
        let (from, to) = (self.healthy_until / 4, self.healthy_until);
        self.of(kind).filter(move |sample| from <= sample.at && sample.at < to)
    }

    /// How much slower calls got, beside the calls to the control that are like them.
    pub fn compare(&self, kind: Kind, which: impl Fn(&Sample) -> bool) -> Comparison {
        let control = match kind {
            Kind::Write | Kind::ControlWrite => Kind::ControlWrite,
            Kind::Read | Kind::ControlRead => Kind::ControlRead,
        };
        let before = tail(self.before(kind).filter(|sample| which(sample)));
        let during = tail(self.during(kind).filter(|sample| which(sample)));
        let of_control = (tail_of_blocks(self.before(control)), tail_of_blocks(self.during(control)));
        let cpu = |from, to| self.cores_used(from, to);
        let cpu = (cpu(self.healthy_until / 4, self.healthy_until), cpu(self.trouble.0, self.trouble.1));
        Comparison::new(before, during, of_control, cpu)
    }

    /// CPU that this process used between two moments, in cores.
    fn cores_used(&self, from: Duration, to: Duration) -> f64 {
        let mut within = self.looks.iter().filter(|look| from <= look.at && look.at < to);
        let (Some(first), Some(last)) = (within.next(), within.next_back()) else { return 0.0 };
        let time = last.at.saturating_sub(first.at).as_secs_f64();
        last.cpu.saturating_sub(first.cpu).as_secs_f64() / time.max(1e-3)
    }

    /// Whether a call is about what is sick.
    pub fn is_sick(&self, sample: &Sample) -> bool {
        match self.expected.sick {
            Sick::Store => true,
            Sick::Journal => false,
            Sick::Site => format!("site-{}", sample.site) == SICK_SITE,
            Sick::User => {
                format!("site-{}", sample.site) == SICK_SITE && format!("user-{}", sample.user) == SICK_USER
            }
        }
    }

    /// Whether the machine held calls up for so long while `sample` was under way that what became of it says
    /// nothing of the server.
    pub fn excused(&self, sample: &Sample, slack: Duration) -> bool {
        machine_took(self.samples, sample.at, sample.at + sample.took) >= slack
    }

    /// How long after the beginning that was.
    pub fn since(&self, at: &prost_types::Timestamp) -> f64 {
        let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
        (nanos - i128::from(self.began)) as f64 / 1e9
    }

    /// The incident that the fault has to be seen in: the first one that is about what was struck, and not over
    /// before.
    pub fn incident(&self) -> Option<&Incident> {
        let struck = self.struck_at?.as_secs_f64();
        self.incidents.iter().find(|incident| {
            let over = incident.resolved_at.as_ref().is_some_and(|at| self.since(at) < struck);
            !over && self.is_about_the_fault(incident)
        })
    }

    fn is_about_the_fault(&self, incident: &Incident) -> bool {
        let told = |kind| incident.events.iter().any(|event| event.kind() == kind);
        let breaker = |site: &str| {
            opened(incident).any(|scope| scope.operation() == BreakerOperation::Apply && scope.site == site)
        };
        match self.expected.sick {
            Sick::Store => breaker(""),
            Sick::Site => breaker(SICK_SITE),
            Sick::User => told(IncidentEventKind::Parked),
            Sick::Journal => told(IncidentEventKind::Journal),
        }
    }

    /// Breakers that opened although what they guard was well.
    pub fn false_trips(&self) -> Vec<(&BreakerScope, &Incident)> {
        let expected = |scope: &BreakerScope| match self.expected.sick {
            _ if !self.expected.incident => false,
            Sick::Store => scope.operation() == BreakerOperation::Apply,
            Sick::Site => scope.operation() == BreakerOperation::Apply && scope.site == SICK_SITE,
            Sick::User | Sick::Journal => false,
        };
        let all =
            self.incidents.iter().flat_map(|incident| opened(incident).map(move |scope| (scope, incident)));
        all.filter(|(scope, _)| !expected(scope)).collect()
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let struck = self.struck_at.map(|at| at.as_secs_f64());
        let incident = self.incident();
        let after = |at: Option<&prost_types::Timestamp>, from: Option<f64>| Some(self.since(at?) - from?);
        let resolved = incident.and_then(|incident| incident.resolved_at.as_ref());
        let writes = || self.of(Kind::Write);
        let count = |wanted: fn(&Answer) -> bool| writes().filter(|sample| wanted(&sample.answer)).count();
        let measured = |comparison: Comparison| {
            (comparison.before.calls > 0 && comparison.during.calls > 0).then(|| comparison.ratio())
        };
        Figures {
            detected: after(incident.and_then(|incident| incident.detected_at.as_ref()), struck),
            mitigated: after(incident.and_then(|incident| incident.mitigated_at.as_ref()), struck),
            resolved: after(resolved, struck),
            caught_up: after(resolved, Some(self.trouble.1.as_secs_f64())),
            accepted: self.checked.acknowledged,
            deferred: count(|answer| matches!(answer, Answer::Deferred)) as u64,
            refused: count(|answer| matches!(answer, Answer::Refused(_))) as u64,
            lost: self.checked.lost,
            reads: measured(self.compare(Kind::Read, |_| true)).filter(|_| self.expected.same_load),
            neighbours: match self.expected.sick {
                Sick::Site | Sick::User => measured(self.compare(Kind::Write, |call| !self.is_sick(call))),
                Sick::Store | Sick::Journal => None,
            },
        }
    }
}
