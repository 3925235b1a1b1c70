//! What is called: the n-th request of a measurement.

use crate::bench::population::{CHANGING, Population, STEADY, mix};
use crate::bench::{BenchError, measure::OperationName};
use crate::clock::{Clock, SystemClock};
use crate::proto::{
    AttributeChange, GetProfileRequest, IdentifyManyRequest, IdentifyRequest, Value, Wait,
    attribute_change::Change, value::Kind,
};

/// The calls of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `GetProfile`.
    Get,
    /// `Identify`.
    Identify,
    /// `IdentifyMany`.
    Many,
    /// `IdentifyStream`, one stream a connection.
    Stream,
    /// `GetProfile` and `Identify`.
    Mixed,
}

/// What a write does to the stored profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WriteKind {
    /// Repeats stored values.
    Unchanged,
    /// Changes one attribute and repeats the others.
    Change,
    /// Changes one attribute in one of ten writes.
    Mix,
}

/// How a measurement's requests are made.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Whom they are about.
    pub population: Population,
    /// Which calls.
    pub shape: Shape,
    /// What writes do.
    pub write: WriteKind,
    /// When writes are answered.
    pub wait: Wait,
    /// Changes of each write, 1 to 8.
    pub changes: usize,
    /// Writes in each `IdentifyMany`, 1 to 1000.
    pub batch: usize,
    /// Share of reads in [`Shape::Mixed`], in percent.
    pub reads: u64,
    /// First value of the changing attribute: differs between runs, so that a change is one.
    pub first_value: u64,
}

/// The name of `GetProfile` in reports.
pub const GET: OperationName = "GetProfile";
const IDENTIFY: OperationName = "Identify";
const MANY: OperationName = "IdentifyMany";
const STREAM: OperationName = "IdentifyStream";

impl Workload {
    /// A workload of `shape` with three changes, batches of 100, and answers when applied.
    pub fn new(population: Population, shape: Shape, write: WriteKind) -> Self {
        // Microseconds since 1970: below 2^53, so a double holds it and the calls counted on from it.
        let first_value = SystemClock.now().0 / 1000;
        let wait = Wait::Applied;
        Self { population, shape, write, wait, changes: 3, batch: 100, reads: 50, first_value }
    }

    /// Refuses what the server would refuse, before anything is sent.
    pub fn check(&self) -> Result<(), BenchError> {
        let wrong = |text: String| Err(BenchError::Setting(text));
        if !(1..=STEADY).contains(&self.changes) {
            return wrong(format!("{} changes: a write of the bench has 1 to {STEADY}", self.changes));
        }
        if !(1..=1000).contains(&self.batch) {
            return wrong(format!("a batch of {}: IdentifyMany takes 1 to 1000", self.batch));
        }
        if self.reads > 100 {
            return wrong(format!("{} % reads: at most 100", self.reads));
        }
        if self.population.users == 0 || self.population.sites == 0 {
            return wrong("there must be at least one user and one site".to_owned());
        }
        Ok(())
    }

    /// In words, for the report.
    pub fn describe(&self) -> String {
        let write = match self.write {
            WriteKind::Unchanged => "changing nothing",
            WriteKind::Change => "changing one attribute",
            WriteKind::Mix => "9 of 10 changing nothing",
        };
        let wait = if self.wait == Wait::Journaled { ", JOURNALED" } else { "" };
        let changes = self.changes;
        let calls = match self.shape {
            Shape::Get => "GetProfile".to_owned(),
            Shape::Identify => format!("Identify, {changes} changes, {write}{wait}"),
            Shape::Many => format!("IdentifyMany of {}, {changes} changes each, {write}{wait}", self.batch),
            Shape::Stream => format!("IdentifyStream, {changes} changes each, {write}{wait}"),
            Shape::Mixed => {
                let reads = self.reads;
                format!("{reads} % GetProfile, the rest Identify, {changes} changes, {write}{wait}")
            }
        };
        format!("{calls}; {} users on {} site(s)", self.population.users, self.population.sites)
    }

    fn is_read(&self, n: u64) -> bool {
        match self.shape {
            Shape::Get => true,
            Shape::Mixed => mix(n) % 100 < self.reads,
            Shape::Identify | Shape::Many | Shape::Stream => false,
        }
    }

