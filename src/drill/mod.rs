//! The drill: a server in this process, real clients, and a disturbance. It shows what happens and checks every
//! promise, the first one by reading every acknowledged write back.

pub mod book;
mod chart;
pub mod html;
mod load;
mod operator;
pub mod samples;
pub mod scenario;
pub mod verdict;
mod world;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub use operator::{Line, Look};
pub use scenario::Scenario;
pub use verdict::{Verdict, all_kept};

use self::book::{Book, Checked};
use self::load::{Load, Offer};
use self::operator::Operator;
use self::samples::Sample;
use self::scenario::{Act, Step};
use self::verdict::{Facts, verdicts};
use self::world::World;
use crate::app::StartError;
use crate::bench::BenchError;
use crate::clock::{Clock as _, SystemClock};
use crate::proto::Incident;

/// How often the operator looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long recovery may take, once the load has ended.
const RECOVERY: Duration = Duration::from_secs(90);
/// How long answers that were left open are asked for again.
const SETTLING: Duration = Duration::from_secs(20);

/// What is drilled.
#[derive(Clone, Debug)]
pub struct Options {
    /// The disturbance.
    pub scenario: Scenario,
    /// Nobody fixes the store: the operator has it rebuilt.
    pub no_fix: bool,
    /// How long the load lasts.
    pub duration: Duration,
    /// Writes per second, and as many reads.
    pub rate: f64,
    /// Sites.
    pub sites: u32,
    /// Users of each.
    pub users: u32,
    /// The same seed calls the same users in the same order.
    pub seed: u64,
    /// The clients' deadline.
    pub deadline: Duration,
    /// Where the server keeps its data; none: a directory of its own that is removed afterwards.
    pub dir: Option<PathBuf>,
}

/// Why a drill could not be held.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The server.
    #[error("the server: {0}")]
    Server(#[from] StartError),
    /// The clients.
    #[error("the clients: {0}")]
    Clients(#[from] BenchError),
    /// The operator was refused.
    #[error("the operator: {0}")]
    Operator(String),
    /// A file or thread.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What went wrong.
        error: std::io::Error,
    },
}

/// What happened.
#[derive(Debug)]
pub struct Outcome {
    /// What was drilled.
    pub options: Options,
    /// All calls.
    pub samples: Vec<Sample>,
    /// What the operator saw.
    pub looks: Vec<Look>,
    /// What happened, in order.
    pub timeline: Vec<Line>,
    /// All incidents, oldest first.
    pub incidents: Vec<Incident>,
    /// The promises.
    pub verdicts: Vec<Verdict>,
    /// When the fault was there.
    pub trouble: (Duration, Duration),
}

/// Holds a drill. `tell` hears each line of the timeline as it happens. Blocks.
pub fn run(options: &Options, tell: &mut dyn FnMut(&Line)) -> Result<Outcome, DrillError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| DrillError::Io { what: "runtime", error })?;
    let mut world = World::start(options)?;
    let local = tokio::task::LocalSet::new();
    let drilled = local.block_on(&runtime, drive(options, &world, tell));
    // Whatever hangs goes on, so that the server can stop.
    world.fix();
    let mut drilled = drilled?;
    if options.scenario == Scenario::Poison {
        let line = drilled.line("the server is started again: what was parked is tried anew");
        tell(&line);
        drilled.timeline.push(line);
        world.restart(options)?;
        drilled.incidents = local.block_on(&runtime, drilled.after_restart(&world))?;
    }
    let checked = local.block_on(&runtime, drilled.check(options, &world))?;
    let (samples, facts) = (std::mem::take(&mut drilled.samples), &drilled);
    let verdicts = verdicts(&Facts {
        expected: options.scenario.expected(),
        samples: &samples,
        healthy_until: drilled.healthy_until,
        trouble: drilled.trouble,
        struck_at: drilled.struck_at,
        incidents: &facts.incidents,
        checked,
        caught_up: drilled.caught_up,
        looks: &drilled.looks,
        looks_failed: drilled.looks_failed,
        deadline: options.deadline,
    });
    let stopped = world.stop();
    if let Err(error) = stopped {
        return Err(error.into());
    }
    Ok(Outcome {
        options: options.clone(),
        samples,
        looks: drilled.looks,
        timeline: drilled.timeline,
        incidents: drilled.incidents,
        verdicts,
        trouble: drilled.trouble,
    })
}

/// What was seen until recovery.
struct Drilled {
    began: Instant,
    samples: Vec<Sample>,
    book: Book,
    looks: Vec<Look>,
    looks_failed: u64,
    timeline: Vec<Line>,
    incidents: Vec<Incident>,
    healthy_until: Duration,
    trouble: (Duration, Duration),
    struck_at: Option<i128>,
    caught_up: bool,
}

