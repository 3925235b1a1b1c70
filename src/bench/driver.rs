//! Drives calls: slots on single-threaded runtimes, in closed or open loop.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use smallvec::smallvec;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::bench::BenchError;
use crate::bench::machine::{self, Usage};
use crate::bench::measure::{Label, Measurement, OperationName, Times, Window};
use crate::bench::plan::{Client, Pace, Plan, Target};
use crate::bench::schedule::{Schedule, turns};

/// Between the last thread being connected and the first call.
const RUN_UP: Duration = Duration::from_millis(20);
/// The pacer sleeps no shorter: waking for every single call would cost more than the calls.
const PACER_NAP: Duration = Duration::from_micros(50);
/// The pacer sleeps no longer, so that it ends with the window.
const PACER_LONGEST_NAP: Duration = Duration::from_millis(100);

/// A measurement and what it cost.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Latencies and counts of all threads.
    pub measurement: Measurement,
    /// Whether it ended because [`Plan::requests`] had been made.
    pub ran_out: bool,
    /// What the generator used in the window.
    pub generator: Option<Usage>,
    /// What the server used in the window.
    pub server: Option<Usage>,
}

/// What the slots of all threads share.
struct Shared {
    plan: Plan,
    /// Calls made in closed loop.
    calls: AtomicU64,
    /// Of them, measured ones.
    measured: AtomicU64,
    /// In open loop: one permit for each call that is due, by thread.
    due: Vec<Semaphore>,
}

/// What the slots of one thread share.
struct Lane {
    shared: Arc<Shared>,
    thread: usize,
    window: Window,
    measurement: RefCell<Measurement>,
    /// By slot: the call that is in flight, and since when.
    in_flight: RefCell<Vec<Option<(OperationName, Instant)>>>,
    /// Calls of the open-loop schedule that were taken by this thread.
    taken: Cell<u64>,
}

/// Drives `target` by `plan`.
pub fn run<T: Target>(target: T, plan: &Plan, server_pid: Option<u32>) -> Result<Measured, BenchError> {
    plan.check()?;
    let threads = plan.threads.min(plan.connections);
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        calls: AtomicU64::new(0),
        measured: AtomicU64::new(0),
        due: (0..threads).map(|_| Semaphore::new(0)).collect(),
    });
    let target = Arc::new(target);
    let (ready, connected) = mpsc::channel();
    let mut workers = Vec::new();
    for thread in 0..threads {
        let (shared, target, ready) = (Arc::clone(&shared), Arc::clone(&target), ready.clone());
        let (go, start) = mpsc::channel();
        let work = move || work(&*target, &shared, thread, &ready, &start);
        let name = format!("bench-{thread}");
        let handle = thread::Builder::new().name(name).spawn(work).map_err(BenchError::io("thread"))?;
        workers.push((handle, go));
    }
    drop(ready);
    for _ in 0..threads {
        // The other threads end when their `go` is dropped.
        connected.recv().map_err(|_| BenchError::Panicked)??;
    }
    let start = Instant::now() + RUN_UP;
    let begin = start + plan.warm_up;
    let window = Window { start, begin, end: begin + plan.duration };
    for (_, go) in &workers {
        go.send(window).map_err(|_| BenchError::Panicked)?;
    }
    let pacer = match plan.pace {
        Pace::Closed => None,
        Pace::Open(schedule) => {
            let shared = Arc::clone(&shared);
            let name = "bench-pacer".to_owned();
            let pace = move || pace(&shared, schedule, window);
            Some(thread::Builder::new().name(name).spawn(pace).map_err(BenchError::io("thread"))?)
        }
    };
    let sample = || (Usage::of(machine::own_pid()), server_pid.and_then(Usage::of));
    thread::sleep(begin.saturating_duration_since(Instant::now()));
    let before = sample();
    let mut measurement = Measurement::new(window);
    if plan.requests.is_none() {
        thread::sleep(window.end.saturating_duration_since(Instant::now()));
    }
    // With a number of requests the end is only known when it is there.
    let early = plan.requests.is_none().then(sample);
    for (handle, _) in workers {
        measurement.merge(handle.join().map_err(|_| BenchError::Panicked)??);
    }
    if let Some(pacer) = pacer {
        pacer.join().map_err(|_| BenchError::Panicked)?;
    }
    let after = early.unwrap_or_else(sample);
    let since = |before: Option<Usage>, after: Option<Usage>| Some(after?.since(before?));
    let ran_out = plan.requests.is_some_and(|most| shared.measured.load(Ordering::Relaxed) >= most);
    let (generator, server) = (since(before.0, after.0), since(before.1, after.1));
    Ok(Measured { measurement, ran_out, generator, server })
}

