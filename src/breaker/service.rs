//! The service. It refuses in `call`, never in `poll_ready`: only the request tells the scope.

use std::task::{Context, Poll};

use tower::Service;

use super::future::ResponseFuture;
use super::scope::{Refused, ScopeHandle};
use super::state::Role;
use super::token::{CallToken, Outcome};

/// What a guarded service fails with.
#[derive(Debug, thiserror::Error)]
pub enum BreakerError<E> {
    /// The breaker refused; the inner service was not called.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The inner service failed.
    #[error("{0}")]
    Inner(#[source] E),
}

/// A request with the token of its call, for a service that hands both to the thread that does the work.
#[derive(Debug)]
pub struct Guarded<R> {
    /// The request.
    pub request: R,
    /// To be told when the work starts and ends.
    pub token: CallToken,
}

/// The call lives as long as its future; holds the function that judges the result.
#[derive(Clone, Debug)]
pub struct InFuture<C>(pub(super) C);

/// The call lives with the job.
#[derive(Clone, Copy, Debug)]
pub struct HandOver;

/// A service behind a breaker.
#[derive(Clone, Debug)]
pub struct BreakerService<S, A, M> {
    inner: S,
    admit: A,
    mode: M,
}

impl<S, A, M> BreakerService<S, A, M> {
    pub(super) fn new(inner: S, admit: A, mode: M) -> Self {
        Self { inner, admit, mode }
    }
}

/// Admits every request to one scope, each with weight 1.
pub fn fixed<R>(scope: ScopeHandle, role: Role) -> impl Fn(&R) -> Result<CallToken, Refused> + Clone {
    move |_| scope.admit(role, 1)
}

impl<R, S, A, C> Service<R> for BreakerService<S, A, InFuture<C>>
where
    S: Service<R>,
    A: Fn(&R) -> Result<CallToken, Refused>,
    C: Fn(&Result<S::Response, S::Error>) -> Outcome + Clone,
{
    type Response = S::Response;
    type Error = BreakerError<S::Error>;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(BreakerError::Inner)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        match (self.admit)(&request) {
            Ok(mut token) => {
                token.started();
                ResponseFuture::followed(self.inner.call(request), token, self.mode.0.clone())
            }
            Err(refused) => ResponseFuture::refused(refused),
        }
    }
}

impl<R, S, A> Service<R> for BreakerService<S, A, HandOver>
where
    S: Service<Guarded<R>>,
    A: Fn(&R) -> Result<CallToken, Refused>,
{
    type Response = S::Response;
    type Error = BreakerError<S::Error>;
    type Future = ResponseFuture<S::Future, HandOver>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(BreakerError::Inner)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        match (self.admit)(&request) {
            Ok(token) => ResponseFuture::handed_over(self.inner.call(Guarded { request, token })),
            Err(refused) => ResponseFuture::refused(refused),
        }
    }
}
