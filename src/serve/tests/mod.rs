//! The serving side over real sockets, above stacks that the tests script.

mod calls;
mod connections;
mod operations;
mod streams;

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::api::operator::{Handles, Operators};
use crate::api::{Attributes, Decoder};
use crate::clock::SystemClock;
use crate::command::*;
use crate::config::{Config, Span};
use crate::model::limits::Limits;
use crate::model::{EventTime, Notes, Position, Refusal, Site, User};
use crate::proto;
use crate::proto::attribute_service_client::AttributeServiceClient;
use crate::store::{AttributeInfo, RecordCursor};

type Receipted = Pin<Box<dyn Future<Output = Result<Receipt, WriteError>> + Send>>;

/// What becomes of a write, by the test's decision.
type Script = Arc<dyn Fn(WriteRequest) -> Receipted + Send + Sync>;

/// A running server.
struct Server {
    serving: Option<Serving>,
    data: SocketAddr,
    operations: SocketAddr,
    health: Health,
}

/// Answers by the user's name, at once.
fn by_name() -> Script {
    Arc::new(|request| {
        let position = Position { node: crate::model::NodeId(1), number: 7 };
        Box::pin(ready(match request.write.user.as_str() {
            "full" => Err(WriteError::JournalFull { scope: "site", used: 2, limit: 1 }),
            "stale" => Err(WriteError::Refused {
                reason: Refusal::VersionMismatch { current: 4 },
                position: Some(position),
            }),
            "panic" => panic!("as the test asks for"),
            _ => Ok(applied()),
        }))
    })
}

fn applied() -> Receipt {
    Receipt { outcome: Outcome::Applied, version: Some(1), position: None, notes: Notes::default() }
}

/// No profiles at all.
#[expect(clippy::needless_pass_by_value, reason = "what a service takes")]
fn no_profiles(request: ReadRequest) -> Ready<Result<Vec<ProfileView>, ReadError>> {
    let nobody = ProfileView { profile: None, pending: 0, overlaid: true };
    ready(Ok(vec![nobody; request.keys.len()]))
}

struct Nothing;

impl Lookup for Nothing {
    fn write_state(&self, _: Site, position: Position, _: std::time::Instant) -> LookupFuture<WriteState> {
        let refused = WriteState::Refused { reason: Refusal::ProfileTooLarge, accepted_at: EventTime::MIN };
        Box::pin(ready(Ok(if position.number == 7 { refused } else { WriteState::Unknown })))
    }

    fn attributes(&self, _: Site, _: std::time::Instant) -> LookupFuture<Vec<AttributeInfo>> {
        Box::pin(ready(Err(ReadError::Rebuilding { done: 1, total: 2 })))
    }

    /// Two pages without profiles.
    fn export(
        &self,
        site: Site,
        after: Option<RecordCursor>,
        _: usize,
        _: std::time::Instant,
    ) -> LookupFuture<ExportPage> {
        let next = after.is_none().then(|| RecordCursor::before_site(&site));
        Box::pin(ready(Ok(ExportPage { profiles: Vec::<(User, ProfileView)>::new(), next })))
    }
}

async fn server(writes: Script, adjust: impl FnOnce(&mut config::Server)) -> Server {
    let mut settings = Config::ephemeral("unused").server;
    adjust(&mut settings);
    let decoder = Decoder { limits: Limits::default(), clock: Arc::new(SystemClock) };
    let writes = tower::service_fn(move |request| writes(request));
    let attributes =
        Attributes::new(writes, tower::service_fn(no_profiles), Arc::new(Nothing), decoder.clone());
    let (health, service) = health().await;
    let listeners = Listeners::bind(&settings).unwrap();
    let data = listeners.data_address().unwrap();
    let operations = listeners.operations_address().unwrap();
    let routes = data_routes(attributes, &settings, service.clone()).unwrap();
    let operators = Operations {
        routes: operations_routes(Operators::new(Handles::default(), decoder), service).unwrap(),
        metrics: crate::metrics::install().unwrap(),
        health: health.clone(),
        tokens: None,
    };
    let serving = start(listeners, &settings, 2, routes, operators, Arc::new(Node::new(&settings))).unwrap();
    Server { serving: Some(serving), data, operations, health }
}

impl Server {
    async fn client(&self) -> AttributeServiceClient<Channel> {
        AttributeServiceClient::new(channel(self.data).await)
    }

    /// Begins to drain, on a thread of its own; the handle ends when it has drained.
    fn drain(&mut self) -> tokio::task::JoinHandle<()> {
        let serving = self.serving.take().unwrap();
        tokio::task::spawn_blocking(move || serving.stop())
    }
}

async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn identify(user: &str) -> proto::IdentifyRequest {
    let value = proto::Value { kind: Some(proto::value::Kind::BoolValue(true)) };
    let attributes = [("trial".to_owned(), value)].into();
    proto::IdentifyRequest { site: "acme".into(), user: user.into(), attributes, ..Default::default() }
}

/// Writes that wait for the test: each call sends its gate, and ends when that is opened.
fn gated() -> (Script, tokio::sync::mpsc::UnboundedReceiver<tokio::sync::oneshot::Sender<()>>) {
    let (sender, gates) = tokio::sync::mpsc::unbounded_channel();
    let script = Arc::new(move |_request| -> Receipted {
        let (open, gate) = tokio::sync::oneshot::channel();
        sender.send(open).unwrap();
        Box::pin(async move {
            gate.await.unwrap();
            Ok(applied())
        })
    });
    (script, gates)
}

fn millis(n: u64) -> Span {
    Span(Duration::from_millis(n))
}

/// Reason and metadata of an error of ours.
fn info(status: &tonic::Status) -> (String, std::collections::HashMap<String, String>) {
    use tonic_types::StatusExt as _;
    let info = status.get_error_details().error_info().cloned().expect("details in every error");
    assert_eq!(info.domain, "steadfast");
    (info.reason, info.metadata)
}