async fn drive(options: &Options, world: &World, tell: &mut dyn FnMut(&Line)) -> Result<Drilled, DrillError> {
    let offer = Offer {
        rate: options.rate,
        sites: options.sites,
        users: options.users,
        seed: options.seed,
        deadline: options.deadline,
    };
    let load = Load::connect(&world.data(), offer, SystemClock.now()).await?;
    let began = load.began();
    let mut operator = Operator::connect(&world.operations(), began).await?;
    let steps = options.scenario.steps(options.duration, options.no_fix);
    let faults = || steps.iter().filter(|step| !step.says.is_empty() && !matches!(step.act, Act::Load(_)));
    let first = steps.first().map_or(options.duration, |step| step.at);
    let mut drilled = Drilled {
        began,
        samples: Vec::new(),
        book: Book::default(),
        looks: Vec::new(),
        looks_failed: 0,
        timeline: Vec::new(),
        incidents: Vec::new(),
        healthy_until: first,
        trouble: trouble(&steps, options.duration),
        struck_at: None,
        caught_up: false,
    };
    let note = |line: Line, drilled: &mut Drilled, tell: &mut dyn FnMut(&Line)| {
        tell(&line);
        drilled.timeline.push(line);
    };
    note(drilled.line("the clients begin; all is well"), &mut drilled, tell);
    let calls = tokio::task::spawn_local(Rc::clone(&load).run());
    let mut due = steps.iter().peekable();
    let ends = began + options.duration;
    let mut gives_up = ends + RECOVERY;
    let mut loading = true;
    loop {
        let now = Instant::now();
        if let Some(step) = due.peek().filter(|step| began + step.at <= now) {
            if step.is_fault {
                drilled.struck_at = Some(i128::from(SystemClock.now().0));
            }
            act(step, world, &load, &mut operator).await?;
            if !step.says.is_empty() {
                note(drilled.line(&step.says), &mut drilled, tell);
            }
            due.next();
            continue;
        }
        if loading && now >= ends {
            loading = false;
            load.end();
            if options.scenario == Scenario::Poison {
                // What is parked stays so until the next start.
                gives_up = now + Duration::from_secs(2);
            }
            note(drilled.line("the clients stop; what waits is applied"), &mut drilled, tell);
        }
        let (status, news) = operator.look().await;
        for line in news {
            note(line, &mut drilled, tell);
        }
        let status = status.unwrap_or_default();
        let waiting = status.backlog.as_ref().map_or(0, |backlog| backlog.entries);
        let quiet = waiting == 0 && status.incidents.is_empty();
        if !loading && (quiet || now >= gives_up) {
            drilled.caught_up = quiet;
            break;
        }
        let next = due.peek().map_or(now + LOOK_EVERY, |step| (began + step.at).min(now + LOOK_EVERY));
        tokio::time::sleep_until(tokio::time::Instant::from_std(next)).await;
    }
    let _ = faults;
    // A call ends by its deadline; the clients' panics are ours.
    if let Err(error) = calls.await {
        return Err(DrillError::Operator(format!("the clients failed: {error}")));
    }
    drilled.samples = load.take_samples();
    drilled.book = load.take_book();
    load.settle(&mut drilled.book, SETTLING).await;
    drilled.incidents =
        operator.incidents().await.map_err(|status| DrillError::Operator(status.message().to_owned()))?;
    (drilled.looks, drilled.looks_failed) = (operator.looks, operator.failed);
    Ok(drilled)
}

/// From the first fault to the last cure.
fn trouble(steps: &[Step], length: Duration) -> (Duration, Duration) {
    let harms = |step: &&Step| matches!(step.act, Act::Faults(_) | Act::FreezeJournal | Act::Load(_));
    let cures = |step: &&Step| matches!(step.act, Act::Fix | Act::ThawJournal | Act::Rebuild | Act::Load(_));
    let from = steps.iter().find(|step| step.is_fault).or(steps.iter().find(harms));
    let to = steps.iter().rev().find(cures);
    (from.map_or(length, |step| step.at), to.map_or(length, |step| step.at))
}

async fn act(step: &Step, world: &World, load: &Load, operator: &mut Operator) -> Result<(), DrillError> {
    match &step.act {
        Act::Faults(faults) => world.strike(faults),
        Act::Fix => world.fix(),
        Act::FreezeJournal => world.journal.close(),
        Act::ThawJournal => world.journal.open(),
        Act::Load(factor) => load.set_factor(*factor),
        Act::Rebuild => {
            let refused = |status: tonic::Status| DrillError::Operator(status.message().to_owned());
            operator.rebuild().await.map_err(refused)?;
        }
    }
    Ok(())
}

impl Drilled {
    fn line(&self, says: &str) -> Line {
        let at = Instant::now().saturating_duration_since(self.began);
        Line { at, from: "drill", says: says.to_owned() }
    }

    /// Waits until the restarted server has applied everything; answers its incidents.
    async fn after_restart(&mut self, world: &World) -> Result<Vec<Incident>, DrillError> {
        let mut operator = Operator::connect(&world.operations(), self.began).await?;
        let until = Instant::now() + RECOVERY;
        loop {
            let (status, news) = operator.look().await;
            self.timeline.extend(news);
            let status = status.unwrap_or_default();
            let waiting = status.backlog.as_ref().map_or(0, |backlog| backlog.entries);
            self.caught_up = waiting == 0 && status.incidents.is_empty();
            if self.caught_up || Instant::now() >= until {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        operator.incidents().await.map_err(|status| DrillError::Operator(status.message().to_owned()))
    }

    /// Reads every acknowledged write back.
    async fn check(&mut self, options: &Options, world: &World) -> Result<Checked, DrillError> {
        let offer = Offer {
            rate: options.rate,
            sites: options.sites,
            users: options.users,
            seed: options.seed,
            deadline: options.deadline,
        };
        let reader = Load::connect(&world.data(), offer, SystemClock.now()).await?;
        let mut said = std::collections::HashMap::new();
        for (site, user) in self.book.users() {
            // What cannot be read counts as lost.
            if let Ok(found) = reader.profile(site, user, Duration::from_secs(5)).await {
                said.insert((site, user), found);
            }
        }
        Ok(self.book.check(&said))
    }
}
