//! Calls that come, run and end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::backend::Backend;
use crate::breaker::{CallToken, Outcome, Role};
use crate::judge::{Judge, micros, seconds};
use crate::random::Random;
use crate::{Micros, Trip};

/// What an applier commits at most at once.
const TURN: usize = 256;

/// The calls that run, in the order in which they end.
#[derive(Default)]
struct Running {
    ends: BinaryHeap<Reverse<(Micros, usize)>>,
    tokens: Vec<Option<CallToken>>,
    free: Vec<usize>,
}

impl Running {
    fn push(&mut self, end: Micros, token: CallToken) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.tokens.push(None);
            self.tokens.len() - 1
        });
        self.tokens[slot] = Some(token);
        self.ends.push(Reverse((end, slot)));
    }

    fn end_until(&mut self, now: Micros) {
        while let Some(&Reverse((end, slot))) = self.ends.peek()
            && end <= now
        {
            self.ends.pop();
            self.free.push(slot);
            self.tokens[slot].take().expect("it runs").finished(Outcome::Good);
        }
    }
}

/// Each call for itself.
pub fn concurrent(
    mut judge: Judge,
    random: &mut Random,
    backend: &mut Backend,
    until: Micros,
) -> Option<Trip> {
    let mut running = Running::default();
    let mut arrival = backend.next(random, 0.0);
    loop {
        let now = judge.next_tick.min(micros(arrival));
        if now >= until {
            return None;
        }
        running.end_until(now);
        if now == judge.next_tick {
            if let Some(trip) = judge.tick() {
                return Some(trip);
            }
            continue;
        }
        // Nothing has tripped yet: all pass.
        let mut token = judge.any(random).admit(Role::Caller, 1).expect("closed");
        token.started();
        running.push(micros(backend.end(random, arrival, 1)), token);
        arrival = backend.next(random, arrival);
    }
}

/// One commit at a time, of what waits.
pub fn serial(mut judge: Judge, random: &mut Random, backend: &mut Backend, until: Micros) -> Option<Trip> {
    let mut waiting = 0;
    let mut commit: Option<(Micros, CallToken)> = None;
    let mut arrival = backend.next(random, 0.0);
    loop {
        let end = commit.as_ref().map_or(Micros::MAX, |(end, _)| *end);
        let now = judge.next_tick.min(micros(arrival)).min(end);
        if now >= until {
            return None;
        }
        if now == end {
            if let Some((_, token)) = commit.take() {
                token.finished(Outcome::Good);
            }
        } else if now == judge.next_tick {
            if let Some(trip) = judge.tick() {
                return Some(trip);
            }
            continue;
        } else {
            waiting += 1;
            arrival = backend.next(random, arrival);
        }
        if commit.is_none() && waiting > 0 {
            let entries = waiting.min(TURN);
            waiting -= entries;
            let mut token = judge.any(random).admit(Role::Background, entries as u32).expect("closed");
            token.started();
            commit = Some((micros(backend.end(random, seconds(now), entries)), token));
        }
    }
}
