//! `steadfast drill`: breaks a server in this process, and checks every promise.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::failed;
use super::output::{Style, table};
use crate::config::Span;
use crate::drill::{
    self, Figures, Judgement, Line, Options, Outcome, Sabotage, Scenario, Verdict, html, none_broken,
};

/// Break a server and check every promise.
///
/// Starts a server in this process on free ports of the loopback address, offers it real gRPC calls at a fixed rate,
/// breaks its store (or journal), and shows what happens. Then the server is started again, and every acknowledged
/// write is read back.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  steadfast drill                                    # April 2020, in half a minute
  steadfast drill --no-fix --report drill.html       # nobody fixes the store: it is rebuilt under live traffic
  steadfast drill --scenario slow-site --seed 7
  steadfast drill --scenario all                     # one after another, 7 minutes, and a table
  steadfast drill --scenario hang --sabotage breaker-off   # to see it fail

What is counted (lost writes, refusals, alarms) is judged exactly. What is measured (times, percentiles) is judged
beside a bare service that runs next to the server all the while and shares only the machine with it: what the machine
did to that one is \"not judged\" and never a reason to pass in silence.

Exit status: 0 no promise was broken, 1 one was, or the drill could not be held, 2 wrong usage.")]
pub struct DrillArgs {
    /// What goes wrong
    #[arg(long, value_enum, default_value_t = Choice::One(Scenario::Outage))]
    pub scenario: Choice,
    /// Nobody fixes the store: the operator has it rebuilt under live traffic (only with `outage`)
    #[arg(long)]
    pub no_fix: bool,
    /// How long the load lasts
    #[arg(long, default_value = "30 s")]
    pub duration: Span,
    /// Writes per second, and as many reads
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    pub rate: u32,
    /// Sites
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub sites: u32,
    /// Users of each site
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub users: u32,
    /// The same seed calls the same users in the same order
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..1_u64 << 32))]
    pub seed: u64,
    /// The clients' deadline; shorter than any stall
    #[arg(long, default_value = "500 ms")]
    pub deadline: Span,
    /// Write what was seen to a file that a browser shows; of `all`, one file each with the scenario in its name
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Keep the server's data there, on the disk that is to be tried [default: a directory of its own, removed
    /// afterwards]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Break a promise on purpose, to see that the drill notices
    #[arg(long, value_enum)]
    pub sabotage: Option<Sabotage>,
}

/// One scenario, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    One(Scenario),
    /// Each, one after another.
    All,
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        use Scenario as S;
        const CHOICES: &[Choice] = &[
            Choice::One(S::Outage),
            Choice::One(S::Hang),
            Choice::One(S::SlowSite),
            Choice::One(S::SlowAll),
            Choice::One(S::Errors),
            Choice::One(S::Flapping),
            Choice::One(S::JournalStall),
            Choice::One(S::Poison),
            Choice::One(S::HungForGood),
            Choice::One(S::StallsNoFault),
            Choice::One(S::BurstsNoFault),
            Choice::All,
        ];
        CHOICES
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(scenario) => scenario.to_possible_value(),
            Self::All => Some(PossibleValue::new("all").help("Each of them, one after another")),
        }
    }
}

impl DrillArgs {
    /// Runs the command.
    pub fn run(&self) -> ExitCode {
        if let Err(problem) = self.check() {
            eprintln!("steadfast: {problem}");
            return ExitCode::from(super::USAGE);
        }
        let mut held = Vec::new();
        for (scenario, no_fix) in self.chosen() {
            if !held.is_empty() {
                say("");
            }
            match self.hold(scenario, no_fix) {
                Ok(outcome) => held.push(outcome),
                Err(error) => return failed(error.as_ref()),
            }
        }
        say(&format!("\n{}", figures(&held)));
        if held.iter().any(|outcome| !none_broken(&outcome.verdicts)) {
            say("\nA promise was BROKEN.");
            return ExitCode::FAILURE;
        }
        let mut verdicts = held.iter().flat_map(|outcome| &outcome.verdicts);
        say(if verdicts.any(|verdict| verdict.judged == Judgement::Unclear) {
            "\nNo promise was broken, but the machine was too busy to judge each of them: try again on a quieter one."
        } else {
            "\nEvery promise was kept."
        });
        ExitCode::SUCCESS
    }

    /// The scenarios, and whether nobody fixes the store.
    fn chosen(&self) -> Vec<(Scenario, bool)> {
        match self.scenario {
            Choice::One(scenario) => vec![(scenario, self.no_fix)],
            Choice::All => {
                let each = Scenario::value_variants().iter().map(|scenario| (*scenario, false));
                [(Scenario::Outage, true)].into_iter().chain(each).collect()
            }
        }
    }

    fn hold(&self, scenario: Scenario, no_fix: bool) -> Result<Outcome, Box<dyn std::error::Error>> {
        let options = Options {
            scenario,
            no_fix,
            duration: self.duration.0,
            rate: f64::from(self.rate),
            sites: self.sites,
            users: self.users,
            seed: self.seed,
            deadline: self.deadline.0,
            dir: self.dir.as_ref().map(|dir| self.own(dir, scenario, no_fix)),
            sabotage: self.sabotage,
        };
        say(&format!("Drill: {} ({})\n", scenario.title(), name(scenario, no_fix)));
        let outcome = drill::run(&options, &mut tell)?;
        say(&format!("\n{}", promises(&outcome.verdicts, Style::stdout())));
        if let Some(file) = &self.report {
            let file = self.own(file, scenario, no_fix);
            std::fs::write(&file, html::page(&outcome))
                .map_err(|error| format!("{}: {error}", file.display()))?;
            say(&format!("\nThe report is in {}", file.display()));
        }
        Ok(outcome)
    }

