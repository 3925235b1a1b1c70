//! The service's future.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::scope::Refused;
use super::service::{BreakerError, HandOver};
use super::token::{CallToken, Outcome};

pin_project! {
    /// The answer of a guarded service. Dropped early, its call gives no verdict, unless it is slow already.
    #[derive(Debug)]
    pub struct ResponseFuture<F, C> {
        #[pin]
        inner: Inner<F>,
        call: Option<(CallToken, C)>,
    }
}

pin_project! {
    #[project = InnerProjection]
    #[derive(Debug)]
    enum Inner<F> {
        Called { #[pin] future: F },
        Refused { refused: Option<Refused> },
    }
}

impl<F, C> ResponseFuture<F, C> {
    #[inline]
    pub(super) fn followed(future: F, token: CallToken, classify: C) -> Self {
        Self { inner: Inner::Called { future }, call: Some((token, classify)) }
    }

    #[cold]
    pub(super) fn refused(refused: Refused) -> Self {
        Self { inner: Inner::Refused { refused: Some(refused) }, call: None }
    }
}

impl<F> ResponseFuture<F, HandOver> {
    #[inline]
    pub(super) fn handed_over(future: F) -> Self {
        Self { inner: Inner::Called { future }, call: None }
    }
}

/// Judges a result, if it is for this side to judge.
pub trait Classify<T, E> {
    /// How the call ended.
    fn classify(&self, result: &Result<T, E>) -> Outcome;
}

impl<T, E, C: Fn(&Result<T, E>) -> Outcome> Classify<T, E> for C {
    #[inline]
    fn classify(&self, result: &Result<T, E>) -> Outcome {
        self(result)
    }
}

impl<T, E> Classify<T, E> for HandOver {
    fn classify(&self, _: &Result<T, E>) -> Outcome {
        Outcome::Ignored
    }
}

impl<F, C, T, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    C: Classify<T, E>,
{
    type Output = Result<T, BreakerError<E>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.inner.project() {
            InnerProjection::Called { future } => {
                let result = ready!(future.poll(cx));
                // Where it lies: a move would cost more than the counting.
                if let Some((token, classify)) = this.call {
                    token.end(classify.classify(&result));
                }
                Poll::Ready(result.map_err(BreakerError::Inner))
            }
            InnerProjection::Refused { refused } => match refused.take() {
                Some(refused) => Poll::Ready(Err(BreakerError::Refused(refused))),
                // Polled again after its end: the contract of `Future` leaves this open.
                None => Poll::Pending,
            },
        }
    }
}
