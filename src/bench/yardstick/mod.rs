//! Servers to compare with: the same messages, served in the ordinary best way, doing next to nothing.
//!
//! A plain tonic server on single-threaded runtimes, one for each core, with an acceptor that hands
//! connections round; none of our layers are in it.

mod log;
mod service;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::bench::{BenchError, Population};
use crate::proto::attribute_service_server::AttributeServiceServer;
use log::Log;
use service::Yardstick;

/// Connections that may wait for a runtime.
const HANDOVER: usize = 1024;

/// What a yardstick does with writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: answers with a constant receipt.
    Bare,
    /// Appends them to this file, which is replaced, and answers when it is synced.
    Log(PathBuf),
}

/// A running yardstick. It runs until the process ends.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    acceptor: JoinHandle<std::io::Error>,
}

/// Starts a yardstick that listens on `listen` and returns profiles of about `profile_bytes`.
pub fn start(
    kind: &Kind,
    listen: SocketAddr,
    runtimes: usize,
    profile_bytes: usize,
) -> Result<Running, BenchError> {
    let listener = TcpListener::bind(listen).map_err(BenchError::io("listen"))?;
    let addr = listener.local_addr().map_err(BenchError::io("listen"))?;
    let population =
        Population { users: 1, sites: 1, seed: 0, site_prefix: "bench".to_owned(), profile_bytes };
    let log = match kind {
        Kind::Bare => None,
        Kind::Log(path) => Some(Log::create(path).map_err(BenchError::io("log"))?),
    };
    let service = Yardstick::new(&population, log);
    let mut runners = Vec::new();
    for number in 0..runtimes.max(1) {
        let (hand, connections) = mpsc::channel(HANDOVER);
        let service = service.clone();
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(BenchError::io("runtime"))?;
        thread::Builder::new()
            .name(format!("yardstick-{number}"))
            .spawn(move || runtime.block_on(serve(service, connections)))
            .map_err(BenchError::io("thread"))?;
        runners.push(hand);
    }
    let accept = move || accept(&listener, &runners);
    let acceptor = thread::Builder::new()
        .name("yardstick-accept".to_owned())
        .spawn(accept)
        .map_err(BenchError::io("thread"))?;
    Ok(Running { addr, acceptor })
}

impl Running {
    /// Serves until the listener fails.
    pub fn wait(self) -> Result<(), BenchError> {
        let source = self.acceptor.join().map_err(|_| BenchError::Panicked)?;
        Err(BenchError::Io { what: "accept", source })
    }
}

/// Hands connections to the runtimes in turn, until that fails.
fn accept(listener: &TcpListener, runners: &[mpsc::Sender<TcpStream>]) -> std::io::Error {
    for runner in runners.iter().cycle() {
        let connection = listener.accept().and_then(|(connection, _)| {
            connection.set_nodelay(true)?;
            connection.set_nonblocking(true)?;
            Ok(connection)
        });
        match connection {
            Ok(connection) => {
                if runner.blocking_send(connection).is_err() {
                    return std::io::Error::other("a runtime is gone");
                }
            }
            Err(error) => return error,
        }
    }
    std::io::Error::other("no runtimes")
}

async fn serve(service: Yardstick, connections: mpsc::Receiver<TcpStream>) {
    let incoming = ReceiverStream::new(connections).map(tokio::net::TcpStream::from_std);
    let served =
        Server::builder().add_service(AttributeServiceServer::new(service)).serve_with_incoming(incoming);
    if let Err(error) = served.await {
        tracing::error!(%error, "yardstick: a runtime ended");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::bench::{Pace, Plan, Shape, Workload, WriteKind, run};
    use crate::proto::Wait;

    fn measure(kind: &Kind, shape: Shape) -> crate::bench::Report {
        let yardstick = start(kind, SocketAddr::from(([127, 0, 0, 1], 0)), 2, 400).unwrap();
        let population =
            Population { users: 10, sites: 1, seed: 3, site_prefix: "bench".into(), profile_bytes: 400 };
        let workload = Workload {
            wait: Wait::Journaled,
            batch: 10,
            ..Workload::new(population, shape, WriteKind::Change)
        };
        let plan = Plan {
            connections: 2,
            in_flight: 8,
            threads: 1,
            pace: Pace::Closed,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(30),
            requests: Some(100),
            grace: Duration::from_secs(1),
        };
        run(&yardstick.addr.to_string(), &Arc::new(workload), &plan, None).unwrap()
    }

    #[test]
    fn the_bare_one_answers_every_workload() {
        for (shape, operation, items) in [
            (Shape::Get, "GetProfile", 100),
            (Shape::Identify, "Identify", 100),
            (Shape::Many, "IdentifyMany", 1000),
            (Shape::Stream, "IdentifyStream", 100),
        ] {
            let report = measure(&Kind::Bare, shape);
            assert_eq!(report.errors, 0, "{report}");
            assert_eq!(report.operations[operation].outcomes.values().sum::<u64>(), items, "{report}");
            assert_eq!(report.latency(operation).unwrap().count, 100, "{report}");
        }
    }

    #[test]
    fn the_log_one_answers_writes() {
        let dir = tempfile::tempdir().unwrap();
        let kind = Kind::Log(dir.path().join("log"));
        for (shape, operation) in [(Shape::Identify, "Identify"), (Shape::Stream, "IdentifyStream")] {
            let report = measure(&kind, shape);
            assert_eq!(report.operations[operation].outcomes.get("DEFERRED"), Some(&100), "{report}");
        }
    }

    #[test]
    fn nobody_there_is_an_error_that_names_the_address() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let population =
            Population { users: 1, sites: 1, seed: 0, site_prefix: "bench".into(), profile_bytes: 400 };
        let workload = Workload::new(population, Shape::Get, WriteKind::Change);
        let plan = Plan {
            connections: 1,
            in_flight: 1,
            threads: 1,
            pace: Pace::Closed,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(1),
            requests: Some(1),
            grace: Duration::ZERO,
        };
        let error = run(&free, &Arc::new(workload), &plan, None).unwrap_err();
        assert!(error.to_string().contains(&free), "{error}");
    }
}
