//! What surrounds every call: the bound on calls in flight, the deadline, metrics, caught panics, and errors
//! in our words.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method as HttpMethod, Request, Response, StatusCode};
use hyper::body::Incoming;
use tonic::{Code, Status};

use super::GrpcService;
use super::body::{ReplyBody, StreamReply, of_method, trailers, translate};
use super::connection::{Connection, InFlight};
use super::exec::{Exec, Reading};
use super::method::{Method, MethodMetrics, method};
use super::timeout::grpc_timeout;
use crate::api::call::Call;
use crate::api::status::Failure;
use crate::command::Kept;

/// A handler answers by its deadline; one that is so much later is not waited for.
const OVERDUE: Duration = Duration::from_secs(1);

/// The service of one connection.
pub(super) struct Front<S> {
    pub(super) service: S,
    pub(super) connection: Arc<Connection>,
    pub(super) metrics: Arc<MethodMetrics>,
    pub(super) exec: Exec,
}

type Reply = Response<ReplyBody>;

impl<S: GrpcService> Front<S> {
    /// Answers one request.
    pub(super) fn handle(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Reply, Infallible>> + Send + use<S> {
        let method = method(request.uri().path());
        let metrics = Arc::clone(&self.metrics);
        let reading = method.streaming.then(|| Reading::new(self.connection.settings.unread_timeout.0));
        if let Some(reading) = &reading {
            let closing = (!method.is_ours()).then(|| self.connection.closing());
            self.exec.next_is(Arc::clone(reading), closing);
        }
        let admitted = admit(&self.connection, &mut request);
        let service = self.service.clone();
        async move {
            let (call, in_flight) = match admitted {
                Ok(admitted) => admitted,
                Err(Refused::Http(status)) => return Ok(plain(status)),
                Err(Refused::Grpc(failure)) => {
                    metrics.answered(method, failure.code());
                    return Ok(failed(failure, method));
                }
            };
            let answer = AssertUnwindSafe(in_time(service, request, &call, method)).catch_unwind().await;
            let reply = match answer {
                Ok(Ok(response)) => finish(response, method, &metrics, reading, in_flight),
                Ok(Err(failure)) => {
                    metrics.answered(method, failure.code());
                    failed(failure, method)
                }
                Err(_panic) => {
                    metrics::counter!(crate::metrics::CALL_PANICS, "method" => method.name).increment(1);
                    metrics.answered(method, Code::Internal);
                    let kept = if method.write { Kept::Unknown } else { Kept::No };
                    failed(Failure::internal().kept_unless_said(kept), method)
                }
            };
            metrics.took(method, call.arrived.elapsed().as_secs_f64());
            Ok(reply)
        }
    }
}

enum Refused {
    Http(StatusCode),
    Grpc(Failure),
}

/// Looks at the head of a request, and makes it a call.
fn admit(
    connection: &Arc<Connection>,
    request: &mut Request<Incoming>,
) -> Result<(Arc<Call>, InFlight), Refused> {
    if request.method() != HttpMethod::POST {
        return Err(Refused::Http(StatusCode::METHOD_NOT_ALLOWED));
    }
    let content = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if !content.starts_with(b"application/grpc") {
        return Err(Refused::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let Some(in_flight) = connection.begin() else {
        metrics::counter!(crate::metrics::CALLS_SHED).increment(1);
        return Err(Refused::Grpc(Failure::overloaded("the node has too many calls in flight")));
    };
    let timeout = grpc_timeout(request.headers())
        .map_err(|message| Refused::Grpc(Failure::invalid("grpc-timeout", message)))?;
    let default = connection.settings.default_deadline.0;
    let call = Arc::new(Call::new(timeout, default, connection.closing()));
    request.extensions_mut().insert(Arc::clone(&call));
    Ok((call, in_flight))
}

/// The handler's answer. Until the request is there whole the deadline is enforced here; afterwards the handler
/// keeps it, because only it knows what became of a write.
async fn in_time<S: GrpcService>(
    mut service: S,
    request: Request<Incoming>,
    call: &Call,
    method: Method,
) -> Result<Response<tonic::body::Body>, Failure> {
    let mut answer = pin!(service.call(request));
    // Most calls are answered at once: no timer for them.
    if let Poll::Ready(answer) = futures_util::poll!(answer.as_mut()) {
        return Ok(into_ok(answer));
    }
    let deadline = tokio::time::Instant::from_std(call.deadline);
    tokio::select! {
        biased;
        answer = answer.as_mut() => return Ok(into_ok(answer)),
        () = tokio::time::sleep_until(deadline) => {}
    }
    if !call.is_received() {
        return Err(overdue(method, Kept::No));
    }
    tokio::select! {
        biased;
        answer = answer => Ok(into_ok(answer)),
        () = tokio::time::sleep(OVERDUE) => Err(overdue(method, Kept::Unknown)),
    }
}

fn overdue(method: Method, kept: Kept) -> Failure {
    match (method.write, kept) {
        (false, _) => Failure::deadline(),
        (true, Kept::No) => {
            let message = "the deadline passed before the request was there";
            Failure::new(Code::DeadlineExceeded, "NOT_ACCEPTED", message).kept(kept)
        }
        (true, Kept::Unknown) => {
            let message = "the deadline passed while the write was being kept";
            Failure::new(Code::DeadlineExceeded, "ACCEPTANCE_UNKNOWN", message).kept(kept)
        }
    }
}

fn into_ok<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

/// Puts an answer's head into our words and keeps an eye on its body.
fn finish(
    response: Response<tonic::body::Body>,
    method: Method,
    metrics: &Arc<MethodMetrics>,
    reading: Option<Arc<Reading>>,
    in_flight: InFlight,
) -> Reply {
    let (mut head, body) = response.into_parts();
    if head.headers.contains_key(Status::GRPC_STATUS) {
        let (code, translated) = translate(std::mem::take(&mut head.headers), method);
        head.headers = translated;
        metrics.answered(method, code);
        return Response::from_parts(head, ReplyBody::new(body, None, Some(in_flight)));
    }
    let stream = reading.map(|reading| Box::new(StreamReply::new(reading, method, Arc::clone(metrics))));
    if stream.is_none() {
        metrics.answered(method, Code::Ok);
    }
    Response::from_parts(head, ReplyBody::new(body, stream, Some(in_flight)))
}

/// An answer of nothing but a status.
fn failed(failure: Failure, method: Method) -> Reply {
    let mut response = Response::new(ReplyBody::new(tonic::body::Body::empty(), None, None));
    *response.headers_mut() = trailers(of_method(failure, method));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The answer to a call that is not let through.
pub(super) fn refused(path: &str, failure: Failure) -> Reply {
    failed(failure, method(path))
}

/// An answer to something that is not gRPC.
fn plain(status: StatusCode) -> Reply {
    let mut response = Response::new(ReplyBody::text("this address speaks gRPC\n"));
    *response.status_mut() = status;
    response
}
