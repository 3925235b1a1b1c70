//! The body of an answer: tonic's, with our words in its trailers.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use super::connection::InFlight;
use super::exec::Reading;
use super::method::{Method, MethodMetrics};
use crate::api::status::Failure;
use crate::command::Kept;

/// The body of an answer.
pub struct ReplyBody {
    inner: tonic::body::Body,
    stream: Option<Box<StreamReply>>,
    /// The call counts as in flight until its answer has been sent.
    _in_flight: Option<InFlight>,
}

/// What a streaming answer needs besides.
pub(super) struct StreamReply {
    pub reading: Arc<Reading>,
    pub method: Method,
    pub metrics: Arc<MethodMetrics>,
    ended: bool,
}

impl std::fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyBody").finish_non_exhaustive()
    }
}

impl StreamReply {
    pub(super) fn new(reading: Arc<Reading>, method: Method, metrics: Arc<MethodMetrics>) -> Self {
        Self { reading, method, metrics, ended: false }
    }

    /// The last frame of a stream that ends before its time.
    fn end(&mut self, failure: Failure) -> Frame<Bytes> {
        self.ended = true;
        self.metrics.answered(self.method, failure.code());
        Frame::trailers(trailers(of_method(failure, self.method)))
    }
}

impl ReplyBody {
    pub(super) fn new(
        inner: tonic::body::Body,
        stream: Option<Box<StreamReply>>,
        in_flight: Option<InFlight>,
    ) -> Self {
        Self { inner, stream, _in_flight: in_flight }
    }

    /// An answer of some text.
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::new(tonic::body::Body::new(http_body_util::Full::new(text.into())), None, None)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(stream) = &mut this.stream else {
            return Pin::new(&mut this.inner).poll_frame(cx);
        };
        if stream.ended {
            return Poll::Ready(None);
        }
        stream.reading.asked();
        if stream.reading.is_expired() {
            let limit = stream.reading.limit();
            return Poll::Ready(Some(Ok(stream.end(Failure::results_unread(limit)))));
        }
        let inner = AssertUnwindSafe(&mut this.inner);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let AssertUnwindSafe(inner) = inner;
            Pin::new(inner).poll_frame(cx)
        }));
        match polled {
            Ok(Poll::Ready(Some(Ok(frame)))) => match frame.into_trailers() {
                Ok(given) => {
                    stream.ended = true;
                    let (code, translated) = translate(given, stream.method);
                    stream.metrics.answered(stream.method, code);
                    Poll::Ready(Some(Ok(Frame::trailers(translated))))
                }
                Err(data) => {
                    stream.reading.handed_over();
                    Poll::Ready(Some(Ok(data)))
                }
            },
            Ok(other) => other,
            Err(_panic) => {
                metrics::counter!(crate::metrics::CALL_PANICS, "method" => stream.method.name).increment(1);
                Poll::Ready(Some(Ok(stream.end(Failure::internal()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stream {
            Some(stream) => stream.ended,
            None => self.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.stream {
            Some(_) => SizeHint::new(),
            None => self.inner.size_hint(),
        }
    }
}

/// The code in headers or trailers, and the same ones in our words, if they were not already.
pub(super) fn translate(mut headers: HeaderMap, method: Method) -> (Code, HeaderMap) {
    let code =
        headers.get(Status::GRPC_STATUS).map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
    if code == Code::Ok || headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return (code, headers);
    }
    let message = Status::from_header_map(&headers).map(|status| status.message().to_owned());
    let failure = Failure::from_transport(code, &message.unwrap_or_default());
    let code = failure.code();
    // Others, such as grpc-accept-encoding, stay.
    headers.remove(Status::GRPC_MESSAGE);
    for (name, value) in &trailers(of_method(failure, method)) {
        headers.insert(name.clone(), value.clone());
    }
    (code, headers)
}

/// Errors of writes say whether they were kept; what the transport refuses was not.
pub(super) fn of_method(failure: Failure, method: Method) -> Failure {
    // A stream that ends says nothing of its items: each has its own result.
    if method.write && !method.streaming { failure.kept_unless_said(Kept::No) } else { failure }
}

pub(super) fn trailers(failure: Failure) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // Only metadata of ours could fail to be a header, and there is none but digits.
    if let Err(status) = failure.into_status().add_header(&mut headers) {
        headers.insert(Status::GRPC_STATUS, (status.code() as i32).into());
    }
    headers
}
