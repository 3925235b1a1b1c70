//! The operations listener: gRPC for operators, and plain HTTP for monitoring.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;

use super::accept::Node;
use super::body::ReplyBody;
use super::connection::Connection;
use super::exec::Exec;
use super::front::{Front, refused};
use super::health::Health;
use super::method::MethodMetrics;
use super::tokens::Tokens;
use super::{ServeError, config, runtime_thread, said};
use crate::api::operator::fields::TokenName;
use crate::api::status::Failure;

/// Connections at once: people and monitoring, not services.
const MAX_CONNECTIONS: usize = 256;
/// How often what was measured is folded into its buckets, so that it does not pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long calls may take when the listener stops.
const GRACE: Duration = Duration::from_secs(1);

/// What the operations listener serves.
#[derive(Clone, Debug)]
pub struct Operations {
    /// gRPC: the operators' service, health, reflection.
    pub routes: Routes,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// Answers `/readyz`.
    pub health: Health,
    /// Who may call; none: whoever reaches it. Monitoring's plain requests and gRPC health are open to all.
    pub tokens: Option<Tokens>,
}

pub(super) fn start(
    listener: TcpListener,
    settings: Arc<config::Server>,
    operations: Operations,
    stopping: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, ServeError> {
    runtime_thread("operations", move || run(listener, settings, operations, stopping))
}

async fn run(
    listener: TcpListener,
    settings: Arc<config::Server>,
    operations: Operations,
    mut stopping: watch::Receiver<bool>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the operations listener cannot be used"),
    };
    let node = Arc::new(Node::new(&settings));
    let metrics = Arc::new(MethodMetrics::new());
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            biased;
            () = said(&mut stopping) => break,
            _ = upkeep.tick() => operations.metrics.run_upkeep(),
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let connection = Connection::new(Arc::clone(&settings), Arc::clone(&node));
                    let served = serve(
                        stream,
                        connection,
                        operations.clone(),
                        Arc::clone(&metrics),
                        stopping.clone(),
                    );
                    connections.spawn(served);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of an operator");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(
    stream: tokio::net::TcpStream,
    connection: Arc<Connection>,
    operations: Operations,
    metrics: Arc<MethodMetrics>,
    mut stopping: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let settings = Arc::clone(&connection.settings);
    let exec = Exec::default();
    let front = Arc::new(Front {
        service: operations.routes.clone(),
        connection: Arc::clone(&connection),
        metrics,
        exec: exec.clone(),
    });
    let service = service_fn(move |mut request: Request<Incoming>| {
        let answer = plain(&request, &operations).or_else(|| authenticate(&mut request, &operations));
        let front = Arc::clone(&front);
        async move {
            match answer {
                Some(response) => Ok::<_, Infallible>(response),
                None => front.handle(request).await,
            }
        }
    });
    let mut builder = auto::Builder::new(exec);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.handshake_timeout.0)
        .max_buf_size(64 << 10)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(u32::try_from(settings.max_headers.0).unwrap_or(u32::MAX))
        .max_send_buf_size(usize::try_from(settings.send_buffer.0).unwrap_or(usize::MAX))
        .keep_alive_interval(settings.keepalive_interval.0)
        .keep_alive_timeout(settings.keepalive_timeout.0);
    let mut http = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        biased;
        ended = http.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of an operator ended");
            }
            return;
        }
        () = said(&mut stopping) => {}
    }
    http.as_mut().graceful_shutdown();
    connection.close();
    // What does not end in time is cut.
    let _ = tokio::time::timeout(GRACE, http).await;
}

/// The answer to monitoring's requests; none for gRPC.
fn plain(request: &Request<Incoming>, operations: &Operations) -> Option<Response<ReplyBody>> {
    let (status, kind, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", operations.metrics.render()),
        "/healthz" => (StatusCode::OK, JSON, "{\"status\":\"ok\"}\n".to_owned()),
        "/readyz" => match operations.health.refusing() {
            None => (StatusCode::OK, JSON, "{\"status\":\"ready\"}\n".to_owned()),
            Some(why) => {
                let body = serde_json::json!({"status": "not ready", "reason": &*why});
                (StatusCode::SERVICE_UNAVAILABLE, JSON, format!("{body}\n"))
            }
        },
        _ if request.method() == Method::POST => return None,
        _ => {
            let text = "steadfast: /metrics, /healthz, /readyz, and gRPC\n".to_owned();
            (StatusCode::NOT_FOUND, "text/plain", text)
        }
    };
    let mut response = if request.method() == Method::GET || request.method() == Method::HEAD {
        Response::new(ReplyBody::text(text))
    } else {
        let mut response = Response::new(ReplyBody::text("only GET\n"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Some(response);
    };
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Some(response)
}

/// Notes who calls; an answer for those who may not.
fn authenticate(request: &mut Request<Incoming>, operations: &Operations) -> Option<Response<ReplyBody>> {
    let tokens = operations.tokens.as_ref()?;
    if request.uri().path().starts_with("/grpc.health.v1.Health/") {
        return None;
    }
    if let Some(name) = tokens.name(request.headers()) {
        request.extensions_mut().insert(TokenName(name));
        return None;
    }
    metrics::counter!(crate::metrics::OPERATIONS_UNAUTHENTICATED).increment(1);
    Some(refused(request.uri().path(), Failure::unauthenticated()))
}

const JSON: &str = "application/json";
