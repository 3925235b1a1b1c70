//! Listeners and connections: an accept loop of our own around gRPC services, with every limit explicit.
//!
//! One acceptor hands connections round-robin to single-threaded data runtimes; the operations listener has a
//! runtime of its own, so that it answers whatever the data side is doing.

mod accept;
mod body;
mod connection;
mod exec;
mod front;
mod health;
mod method;
mod operations;
mod routes;
mod timeout;
mod tokens;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;
use tower::Service;

use crate::config;

pub use accept::Node;
pub use body::ReplyBody;
pub use health::{Health, health};
pub use operations::Operations;
pub use routes::{Router, data_routes, operations_routes};
pub use tokens::{TokenError, Tokens};

/// What the data listener serves: tonic's generated servers, or a [`Router`] over several.
pub trait GrpcService:
    Service<
        http::Request<hyper::body::Incoming>,
        Response = http::Response<tonic::body::Body>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
}

impl<S> GrpcService for S where
    S: Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static
{
}

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address} ({what}): {error}{}", hint(.error))]
    Bind {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The operations listener would be open to the network.
    #[error(
        "the operations listener would be reachable from other machines at {0}, and whoever reaches it can stop \
         writes: give it server.operations_tokens, listen on a loopback address, or say --insecure-operations"
    )]
    Insecure(SocketAddr),
    /// The token file.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// A thread or runtime could not be made.
    #[error("cannot start a {what} thread: {error}")]
    Thread {
        /// Which.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; is another steadfast running?",
        _ => "",
    }
}

/// The two listeners, bound and not yet accepting: taken first, so that a second process fails before it
/// touches anything.
#[derive(Debug)]
pub struct Listeners {
    data: TcpListener,
    operations: TcpListener,
}

impl Listeners {
    /// Binds both. Without `SO_REUSEPORT`: a second process must not share a port unnoticed.
    pub fn bind(settings: &config::Server) -> Result<Self, ServeError> {
        let operations = settings.operations_listen;
        check_open(settings)?;
        Ok(Self { data: bind("data", settings.listen)?, operations: bind("operations", operations)? })
    }

    /// Binds the data listener alone.
    pub fn bind_data(settings: &config::Server) -> Result<TcpListener, ServeError> {
        bind("data", settings.listen)
    }

    /// Binds the operations listener to go with `data`, which is taken only if that works.
    pub fn complete(data: &mut Option<TcpListener>, settings: &config::Server) -> Result<Self, ServeError> {
        check_open(settings)?;
        let operations = bind("operations", settings.operations_listen)?;
        let data = match data.take() {
            Some(data) => data,
            None => Self::bind_data(settings)?,
        };
        Ok(Self { data, operations })
    }

    /// Where services call.
    pub fn data_address(&self) -> io::Result<SocketAddr> {
        self.data.local_addr()
    }

    /// Where operators call.
    pub fn operations_address(&self) -> io::Result<SocketAddr> {
        self.operations.local_addr()
    }
}

/// Refuses to be reachable from other machines without knowing who calls.
fn check_open(settings: &config::Server) -> Result<(), ServeError> {
    let address = settings.operations_listen;
    let guarded = !settings.operations_tokens.as_os_str().is_empty() || settings.insecure_operations;
    if address.ip().is_loopback() || guarded { Ok(()) } else { Err(ServeError::Insecure(address)) }
}

/// The tokens that the settings name; none if they name no file.
pub fn tokens(settings: &config::Server) -> Result<Option<Tokens>, TokenError> {
    let path = &settings.operations_tokens;
    if path.as_os_str().is_empty() { Ok(None) } else { Tokens::load(path).map(Some) }
}

fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| ServeError::Bind { what, address, error })
}

/// A running server.
#[derive(Debug)]
pub struct Serving {
    drain: watch::Sender<bool>,
    stop_operations: watch::Sender<bool>,
    data: Vec<JoinHandle<()>>,
    operations: Option<JoinHandle<()>>,
    node: Arc<Node>,
}

/// Starts to accept: `data` on the data listener, `operations` on the other. `runtimes` threads serve data
/// connections.
#[expect(clippy::needless_pass_by_value, reason = "the service is handed over: each runtime has a clone")]
pub fn start<S: GrpcService>(
    listeners: Listeners,
    settings: &config::Server,
    runtimes: usize,
    data: S,
    operations: Operations,
    node: Arc<Node>,
) -> Result<Serving, ServeError> {
    let settings = Arc::new(settings.clone());
    let (drain, draining) = watch::channel(false);
    let (stop_operations, operations_stopping) = watch::channel(false);

    let operations_thread =
        operations::start(listeners.operations, Arc::clone(&settings), operations, operations_stopping)?;
    let data_threads = accept::start(listeners.data, &settings, runtimes, &node, &data, &draining)?;
    Ok(Serving { drain, stop_operations, data: data_threads, operations: Some(operations_thread), node })
}

impl Serving {
    /// Stops accepting, lets calls in flight finish within `drain_timeout`, then closes. The operations
    /// listener goes on, so that the drain can be watched. Blocks: not for async code.
    pub fn drain(&mut self) {
        self.drain.send_replace(true);
        for thread in self.data.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a data thread panicked");
            }
        }
    }

    /// As [`drain`](Self::drain), but within `limit`; answers how many calls were cut off. Blocks.
    pub fn drain_within(&mut self, limit: std::time::Duration) -> u64 {
        self.node.set_drain_limit(limit);
        self.drain();
        self.node.cut_off()
    }

    /// Ends the operations listener too. Blocks.
    pub fn stop(mut self) {
        self.drain();
        self.stop_operations.send_replace(true);
        if let Some(thread) = self.operations.take()
            && thread.join().is_err()
        {
            tracing::error!("the operations thread panicked");
        }
    }
}

/// A thread with a single-threaded runtime that runs `work`.
fn runtime_thread<F>(
    what: &'static str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<JoinHandle<()>, ServeError>
where
    F: Future<Output = ()>,
{
    let failed = |error| ServeError::Thread { what, error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let run = move || {
        runtime.block_on(work());
        // What is left is past its grace.
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name(format!("sf-{what}")).spawn(run).map_err(failed)
}

/// Comes when the sender has said so, or is gone.
async fn said(signal: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could say it: as good as said.
    let _ = signal.wait_for(|said| *said).await;
}

#[cfg(test)]
mod tests;
