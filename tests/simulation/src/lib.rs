//! The breaker against simulated backends, sick and healthy: the registry, its scopes, their tokens and ticks
//! as the server uses them, on a clock that is moved by hand. Each run is fixed by its seed.
//!
//! Calls come in two shapes: by chance and each for itself, as reads do; and one at a time, each with all
//! that has come meanwhile, as the applier's commits do.

#![forbid(unsafe_code)]

#[path = "../../../src/breaker/mod.rs"]
pub mod breaker;

mod backend;
mod calls;
mod judge;
mod random;

use backend::Backend;
use breaker::{Rule, Settings};
use judge::Judge;
use random::Random;

/// Microseconds on the simulation's clock.
type Micros = u64;
const SECOND: f64 = 1e6;

/// How calls come to the backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Each for itself.
    Concurrent,
    /// One writer takes what waits, up to 256 entries, a commit at a time.
    Serial,
}

/// A backend that is well for five seconds, and then no longer.
#[derive(Clone, Copy, Debug)]
pub struct Sick {
    pub shape: Shape,
    /// Calls, or entries, a second.
    pub rate: f64,
    /// Which part of the calls suffers.
    pub share: f64,
    /// How much longer each of these takes, in seconds; for ever, if infinite.
    pub extra: f64,
}

/// A backend that has slow calls and worse, but works.
#[derive(Clone, Copy, Debug)]
pub struct Healthy {
    pub shape: Shape,
    /// Calls, or entries, a second.
    pub rate: f64,
    /// Which part of the calls is slow: from 250 ms up to `slowest` seconds.
    pub slow: f64,
    pub slowest: f64,
    /// Each minute everything stands still for 100 to 300 ms.
    pub stalls: bool,
    /// Every ten seconds it is called at twenty times the rate for 300 ms, and queues.
    pub bursts: bool,
    /// With a breaker each, below that of all; 0: only that.
    pub sites: usize,
}

/// What opened a breaker, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Trip {
    pub scope: String,
    pub rule: Rule,
    /// Seconds since the backend became sick; if it never did, since the beginning.
    pub after: f64,
    /// Seconds since the first call that suffered.
    pub after_first: f64,
}

const SICK_FROM: f64 = 5.0;
/// Whoever has not been noticed by then is not noticed.
const GIVE_UP: f64 = 120.0;

/// When a sick backend is noticed.
pub fn until_trip(sick: &Sick, seed: u64) -> Option<Trip> {
    let mut random = Random::new(seed);
    // Anywhere between two ticks.
    let from = SICK_FROM + random.between(0.0, 0.025);
    let mut backend = Backend::sick(sick, from);
    let trip = run(sick.shape, 0, &mut random, &mut backend, GIVE_UP)?;
    let first = backend.first_struck.unwrap_or(trip.after);
    Some(Trip { after: trip.after - from, after_first: trip.after - first, ..trip })
}

/// Whether a healthy backend is mistaken for a sick one within `hours`.
pub fn false_trip(healthy: &Healthy, hours: f64, seed: u64) -> Option<Trip> {
    let mut backend = Backend::healthy(healthy);
    run(healthy.shape, healthy.sites, &mut Random::new(seed), &mut backend, hours * 3_600.0)
}

fn run(shape: Shape, sites: usize, random: &mut Random, backend: &mut Backend, seconds: f64) -> Option<Trip> {
    let until = (seconds * SECOND) as Micros;
    match shape {
        Shape::Concurrent => calls::concurrent(Judge::new(Settings::reads(), sites), random, backend, until),
        Shape::Serial => calls::serial(Judge::new(Settings::writes(), sites), random, backend, until),
    }
}
