//! `steadfast bench`: measures a running server, or runs a yardstick to compare it with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::bench::schedule::Schedule;
use crate::bench::yardstick::{self, Kind};
use crate::bench::{
    BenchError, Pace, Plan, Population, Shape, Workload, WriteKind, load, run as measure, scrape,
};
use crate::config::Span;
use crate::proto::Wait;

/// Measure a running server: throughput, latencies, errors.
///
/// Closed loop by default: a fixed number of calls in flight. With --rate, open loop: calls start by a
/// schedule, and latencies count from when they were meant to start.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  steadfast bench --load --users 100000 --workload get
  steadfast bench --workload identify-change --users 100000 --in-flight 256 --connections 4
  steadfast bench --workload mixed --reads 80 --rate 5000 --duration '30 s' --json
  steadfast bench --workload many --batch 100 --wait journaled --changes 8 --in-flight 32
  steadfast bench --yardstick bare --listen 127.0.0.1:50061")]
pub struct BenchArgs {
    /// The server
    #[arg(value_parser = host_and_port, long, env = "STEADFAST_ADDR", default_value = "127.0.0.1:50051", value_name = "HOST:PORT")]
    pub addr: String,
    /// The server's operations listener: asked for the bytes of the attribute index when the run has ended
    #[arg(long, value_parser = host_and_port, value_name = "HOST:PORT")]
    pub operations: Option<String>,
    /// What is called
    #[arg(long, value_enum, default_value_t = Calls::Get)]
    pub workload: Calls,
    /// What the writes of `many`, `stream` and `mixed` do
    #[arg(long, value_enum, default_value_t = WriteKind::Change)]
    pub write: WriteKind,
    /// When writes are answered
    #[arg(long, value_enum, default_value_t = WaitFor::Applied)]
    pub wait: WaitFor,
    /// Changes of each write
    #[arg(long, default_value_t = 3)]
    pub changes: usize,
    /// Writes in each call of `many`
    #[arg(long, default_value_t = 100)]
    pub batch: usize,
    /// Share of reads in `mixed`, in percent
    #[arg(long, default_value_t = 50, value_name = "PERCENT")]
    pub reads: u64,
    /// Calls in flight; with --rate, the most that may be unanswered [default: 64; with --rate 1000]
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// Connections
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Open loop: calls a second that are meant to start
    #[arg(long, value_parser = parse_rate, value_name = "CALLS/S")]
    pub rate: Option<Schedule>,
    /// How long to measure
    #[arg(long, default_value = "10 s")]
    pub duration: Span,
    /// End after so many measured calls
    #[arg(long)]
    pub requests: Option<u64>,
    /// Calls that do not count, before
    #[arg(long, default_value = "1 s")]
    pub warm_up: Span,
    /// How many users there are, over all sites
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub users: u64,
    /// How many sites
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub sites: u64,
    /// What the names of sites begin with
    #[arg(long, default_value = "bench")]
    pub site_prefix: String,
    /// The same seed chooses the same users
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// About how large a profile is
    #[arg(long, default_value_t = 400, value_parser = parse_profile_bytes)]
    pub profile_bytes: usize,
    /// Write all users first
    #[arg(long)]
    pub load: bool,
    /// The server's process on this machine: report its memory and CPU time
    #[arg(long)]
    pub pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Instead of measuring: serve as a yardstick until killed
    #[arg(long, value_enum, value_name = "KIND")]
    pub yardstick: Option<Yardstick>,
    /// Where the yardstick listens
    #[arg(long, default_value = "127.0.0.1:0", requires = "yardstick")]
    pub listen: SocketAddr,
    /// The log of the yardstick `log`: a file that is replaced
    #[arg(long, required_if_eq("yardstick", "log"), value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Runtimes of the yardstick; 0: one for each core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub runtimes: u16,
}

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Calls {
    /// Read profiles
    Get,
    /// Identify with values that are stored already
    IdentifyUnchanged,
    /// Identify, one attribute changes
    IdentifyChange,
    /// Identify, 9 of 10 change nothing
    IdentifyMix,
    /// Identify, one attribute changes, answered when journaled
    IdentifyJournaled,
    /// `IdentifyMany`
    Many,
    /// `IdentifyStream`, one stream a connection
    Stream,
    /// Reads and Identify
    Mixed,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// When it is applied
    Applied,
    /// When it is in the journal
    Journaled,
}

/// The yardsticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Yardstick {
    /// Answers with constant messages
    Bare,
    /// Appends writes to a log, and answers when they are synced
    Log,
}

fn parse_rate(text: &str) -> Result<Schedule, String> {
    let rate = text.parse().ok().and_then(Schedule::new);
    rate.ok_or_else(|| "a number of calls a second, from 0.001 to a billion".to_owned())
}

