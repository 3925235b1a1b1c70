//! What goes wrong, and when. Times are shares of the drill's length, so that a longer drill is the same one.

use std::time::Duration;

use crate::model::{Site, User};
use crate::store::faulty::{Fault, FaultKind, FaultLevel};
use crate::store::{Operation, StoreError};

/// The disturbances that can be drilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// As in 2020: write latency rises, then all writes hang, then the fix (or, with --no-fix, a rebuilt store)
    Outage,
    /// All writes hang at once
    Hang,
    /// One site's writes take 2 s each; its neighbours must not notice
    SlowSite,
    /// All writes take 600 ms longer each
    SlowAll,
    /// All writes fail
    Errors,
    /// Writes hang for a while, again and again
    Flapping,
    /// The journal's disk stands still for a while
    JournalStall,
    /// The store fails on one user
    Poison,
    /// The store never comes back: it is rebuilt under live traffic
    HungForGood,
    /// Short stalls, as a healthy disk has them: nothing must happen
    StallsNoFault,
    /// Bursts of writes on a healthy store: nothing must happen
    BurstsNoFault,
}

/// What is done at a moment.
#[derive(Clone, Debug)]
pub enum Act {
    /// These faults strike from now on, and no others.
    Faults(Vec<Fault>),
    /// The faults go; calls that hang in them go on.
    Fix,
    /// The journal's disk stands still.
    FreezeJournal,
    /// The journal's disk goes on.
    ThawJournal,
    /// The operator has the store rebuilt.
    Rebuild,
    /// So many times the usual load.
    Load(f64),
}

/// A moment.
#[derive(Clone, Debug)]
pub struct Step {
    /// How long after the start.
    pub at: Duration,
    /// What is done.
    pub act: Act,
    /// In words.
    pub says: String,
    /// Whether this is what the server has to notice.
    pub is_fault: bool,
}

/// What may be expected of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// An incident must be recorded.
    pub incident: bool,
    /// It must be detected within so long after the fault.
    pub within: Duration,
    /// Whether it may be detected before the fault that is waited for: there were signs.
    pub announced: bool,
    /// Whether the load is the same all the time.
    pub same_load: bool,
    /// What is sick.
    pub sick: Sick,
}

/// How wide a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sick {
    /// The whole store.
    Store,
    /// One site.
    Site,
    /// One user.
    User,
    /// Not the store, but the journal.
    Journal,
}

/// The site that is sick where one is, and the user.
pub const SICK_SITE: &str = "site-0";
/// The user that is sick where one is.
pub const SICK_USER: &str = "user-0";

