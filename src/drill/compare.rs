//! Whether calls have got slower, on a machine that is never quite quiet. Pure.
//!
//! A 99th percentile of a few thousand calls is known only within bounds, and on a busy machine it doubles without
//! any fault. So calls to a **control** go on all the while at the same moments: a bare service that answers the same
//! messages beside the server and shares only the machine with it (its writes are synced to the same disk). A
//! percentile that rose is *broken* when even its lower bound is beyond the limit times what the machine may have
//! slowed the control by at most; it is *not judged* when it is beyond the limit, and chance or the machine may have
//! done it. A disturbance of the machine hits many calls in a row, so what it may have done is found by a bootstrap
//! over blocks of half a second, not over calls.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::samples::Sample;
use crate::bench::population::mix;

/// How much slower the 99th percentile may get.
pub const SLOWER: f64 = 1.2;
/// A process that uses so many times the CPU, and so many cores more, slows the control itself.
const OWN_CPU: (f64, f64) = (1.25, 0.1);

/// What lasts about as long as a disturbance of the machine.
const BLOCK: Duration = Duration::from_millis(500);
/// Rounds of the bootstrap.
const ROUNDS: usize = 200;

/// How something is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It was kept.
    Kept,
    /// It was broken.
    Broken,
    /// It was beyond its limit, and so was the machine: it cannot be told.
    Unclear,
    /// This drill does not try it.
    Untested,
}

impl Judgement {
    /// The judgement of something that is beyond its limit, unless the machine `excuses` it.
    pub fn beyond(excused: bool) -> Self {
        if excused { Self::Unclear } else { Self::Broken }
    }

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Broken => "BROKEN",
            Self::Unclear => "not judged",
            Self::Untested => "not tested",
        }
    }
}

/// The 99th percentile of some calls, and between what it lies at 19 in 20.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tail {
    /// How many calls.
    pub calls: usize,
    /// The percentile.
    pub p99: Duration,
    /// It is hardly less than this.
    pub least: Duration,
    /// It is hardly more than this.
    pub most: Duration,
}

/// The tail of some calls: order statistics two standard deviations of the binomial distribution apart.
pub fn tail<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Tail {
    let mut times: Vec<Duration> = samples.into_iter().map(|sample| sample.took).collect();
    times.sort_unstable();
    let calls = times.len() as f64;
    let (rank, spread) = (calls * 0.99, 2.0 * (calls * 0.99 * 0.01).sqrt());
    let at = |rank| at_rank(&times, rank);
    Tail { calls: times.len(), p99: at(rank), least: at(rank - spread), most: at(rank + spread) }
}

/// The same, of calls that were slow together: bounds by a bootstrap over blocks of time.
pub fn tail_of_blocks<'a>(samples: impl IntoIterator<Item = &'a Sample> + Clone) -> Tail {
    let whole = tail(samples.clone());
    let mut blocks: BTreeMap<u128, Vec<Duration>> = BTreeMap::new();
    for sample in samples {
        blocks.entry(sample.at.as_nanos() / BLOCK.as_nanos()).or_default().push(sample.took);
    }
    let blocks: Vec<Vec<Duration>> = blocks.into_values().collect();
    if blocks.len() < 2 {
        return whole;
    }
    let mut p99s: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let drawn =
                (0..blocks.len()).map(|n| mix((round * blocks.len() + n) as u64) as usize % blocks.len());
            let mut times: Vec<Duration> =
                drawn.filter_map(|block| blocks.get(block)).flatten().copied().collect();
            times.sort_unstable();
            at_rank(&times, times.len() as f64 * 0.99)
        })
        .collect();
    p99s.sort_unstable();
    let bound = |share: f64| at_rank(&p99s, ROUNDS as f64 * share);
    Tail { least: bound(0.025).min(whole.p99), most: bound(0.975).max(whole.p99), ..whole }
}

/// The value of this rank, from 1, of sorted times; the nearest one there is.
fn at_rank(times: &[Duration], rank: f64) -> Duration {
    let last = times.len().saturating_sub(1);
    times.get((rank.ceil().max(1.0) as usize - 1).min(last)).copied().unwrap_or_default()
}

/// Calls during a fault beside those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Before.
    pub before: Tail,
    /// During.
    pub during: Tail,
    /// How many times slower the control got.
    pub control: f64,
    /// How many times slower the machine alone may have made them.
    machine: f64,
}

impl Comparison {
    /// Compares; `control` and `cpu` (cores that this process used) are those before and during, too.
    pub fn new(before: Tail, during: Tail, control: (Tail, Tail), cpu: (f64, f64)) -> Self {
        let slowed = ratio(control.1.most, control.0.least);
        let control = ratio(control.1.p99, control.0.p99);
        let own = cpu.1 > cpu.0 * OWN_CPU.0 + OWN_CPU.1;
        let machine = if own { 1.0 } else { slowed.max(1.0) };
        Self { before, during, control, machine }
    }