/// One thread: connects, says so, waits for the start, and drives its slots.
fn work<T: Target>(
    target: &T,
    shared: &Arc<Shared>,
    thread: usize,
    ready: &mpsc::Sender<Result<(), BenchError>>,
    start: &mpsc::Receiver<Window>,
) -> Result<Measurement, BenchError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(BenchError::io("runtime"))?;
    let local = LocalSet::new();
    let threads = shared.due.len();
    let connections = turns(shared.plan.connections as u64, thread as u64, threads as u64);
    let connect = async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(Rc::new(target.connect().await?));
        }
        Ok(clients)
    };
    let clients = match local.block_on(&runtime, connect) {
        Ok(clients) => clients,
        Err(error) => {
            // Nobody listens any more if another thread failed first.
            let _ = ready.send(Err(error));
            return Err(BenchError::Panicked);
        }
    };
    let _ = ready.send(Ok(()));
    let Ok(window) = start.recv() else { return Err(BenchError::Panicked) };
    let slots = turns(shared.plan.in_flight as u64, thread as u64, threads as u64) as usize;
    let lane = Rc::new(Lane {
        shared: Arc::clone(shared),
        thread,
        window,
        measurement: RefCell::new(Measurement::new(window)),
        in_flight: RefCell::new(vec![None; slots]),
        taken: Cell::new(0),
    });
    local.block_on(&runtime, lane.drive(&clients, slots));
    Ok(lane.measurement.borrow().clone())
}

impl Lane {
    async fn drive<C: Client>(self: &Rc<Self>, clients: &[Rc<C>], slots: usize) {
        let mut running = JoinSet::new();
        for (slot, client) in clients.iter().cycle().take(slots).enumerate() {
            let (lane, client) = (Rc::clone(self), Rc::clone(client));
            match self.shared.plan.pace {
                Pace::Closed => running.spawn_local(async move { lane.closed(slot, &*client).await }),
                Pace::Open(schedule) => {
                    running.spawn_local(async move { lane.open(slot, &*client, schedule).await })
                }
            };
        }
        let last = tokio::time::Instant::from_std(self.window.end + self.shared.plan.grace);
        let all = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout_at(last, all).await.is_err() {
            running.abort_all();
            self.count_unanswered();
        }
    }

    /// Calls again and again until the window or the requests end.
    async fn closed<C: Client>(&self, slot: usize, client: &C) {
        tokio::time::sleep_until(tokio::time::Instant::from_std(self.window.start)).await;
        loop {
            let now = Instant::now();
            if now >= self.window.end || (now >= self.window.begin && !self.take_request()) {
                return;
            }
            let n = self.shared.calls.fetch_add(1, Ordering::Relaxed);
            if self.call(slot, client, n, None).await.broken {
                return;
            }
        }
    }

    /// Whether another measured call may be made.
    fn take_request(&self) -> bool {
        let Some(most) = self.shared.plan.requests else { return true };
        self.shared.measured.fetch_add(1, Ordering::Relaxed) < most
    }

    /// Makes the calls that are due, as many as this slot gets hold of.
    async fn open<C: Client>(&self, slot: usize, client: &C, schedule: Schedule) {
        let Some(due) = self.shared.due.get(self.thread) else { return };
        let threads = self.shared.due.len() as u64;
        loop {
            let Ok(permit) = due.acquire().await else { return };
            permit.forget();
            let n = self.taken.get() * threads + self.thread as u64;
            if n >= self.shared.plan.scheduled(schedule) {
                return;
            }
            self.taken.set(self.taken.get() + 1);
            if self.shared.plan.requests.is_some() && schedule.offset(n) >= self.shared.plan.warm_up {
                self.shared.measured.fetch_add(1, Ordering::Relaxed);
            }
            let intended = self.window.start + schedule.offset(n);
            if self.call(slot, client, n, Some(intended)).await.broken {
                return;
            }
        }
    }

