//! One data connection: its HTTP/2 settings, and when it is asked to go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::accept::{ConnectionPermit, Node};
use super::exec::Exec;
use super::front::Front;
use super::method::MethodMetrics;
use super::{GrpcService, config, said};
use crate::api::call::{Closer, Closing};

/// Streams that a peer opened and reset before we looked at them (CVE-2023-44487): more end the connection.
const MAX_PENDING_RESETS: usize = 64;
/// Streams that we reset because of the peer's faults (CVE-2025-8671): more end the connection.
const MAX_LOCAL_RESETS: usize = 256;
/// The largest frame that we take: small enough for calls to take turns.
const MAX_FRAME: u32 = 64 << 10;
/// HPACK's dynamic table.
const HEADER_TABLE: u32 = 4096;

/// How long a peer may take to acknowledge that the connection ends, once it has no calls.
const FAREWELL: Duration = Duration::from_millis(500);

/// What the calls of a connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) settings: Arc<config::Server>,
    node: Arc<Node>,
    start: Instant,
    active: AtomicUsize,
    /// When the last call ended, in nanoseconds after `start`.
    idle_since: AtomicU64,
    closer: Closer,
    closing: Closing,
}

/// One call in flight: counted by its connection and by the node.
pub(super) struct InFlight(Arc<Connection>);

impl Connection {
    pub(super) fn new(settings: Arc<config::Server>, node: Arc<Node>) -> Arc<Self> {
        let (closer, closing) = Closer::new();
        Arc::new(Self {
            settings,
            node,
            start: Instant::now(),
            active: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            closer,
            closing,
        })
    }

    /// A call begins, unless the node has too many.
    pub(super) fn begin(self: &Arc<Self>) -> Option<InFlight> {
        self.node.begin_call().then(|| {
            self.active.fetch_add(1, Ordering::Relaxed);
            InFlight(Arc::clone(self))
        })
    }

    pub(super) fn closing(&self) -> Closing {
        self.closing.clone()
    }

    /// Tells the streams.
    pub(super) fn close(&self) {
        self.closer.close();
    }

    /// Since when there has been no call.
    fn idle_since(&self) -> Option<Instant> {
        (self.active.load(Ordering::Relaxed) == 0)
            .then(|| self.start + Duration::from_nanos(self.idle_since.load(Ordering::Relaxed)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.idle_since.store(nanos, Ordering::Relaxed);
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0.node.end_call();
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve<S: GrpcService>(
    stream: TcpStream,
    service: S,
    settings: Arc<config::Server>,
    metrics: Arc<MethodMetrics>,
    permit: ConnectionPermit,
    mut draining: watch::Receiver<bool>,
) {
    // Small answers must not wait for the peer's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection is gone before it began");
        return;
    }
    match timeout(settings.handshake_timeout.0, stream.readable()).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return,
    }
    let connection = Connection::new(Arc::clone(&settings), Arc::clone(permit.node()));
    let exec = Exec::default();
    let front = Front { service, connection: Arc::clone(&connection), metrics, exec: exec.clone() };
    let service = service_fn(move |request| front.handle(request));
    let mut http = std::pin::pin!(builder(&settings, exec).serve_connection(TokioIo::new(stream), service));

    // Spread, so that clients which came together do not come back together.
    let spread = settings.max_age.0 / 10 * (permit.number() % 8) as u32 / 8;
    let old_at = connection.start + settings.max_age.0 + spread;
    let mut look_at = old_at.min(connection.start + settings.idle_timeout.0);
    let (cause, grace) = loop {
        tokio::select! {
            biased;
            ended = http.as_mut() => return log_end(ended),
            () = said(&mut draining) => break ("drain", permit.node().drain_limit()),
            () = sleep_until(look_at) => {}
        }
        let now = Instant::now();
        let idle_at = connection.idle_since().map_or(now, |since| since) + settings.idle_timeout.0;
        if now >= old_at {
            break ("age", settings.age_grace.0);
        }
        if now >= idle_at {
            break ("idle", settings.keepalive_timeout.0);
        }
        look_at = old_at.min(idle_at);
    };
    metrics::counter!(crate::metrics::CONNECTIONS_CLOSED, "cause" => cause).increment(1);
    http.as_mut().graceful_shutdown();
    connection.close();
    let until = Instant::now() + grace;
    loop {
        tokio::select! {
            biased;
            ended = http.as_mut() => return log_end(ended),
            () = sleep_until(until.min(Instant::now() + FAREWELL)) => {}
        }
        // A peer without calls that does not even answer the farewell is not waited for.
        if connection.active.load(Ordering::Relaxed) == 0 {
            return;
        }
        if Instant::now() >= until {
            permit.node().cut(connection.active.load(Ordering::Relaxed));
            metrics::counter!(crate::metrics::CONNECTIONS_CUT).increment(1);
            tracing::warn!(cause, ?grace, "cut a connection whose calls did not end within their grace");
            return;
        }
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Every limit of HTTP/2, none left at a library's default.
fn builder(settings: &config::Server, exec: Exec) -> http2::Builder<Exec> {
    let mut builder = http2::Builder::new(exec);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .adaptive_window(false)
        .initial_stream_window_size(window(settings.stream_window))
        .initial_connection_window_size(window(settings.connection_window))
        .max_frame_size(MAX_FRAME)
        .header_table_size(HEADER_TABLE)
        .max_header_list_size(window(settings.max_headers))
        .max_concurrent_streams(settings.max_streams)
        .max_send_buf_size(usize::try_from(settings.send_buffer.0).unwrap_or(usize::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(settings.keepalive_interval.0)
        .keep_alive_timeout(settings.keepalive_timeout.0);
    builder
}

/// The configuration's bounds keep these far below 2^31.
fn window(size: config::ByteSize) -> u32 {
    u32::try_from(size.0).unwrap_or(u32::MAX)
}
