//! A tower layer that counts what callers heard: deferred, or refused for no fault of their own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use metrics::counter;
use pin_project_lite::pin_project;
use tower::Service;

use crate::command::{Outcome, ReadError, ReadRequest, Receipt, WriteError, WriteRequest};
use crate::ledger::Ledger;
use crate::metrics as names;
use crate::model::Site;

/// Counts the answers of the stack that it is put around.
#[derive(Clone)]
pub struct Answers<S> {
    inner: S,
    ledger: Arc<Ledger>,
}

impl<S> Answers<S> {
    /// `inner`, counted in `ledger`.
    pub fn new(inner: S, ledger: Arc<Ledger>) -> Self {
        Self { inner, ledger }
    }
}

/// Requests and answers that are counted.
pub trait Counts<T, E> {
    /// Of which site.
    fn of(&self) -> Option<Site>;
    /// Counts the answer.
    fn count(ledger: &Ledger, site: &Site, answer: &Result<T, E>);
}

impl Counts<Receipt, WriteError> for WriteRequest {
    fn of(&self) -> Option<Site> {
        Some(self.site.clone())
    }

    fn count(ledger: &Ledger, site: &Site, answer: &Result<Receipt, WriteError>) {
        match answer {
            Ok(Receipt { outcome: Outcome::Deferred, .. }) => {
                counter!(names::WRITES_DEFERRED).increment(1);
                ledger.deferred(site);
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(reason) = write_reason(error) {
                    counter!(names::WRITES_REJECTED, "reason" => reason).increment(1);
                    ledger.write_rejected(site);
                }
            }
        }
    }
}

impl<T> Counts<T, ReadError> for ReadRequest {
    fn of(&self) -> Option<Site> {
        self.keys.first().map(|key| key.site.clone())
    }

    fn count(ledger: &Ledger, site: &Site, answer: &Result<T, ReadError>) {
        if let Err(error) = answer {
            counter!(names::READS_REJECTED, "reason" => read_reason(error)).increment(1);
            ledger.read_rejected(site);
        }
    }
}

/// Why a write was not accepted; none if its caller could have known.
fn write_reason(error: &WriteError) -> Option<&'static str> {
    Some(match error {
        WriteError::JournalFull { .. } => "journal_full",
        WriteError::JournalStalled => "journal_stalled",
        WriteError::WritesHeld(_) => "held",
        WriteError::JournalFailed(_) | WriteError::JournalFailedInFlight(_) => "journal_failed",
        WriteError::Overloaded => "overloaded",
        WriteError::ConditionNeedsStore { .. } | WriteError::ConditionPending { .. } => "condition",
        WriteError::NotAccepted | WriteError::AcceptanceUnknown => "deadline",
        WriteError::Draining => "draining",
        _ => return None,
    })
}

fn read_reason(error: &ReadError) -> &'static str {
    match error {
        ReadError::Store(_) => "store",
        ReadError::Overloaded => "overloaded",
        ReadError::Deadline => "deadline",
        ReadError::Behind { .. } => "behind",
        ReadError::Rebuilding { .. } => "rebuilding",
        ReadError::BreakerOpen { .. } => "breaker",
        ReadError::ReadsHeld(_) => "held",
        ReadError::Draining => "draining",
    }
}

impl<S, R> Service<R> for Answers<S>
where
    S: Service<R>,
    R: Counts<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Counted<S::Future, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let site = request.of();
        let inner = self.inner.call(request);
        Counted { inner, site, ledger: Arc::clone(&self.ledger), request: std::marker::PhantomData }
    }
}

pin_project! {
    /// An answer on its way.
    pub struct Counted<F, R> {
        #[pin]
        inner: F,
        site: Option<Site>,
        ledger: Arc<Ledger>,
        request: std::marker::PhantomData<fn(R)>,
    }
}

impl<F, R, T, E> Future for Counted<F, R>
where
    F: Future<Output = Result<T, E>>,
    R: Counts<T, E>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(context));
        if let Some(site) = this.site.take() {
            R::count(this.ledger, &site, &answer);
        }
        Poll::Ready(answer)
    }
}