fn parse_profile_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| (0..=15_000).contains(bytes));
    bytes.ok_or_else(|| "a number of bytes up to 15000: 100 attributes hold no more".to_owned())
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), BenchError> {
    if let Some(kind) = args.yardstick {
        return serve(args, kind);
    }
    let workload = args.workload();
    workload.check()?;
    if args.load {
        eprintln!("loading {} users ...", args.users);
        let report = load::load(&args.addr, &workload.population, args.connections)?;
        eprintln!("{report}\n");
    }
    let report = measure(&args.addr, &Arc::new(workload), &args.plan(), args.pid)?;
    let index = args.operations.as_deref().map(scrape::index_bytes).transpose()?;
    if args.json {
        let failed = |error: serde_json::Error| BenchError::Setting(error.to_string());
        let mut json = serde_json::to_value(&report).map_err(failed)?;
        if let (Some(object), Some(bytes)) = (json.as_object_mut(), index) {
            object.insert("index_bytes".to_owned(), bytes.into());
        }
        println!("{json}");
    } else {
        println!("{report}");
        if let Some(bytes) = index {
            println!("  index       {} MiB", bytes >> 20);
        }
    }
    Ok(())
}

/// Serves as a yardstick. The first line of output says where, for a program that starts it on port 0.
fn serve(args: &BenchArgs, kind: Yardstick) -> Result<(), BenchError> {
    let kind = match (kind, &args.log) {
        (Yardstick::Bare, _) => Kind::Bare,
        (Yardstick::Log, Some(path)) => Kind::Log(path.clone()),
        (Yardstick::Log, None) => return Err(BenchError::Setting("--log is missing".to_owned())),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtimes = if args.runtimes == 0 { cores } else { usize::from(args.runtimes) };
    let running = yardstick::start(&kind, args.listen, runtimes, args.profile_bytes)?;
    println!("listening on {}", running.addr);
    running.wait()
}

impl BenchArgs {
    fn workload(&self) -> Workload {
        let population = Population {
            users: self.users,
            sites: self.sites,
            seed: self.seed,
            site_prefix: self.site_prefix.clone(),
            profile_bytes: self.profile_bytes,
        };
        let (shape, write) = match self.workload {
            Calls::Get => (Shape::Get, self.write),
            Calls::IdentifyUnchanged => (Shape::Identify, WriteKind::Unchanged),
            Calls::IdentifyChange | Calls::IdentifyJournaled => (Shape::Identify, WriteKind::Change),
            Calls::IdentifyMix => (Shape::Identify, WriteKind::Mix),
            Calls::Many => (Shape::Many, self.write),
            Calls::Stream => (Shape::Stream, self.write),
            Calls::Mixed => (Shape::Mixed, self.write),
        };
        let journaled = self.wait == WaitFor::Journaled || self.workload == Calls::IdentifyJournaled;
        let wait = if journaled { Wait::Journaled } else { Wait::Applied };
        let (changes, batch, reads) = (self.changes, self.batch, self.reads);
        Workload { wait, changes, batch, reads, ..Workload::new(population, shape, write) }
    }

    fn plan(&self) -> Plan {
        let pace = self.rate.map_or(Pace::Closed, Pace::Open);
        let usual = if self.rate.is_some() { 1000 } else { 64 };
        Plan {
            connections: self.connections,
            in_flight: self.in_flight.unwrap_or(usual),
            threads: self.threads,
            pace,
            warm_up: self.warm_up.0,
            duration: self.duration.0,
            requests: self.requests,
            grace: Duration::from_secs(10),
        }
    }
}

/// An address as the other commands take it, without the scheme.
fn host_and_port(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        _ => Err("write it as HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(args: &[&str]) -> Result<BenchArgs, clap::Error> {
        Command::try_parse_from([&["bench"], args].concat()).map(|command| command.bench)
    }

    #[test]
    fn journaled_is_a_wait_of_its_own() {
        assert_eq!(parse(&["--workload", "identify-journaled"]).unwrap().workload().wait, Wait::Journaled);
        assert_eq!(parse(&["--workload", "identify-change"]).unwrap().workload().wait, Wait::Applied);
        let many = parse(&["--workload", "many", "--wait", "journaled"]).unwrap().workload();
        assert_eq!((many.shape, many.wait), (Shape::Many, Wait::Journaled));
    }

    #[test]
    fn a_rate_makes_it_an_open_loop() {
        let closed = parse(&[]).unwrap().plan();
        assert_eq!((closed.pace, closed.in_flight), (Pace::Closed, 64));
        let open = parse(&["--rate", "2000", "--duration", "5 s"]).unwrap().plan();
        assert_eq!(open.pace, Pace::Open(Schedule::new(2000.0).unwrap()));
        assert_eq!((open.in_flight, open.duration), (1000, Duration::from_secs(5)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &["--rate", "0"][..],
            &["--users", "0"],
            &["--listen", "127.0.0.1:1"],
            &["--yardstick", "log"],
            &["--profile-bytes", "1000000"],
            &["--duration", "10"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
