//! The command line: one file a command.

pub mod bench;
pub mod config;
pub mod log;
pub mod options;
pub mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::bench::BenchArgs;
use self::config::ConfigArgs;
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
    /// Print the effective configuration, with where each value came from
    Config(ConfigArgs),
    /// Measure a running server: throughput, latencies, errors
    Bench(Box<BenchArgs>),
}

/// The command line is wrong, or what it refers to.
const USAGE: u8 = 2;

/// Runs the program's command line.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => args.run(),
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
    use clap::CommandFactory as _;

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
