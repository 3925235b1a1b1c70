//! A node in this process, called over gRPC, above a store whose speed is known: what waits is caught up with
//! under live traffic; and a store on which the writer hangs is replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use steadfast::app::{App, Layers};
use steadfast::breaker::{Event, Listener, Phase};
use steadfast::config::Config;
use steadfast::proto::{self, Outcome, Wait};
use steadfast::serve::Listeners;
use steadfast::store::{Call, Operation, StoreError, WorkerHook};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::orders::{Operator, Task};
use crate::support::{Client, add, applied, channel, get, identify, number};

const LONG: Duration = Duration::from_mins(2);

struct Node {
    app: App,
    client: Client,
    operator: Operator,
    events: UnboundedReceiver<Event>,
    /// The states of the applier's breaker so far.
    seen: Vec<Phase>,
}

struct Tell(UnboundedSender<Event>);

impl Listener for Tell {
    fn event(&self, event: &Event) {
        // The test may be over.
        let _ = self.0.send(event.clone());
    }
}

fn config(dir: &tempfile::TempDir) -> Config {
    let mut config = Config::ephemeral(dir.path());
    config.journal.segment.0 = 4 << 20;
    config.writes.reply_after.0 = LONG;
    config.server.drain_timeout.0 = Duration::from_secs(2);
    config
}

async fn start(config: Config, hook: Option<Arc<dyn WorkerHook>>) -> Node {
    let starting = tokio::task::spawn_blocking(move || {
        let listeners = Listeners::bind(&config.server).unwrap();
        App::start_with(listeners, &config, &Layers { hook, ..Layers::default() }).unwrap()
    });
    let app = starting.await.unwrap();
    let (sender, events) = unbounded_channel();
    app.core().guard.events().attach(Tell(sender));
    let client = Client::new(channel(app.data_address).await);
    let operator = Operator::new(channel(app.operations_address).await);
    Node { app, client, operator, events, seen: Vec::new() }
}

impl Node {
    fn look(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.note(&event);
        }
    }

    fn note(&mut self, event: &Event) {
        if let Event::Transition { scope, to, .. } = event
            && scope.to_string() == "apply"
        {
            self.seen.push(*to);
        }
    }

    async fn until(&mut self, phase: Phase) {
        while self.seen.last() != Some(&phase) {
            let event = tokio::time::timeout(LONG, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("it does not become {phase:?}: {:?}", self.seen));
            self.note(&event.unwrap());
        }
    }

    fn waiting(&self) -> usize {
        self.app.core().shared.sites.all().iter().map(|site| site.lane.lock().waiting()).sum()
    }

    async fn idle(&self) {
        let give_up = Instant::now() + LONG;
        while self.waiting() > 0 {
            assert!(Instant::now() < give_up, "{} entries still wait", self.waiting());
            tokio::task::yield_now().await;
        }
    }

    /// A visit of each of these users, kept and not waited for.
    async fn visited(&mut self, users: std::ops::Range<usize>) {
        let requests = users.map(|user| {
            let (site, user) = place(user);
            proto::IdentifyRequest { site, wait: Wait::Journaled.into(), ..add(&user, "visits", 1.0) }
        });
        let requests: Vec<_> = requests.collect();
        for requests in requests.chunks(1_000) {
            let many = proto::IdentifyManyRequest { requests: requests.to_vec() };
            assert_eq!(self.client.identify_many(many).await.unwrap().into_inner().failed, 0);
        }
    }

    async fn stop(self) {
        let Self { app, client, operator, .. } = self;
        drop((client, operator));
        tokio::task::spawn_blocking(move || app.drain().unwrap()).await.unwrap();
    }
}

fn place(user: usize) -> (String, String) {
    (format!("s{}", user % SITES), format!("u{user}"))
}

const SITES: usize = 3;

/// A store that commits once a beat at most.
struct Metronome {
    state: Mutex<Beats>,
    changed: Condvar,
}

#[derive(Default)]
struct Beats {
    /// Since the beginning.
    all: u64,
    /// Of these: not used yet.
    saved: u64,
    hangs: bool,
    /// There is always something to commit: a beat that is not used is the machine's doing, not the store's.
    busy: bool,
    over: bool,
}

/// A thread that is late for a moment does not make the store slower than it is.
const SAVED: u64 = 8;
const BEAT: Duration = Duration::from_millis(10);
const ENTRIES_A_BEAT: u32 = 40;

impl Metronome {
    fn start() -> (Arc<Self>, JoinHandle<()>) {
        let metronome = Arc::new(Self { state: Mutex::default(), changed: Condvar::new() });
        let beats = Arc::clone(&metronome);
        let thread = std::thread::spawn(move || {
            let mut state = beats.state.lock();
            while !state.over {
                // Another second lasts longer on a machine that cannot keep up: then so does the store's.
                if !state.busy || state.saved < SAVED {
                    state.all += 1;
                    state.saved = (state.saved + 1).min(SAVED);
                    beats.changed.notify_all();
                }
                beats.changed.wait_while_for(&mut state, |state| !state.over, BEAT);
            }
        });
        (metronome, thread)
    }