impl Scenario {
    /// Its name on the command line.
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it is, in a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Self::Outage => "write latency rises, then every write hangs, as in April 2020",
            Self::Hang => "every write hangs at once",
            Self::SlowSite => "the writes of one site of several take 2 s each",
            Self::SlowAll => "every write takes 600 ms longer",
            Self::Errors => "every write fails",
            Self::Flapping => "writes hang again and again",
            Self::JournalStall => "the journal's disk stands still",
            Self::Poison => "the store fails on one user and on nobody else",
            Self::HungForGood => "every write hangs and the store never comes back",
            Self::StallsNoFault => "short stalls of a healthy disk",
            Self::BurstsNoFault => "bursts of writes on a healthy store",
        }
    }

    /// Whether faults strike single calls, as a backend behaves that isolates sites; otherwise they hold up the
    /// store's own writer.
    pub fn strikes_calls(self) -> bool {
        matches!(self, Self::SlowSite | Self::Poison)
    }

    /// What may be expected.
    pub fn expected(self) -> Expected {
        let within = Duration::from_secs(1);
        let usual = Expected { incident: true, within, announced: false, same_load: true, sick: Sick::Store };
        match self {
            Self::Outage => Expected { announced: true, ..usual },
            Self::Hang | Self::HungForGood | Self::Flapping | Self::Errors => usual,
            Self::SlowSite => Expected { sick: Sick::Site, ..usual },
            // 600 ms a commit is no stall: each one ends. It takes nine slow ones in a row to tell it from a healthy
            // store, and one writer gives one verdict at a time: 5.1 s.
            Self::SlowAll => Expected { within: Duration::from_secs(6), ..usual },
            // The limit of the journal's watch is 1 s; it looks ten times a second.
            Self::JournalStall => {
                Expected { within: Duration::from_millis(1500), sick: Sick::Journal, ..usual }
            }
            // Five attempts with growing pauses.
            Self::Poison => Expected { within: Duration::from_secs(5), sick: Sick::User, ..usual },
            Self::StallsNoFault => Expected { incident: false, ..usual },
            Self::BurstsNoFault => Expected { incident: false, same_load: false, ..usual },
        }
    }

    /// What happens in a drill of this length.
    pub fn steps(self, length: Duration, no_fix: bool) -> Vec<Step> {
        let at = |share: f64| length.mul_f64(share);
        let level = if self.strikes_calls() { FaultLevel::Call } else { FaultLevel::Thread };
        let fault = |kind| Fault::new(kind, level).on(Operation::Commit);
        let slow = |millis| fault(FaultKind::Delay(Duration::from_millis(millis)));
        let step =
            |share: f64, act, says: &str| Step { at: at(share), act, says: says.to_owned(), is_fault: false };
        let strike = |share: f64, fault: Fault, says: &str| Step {
            is_fault: true,
            ..step(share, Act::Faults(vec![fault]), says)
        };
        let fix = |share: f64| step(share, Act::Fix, "the fix: the store works again");
        match self {
            Self::Outage => {
                let cure = if no_fix {
                    step(0.6, Act::Rebuild, "no fix in sight: the operator has the store rebuilt")
                } else {
                    fix(0.6)
                };
                vec![
                    step(0.2, Act::Faults(vec![slow(40)]), "write latency rises: 40 ms more a commit"),
                    step(0.25, Act::Faults(vec![slow(120)]), "120 ms more a commit"),
                    strike(0.3, fault(FaultKind::Hang), "every write hangs"),
                    cure,
                ]
            }
            Self::Hang => vec![strike(0.25, fault(FaultKind::Hang), "every write hangs"), fix(0.6)],
            Self::HungForGood => vec![
                strike(0.25, fault(FaultKind::Hang), "every write hangs, for good"),
                step(0.45, Act::Rebuild, "the operator has the store rebuilt"),
            ],
            Self::SlowSite => {
                let sick = slow(2000).of_site(Site::new(SICK_SITE));
                vec![strike(0.25, sick, "writes of site-0 take 2 s each"), fix(0.6)]
            }
            Self::SlowAll => vec![strike(0.25, slow(600), "every commit takes 600 ms more"), fix(0.65)],
            Self::Errors => {
                let error = fault(FaultKind::Error(StoreError::Io("injected: no space left".to_owned())));
                vec![strike(0.25, error, "every commit fails"), fix(0.6)]
            }
            Self::Flapping => {
                let mut steps = Vec::new();
                for n in 0..4 {
                    let share = 0.2 + 0.12 * f64::from(n);
                    let mut hang = strike(share, fault(FaultKind::Hang), "every write hangs");
                    hang.is_fault = n == 0;
                    steps.extend([hang, fix(share + 0.06)]);
                }
                steps
            }
            Self::JournalStall => {
                let mut freeze = step(0.3, Act::FreezeJournal, "the journal's disk stands still");
                freeze.is_fault = true;
                vec![freeze, step(0.5, Act::ThawJournal, "the journal's disk goes on")]
            }
            Self::Poison => {
                let error = FaultKind::Error(StoreError::Io("injected: cannot write this record".to_owned()));
                let sick = fault(error).of_site(Site::new(SICK_SITE)).of_user(User::new(SICK_USER));
                vec![strike(0.2, sick, "the store fails on user-0 of site-0")]
            }
            Self::StallsNoFault => (0_u32..12)
                .flat_map(|n| {
                    let begin = at(0.15 + 0.06 * f64::from(n));
                    let millis = 100 + 40 * u64::from(n % 6);
                    let stall = fault(FaultKind::Hang);
                    let says = format!("a stall of {millis} ms");
                    let over = begin + Duration::from_millis(millis);
                    [
                        Step { at: begin, act: Act::Faults(vec![stall]), says, is_fault: false },
                        Step { at: over, act: Act::Fix, says: String::new(), is_fault: false },
                    ]
                })
                .collect(),
            Self::BurstsNoFault => (0..5)
                .flat_map(|n| {
                    let share = 0.15 + 0.15 * f64::from(n);
                    [
                        step(share, Act::Load(6.0), "a burst: 6 times the load"),
                        step(share + 0.05, Act::Load(1.0), ""),
                    ]
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn steps_are_in_order_and_leave_time_to_recover() {
        let length = Duration::from_secs(30);
        for scenario in Scenario::value_variants() {
            for no_fix in [false, true] {
                let steps = scenario.steps(length, no_fix);
                assert!(steps.is_sorted_by_key(|step| step.at), "{scenario:?}");
                assert!(steps.last().unwrap().at <= length, "{scenario:?}");
                let faults = steps.iter().filter(|step| step.is_fault).count();
                assert_eq!(faults, usize::from(scenario.expected().incident), "{scenario:?}");
            }
        }
    }
}
