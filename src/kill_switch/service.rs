//! The switch as a tower service: it lets pass, defers or refuses, in `call`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tower::Service;

use super::hold::{Hold, HoldId};
use super::scope::Operation;
use super::switch::{Admission, KillSwitch, Ticket};
use crate::model::{EventTime, Site};

/// Why a request is refused: a hold is in its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The hold.
    pub id: HoldId,
    /// What it stops, in words.
    pub scope: String,
    /// What was refused.
    pub operation: Operation,
    /// When it ends by itself, by the wall clock; none: never.
    pub expires_at: Option<EventTime>,
    /// The same as the time that is left.
    pub expires_in: Option<Duration>,
    /// Whether it stops all users of all sites.
    pub whole_node: bool,
}

impl Held {
    pub(super) fn new(hold: &Hold, operation: Operation, expires_in: Option<Duration>) -> Self {
        Self {
            id: hold.id,
            scope: hold.scope.to_string(),
            operation,
            expires_at: hold.expiry.map(|expiry| expiry.at),
            expires_in,
            whole_node: hold.scope.is_whole_node(),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an operator holds {} back ({}: {})", self.operation.name(), self.id, self.scope)
    }
}

/// A request that holds can be about.
pub trait Subject {
    /// What its stack answers when it fails.
    type Error: From<Box<Held>>;

    /// The tenant; a request without one is about nothing.
    fn site(&self) -> Option<&Site>;

    /// What it does.
    fn operation(&self) -> Operation;

    /// Whether the hash of one of its users passes the test.
    fn any_user(&self, test: &dyn Fn(u64) -> bool) -> bool;

    /// Makes it wait after acceptance, for so long if that is known; an error if it cannot wait.
    fn defer(&mut self, left: Option<Duration>) -> Result<(), Self::Error>;
}

/// A stack behind the switch.
#[derive(Clone, Debug)]
pub struct Switched<S> {
    switch: Arc<KillSwitch>,
    inner: S,
}

impl<S> Switched<S> {
    /// `inner` behind `switch`.
    pub fn new(switch: Arc<KillSwitch>, inner: S) -> Self {
        Self { switch, inner }
    }
}

impl<S, R> Service<R> for Switched<S>
where
    R: Subject,
    S: Service<R, Error = R::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = SwitchedFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: R) -> Self::Future {
        let any_user = |test: &dyn Fn(u64) -> bool| request.any_user(test);
        let admission = request.site().map(|site| self.switch.admit(site, request.operation(), &any_user));
        let ticket = match admission {
            None => None,
            Some(Admission::Pass(ticket)) => Some(ticket),
            Some(Admission::Defer(ticket, left)) => match request.defer(left) {
                Ok(()) => Some(ticket),
                Err(error) => return SwitchedFuture::refused(error),
            },
            Some(Admission::Refuse(held)) => return SwitchedFuture::refused(held.into()),
        };
        SwitchedFuture { answer: Answer::Admitted { answer: self.inner.call(request) }, ticket }
    }
}

pin_project! {
    /// An answer behind the switch. The request counts as under way until it is there.
    #[derive(Debug)]
    pub struct SwitchedFuture<F, E> {
        #[pin]
        answer: Answer<F, E>,
        ticket: Option<Ticket>,
    }
}

pin_project! {
    #[project = AnswerProjection]
    #[derive(Debug)]
    enum Answer<F, E> {
        Admitted { #[pin] answer: F },
        Refused { error: Option<E> },
    }
}

impl<F, E> SwitchedFuture<F, E> {
    fn refused(error: E) -> Self {
        Self { answer: Answer::Refused { error: Some(error) }, ticket: None }
    }
}

impl<F, T, E> Future for SwitchedFuture<F, E>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.answer.project() {
            AnswerProjection::Admitted { answer } => {
                let answer = ready!(answer.poll(cx));
                *this.ticket = None;
                Poll::Ready(answer)
            }
            AnswerProjection::Refused { error } => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                // Polled again after its end, which no caller may.
                None => Poll::Pending,
            },
        }
    }
}