    async fn call<C: Client>(&self, slot: usize, client: &C, n: u64, intended: Option<Instant>) -> Ended {
        let operation = client.operation(n);
        let started = Instant::now();
        let intended = intended.unwrap_or(started);
        self.mark(slot, Some((operation, intended)));
        let answer = client.call(n).await;
        let times = Times { intended, started, done: Instant::now() };
        self.mark(slot, None);
        self.measurement.borrow_mut().record(operation, times, answer.items, answer.outcomes);
        Ended { broken: answer.broken }
    }

    fn mark(&self, slot: usize, call: Option<(OperationName, Instant)>) {
        if let Some(entry) = self.in_flight.borrow_mut().get_mut(slot) {
            *entry = call;
        }
    }

    /// What is still in flight after the grace is as slow as it is old, and an error.
    fn count_unanswered(&self) {
        let done = Instant::now();
        for (operation, intended) in self.in_flight.borrow().iter().flatten() {
            let times = Times { intended: *intended, started: *intended, done };
            let outcomes = smallvec![(Label::Bad("UNANSWERED".into()), 1)];
            self.measurement.borrow_mut().record(operation, times, 1, outcomes);
        }
    }
}

struct Ended {
    broken: bool,
}

/// Hands out a permit for each call when it is due. A thread of its own: runtimes sleep by the millisecond.
fn pace(shared: &Shared, schedule: Schedule, window: Window) {
    let all = shared.plan.scheduled(schedule);
    let threads = shared.due.len() as u64;
    let mut released = 0;
    thread::sleep(window.start.saturating_duration_since(Instant::now()));
    while released < all {
        let after = Instant::now().saturating_duration_since(window.start);
        let due = schedule.due(after).min(all);
        for (thread, permits) in (0..).zip(&shared.due) {
            let more = turns(due, thread, threads) - turns(released, thread, threads);
            permits.add_permits(more as usize);
        }
        released = due;
        let nap = schedule.offset(released).saturating_sub(after);
        thread::sleep(nap.clamp(PACER_NAP, PACER_LONGEST_NAP));
    }
    // Wakes every slot that waits, to see that there is nothing left.
    for permits in &shared.due {
        permits.add_permits(shared.plan.in_flight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::MAX_IN_FLIGHT;
    use crate::bench::plan::Answer;

    struct Echo;
    impl Target for Echo {
        type Client = Self;
        async fn connect(&self) -> Result<Self, BenchError> {
            Ok(Self)
        }
    }
    impl Client for Echo {
        fn operation(&self, _: u64) -> OperationName {
            "Echo"
        }
        async fn call(&self, _: u64) -> Answer {
            tokio::task::yield_now().await;
            Answer::one(Label::Good("OK"))
        }
    }

    fn plan(pace: Pace, requests: u64) -> Plan {
        Plan {
            connections: 2,
            in_flight: 4,
            threads: 2,
            pace,
            warm_up: Duration::ZERO,
            duration: Duration::from_mins(1),
            requests: Some(requests),
            grace: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_closed_loop_makes_as_many_calls_as_asked() {
        let measured = run(Echo, &plan(Pace::Closed, 1000), None).unwrap();
        assert!(measured.ran_out);
        assert_eq!(measured.measurement.operations["Echo"].latency.len(), 1000);
        assert_eq!(measured.measurement.errors(), 0);
    }

    #[test]
    fn an_open_loop_makes_every_scheduled_call_once() {
        let pace = Pace::Open(Schedule::new(100_000.0).unwrap());
        let measured = run(Echo, &plan(pace, 501), None).unwrap();
        assert!(measured.ran_out);
        assert_eq!(measured.measurement.operations["Echo"].latency.len(), 501);
    }

    #[test]
    fn plans_out_of_bounds_are_refused() {
        let good = plan(Pace::Closed, 1);
        for bad in [
            Plan { connections: 0, ..good.clone() },
            Plan { in_flight: 1, ..good.clone() },
            Plan { in_flight: MAX_IN_FLIGHT + 1, ..good.clone() },
            Plan { threads: 0, ..good.clone() },
        ] {
            assert!(matches!(run(Echo, &bad, None), Err(BenchError::Setting(_))));
        }
    }
}
