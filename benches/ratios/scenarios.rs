//! What is compared with what, and the ratio that is the goal.

use std::sync::Arc;

use steadfast::bench::{Population, Shape, Workload, WriteKind};
use steadfast::proto::Wait;

/// What the server is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// A tonic service that answers with constant messages.
    Bare,
    /// A tonic service that only appends to a log and syncs it.
    Log,
    /// etcd's Put of a value as large as a profile.
    Etcd,
    /// Redis, appendfsync always, HSET of 8 fields, pipelines of 16.
    Redis,
}

/// A comparison and its goals.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// With what.
    pub against: Against,
    /// Throughput: at least so many times the other's.
    pub throughput: Option<f64>,
    /// 99th percentile: at most so many times the other's.
    pub p99: Option<f64>,
}

/// One line of the table, or several.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// In words.
    pub name: &'static str,
    pub shape: Shape,
    pub write: WriteKind,
    pub wait: Wait,
    pub changes: usize,
    pub connections: usize,
    pub in_flight: usize,
    /// Measured in open loop while the real server is written to at full speed.
    pub beside_writes: bool,
    pub against: Vec<Goal>,
}

impl Scenario {
    /// The requests. Each run has values of its own.
    pub fn workload(&self, population: &Population) -> Arc<Workload> {
        let workload = Workload::new(population.clone(), self.shape, self.write);
        Arc::new(Workload { wait: self.wait, changes: self.changes, ..workload })
    }

    fn identify(name: &'static str, write: WriteKind, in_flight: usize, against: Vec<Goal>) -> Self {
        Self {
            name,
            shape: Shape::Identify,
            write,
            wait: Wait::Applied,
            changes: 3,
            connections: 4,
            in_flight,
            beside_writes: false,
            against,
        }
    }
}

fn goal(against: Against, throughput: f64) -> Goal {
    Goal { against, throughput: Some(throughput), p99: None }
}

/// Compared to know, without a goal.
fn beside(against: Against) -> Goal {
    Goal { against, throughput: None, p99: None }
}

fn etcd(throughput: f64, p99: f64) -> Goal {
    Goal { against: Against::Etcd, throughput: Some(throughput), p99: Some(p99) }
}

/// All comparisons.
pub fn scenarios() -> Vec<Scenario> {
    use Against::{Bare, Log, Redis};
    use WriteKind::{Change, Mix, Unchanged};
    let identify = Scenario::identify;
    let get =
        Scenario { shape: Shape::Get, ..identify("GetProfile, 64", Unchanged, 64, vec![goal(Bare, 0.85)]) };
    vec![
        Scenario {
            name: "GetProfile beside writes at full speed",
            in_flight: 1000,
            beside_writes: true,
            against: vec![Goal { against: Bare, throughput: None, p99: Some(1.5) }],
            ..get.clone()
        },
        get,
        identify("Identify changing nothing, 64", Unchanged, 64, vec![goal(Bare, 0.8)]),
        identify("Identify changing one, 64", Change, 64, vec![beside(Bare), beside(Log), etcd(1.6, 0.5)]),
        identify("Identify changing one, 256", Change, 256, vec![beside(Bare), beside(Log), etcd(1.9, 0.5)]),
        identify("Identify 9-in-10 mix, 64", Mix, 64, vec![beside(Bare), beside(Log), etcd(2.0, 0.25)]),
        identify("Identify 9-in-10 mix, 256", Mix, 256, vec![beside(Bare), beside(Log), etcd(2.5, 0.25)]),
        Scenario {
            wait: Wait::Journaled,
            ..identify("Identify JOURNALED, 256", Change, 256, vec![beside(Bare), goal(Log, 0.6)])
        },
        Scenario {
            shape: Shape::Many,
            wait: Wait::Journaled,
            changes: 8,
            ..identify(
                "IdentifyMany of 100 JOURNALED, 8",
                Change,
                8,
                vec![beside(Bare), beside(Log), goal(Redis, 1.3)],
            )
        },
        Scenario {
            shape: Shape::Many,
            changes: 8,
            ..identify("IdentifyMany of 100 APPLIED, 8", Change, 8, vec![beside(Bare), beside(Log)])
        },
        Scenario {
            shape: Shape::Stream,
            ..identify("IdentifyStream APPLIED, 256", Change, 256, vec![beside(Bare), beside(Log)])
        },
        Scenario {
            shape: Shape::Stream,
            wait: Wait::Journaled,
            ..identify("IdentifyStream JOURNALED, 256", Change, 256, vec![beside(Bare), beside(Log)])
        },
    ]
}
