//! The drill: a server in this process, real clients, and a disturbance. It shows what happens and checks every
//! promise, the first one by starting the server again and reading every acknowledged write back.

pub mod book;
mod chart;
pub mod compare;
pub mod facts;
pub mod html;
mod load;
mod operator;
mod sabotage;
pub mod samples;
pub mod scenario;
pub mod verdict;
mod world;

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub use compare::Judgement;
pub use facts::Figures;
pub use operator::{Line, Look};
pub use sabotage::Sabotage;
pub use scenario::Scenario;
pub use verdict::{Verdict, none_broken};

use self::book::{Book, Checked};
use self::facts::Facts;
use self::load::{Load, Offer};
use self::operator::{Beginning, Operator};
use self::samples::{Kind, Sample};
use self::scenario::{Act, Step};
use self::world::World;
use crate::app::StartError;
use crate::bench::BenchError;
use crate::bench::machine::load_average;
use crate::proto::Incident;

/// How often the operator looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long recovery may take, once the load has ended.
const RECOVERY: Duration = Duration::from_secs(90);
/// How long what is parked is waited for, which it stays until the next start.
const PARKED: Duration = Duration::from_secs(2);
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
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
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

impl DrillError {
    fn operator(status: &tonic::Status) -> Self {
        Self::Operator(status.message().to_owned())
    }
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
    /// The figures.
    pub figures: Figures,
    /// When the fault was there.
    pub trouble: (Duration, Duration),
    /// The load average of the machine before and after; empty where it is not told.
    pub machine: [String; 2],
}

/// Holds a drill. `tell` hears each line of the timeline as it happens. Blocks.
pub fn run(options: &Options, tell: &mut dyn FnMut(&Line)) -> Result<Outcome, DrillError> {
    let before = load_average();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| DrillError::Io { what: "runtime", error })?;
    let mut world = World::start(options)?;
    let local = tokio::task::LocalSet::new();
    let drilled = local.block_on(&runtime, drive(options, &world, tell));
    // Whatever hangs goes on, so that the server can stop.
    world.fix();
    let (mut drilled, operator) = drilled?;
    drilled.note("the server is started again, and every acknowledged write is read back", tell);
    world.restart(options)?;
    local.block_on(&runtime, drilled.after_restart(&world, &operator, tell))?;
    let checked = local.block_on(&runtime, drilled.check(options, &world))?;
    drilled.timeline.sort_by_key(|line| line.at);
    let facts = drilled.facts(options, checked);
    let (verdicts, figures) = (verdict::verdicts(&facts), facts.figures());
    world.stop()?;
    Ok(Outcome {
        options: options.clone(),
        samples: drilled.samples,
        looks: operator.looks,
        timeline: drilled.timeline,
        incidents: drilled.incidents,
        verdicts,
        figures,
        trouble: drilled.trouble,
        machine: [before, load_average()],
    })
}

/// What was seen.
struct Drilled {
    began: Beginning,
    samples: Vec<Sample>,
    book: Book,
    looks: Vec<Look>,
    looks_failed: u64,
    timeline: Vec<Line>,
    incidents: Vec<Incident>,
    healthy_until: Duration,
    trouble: (Duration, Duration),
    struck_at: Option<Duration>,
    caught_up: bool,
}

fn offer(options: &Options) -> Offer {
    Offer {
        rate: options.rate,
        sites: options.sites,
        users: options.users,
        seed: options.seed,
        deadline: options.deadline,
    }
}

