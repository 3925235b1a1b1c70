//! What snapshots, rebuilds and the journal cost, beside the same server without them.
//!
//! `cargo bench --bench upkeep [-- --quick] [--only rates|beside|space]`
//!
//! - `rates`: profiles a second of a snapshot and of a rebuild. Their yardsticks run on the same server: exporting
//!   the same profiles, and loading them.
//! - `beside`: throughput and 99th percentile of gets and writes while a snapshot is taken again and again, and while
//!   the store is rebuilt again and again, beside without; the three alternate.
//! - `space`: a steady run of overwrites: bytes that go to the disk for each byte of the requests, and what
//!   journal, snapshots and store take for each byte of data.

mod node;
mod space;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use steadfast::bench::machine::Machine;
use steadfast::bench::report::{grouped, readable};
use steadfast::bench::{Pace, Plan, Population, Report, Shape, Workload, WriteKind, load, run};

use node::{Node, Task};

/// What is measured of the upkeep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Rates,
    Beside,
    Space,
}

/// Costs of snapshots, rebuilds and the journal.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Short runs on few users: shows that everything works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of the steady run of overwrites
    #[arg(long, default_value_t = 120.0)]
    steady_seconds: f64,
    /// Users, each with a profile of 400 bytes
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    users: u64,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut args = Args::parse();
    if args.quick {
        args.users = args.users.min(20_000);
        args.seconds = args.seconds.min(1.0);
        args.steady_seconds = args.steady_seconds.min(5.0);
    }
    println!("machine: {}", Machine::this().line());
    let population = Population {
        users: args.users,
        sites: 1,
        seed: 1,
        site_prefix: "bench".to_owned(),
        profile_bytes: 400,
    };
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Rates) || wanted(Part::Beside) {
        // Room for all that is written: what is measured is not how it refuses, and only asked-for snapshots are taken.
        let node = Node::start(&[("JOURNAL_TOTAL_QUOTA", "60 GiB"), ("JOURNAL_SITE_QUOTA", "40 GiB")])?;
        println!("loading {} users of {} bytes ...", population.users, population.profile_bytes);
        let loaded = load::load(&node.addr, &population, 4)?;
        println!("loaded: {:.0} profiles/s\n", loaded.items_per_second);
        if wanted(Part::Rates) {
            rates(&args, &node, &population, loaded.items_per_second)?;
        }
        if wanted(Part::Beside) {
            beside(&args, &node, &population)?;
        }
    }
    if wanted(Part::Space) {
        space::steady(&population, Duration::from_secs_f64(args.steady_seconds), args.quick)?;
    }
    Ok(())
}

/// Medians of an odd or even number of figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(figures.len() / 2), at(figures.len().saturating_sub(1) / 2))
}

/// Profiles a second of each task, beside its yardstick.
fn rates(args: &Args, node: &Node, population: &Population, loaded: f64) -> Outcome<()> {
    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..args.rounds {
        for (task, figures) in [Some(Task::Snapshot), Some(Task::Rebuild), None].into_iter().zip(&mut figures)
        {
            let began = Instant::now();
            match task {
                Some(task) => node.complete(task)?,
                None => drop(node.export("bench-0")?),
            }
            figures.push(population.users as f64 / began.elapsed().as_secs_f64());
        }
    }
    let [snapshot, rebuild, export] = figures.map(median);
    let line = |name: &str, rate: f64, beside: &str, other: f64| {
        println!(
            "{name:<10} {:>10} profiles/s   {beside} {:>10}/s   {:.2}x",
            grouped(rate),
            grouped(other),
            rate / other
        );
    };
    line("snapshot", snapshot, "ExportProfiles", export);
    line("rebuild", rebuild, "IdentifyMany of 200", loaded);
    let goal = if rebuild >= 80_000.0 { "met" } else { "MISSED" };
    println!("rebuild: goal of 80,000 profiles/s on 1M users {goal}\n");
    Ok(())
}

/// Gets and writes alone, and beside each task.
fn beside(args: &Args, node: &Node, population: &Population) -> Outcome<()> {
    let calls = [
        ("GetProfile, 64", Shape::Get, WriteKind::Unchanged),
        ("Identify changing one, 64", Shape::Identify, WriteKind::Change),
    ];
    for (name, shape, write) in calls {
        let mut alone = Vec::new();
        let mut others = [(Task::Snapshot, Vec::new()), (Task::Rebuild, Vec::new())];
        for _ in 0..args.rounds {
            let workload = || Arc::new(Workload::new(population.clone(), shape, write));
            alone.push(Figures::of(&run(&node.addr, &workload(), &plan(args.seconds), Some(node.pid()))?));
            for (task, figures) in &mut others {
                let (report, times) = while_doing(node, *task, || {
                    Ok(run(&node.addr, &workload(), &plan(args.seconds), Some(node.pid()))?)
                })?;
                if times == 0 {
                    println!("{name}: the {task} outlasts the run");
                }
                figures.push(Figures::of(&report));
            }
        }
        for (task, figures) in others {
            let ratio = |of: fn(&Figures) -> f64| {
                median(figures.iter().zip(&alone).map(|(beside, alone)| of(beside) / of(alone)).collect())
            };
            println!(
                "{name:<28} beside a {task:<9} {:>9}/s p99 {:>8}   alone {:>9}/s p99 {:>8}   throughput {:.2}x, p99 {:.2}x, errors {}",
                grouped(median(figures.iter().map(|f| f.rate).collect())),
                readable(median(figures.iter().map(|f| f.p99).collect())),
                grouped(median(alone.iter().map(|f| f.rate).collect())),
                readable(median(alone.iter().map(|f| f.p99).collect())),
                ratio(|f| f.rate),
                ratio(|f| f.p99),
                figures.iter().map(|f| f.errors).sum::<u64>(),
            );
        }
    }
    println!();
    Ok(())
}

/// Does `work` while `task` is done again and again; answers too how often it was completed.
fn while_doing<T>(node: &Node, task: Task, work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, u64)> {
    let (enough, times) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let tasks = scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                node.complete(task).map_err(|error| error.to_string())?;
                times.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), String>(())
        });
        let done = work();
        let within = times.load(Ordering::Relaxed);
        enough.store(true, Ordering::Relaxed);
        tasks.join().map_err(|_| "the tasks panicked")??;
        Ok((done?, within))
    })
}

#[derive(Clone, Copy, Debug)]
struct Figures {
    rate: f64,
    p99: f64,
    errors: u64,
}

impl Figures {
    fn of(report: &Report) -> Self {
        let p99 = report.operations.values().map(|figures| figures.latency.p99_us);
        Self { rate: report.items_per_second, p99: p99.fold(0.0, f64::max), errors: report.errors }
    }
}

/// As many calls in flight as the goals speak of.
pub fn plan(seconds: f64) -> Plan {
    Plan {
        connections: 4,
        in_flight: 64,
        threads: 1,
        pace: Pace::Closed,
        warm_up: Duration::from_secs_f64((seconds / 5.0).clamp(0.2, 2.0)),
        duration: Duration::from_secs_f64(seconds),
        requests: None,
        grace: Duration::from_secs(30),
    }
}
