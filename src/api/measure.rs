//! Measures what services ask for, as they see it: from the request to the answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use pin_project_lite::pin_project;
use tower::Service;

use crate::command::{Outcome, ProfileView, ReadError, ReadRequest, Receipt, WriteError, WriteRequest};
use crate::meter::{End, Meter, Timing};
use crate::model::ChangeKind;

/// One meter for each operation.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Writes of attributes.
    pub identify: Meter,
    /// Erasures.
    pub delete: Meter,
    /// Reads by key.
    pub get: Meter,
    /// Queries, counts, exports.
    pub query: Meter,
}

impl Meters {
    /// Nothing measured yet.
    pub fn new(now: Instant) -> Self {
        let meter = || Meter::new(now);
        Self { identify: meter(), delete: meter(), get: meter(), query: meter() }
    }

    /// To be called about once a second.
    pub fn sample(&self, now: Instant) {
        for meter in [&self.identify, &self.delete, &self.get, &self.query] {
            meter.sample(now);
        }
    }
}

/// A stack of writes or reads, measured.
#[derive(Clone, Debug)]
pub struct Measured<S> {
    inner: S,
    meters: Meters,
}

impl<S> Measured<S> {
    /// Measures `inner`.
    pub fn new(inner: S, meters: Meters) -> Self {
        Self { inner, meters }
    }
}

impl<S> Service<WriteRequest> for Measured<S>
where
    S: Service<WriteRequest, Response = Receipt, Error = WriteError>,
{
    type Response = Receipt;
    type Error = WriteError;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: WriteRequest) -> Self::Future {
        let meter = match request.write.kind {
            ChangeKind::Identify(_) => &self.meters.identify,
            ChangeKind::Delete => &self.meters.delete,
        };
        let timing = Some(meter.begin());
        Answer { inner: self.inner.call(request), timing }
    }
}

impl<S> Service<ReadRequest> for Measured<S>
where
    S: Service<ReadRequest, Response = Vec<ProfileView>, Error = ReadError>,
{
    type Response = Vec<ProfileView>;
    type Error = ReadError;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: ReadRequest) -> Self::Future {
        let timing = Some(self.meters.get.begin());
        Answer { inner: self.inner.call(request), timing }
    }
}

pin_project! {
    /// An answer to come. One that nobody waits for to its end is not measured.
    #[derive(Debug)]
    pub struct Answer<F> {
        #[pin]
        inner: F,
        timing: Option<Timing>,
    }
}

impl<F, T: Ends, E> Future for Answer<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        if let Some(timing) = this.timing.take() {
            timing.end(answer.as_ref().map_or(End::Error, Ends::end));
        }
        Poll::Ready(answer)
    }
}

/// How a good answer counts.
trait Ends {
    fn end(&self) -> End;
}

impl Ends for Receipt {
    fn end(&self) -> End {
        if self.outcome == Outcome::Deferred { End::Deferred } else { End::Good }
    }
}

impl Ends for Vec<ProfileView> {
    fn end(&self) -> End {
        End::Good
    }
}
