//! `steadfast drill`: breaks a server in this process, and checks every promise.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::failed;
use super::output::Style;
use crate::config::Span;
use crate::drill::{self, Line, Options, Scenario, Verdict, all_kept, html};

/// Break a server and check every promise.
///
/// Starts a server in this process on free ports of the loopback address, offers it real gRPC calls at a fixed rate,
/// breaks its store (or journal), and shows what happens. Then every acknowledged write is read back.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  steadfast drill
  steadfast drill --no-fix --report drill.html
  steadfast drill --scenario slow-site --duration '20 s' --seed 7

Exit status: 0 every promise was kept, 1 a promise was broken, or the drill could not be held, 2 wrong usage.")]
pub struct DrillArgs {
    /// What goes wrong
    #[arg(long, value_enum, default_value_t = Scenario::Outage)]
    pub scenario: Scenario,
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
    /// Write what was seen to a file that a browser shows
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Keep the server's data there [default: a directory of its own, removed afterwards]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl DrillArgs {
    /// Runs the command.
    pub fn run(&self) -> ExitCode {
        if let Err(problem) = self.check() {
            eprintln!("steadfast: {problem}");
            return ExitCode::from(super::USAGE);
        }
        let options = Options {
            scenario: self.scenario,
            no_fix: self.no_fix,
            duration: self.duration.0,
            rate: f64::from(self.rate),
            sites: self.sites,
            users: self.users,
            seed: self.seed,
            deadline: self.deadline.0,
            dir: self.dir.clone(),
        };
        say(&format!("Drill: {} ({})\n", self.scenario.title(), self.scenario.name()));
        let outcome = match drill::run(&options, &mut tell) {
            Ok(outcome) => outcome,
            Err(error) => return failed(&error),
        };
        say(&format!("\n{}", table(&outcome.verdicts, Style::stdout())));
        if let Some(file) = &self.report {
            if let Err(error) = std::fs::write(file, html::page(&outcome)) {
                eprintln!("steadfast: {}: {error}", file.display());
                return ExitCode::FAILURE;
            }
            say(&format!("\nThe report is in {}", file.display()));
        }
        if all_kept(&outcome.verdicts) {
            say("\nEvery promise was kept.");
            ExitCode::SUCCESS
        } else {
            say("\nA promise was BROKEN.");
            ExitCode::FAILURE
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.no_fix && self.scenario != Scenario::Outage {
            return Err(
                "--no-fix is for the scenario `outage`; `hung-for-good` is one without a fix too".to_owned()
            );
        }
        let seconds = self.duration.0.as_secs();
        if !(10..=3600).contains(&seconds) {
            return Err("--duration: between 10 s and 1 h".to_owned());
        }
        let deadline = self.deadline.0.as_millis();
        if !(50..=10_000).contains(&deadline) {
            return Err("--deadline: between 50 ms and 10 s".to_owned());
        }
        Ok(())
    }
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
fn table(verdicts: &[Verdict], style: Style) -> String {
    let mut lines = Vec::new();
    for verdict in verdicts {
        let word = match verdict.kept {
            Some(true) => "kept      ".to_owned(),
            Some(false) => style.red("BROKEN    "),
            None => style.dim("not tested"),
        };
        lines.push(format!("{word}  {}", style.bold(verdict.promise)));
        lines.push(format!("            {}", verdict.seen));
        if !verdict.in_2020.is_empty() {
            lines.push(style.dim(&format!("            April 2020: {}", verdict.in_2020)));
        }
    }
    lines.join("\n")
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
}
