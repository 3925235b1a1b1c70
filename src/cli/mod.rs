//! The command line: one file a command.

pub mod amounts;
pub mod assign;
pub mod attribute;
pub mod attributes;
pub mod backup;
pub mod bench;
pub mod breaker;
pub mod client;
pub mod completions;
pub mod config;
pub mod connect;
pub mod delete;
pub mod drill;
pub mod exit;
pub mod export;
pub mod failure;
pub mod fault;
pub mod get;
pub mod get_write;
pub mod hold;
mod hold_text;
pub mod identify;
pub mod import;
pub mod incidents;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod numbers;
pub mod operations;
pub mod options;
pub mod output;
mod progress;
pub mod quota;
pub mod refused;
pub mod restore;
pub mod serve;
pub mod snapshot;
pub mod status;
mod status_json;
mod status_text;
pub mod store;
pub mod take_over;
pub mod times;
pub mod values;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod test_server;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::backup::BackupArgs;
use self::bench::BenchArgs;
use self::client::ClientCommand;
use self::config::ConfigArgs;
use self::drill::DrillArgs;
use self::journal::JournalArgs;
use self::metrics::MetricsArgs;
use self::restore::RestoreArgs;
use self::serve::ServeArgs;
use crate::bench::BenchError;
use crate::config::ConfigError;

/// A store for user attributes that stays up, and loses nothing, while its storage is slow.
#[derive(Parser, Debug)]
#[command(name = "steadfast", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that the program can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Look after the journal's files
    Journal(JournalArgs),
    /// Look after a backup's files
    Backup(BackupArgs),
    /// Make a node's directories out of a backup
    Restore(RestoreArgs),
    /// Print the effective configuration, with where each value came from
    Config(ConfigArgs),
    /// Measure a running server: throughput, latencies, errors
    Bench(Box<BenchArgs>),
    /// Print what monitoring needs: alert rules, a dashboard, the names of all metrics
    Metrics(MetricsArgs),
    /// Break a server in this process, and check every promise
    Drill(DrillArgs),
    /// What talks to a running server.
    #[command(flatten)]
    Client(ClientCommand),
}

/// The command line is wrong, or what it refers to.
const USAGE: u8 = 2;

/// Runs the program's command line.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => args.run(),
        Command::Journal(args) => args.run(),
        Command::Backup(args) => args.run(),
        Command::Restore(args) => args.run(),
        Command::Config(args) => match args.options.load() {
            Ok(effective) => match args.print(&effective) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            },
            Err(error) => misconfigured(&error),
        },
        Command::Bench(args) => match bench::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ BenchError::Setting(_)) => {
                eprintln!("steadfast: {error}");
                ExitCode::from(USAGE)
            }
            Err(error) => failed(&error),
        },
        Command::Metrics(args) => args.run(),
        Command::Drill(args) => args.run(),
        Command::Client(command) => command.run(Cli::command()),
    }
}

fn misconfigured(error: &ConfigError) -> ExitCode {
    eprintln!("steadfast: {error}");
    ExitCode::from(USAGE)
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("steadfast: {error}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_settings() {
        let args = ["steadfast", "config", "--listen", "127.0.0.1:9", "--set", "limits.sites=5"];
        let Command::Config(config) = Cli::parse_from(args).command else { panic!("another command") };
        let effective = config.options.load().unwrap();
        assert_eq!(effective.config.server.listen.port(), 9);
        assert_eq!(effective.config.limits.sites, 5);
        let origin = |key: &str| effective.settings.iter().find(|s| s.key == key).unwrap().origin.to_string();
        assert_eq!(origin("server.listen"), "flag --listen");
        assert!(Cli::try_parse_from(["steadfast", "config", "--set", "x"]).is_err());
    }
}