    /// `path`, with the scenario in its name if there are several.
    fn own(&self, path: &Path, scenario: Scenario, no_fix: bool) -> PathBuf {
        if self.scenario != Choice::All {
            return path.to_owned();
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let scenario = name(scenario, no_fix).replace(" --", "-");
        let mut own = path.with_file_name(format!("{stem}-{scenario}"));
        if let Some(extension) = path.extension() {
            own.as_mut_os_string().push(".");
            own.as_mut_os_string().push(extension);
        }
        own
    }

    fn check(&self) -> Result<(), String> {
        if self.no_fix && self.scenario != Choice::One(Scenario::Outage) {
            return Err(
                "--no-fix is for the scenario `outage`; `hung-for-good` is one without a fix too".to_owned()
            );
        }
        let seconds = self.duration.0.as_secs();
        if !(5..=3600).contains(&seconds) {
            return Err("--duration: between 5 s and 1 h".to_owned());
        }
        let deadline = self.deadline.0.as_millis();
        if !(50..=10_000).contains(&deadline) {
            return Err("--deadline: between 50 ms and 10 s".to_owned());
        }
        Ok(())
    }
}

/// As it is asked for.
fn name(scenario: Scenario, no_fix: bool) -> String {
    if no_fix { format!("{} --no-fix", scenario.name()) } else { scenario.name() }
}

/// A closed pipe is no reason to stop a drill, and its exit status still tells.
fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

fn tell(line: &Line) {
    let dim = Style::stdout();
    let at = dim.dim(&format!("{:>8.3} s", line.at.as_secs_f64()));
    let says = if line.from == "drill" { dim.bold(&line.says) } else { line.says.clone() };
    say(&format!("{at}  {:<9} {says}", line.from));
}

/// The promises for a terminal: each with what was seen, and what it was in 2020.
fn promises(verdicts: &[Verdict], style: Style) -> String {
    let mut lines = Vec::new();
    for verdict in verdicts {
        let word = format!("{:<10}", verdict.judged.word());
        let word = match verdict.judged {
            Judgement::Kept => word,
            Judgement::Broken => style.red(&word),
            Judgement::Unclear | Judgement::Untested => style.dim(&word),
        };
        lines.push(format!("{word}  {}", style.bold(verdict.promise)));
        lines.push(format!("            {}", verdict.seen));
        if !verdict.in_2020.is_empty() {
            lines.push(style.dim(&format!("            April 2020: {}", verdict.in_2020)));
        }
    }
    lines.join("\n")
}

/// The figures of all drills that were held.
fn figures(held: &[Outcome]) -> String {
    let heads = [
        "SCENARIO",
        "VERDICT",
        "DETECTED",
        "KEPT OFF",
        "ALL APPLIED",
        "AFTER CURE",
        "ACCEPTED",
        "DEFERRED",
        "REFUSED",
        "LOST",
        "READS P99",
        "NEIGHBOURS P99",
        "LOAD",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(held.iter().map(row));
    table(&rows)
}

fn row(outcome: &Outcome) -> Vec<String> {
    let Figures { detected, mitigated, resolved, caught_up, .. } = outcome.figures;
    let figures = outcome.figures;
    let time = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |s| format!("{:.0} ms", s * 1000.0));
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
    let verdicts = || outcome.verdicts.iter().map(|verdict| verdict.judged);
    let verdict =
        [Judgement::Broken, Judgement::Unclear].into_iter().find(|judged| verdicts().any(|j| j == *judged));
    let verdict = match verdict {
        Some(Judgement::Broken) => "BROKEN".to_owned(),
        Some(_) => {
            format!("{} not judged", verdicts().filter(|judged| *judged == Judgement::Unclear).count())
        }
        None => "kept".to_owned(),
    };
    vec![
        name(outcome.options.scenario, outcome.options.no_fix),
        verdict,
        time(detected),
        time(mitigated),
        time(resolved),
        time(caught_up.filter(|after| *after >= 0.0)),
        figures.accepted.to_string(),
        figures.deferred.to_string(),
        figures.refused.to_string(),
        figures.lost.to_string(),
        ratio(figures.reads),
        ratio(figures.neighbours),
        outcome.machine[0].split(' ').next().unwrap_or_default().to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        drill: DrillArgs,
    }

    fn parse(args: &[&str]) -> DrillArgs {
        Command::parse_from([&["drill"], args].concat()).drill
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(parse(&[]).check(), Ok(()));
        assert_eq!(parse(&["--no-fix"]).check(), Ok(()));
        for wrong in
            [&["--no-fix", "--scenario", "hang"][..], &["--duration", "1 s"], &["--deadline", "1 ms"]]
        {
            assert!(parse(wrong).check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn each_scenario_can_be_chosen_and_all_are_each() {
        let all = parse(&["--scenario", "all"]);
        for scenario in Scenario::value_variants() {
            let one = parse(&["--scenario", &scenario.name()]);
            assert_eq!(one.chosen(), [(*scenario, false)]);
            assert!(all.chosen().contains(&(*scenario, false)), "{scenario:?}");
        }
        let path = |no_fix| all.own(Path::new("a/drill.html"), Scenario::Outage, no_fix);
        assert_eq!(path(false), Path::new("a/drill-outage.html"));
        assert_eq!(path(true), Path::new("a/drill-outage-no-fix.html"));
        assert_eq!(parse(&[]).own(Path::new("a.html"), Scenario::Hang, false), Path::new("a.html"));
    }
}
