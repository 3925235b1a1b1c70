//! The operator's side of the drill: looks at the status again and again over the operations listener, writes down
//! what it sees, and has the store rebuilt when told to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tonic::{Request, Status};

use crate::bench::BenchError;
use crate::bench::client::{Http2, origin};
use crate::bench::machine::{Usage, own_pid};
use crate::clock::{Clock as _, SystemClock};
use crate::incident::report;
use crate::model::EventTime;
use crate::proto::operator_service_client::OperatorServiceClient;
use crate::proto::{
    BreakerOperation, BreakerOverrideMode, BreakerScope, GetIncidentRequest, GetStatusRequest, Incident,
    ListIncidentsRequest, NodeStatus, OverrideBreakerRequest, RebuildStoreRequest,
};

/// What was seen at a moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// When, from the start.
    pub at: Duration,
    /// How long the answer took.
    pub took: Duration,
    /// Entries that waited.
    pub pending: u64,
    /// The state of the worst incident, or none.
    pub state: Option<&'static str>,
    /// CPU time that this process had used.
    pub cpu: Duration,
}

/// When the clients began, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// What times are measured from.
    pub at: Instant,
    /// What the server's own times are compared with.
    pub wall: EventTime,
}

impl Beginning {
    /// Now.
    pub fn now() -> Self {
        Self { at: Instant::now(), wall: SystemClock.now() }
    }

    /// How long ago that is.
    pub fn passed(self) -> Duration {
        Instant::now().saturating_duration_since(self.at)
    }

    /// How long after it the server's clock said `at`.
    fn until(self, at: &prost_types::Timestamp) -> Duration {
        let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos) - i128::from(self.wall.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    }
}

/// A line of the timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, from the start.
    pub at: Duration,
    /// Who or what it comes from.
    pub from: &'static str,
    /// What.
    pub says: String,
}

/// The operator.
pub struct Operator {
    client: OperatorServiceClient<Http2>,
    began: Beginning,
    /// Events of each incident that have been told.
    told: HashMap<u64, u64>,
    /// What was seen.
    pub looks: Vec<Look>,
    /// Looks that were not answered.
    pub failed: u64,
}

impl Operator {
    /// Connects to the operations listener at `addr`; times count from `began`.
    pub async fn connect(addr: &str, began: Beginning) -> Result<Self, BenchError> {
        let client = OperatorServiceClient::with_origin(Http2::connect(addr).await?, origin(addr)?);
        Ok(Self { client, began, told: HashMap::new(), looks: Vec::new(), failed: 0 })
    }

    /// Looks at the node. Answers its status, and what is new in the incidents' timelines.
    pub async fn look(&mut self) -> (Option<NodeStatus>, Vec<Line>) {
        let asked = Instant::now();
        let mut request = Request::new(GetStatusRequest::default());
        request.set_timeout(Duration::from_secs(2));
        let Ok(answer) = self.client.get_status(request).await else {
            self.failed += 1;
            return (None, Vec::new());
        };
        let took = Instant::now().saturating_duration_since(asked);
        let at = asked.saturating_duration_since(self.began.at);
        let status = answer.into_inner().status.unwrap_or_default();
        let pending = status.backlog.as_ref().map_or(0, |backlog| backlog.entries);
        let worst = status.incidents.iter().map(|incident| incident.state).min();
        let state = worst.map(|worst| report::state(worst.try_into().unwrap_or_default()));
        let cpu = Usage::of(own_pid()).map_or(Duration::ZERO, |usage| usage.cpu);
        self.looks.push(Look { at, took, pending, state, cpu });
        (Some(status), self.news().await)
    }

    /// Lines of the timelines that have not been told yet.
    async fn news(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        for incident in self.incidents().await.unwrap_or_default() {
            let told = self.told.entry(incident.number).or_default();
            let all = incident.events.len() as u64 + incident.events_omitted;
            let new = usize::try_from(all.saturating_sub(*told)).unwrap_or(usize::MAX);
            *told = all;
            let skip = incident.events.len().saturating_sub(new);
            for event in incident.events.iter().skip(skip) {
                let says =
                    format!("#{} {}: {}", incident.number, report::state(event.state()), event.message);
                let at = event.at.as_ref().map_or_else(|| self.began.passed(), |at| self.began.until(at));
                lines.push(Line { at, from: "incident", says });
            }
        }
        lines
    }

    /// All incidents with their timelines, oldest first.
    pub async fn incidents(&mut self) -> Result<Vec<Incident>, Status> {
        let list = self.client.list_incidents(ListIncidentsRequest::default()).await?.into_inner();
        let mut incidents = Vec::new();
        for incident in list.incidents.iter().rev() {
            let request = GetIncidentRequest { number: incident.number };
            incidents.extend(self.client.get_incident(request).await?.into_inner().incident);
        }
        Ok(incidents)
    }

    /// Knows all that has been told up to now: after a restart the incidents are still there.
    pub fn take_over_from(&mut self, earlier: &Self) {
        self.told.clone_from(&earlier.told);
    }

    /// Forces the breaker for writes closed.
    pub async fn force_closed(&mut self) -> Result<(), Status> {
        let request = OverrideBreakerRequest {
            scope: Some(BreakerScope { operation: BreakerOperation::Apply.into(), site: String::new() }),
            mode: BreakerOverrideMode::ForceClosed.into(),
            reason: "sabotage".to_owned(),
            owner: "drill".to_owned(),
            ..OverrideBreakerRequest::default()
        };
        self.client.override_breaker(request).await.map(drop)
    }

    /// Has the store rebuilt.
    pub async fn rebuild(&mut self) -> Result<(), Status> {
        let request = RebuildStoreRequest {
            reason: "the store hangs and there is no fix in sight".to_owned(),
            owner: "drill".to_owned(),
            ..RebuildStoreRequest::default()
        };
        self.client.rebuild_store(request).await.map(drop)
    }
}
