//! The load generator behind `steadfast bench`, and the yardsticks that its figures are compared with.
//!
//! Closed loop: a fixed number of calls in flight, each slot calls again as soon as it is answered; this finds
//! the throughput. Open loop: calls start by a schedule that does not wait for answers, and each latency is
//! counted from when the call was *meant* to start, so that a server that stalls is charged for every call
//! that it kept from starting (otherwise a stall of a second would be one slow sample: "coordinated
//! omission").
//!
//! The generator shares its machine with the server, so it is kept cheap: HTTP/2 connections without a pool in
//! front of them, single-threaded runtimes, histograms that no two threads share.

pub mod client;
pub mod driver;
pub mod load;
pub mod machine;
pub mod measure;
pub mod plan;
pub mod population;
pub mod report;
pub mod schedule;
pub mod scrape;
mod stream;
pub mod workload;
pub mod yardstick;

use std::io;
use std::sync::Arc;

pub use client::Steadfast;
pub use plan::{Answer, Client, Pace, Plan, Target};
pub use population::Population;
pub use report::Report;
pub use workload::{Shape, Workload, WriteKind};

/// Most calls in flight, over all connections.
pub const MAX_IN_FLIGHT: usize = 100_000;
/// Most connections: each is a file descriptor here and another at the server.
pub const MAX_CONNECTIONS: usize = 10_000;
/// The server reads a stream no further when so many of its requests are unanswered.
pub const MAX_UNANSWERED_PER_STREAM: usize = 1000;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Settings that do not fit together.
    #[error("{0}")]
    Setting(String),
    /// Nobody answered.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        /// The address.
        addr: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine did not give a thread, a file or a socket.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// Users could not be loaded.
    #[error("loading users: {0}")]
    Load(String),
    /// A thread of the generator panicked.
    #[error("a thread of the load generator panicked")]
    Panicked,
}

impl BenchError {
    /// For `map_err`.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Measures `workload` against the server at `addr` (`host:port`).
///
/// `server_pid` is the server's process, if it runs here: its memory and CPU time go into the report.
pub fn run(
    addr: &str,
    workload: &Arc<Workload>,
    plan: &Plan,
    server_pid: Option<u32>,
) -> Result<Report, BenchError> {
    let slots = plan.in_flight.div_ceil(plan.connections.max(1));
    if workload.shape == Shape::Stream && slots > MAX_UNANSWERED_PER_STREAM {
        return Err(BenchError::Setting(format!(
            "{slots} calls in flight on a stream: a stream takes {MAX_UNANSWERED_PER_STREAM}, use more connections"
        )));
    }
    let measured = driver::run(Steadfast::new(addr, Arc::clone(workload)), plan, server_pid)?;
    Ok(Report::new(workload.describe(), plan, &measured))
}
