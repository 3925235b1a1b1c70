//! The acceptor and the data runtimes.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::method::MethodMetrics;
use super::{GrpcService, ServeError, config, connection, runtime_thread, said};

/// How long to leave `accept` alone after it failed: there is no file descriptor to be had, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that may wait for a data runtime to take them; the acceptor waits meanwhile.
const HANDOVER: usize = 64;

/// Counts the connections and calls of the whole node.
#[derive(Debug)]
pub struct Node {
    connections: AtomicUsize,
    max_connections: usize,
    calls: AtomicUsize,
    max_calls: usize,
    /// How long calls may take when the server stops, in milliseconds.
    drain_limit: AtomicU64,
    cut_off: AtomicU64,
}

impl Node {
    /// Nobody is connected yet.
    pub fn new(settings: &config::Server) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            max_connections: settings.max_connections as usize,
            calls: AtomicUsize::new(0),
            max_calls: settings.max_in_flight as usize,
            drain_limit: AtomicU64::new(settings.drain_timeout.0.as_millis() as u64),
            cut_off: AtomicU64::new(0),
        }
    }

    /// Open data connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many there may be.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// How long calls may take when the server stops.
    pub(super) fn drain_limit(&self) -> Duration {
        Duration::from_millis(self.drain_limit.load(Ordering::Relaxed))
    }

    pub(super) fn set_drain_limit(&self, limit: Duration) {
        self.drain_limit.store(limit.as_millis() as u64, Ordering::Relaxed);
    }

    /// Calls that were cut off because they did not end in their time.
    pub(super) fn cut_off(&self) -> u64 {
        self.cut_off.load(Ordering::Relaxed)
    }

    pub(super) fn cut(&self, calls: usize) {
        self.cut_off.fetch_add(calls as u64, Ordering::Relaxed);
    }

    /// One more call, unless there are too many.
    pub(super) fn begin_call(&self) -> bool {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        if before >= self.max_calls {
            self.calls.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub(super) fn end_call(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    fn connect(self: &Arc<Self>, number: u64) -> Option<ConnectionPermit> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let permit = ConnectionPermit { node: Arc::clone(self), number };
        (before < self.max_connections).then_some(permit)
    }

    /// Sets the gauges; called now and then.
    fn report(&self) {
        metrics::gauge!(crate::metrics::CONNECTIONS).set(self.connections.load(Ordering::Relaxed) as f64);
        metrics::gauge!(crate::metrics::CALLS_IN_FLIGHT).set(self.calls.load(Ordering::Relaxed) as f64);
    }
}

/// The right to be one of the node's connections.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    node: Arc<Node>,
    number: u64,
}

impl ConnectionPermit {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The connection's number since the start.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.node.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

type Handover = (std::net::TcpStream, ConnectionPermit);

/// Starts the data runtimes and the acceptor.
pub(super) fn start<S: GrpcService>(
    listener: TcpListener,
    settings: &Arc<config::Server>,
    runtimes: usize,
    node: &Arc<Node>,
    service: &S,
    draining: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, ServeError> {
    let metrics = Arc::new(MethodMetrics::new());
    let mut threads = Vec::with_capacity(runtimes + 1);
    let mut senders = Vec::with_capacity(runtimes);
    for _ in 0..runtimes.max(1) {
        let (sender, receiver) = mpsc::channel(HANDOVER);
        senders.push(sender);
        let (service, settings) = (service.clone(), Arc::clone(settings));
        let (metrics, draining) = (Arc::clone(&metrics), draining.clone());
        threads.push(runtime_thread("data", move || run(receiver, service, settings, metrics, draining))?);
    }
    let (node, draining) = (Arc::clone(node), draining.clone());
    threads.push(runtime_thread("accept", move || accept(listener, senders, node, draining))?);
    Ok(threads)
}

/// Accepts until the drain begins.
async fn accept(
    listener: TcpListener,
    senders: Vec<mpsc::Sender<Handover>>,
    node: Arc<Node>,
    mut draining: watch::Receiver<bool>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the data listener cannot be used"),
    };
    let accepted = metrics::counter!(crate::metrics::CONNECTIONS_ACCEPTED);
    let mut report = tokio::time::interval(Duration::from_secs(1));
    report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0_u64;
    let mut targets = senders.iter().cycle();
    loop {
        let stream = tokio::select! {
            biased;
            () = said(&mut draining) => return,
            _ = report.tick() => {
                node.report();
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    metrics::counter!(crate::metrics::ACCEPT_ERRORS).increment(1);
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        number += 1;
        let Some(permit) = node.connect(number) else {
            metrics::counter!(crate::metrics::CONNECTIONS_REFUSED).increment(1);
            refuse(&stream);
            continue;
        };
        accepted.increment(1);
        let handed_over = match (stream.into_std(), targets.next()) {
            (Ok(stream), Some(target)) => target.send((stream, permit)).await.is_ok(),
            _ => false,
        };
        if !handed_over {
            tracing::error!("a data thread is gone: its connections cannot be served");
        }
    }
}

/// Tells a client of a full node why it is sent away: HTTP/2's GOAWAY with `ENHANCE_YOUR_CALM` and words that
/// gRPC clients show. Best effort: a client that does not read is not waited for.
fn refuse(stream: &TcpStream) {
    const REASON: &[u8] = b"steadfast: too many connections";
    let mut bytes = Vec::with_capacity(64);
    // SETTINGS, empty: what a server says first.
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    // GOAWAY of connection 0: last stream 0, so that every call may be made again elsewhere.
    bytes.extend_from_slice(&[0, 0, 8 + REASON.len() as u8, 7, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 11]);
    bytes.extend_from_slice(REASON);
    match stream.try_write(&bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => tracing::debug!(%error, "a refused connection was gone already"),
    }
}

/// One data runtime: serves what the acceptor hands over, and after that waits for what is left.
async fn run<S: GrpcService>(
    mut handover: mpsc::Receiver<Handover>,
    service: S,
    settings: Arc<config::Server>,
    metrics: Arc<MethodMetrics>,
    draining: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            next = handover.recv() => match next {
                None => break,
                Some((stream, permit)) => match TcpStream::from_std(stream) {
                    Ok(stream) => {
                        let (settings, metrics) = (Arc::clone(&settings), Arc::clone(&metrics));
                        let served = connection::serve(
                            stream,
                            service.clone(),
                            settings,
                            metrics,
                            permit,
                            draining.clone(),
                        );
                        connections.spawn(served);
                    }
                    Err(error) => tracing::warn!(%error, "a connection cannot be served"),
                },
            },
        }
    }
    // Each connection bounds its own drain.
    while connections.join_next().await.is_some() {}
}