async fn drive(
    options: &Options,
    world: &World,
    tell: &mut dyn FnMut(&Line),
) -> Result<(Drilled, Operator), DrillError> {
    let load = Load::connect(&world.data(), Some(world.control()), offer(options)).await?;
    let began = load.began();
    let mut operator = Operator::connect(&world.operations(), began).await?;
    if options.sabotage == Some(Sabotage::BreakerOff) {
        operator.force_closed().await.map_err(|status| DrillError::operator(&status))?;
    }
    let steps = options.scenario.steps(options.duration, options.no_fix);
    let mut drilled = Drilled {
        began,
        samples: Vec::new(),
        book: Book::default(),
        looks: Vec::new(),
        looks_failed: 0,
        timeline: Vec::new(),
        incidents: Vec::new(),
        healthy_until: steps.first().map_or(options.duration, |step| step.at),
        trouble: trouble(&steps, options.duration),
        struck_at: None,
        caught_up: false,
    };
    drilled.note("the clients begin; all is well", tell);
    let calls = tokio::task::spawn_local(Rc::clone(&load).run());
    let mut due = steps.iter().peekable();
    let ends = began.at + options.duration;
    let mut gives_up = ends + RECOVERY;
    let mut loading = true;
    loop {
        let now = Instant::now();
        if let Some(step) = due.peek().filter(|step| began.at + step.at <= now) {
            if step.is_fault {
                drilled.struck_at = Some(began.passed());
            }
            act(step, world, &load, &mut operator).await?;
            if !step.says.is_empty() {
                drilled.note(&step.says, tell);
            }
            due.next();
            continue;
        }
        if loading && now >= ends {
            loading = false;
            load.end();
            if options.scenario == Scenario::Poison {
                gives_up = now + PARKED;
            }
            drilled.note("the clients stop; what waits is applied", tell);
        }
        let quiet = drilled.look(&mut operator, tell).await;
        if !loading && (quiet || now >= gives_up) {
            drilled.caught_up = quiet;
            break;
        }
        let next = due.peek().map_or(now + LOOK_EVERY, |step| (began.at + step.at).min(now + LOOK_EVERY));
        tokio::time::sleep_until(tokio::time::Instant::from_std(next)).await;
    }
    // A call ends by its deadline; the clients' panics are ours.
    if let Err(error) = calls.await {
        return Err(DrillError::Operator(format!("the clients failed: {error}")));
    }
    drilled.samples = load.take_samples();
    drilled.book = load.take_book();
    load.settle(&mut drilled.book, SETTLING).await;
    (drilled.looks, drilled.looks_failed) = (operator.looks.clone(), operator.failed);
    Ok((drilled, operator))
}

/// From the fault to the last cure.
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
        Act::Rebuild => operator.rebuild().await.map_err(|status| DrillError::operator(&status))?,
    }
    Ok(())
}

impl Drilled {
    fn note(&mut self, says: &str, tell: &mut dyn FnMut(&Line)) {
        let line = Line { at: self.began.passed(), from: "drill", says: says.to_owned() };
        tell(&line);
        self.timeline.push(line);
    }

    /// Looks once. Answers whether nothing waits and nothing is wrong.
    async fn look(&mut self, operator: &mut Operator, tell: &mut dyn FnMut(&Line)) -> bool {
        let (status, news) = operator.look().await;
        for line in news {
            tell(&line);
            self.timeline.push(line);
        }
        status.is_some_and(|status| {
            status.backlog.is_none_or(|backlog| backlog.entries == 0) && status.incidents.is_empty()
        })
    }

    /// Waits until the restarted server has applied everything, and takes its incidents.
    async fn after_restart(
        &mut self,
        world: &World,
        earlier: &Operator,
        tell: &mut dyn FnMut(&Line),
    ) -> Result<(), DrillError> {
        let mut operator = Operator::connect(&world.operations(), self.began).await?;
        operator.take_over_from(earlier);
        let until = Instant::now() + RECOVERY;
        loop {
            self.caught_up = self.look(&mut operator, tell).await;
            if self.caught_up || Instant::now() >= until {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.incidents = operator.incidents().await.map_err(|status| DrillError::operator(&status))?;
        Ok(())
    }

    /// Reads every acknowledged write back.
    async fn check(&mut self, options: &Options, world: &World) -> Result<Checked, DrillError> {
        let reader = Load::connect(&world.data(), None, offer(options)).await?;
        let mut said = HashMap::new();
        for (site, user) in self.book.users() {
            // What cannot be read counts as lost.
            if let Ok(found) = reader.profile(site, user, Duration::from_secs(5)).await {
                said.insert((site, user), found);
            }
        }
        Ok(self.book.check(&said))
    }

    fn facts(&self, options: &Options, checked: Checked) -> Facts<'_> {
        let mut facts = Facts {
            expected: options.scenario.expected(),
            samples: &self.samples,
            began: self.began.wall.0,
            healthy_until: self.healthy_until,
            trouble: self.trouble,
            struck_at: self.struck_at,
            incidents: &self.incidents,
            checked,
            caught_up: self.caught_up,
            looks: &self.looks,
            looks_failed: self.looks_failed,
            deadline: options.deadline,
        };
        if options.scenario == Scenario::Poison {
            // Nobody can tell before that user is written to.
            let first =
                facts.during(Kind::Write).find(|sample| facts.is_sick(sample)).map(|sample| sample.at);
            facts.struck_at = facts.struck_at.max(first);
        }
        facts
    }
}