    fn set(&self, change: impl FnOnce(&mut Beats)) -> u64 {
        let mut state = self.state.lock();
        change(&mut state);
        self.changed.notify_all();
        state.all
    }
}

impl WorkerHook for Metronome {
    fn before(&self, call: &Call) -> Result<(), StoreError> {
        if call.operation == Operation::Commit {
            let mut state = self.state.lock();
            self.changed.wait_while(&mut state, |state| !state.over && (state.hangs || state.saved == 0));
            state.saved = state.saved.saturating_sub(1);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_caught_up_with_while_three_fifths_of_what_the_store_can_do_come_in() {
    const USERS: usize = 6_000;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    config.applier.commit_entries = ENTRIES_A_BEAT;
    let (metronome, thread) = Metronome::start();
    let mut node = start(config, Some(Arc::<Metronome>::clone(&metronome))).await;
    metronome.set(|state| state.hangs = true);
    node.visited(0..1).await;
    node.until(Phase::Open).await;
    node.visited(1..USERS).await;
    assert_eq!(node.waiting(), USERS);
    let mut live = 0;
    let mut beats = metronome.set(|state| state.hangs = false);
    let mut most = USERS;
    loop {
        node.look();
        let waiting = node.waiting();
        most = most.max(waiting);
        let closed = node.seen.last() == Some(&Phase::Closed);
        // No more than has come since each of the lanes had its turn.
        if closed && waiting <= SITES * ENTRIES_A_BEAT as usize {
            break;
        }
        let now = metronome.set(|state| state.busy = closed);
        let due = (now - beats) as usize * ENTRIES_A_BEAT as usize * 3 / 5;
        beats = now;
        node.visited(live..live + due).await;
        live += due;
        tokio::task::yield_now().await;
    }
    println!("{USERS} waited, {most} at most; gone after {beats} beats, when {live} more had come");
    metronome.set(|state| state.busy = false);
    assert!(live > 1_000, "{live}");
    node.idle().await;
    node.look();
    assert_eq!(node.seen, [Phase::Open, Phase::HalfOpen, Phase::Recovering, Phase::Closed]);
    for user in (0..USERS.max(live)).step_by(37) {
        let (site, name) = place(user);
        let profile = get(&mut node.client, &site, &name).await.unwrap();
        let visits = usize::from(user < USERS) + usize::from(user < live);
        assert_eq!((profile.attributes["visits"].clone(), profile.pending), (number(visits as f64), None));
    }
    metronome.set(|state| state.over = true);
    thread.join().unwrap();
    node.stop().await;
}

/// Hangs in the first commit after it was told to, and in no other.
#[derive(Default)]
struct HangOnce {
    armed: AtomicBool,
    hangs: Mutex<bool>,
    over: Condvar,
}

impl WorkerHook for HangOnce {
    fn before(&self, call: &Call) -> Result<(), StoreError> {
        if call.operation == Operation::Commit && self.armed.swap(false, Ordering::SeqCst) {
            let mut hangs = self.hangs.lock();
            *hangs = true;
            self.over.wait_while(&mut hangs, |hangs| *hangs);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_which_the_writer_hangs_is_replaced_and_nothing_is_lost() {
    const USERS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    let hook = Arc::new(HangOnce::default());
    let mut node = start(config.clone(), Some(Arc::<HangOnce>::clone(&hook))).await;
    // Applied before it hangs.
    node.visited(0..USERS).await;
    node.idle().await;
    hook.armed.store(true, Ordering::SeqCst);
    node.visited(0..USERS).await;
    node.until(Phase::Open).await;
    let deferred = identify(&mut node.client, add("d", "visits", 1.0)).await.unwrap();
    assert_eq!(deferred.outcome(), Outcome::Deferred);
    node.visited(0..USERS).await;

    let rebuild = Task::Rebuild(None);
    rebuild.begin(&mut node.operator).await.unwrap();
    // While it is built, and after.
    for _ in 0..5 {
        node.visited(0..USERS).await;
    }
    rebuild.ended(&mut node.operator).await;
    node.until(Phase::Closed).await;
    node.idle().await;
    assert!(*hook.hangs.lock(), "the old writer hangs on");
    assert_eq!(applied(&mut node.client, add("d", "visits", 1.0)).await.version, Some(2));
    check(&mut node.client, USERS).await;
    // It comes back, to a store that nobody uses any more.
    *hook.hangs.lock() = false;
    hook.over.notify_all();
    check(&mut node.client, USERS).await;
    assert_eq!(node.app.core().switch.in_use().map(|store| store.number), Some(2));
    node.stop().await;
    let mut node = start(config, None).await;
    check(&mut node.client, USERS).await;
    node.stop().await;
}

async fn check(client: &mut Client, users: usize) {
    for user in 0..users {
        let (site, name) = place(user);
        let profile = get(client, &site, &name).await.unwrap();
        assert_eq!((profile.attributes["visits"].clone(), profile.pending), (number(8.0), None), "{name}");
    }
}
