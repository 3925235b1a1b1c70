//! The loop of a bidirectional stream: requests in, answers out, a bounded number unanswered.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{FuturesOrdered, FuturesUnordered, Stream, StreamExt as _, unfold};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, Streaming};

use super::call::{Call, Closing};
use super::status::Failure;

/// The answers of a stream, boxed once.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Requests that are not answered yet: in order, or as they come.
pub(super) trait Unanswered<F: Future>: Stream<Item = F::Output> + Unpin + Send + 'static {
    fn put(&mut self, answer: F);
    fn waiting(&self) -> usize;
}

impl<F: Future + Send + 'static> Unanswered<F> for FuturesUnordered<F> {
    fn put(&mut self, answer: F) {
        self.push(answer);
    }
    fn waiting(&self) -> usize {
        self.len()
    }
}

impl<F> Unanswered<F> for FuturesOrdered<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn put(&mut self, answer: F) {
        self.push_back(answer);
    }
    fn waiting(&self) -> usize {
        self.len()
    }
}

struct Duplex<Q, H, U> {
    requests: Streaming<Q>,
    handler: H,
    unanswered: U,
    limit: usize,
    closing: Closing,
    /// The caller's deadline, if it gave one: a stream may be meant to live long.
    deadline: Option<Pin<Box<Sleep>>>,
    /// How the stream ends once everything is answered; none while it is read.
    end: Option<Result<(), Status>>,
}

/// Runs a stream: `handler` takes each request up at once, in order, and returns the future of its answer, or
/// a fault that ends the stream. With `limit` requests unanswered no more is read. When the connection is to
/// end, or at the deadline, no more is read, what was read is answered, and a status says that the rest was
/// not.
pub(super) fn run<Q, A, F, H, U>(
    requests: Streaming<Q>,
    call: &Arc<Call>,
    limit: usize,
    unanswered: U,
    handler: H,
) -> Answers<A>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = A> + Send + 'static,
    H: FnMut(Q) -> Result<F, Failure> + Send + 'static,
    U: Unanswered<F>,
{
    let deadline = call.given.then(|| Box::pin(sleep_until(Instant::from_std(call.deadline))));
    let closing = call.closing.clone();
    let duplex = Duplex { requests, handler, unanswered, limit, closing, deadline, end: None };
    Box::pin(unfold(duplex, |mut duplex| async move { duplex.next().await.map(|item| (item, duplex)) }))
}

impl<Q, H, U> Duplex<Q, H, U> {
    async fn next<A, F>(&mut self) -> Option<Result<A, Status>>
    where
        F: Future<Output = A>,
        H: FnMut(Q) -> Result<F, Failure>,
        U: Unanswered<F>,
    {
        loop {
            if self.end.is_some() || self.unanswered.waiting() >= self.limit {
                match (self.unanswered.next().await, &mut self.end) {
                    (Some(answer), _) => return Some(Ok(answer)),
                    (None, Some(end)) => {
                        // Said once; after it the stream is over.
                        return std::mem::replace(end, Ok(())).err().map(Err);
                    }
                    (None, None) => continue,
                }
            }
            let overdue = async {
                match &mut self.deadline {
                    Some(deadline) => deadline.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.closing.closed() => self.end = Some(Err(Failure::draining().into())),
                () = overdue => self.end = Some(Err(Failure::deadline().into())),
                Some(answer) = self.unanswered.next(), if self.unanswered.waiting() > 0 => {
                    return Some(Ok(answer));
                }
                request = self.requests.message() => match request {
                    Ok(Some(request)) => match (self.handler)(request) {
                        Ok(answer) => self.unanswered.put(answer),
                        Err(failure) => self.end = Some(Err(failure.into())),
                    },
                    Ok(None) => self.end = Some(Ok(())),
                    Err(status) => self.end = Some(Err(status)),
                },
            }
        }
    }
}