    /// How many times slower the calls got.
    pub fn ratio(&self) -> f64 {
        ratio(self.during.p99, self.before.p99)
    }

    /// The judgement.
    pub fn judged(&self) -> Judgement {
        if self.before.calls == 0 || self.during.calls == 0 {
            return Judgement::Untested;
        }
        if self.ratio() <= SLOWER {
            return Judgement::Kept;
        }
        let surely = ratio(self.during.least, self.before.most);
        Judgement::beyond(surely <= SLOWER * self.machine)
    }

    /// In words.
    pub fn says(&self) -> String {
        use super::verdict::millis;
        let mut says = format!(
            "p99 {} during the fault, {} before: {:.2}x (limit {SLOWER}x; a bare service beside it {:.2}x)",
            millis(self.during.p99),
            millis(self.before.p99),
            self.ratio(),
            self.control
        );
        if self.judged() == Judgement::Unclear {
            let _ = write!(
                says,
                "; of {} and {} calls it is at least {:.2}x, and the machine may have slowed the bare service by up \
                 to {:.1}x",
                self.during.calls,
                self.before.calls,
                ratio(self.during.least, self.before.most),
                self.machine
            );
        }
        says
    }
}

fn ratio(during: Duration, before: Duration) -> f64 {
    during.as_secs_f64() / before.as_secs_f64().max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Answer, Kind};
    use super::*;

    /// Calls of which one in a hundred, and a few more, takes `slow` ms, the others 1 ms.
    fn calls(number: u32, slow: u64) -> Tail {
        let samples: Vec<Sample> = (0..number)
            .map(|n| Sample {
                at: Duration::ZERO,
                took: Duration::from_millis(if n % 50 == 0 { slow } else { 1 }),
                kind: Kind::Read,
                site: 0,
                user: 0,
                answer: Answer::Done,
            })
            .collect();
        tail(&samples)
    }

    const IDLE: (f64, f64) = (0.5, 0.5);

    #[test]
    fn a_percentile_lies_within_its_bounds() {
        let samples: Vec<Sample> = (1..=10_000)
            .map(|n| Sample {
                at: Duration::ZERO,
                took: Duration::from_millis(n),
                kind: Kind::Read,
                site: 0,
                user: 0,
                answer: Answer::Done,
            })
            .collect();
        let tail = tail(&samples);
        let millis = [tail.least, tail.p99, tail.most].map(|time| time.as_millis());
        assert_eq!(millis, [9881, 9900, 9920]);
        assert_eq!(super::tail(&[]), Tail::default());
    }

    #[test]
    fn a_disturbance_widens_the_bounds_of_blocks() {
        let calls = |disturbed: bool| -> Vec<Sample> {
            let call = |n: u64| Sample {
                at: Duration::from_millis(n * 10),
                took: Duration::from_millis(if disturbed && n < 50 { 80 } else { 1 + n % 2 }),
                kind: Kind::ControlRead,
                site: 0,
                user: 0,
                answer: Answer::Done,
            };
            (0..1000).map(call).collect()
        };
        let calm = tail_of_blocks(&calls(false));
        assert_eq!([calm.least, calm.most].map(|time| time.as_millis()), [2, 2]);
        // One block of twenty: it may as well have been none.
        let disturbed = tail_of_blocks(&calls(true));
        assert_eq!([disturbed.least, disturbed.p99, disturbed.most].map(|t| t.as_millis()), [2, 80, 80]);
        assert_eq!(tail_of_blocks(&[]), Tail::default());
    }

    #[test]
    fn what_the_control_does_not_share_is_broken() {
        let (calm, slow) = (calls(3000, 10), calls(3000, 30));
        let judged = |during, control, cpu| Comparison::new(calm, during, control, cpu).judged();
        assert_eq!(judged(calls(3000, 11), (calm, calm), IDLE), Judgement::Kept);
        assert_eq!(judged(slow, (calm, calm), IDLE), Judgement::Broken);
        // The machine got three times slower, and nobody knows by what.
        assert_eq!(judged(slow, (calm, slow), IDLE), Judgement::Unclear);
        // The server did it.
        assert_eq!(judged(slow, (calm, slow), (0.5, 1.5)), Judgement::Broken);
        // Worse than the machine.
        assert_eq!(judged(calls(3000, 90), (calm, slow), IDLE), Judgement::Broken);
        assert_eq!(judged(Tail::default(), (calm, slow), IDLE), Judgement::Untested);
    }

    #[test]
    fn what_chance_may_do_is_not_broken() {
        let (before, during) = (calls(60, 10), calls(60, 13));
        let compared = Comparison::new(before, Tail { least: before.most, ..during }, (before, before), IDLE);
        assert_eq!(compared.judged(), Judgement::Unclear);
        assert!(compared.says().contains("1.30x (limit 1.2x"), "{}", compared.says());
    }
}
