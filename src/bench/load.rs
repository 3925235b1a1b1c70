//! Loads the users that a measurement reads and writes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::Builder;
use tonic::{Code, Status};

use crate::bench::client::{Redial, results, status_label};
use crate::bench::measure::{Label, OperationName};
use crate::bench::plan::{Answer, Client, Pace, Plan, Target};
use crate::bench::{BenchError, Population, Report, driver};
use crate::proto::{
    AttributeChange, GetWriteRequest, IdentifyManyRequest, IdentifyRequest, Outcome, Position, WriteResult,
    WriteState, attribute_change::Change, write_result,
};

/// Profiles in one call: large enough that calls cost little, small enough for the message limit.
const BATCH: u64 = 200;
/// Calls in flight.
const IN_FLIGHT: usize = 16;
/// How often a call is made again that the server had no room for, and the pause before each.
const TRIES: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);
/// Loading takes no longer.
const LONGEST: Duration = Duration::from_hours(1);
/// What was deferred is applied by then.
const APPLIED_WITHIN: Duration = Duration::from_mins(10);

type LastDeferred = Arc<Mutex<Option<(String, Position)>>>;

struct Loading {
    addr: String,
    population: Population,
    last_deferred: LastDeferred,
}

struct Loader {
    population: Population,
    redial: Redial,
    last_deferred: LastDeferred,
}

/// Writes every user of `population` to the server at `addr`, and waits until the last of them is applied.
pub fn load(addr: &str, population: &Population, connections: usize) -> Result<Report, BenchError> {
    let plan = Plan {
        connections: connections.clamp(1, IN_FLIGHT),
        in_flight: IN_FLIGHT,
        threads: 1,
        pace: Pace::Closed,
        warm_up: Duration::ZERO,
        duration: LONGEST,
        requests: Some(population.users.div_ceil(BATCH)),
        grace: Duration::from_mins(1),
    };
    let last_deferred = LastDeferred::default();
    let loading = Loading {
        addr: addr.to_owned(),
        population: population.clone(),
        last_deferred: Arc::clone(&last_deferred),
    };
    let measured = driver::run(loading, &plan, None)?;
    let report = Report::new(format!("loading {} users", population.users), &plan, &measured);
    if measured.measurement.errors() > 0 {
        return Err(BenchError::Load(format!("not every user was written\n{report}")));
    }
    if !measured.ran_out {
        return Err(BenchError::Load(format!("not done within {} s\n{report}", LONGEST.as_secs())));
    }
    let last = last_deferred.lock().take();
    if let Some((site, position)) = last {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(BenchError::io("runtime"))?;
        runtime.block_on(wait_applied(addr, site, position))?;
    }
    Ok(report)
}

/// Asks until the write at `position` is applied.
async fn wait_applied(addr: &str, site: String, position: Position) -> Result<(), BenchError> {
    let failed = |status: Status| BenchError::Load(format!("asking for the last write: {status}"));
    let redial = Redial::new(addr).await?;
    let request = GetWriteRequest { site, position: Some(position) };
    for _ in 0..APPLIED_WITHIN.as_millis() / PAUSE.as_millis() {
        let response = redial.client().get_write(request.clone()).await.map_err(failed)?;
        match response.into_inner().state() {
            WriteState::Pending => tokio::time::sleep(PAUSE).await,
            WriteState::Applied => return Ok(()),
            WriteState::Refused | WriteState::Unspecified => {
                return Err(BenchError::Load("the last write was refused".to_owned()));
            }
        }
    }
    Err(BenchError::Load(format!("the last write is not applied after {} s", APPLIED_WITHIN.as_secs())))
}

impl Target for Loading {
    type Client = Loader;

    async fn connect(&self) -> Result<Loader, BenchError> {
        Ok(Loader {
            population: self.population.clone(),
            redial: Redial::new(&self.addr).await?,
            last_deferred: Arc::clone(&self.last_deferred),
        })
    }
}

impl Loader {
    fn request(&self, n: u64) -> IdentifyManyRequest {
        let users = n * BATCH..((n + 1) * BATCH).min(self.population.users);
        let identify = |user| IdentifyRequest {
            site: self.population.site(user),
            user: Population::user(user),
            changes: self.population.attributes(user).into_iter().map(set).collect(),
            ..IdentifyRequest::default()
        };
        IdentifyManyRequest { requests: users.map(identify).collect() }
    }

    /// Remembers the deferred write that was journaled last.
    fn note_deferred(&self, request: &IdentifyManyRequest, results: &[WriteResult]) {
        for (request, result) in request.requests.iter().zip(results) {
            let Some(write_result::Result::Receipt(receipt)) = &result.result else { continue };
            let Some(position) = &receipt.position else { continue };
            let mut last = self.last_deferred.lock();
            let later = last.as_ref().is_none_or(|(_, known)| known.number < position.number);
            if receipt.outcome() == Outcome::Deferred && later {
                *last = Some((request.site.clone(), position.clone()));
            }
        }
    }
}

fn set((name, value): (String, crate::proto::Value)) -> AttributeChange {
    AttributeChange { name, change: Some(Change::Set(value)) }
}

/// The server had no room, or is not there yet: worth another try.
fn no_room(label: &Label) -> bool {
    let reasons = ["OVERLOADED", "JOURNAL_STALLED", "Unavailable", "ResourceExhausted"];
    matches!(label, Label::Bad(reason) if reasons.contains(&reason.as_ref()))
}

impl Client for Loader {
    fn operation(&self, _: u64) -> OperationName {
        "IdentifyMany"
    }

    /// Sets are idempotent, so what was only partly taken is sent again whole.
    async fn call(&self, n: u64) -> Answer {
        let request = self.request(n);
        let items = request.requests.len() as u32;
        let mut tries = 0;
        loop {
            let answer = match self.redial.client().identify_many(request.clone()).await {
                Ok(response) => {
                    let response = response.into_inner();
                    self.note_deferred(&request, &response.results);
                    Answer { items, outcomes: results(response.results), broken: false }
                }
                Err(status) if status.code() == Code::Unknown => self.redial.failed(items, &status).await,
                Err(status) => {
                    let outcomes = SmallVec::from_elem((status_label(&status), items), 1);
                    Answer { items, outcomes, broken: false }
                }
            };
            tries += 1;
            if tries == TRIES || !answer.outcomes.iter().any(|(label, _)| no_room(label)) {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
