//! `steadfast metrics`: what monitoring needs, built in, so that it fits the version that runs.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::failed;
use crate::metrics;

/// Alert rules for Prometheus.
pub const ALERTS: &str = include_str!("../assets/alerts.yml");
/// A dashboard for Grafana.
pub const DASHBOARD: &str = include_str!("../assets/dashboard.json");

/// Arguments of `steadfast metrics`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  steadfast metrics alerts > /etc/prometheus/rules/steadfast.yml
  steadfast metrics dashboard > steadfast.json
  curl -s http://127.0.0.1:50052/metrics")]
pub struct MetricsArgs {
    /// What to print
    #[arg(value_enum)]
    pub what: What,
}

/// What can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Alert rules for Prometheus
    Alerts,
    /// A dashboard to import into Grafana
    Dashboard,
    /// The names of all metrics, one a line
    Names,
}

impl MetricsArgs {
    /// Runs the command.
    pub fn run(&self) -> ExitCode {
        let text = match self.what {
            What::Alerts => ALERTS.to_owned(),
            What::Dashboard => DASHBOARD.to_owned(),
            What::Names => metrics::ALL.iter().flat_map(|name| [*name, "\n"]).collect(),
        };
        match io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
            _ => ExitCode::SUCCESS,
        }
    }
}

/// The metrics that a text names; of a histogram's parts the histogram.
pub fn named(text: &str) -> Vec<&str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter: char| !is_part(letter)).filter(|word| word.starts_with("steadfast_"));
    let mut names: Vec<&str> = words.map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_and_dashboard_name_metrics_that_there_are() {
        for text in [ALERTS, DASHBOARD] {
            let names = named(text);
            assert!(names.len() > 10, "{names:?}");
            let unknown: Vec<_> = names.iter().filter(|name| !metrics::ALL.contains(name)).collect();
            assert!(unknown.is_empty(), "{unknown:?}");
        }
    }

    #[test]
    fn the_dashboard_is_json_with_panels_that_ask_for_something() {
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            assert!(
                panel["targets"][0]["expr"].as_str().is_some_and(|expr| expr.contains("steadfast_")),
                "{panel}"
            );
        }
        // What is promised has an alert.
        for alert in [
            "BreakerOpen",
            "PartialSlowness",
            "NotCatchingUp",
            "TimeToFull",
            "HoldExpiring",
            "HoldsUnreadable",
            "EntriesParked",
            "SnapshotOverdue",
            "JournalStalled",
            "JournalFailed",
            "RebuildFailed",
        ] {
            assert!(ALERTS.contains(&format!("alert: Steadfast{alert}\n")), "{alert}");
        }
    }

    #[test]
    fn names_are_found() {
        let text = "rate(steadfast_a_total{x=\"y\"}[1m]) / steadfast_b_seconds_bucket, steadfast_a_total";
        assert_eq!(named(text), ["steadfast_a_total", "steadfast_b_seconds"]);
    }
}