    /// Which method the `n`-th call is of.
    pub fn operation(&self, n: u64) -> OperationName {
        match self.shape {
            Shape::Many => MANY,
            Shape::Stream => STREAM,
            _ if self.is_read(n) => GET,
            _ => IDENTIFY,
        }
    }

    /// The `n`-th call as a read.
    pub fn get(&self, n: u64) -> GetProfileRequest {
        let user = self.population.pick(n);
        GetProfileRequest {
            site: self.population.site(user),
            user: Population::user(user),
            include_occurred_at: false,
        }
    }

    /// The `n`-th call as a write.
    pub fn identify(&self, n: u64) -> IdentifyRequest {
        let user = self.population.pick(n);
        let changing = match self.write {
            WriteKind::Unchanged => false,
            WriteKind::Change => true,
            WriteKind::Mix => n % 10 == 9,
        };
        let mut changes = Vec::with_capacity(self.changes);
        if changing {
            let value = Value { kind: Some(Kind::NumberValue((self.first_value + n) as f64)) };
            changes.push(set(CHANGING.to_owned(), value));
        }
        let steady = (0..self.changes - changes.len()).map(|index| Population::steady(user, index));
        changes.extend(steady.map(|(name, value)| set(name, value)));
        IdentifyRequest {
            site: self.population.site(user),
            user: Population::user(user),
            changes,
            wait: self.wait.into(),
            ..IdentifyRequest::default()
        }
    }

    /// The `n`-th call as a batch: of other users than any other call's as far as possible.
    pub fn many(&self, n: u64) -> IdentifyManyRequest {
        let first = n * self.batch as u64;
        let requests = (first..first + self.batch as u64).map(|n| self.identify(n)).collect();
        IdentifyManyRequest { requests }
    }
}

fn set(name: String, value: Value) -> AttributeChange {
    AttributeChange { name, change: Some(Change::Set(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(shape: Shape, write: WriteKind) -> Workload {
        let population =
            Population { users: 50, sites: 1, seed: 3, site_prefix: "bench".into(), profile_bytes: 400 };
        Workload::new(population, shape, write)
    }

    fn changes_visits(request: &IdentifyRequest) -> bool {
        request.changes.iter().any(|change| change.name == CHANGING)
    }

    #[test]
    fn a_repeat_sends_only_what_was_loaded() {
        let workload = workload(Shape::Identify, WriteKind::Unchanged);
        for n in 0..20 {
            let request = workload.identify(n);
            let loaded = workload.population.attributes(workload.population.pick(n));
            assert_eq!(request.changes.len(), 3);
            for change in request.changes {
                assert_eq!(change.change, Some(Change::Set(loaded[&change.name].clone())));
            }
        }
    }

    #[test]
    fn one_in_ten_of_the_mix_changes() {
        let workload = workload(Shape::Identify, WriteKind::Mix);
        let changing = (0..1000).filter(|&n| changes_visits(&workload.identify(n))).count();
        assert_eq!(changing, 100);
    }

    #[test]
    fn every_change_has_a_value_of_its_own() {
        let workload = workload(Shape::Many, WriteKind::Change);
        let values: std::collections::BTreeSet<_> = (0..5)
            .flat_map(|n| workload.many(n).requests)
            .map(|request| format!("{:?}", request.changes[0].change))
            .collect();
        assert_eq!(values.len(), 500);
    }

    #[test]
    fn reads_have_their_share() {
        let workload = Workload { reads: 80, ..workload(Shape::Mixed, WriteKind::Change) };
        let reads = (0..10_000).filter(|&n| workload.operation(n) == GET).count();
        assert!((7800..8200).contains(&reads), "{reads}");
    }

    #[test]
    fn what_the_server_would_refuse_is_refused() {
        let good = workload(Shape::Many, WriteKind::Change);
        assert!(good.check().is_ok());
        assert!(Workload { changes: 0, ..good.clone() }.check().is_err());
        assert!(Workload { changes: 9, ..good.clone() }.check().is_err());
        assert!(Workload { batch: 1001, ..good.clone() }.check().is_err());
        assert!(Workload { reads: 101, ..good }.check().is_err());
    }
}
