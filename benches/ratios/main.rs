//! How fast the real server is beside yardsticks and peers on the same machine, as ratios.
//!
//! `cargo bench --bench ratios [-- --quick] [--peers] [--only TEXT]`
//!
//! All servers are child processes that run at the same time; measurements alternate between them, so that a
//! machine that slows down slows down all of them, and each figure is the median of at least three rounds. One
//! client measures all gRPC servers; it runs on the same cores as they do.

mod etcd;
mod redis;
mod scenarios;
mod servers;
mod table;

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use steadfast::bench::machine::Machine;
use steadfast::bench::schedule::Schedule;
use steadfast::bench::{
    BenchError, Pace, Plan, Population, Report, Shape, Target, Workload, WriteKind, driver, load, run,
};

use scenarios::{Against, Scenario, scenarios};
use servers::{Server, Servers};
use table::{Row, Sample};

/// Users with `--quick`.
const QUICK_USERS: u64 = 20_000;
/// Seconds of a run with `--quick`.
const QUICK_SECONDS: f64 = 1.0;
/// Reads a second of the reader that is measured beside writes.
const READER_RATE: f64 = 500.0;

/// Ratios of the server to yardsticks and peers.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Short runs on few users: shows that everything works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Compare with etcd and Redis too, as far as they are in PATH
    #[arg(long)]
    peers: bool,
    /// Only comparisons whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Users, each with a profile of 400 bytes
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    users: u64,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    if args.quick {
        args.users = args.users.min(QUICK_USERS);
        args.seconds = args.seconds.min(QUICK_SECONDS);
    }
    let chosen: Vec<Scenario> = scenarios().into_iter().filter(|s| s.name.contains(&args.only)).collect();
    println!("machine: {}", Machine::this().line());
    let servers = Servers::start(args.peers)?;
    let population = population(args.users);
    println!("loading {} users of {} bytes ...", population.users, population.profile_bytes);
    let loaded = load::load(&servers.steadfast.addr, &population, 4)?;
    println!("loaded: {:.0} profiles/s", loaded.items_per_second);
    servers.settle()?;
    println!("{}", servers.steadfast.memory());

    println!(
        "{} rounds of {} s, interleaved; ratios are medians (lowest..highest)\n",
        args.rounds, args.seconds
    );
    let mut missed = 0;
    for scenario in &chosen {
        for row in compare(&args, &servers, &population, scenario)? {
            missed += u32::from(row.misses());
            println!("{row}");
        }
    }
    println!("\n{}", servers.steadfast.memory());
    println!("{missed} goal(s) missed");
    Ok(())
}

fn population(users: u64) -> Population {
    Population { users, sites: 1, seed: 1, site_prefix: "bench".to_owned(), profile_bytes: 400 }
}

/// Measures the server and each comparison in turn, `rounds` times.
fn compare(
    args: &Args,
    servers: &Servers,
    population: &Population,
    scenario: &Scenario,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let against: Vec<_> = scenario.against.iter().filter(|goal| servers.of(goal.against).is_some()).collect();
    let mut own = Vec::new();
    let mut others = vec![Vec::new(); against.len()];
    for _ in 0..args.rounds {
        own.push(sample(args, servers, population, scenario, &servers.steadfast, None)?);
        for (goal, samples) in against.iter().zip(&mut others) {
            let Some(server) = servers.of(goal.against) else { continue };
            samples.push(sample(args, servers, population, scenario, server, Some(goal.against))?);
        }
    }
    let rows = against.iter().zip(&others);
    Ok(rows.map(|(goal, others)| Row::new(scenario.name, &own, **goal, others)).collect())
}

/// One run against one server, after all of them have come to rest.
fn sample(
    args: &Args,
    servers: &Servers,
    population: &Population,
    scenario: &Scenario,
    server: &Server,
    against: Option<Against>,
) -> Result<Sample, Box<dyn Error>> {
    servers.settle()?;
    let mut plan = plan(scenario.connections, scenario.in_flight, args.seconds);
    let report = match against {
        Some(Against::Etcd) => measure(etcd::Etcd::new(&server.addr, population), &plan, server)?,
        Some(Against::Redis) => {
            plan.connections = redis::CONNECTIONS;
            plan.in_flight = redis::CONNECTIONS;
            measure(redis::Redis::new(&server.addr, population), &plan, server)?
        }
        _ if scenario.beside_writes => {
            let writes = background_writes(args, servers, population)?;
            plan.pace = Pace::Open(Schedule::new(READER_RATE).ok_or("a rate")?);
            let report = run(&server.addr, &scenario.workload(population), &plan, Some(server.pid()));
            writes.join().map_err(|_| "the writer panicked")??;
            report?
        }
        _ => run(&server.addr, &scenario.workload(population), &plan, Some(server.pid()))?,
    };
    if report.errors > 0 {
        println!("ERRORS in {}:\n{report}", scenario.name);
    }
    Ok(Sample::of(&report))
}

fn plan(connections: usize, in_flight: usize, seconds: f64) -> Plan {
    Plan {
        connections,
        in_flight,
        threads: 1,
        pace: Pace::Closed,
        warm_up: Duration::from_secs_f64((seconds / 5.0).clamp(0.2, 2.0)),
        duration: Duration::from_secs_f64(seconds),
        requests: None,
        grace: Duration::from_secs(10),
    }
}

fn measure<T: Target>(target: T, plan: &Plan, server: &Server) -> Result<Report, BenchError> {
    let measured = driver::run(target, plan, Some(server.pid()))?;
    Ok(Report::new(String::new(), plan, &measured))
}

/// Writes to the real server at full speed, whichever server is being read: both readers have the same load
/// on the machine.
fn background_writes(
    args: &Args,
    servers: &Servers,
    population: &Population,
) -> Result<thread::JoinHandle<Result<Report, BenchError>>, Box<dyn Error>> {
    let addr = servers.steadfast.addr.clone();
    let workload = Arc::new(Workload::new(population.clone(), Shape::Identify, WriteKind::Change));
    let plan = plan(4, 64, args.seconds);
    Ok(thread::Builder::new().spawn(move || run(&addr, &workload, &plan, None))?)
}
