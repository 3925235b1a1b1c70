//! What the transport tells a handler about its call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// One call: its deadline, and whether its connection is to end. In the request's extensions as `Arc<Call>`.
#[derive(Debug)]
pub struct Call {
    /// When it arrived.
    pub arrived: Instant,
    /// When to answer at the latest: the caller's deadline less the time that the answer needs to travel, or
    /// the server's own.
    pub deadline: Instant,
    /// Whether the caller gave a deadline.
    pub given: bool,
    /// Whether the connection is to end, and streams with it.
    pub closing: Closing,
    received: AtomicBool,
}

impl Call {
    /// A call that arrived now, with the time that its caller gave it, or `default`.
    pub fn new(timeout: Option<Duration>, default: Duration, closing: Closing) -> Self {
        let arrived = Instant::now();
        let time = timeout.map_or(default, |timeout| timeout.saturating_sub(margin(timeout)));
        // So far ahead that the clock cannot hold it is as good as the default.
        let deadline = arrived.checked_add(time).unwrap_or(arrived + default);
        Self { arrived, deadline, given: timeout.is_some(), closing, received: AtomicBool::new(false) }
    }

    /// Says that the whole request is here and the handler answers by the deadline.
    pub fn receive(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// Whether the handler has taken over.
    pub fn is_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// The call behind a request. Requests that came by no listener of ours have no call: they get one with a
    /// minute.
    pub fn of<T>(request: &tonic::Request<T>) -> Arc<Self> {
        request
            .extensions()
            .get::<Arc<Self>>()
            .map_or_else(|| Arc::new(Self::new(None, Duration::from_mins(1), Closing::never())), Arc::clone)
    }
}

/// How long before the caller's deadline the answer must be on its way: 10 %, at least 20 ms, at most half.
pub fn margin(timeout: Duration) -> Duration {
    (timeout / 10).max(Duration::from_millis(20)).min(timeout / 2)
}

/// Tells the streams of a connection that it is to end: they stop reading, answer what they have read, end.
#[derive(Clone, Debug)]
pub struct Closing(watch::Receiver<bool>);

/// The other end of [`Closing`].
#[derive(Debug)]
pub struct Closer(watch::Sender<bool>);

impl Closer {
    /// A pair.
    pub fn new() -> (Self, Closing) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Closing(receiver))
    }

    /// Says so. Once is enough.
    pub fn close(&self) {
        self.0.send_replace(true);
    }

    /// Another receiver.
    pub fn closing(&self) -> Closing {
        Closing(self.0.subscribe())
    }
}

impl Closing {
    /// One that never comes.
    pub fn never() -> Self {
        // Without a sender a receiver only ever says what it said last.
        Closer::new().1
    }

    /// Whether it has been said.
    pub fn is_closing(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is said; for ever if nobody is left who could.
    pub async fn closed(&mut self) {
        if self.0.wait_for(|closing| *closing).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_leaves_time_for_the_answer() {
        for (timeout, expected) in [(10, 5), (30, 15), (40, 20), (100, 20), (200, 20), (1000, 100)] {
            assert_eq!(margin(Duration::from_millis(timeout)), Duration::from_millis(expected), "{timeout}");
        }
        assert_eq!(margin(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_deadline_beyond_the_clock_is_the_default() {
        let call = Call::new(Some(Duration::MAX), Duration::from_mins(1), Closing::never());
        assert!(call.deadline <= call.arrived + Duration::from_mins(1) || call.deadline > call.arrived);
        let call = Call::new(None, Duration::from_mins(1), Closing::never());
        assert_eq!(call.deadline, call.arrived + Duration::from_mins(1));
    }

    #[tokio::test]
    async fn closing_is_heard_also_when_it_came_before() {
        let (closer, mut closing) = Closer::new();
        assert!(!closing.is_closing());
        closer.close();
        closing.closed().await;
        assert!(closer.closing().is_closing());
    }
}
