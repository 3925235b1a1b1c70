//! What the server says of itself: `grpc.health.v1`, `/healthz`, `/readyz`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

const ATTRIBUTES: &str = "steadfast.v1.AttributeService";
const OPERATORS: &str = "steadfast.v1.OperatorService";

/// Says whether writes are accepted, and why not. Shared by both listeners.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    /// Why nothing is accepted; empty: it is.
    refusing: Arc<ArcSwap<String>>,
}

/// Health that does not accept yet, and its gRPC service. The whole server (`""`) is SERVING from the start:
/// it can be asked.
pub async fn health() -> (Health, HealthServer<HealthService>) {
    let reporter = HealthReporter::new();
    reporter.set_service_status(OPERATORS, ServingStatus::Serving).await;
    let service = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    let health = Health { reporter, refusing: Arc::new(ArcSwap::default()) };
    health.refuse("starting").await;
    (health, service)
}

impl Health {
    /// Writes are accepted.
    pub async fn accept(&self) {
        self.refusing.store(Arc::default());
        self.reporter.set_service_status(ATTRIBUTES, ServingStatus::Serving).await;
    }

    /// Nothing can be accepted, for this reason.
    pub async fn refuse(&self, why: &str) {
        self.refusing.store(Arc::new(why.to_owned()));
        self.reporter.set_service_status(ATTRIBUTES, ServingStatus::NotServing).await;
    }

    /// Why nothing is accepted; none if it is.
    pub fn refusing(&self) -> Option<Arc<String>> {
        let why = self.refusing.load_full();
        (!why.is_empty()).then_some(why)
    }
}
