//! The commands that talk to a running server.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::connect::ServerArgs;
use super::exit::Exit;
use super::failure::CliError;
use super::{attributes, completions, delete, export, get, get_write, identify, import, output};

/// The commands for people and scripts that use a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Save attributes of a user
    Identify(Box<identify::IdentifyArgs>),
    /// Show a user's profile
    Get(get::GetArgs),
    /// Erase a user's profile
    Delete(delete::DeleteArgs),
    /// List the attributes that a site knows
    Attributes(attributes::AttributesArgs),
    /// Tell what became of a write, by the position in its receipt
    Write(get_write::GetWriteArgs),
    /// Set the attributes of many users, from a CSV or JSON Lines file
    Import(Box<import::ImportArgs>),
    /// Write all profiles of a site as JSON Lines
    Export(export::ExportArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}

/// What all of these commands take.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Where the server is.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print JSON, one object a line, also for errors (on standard error)
    #[arg(long)]
    pub json: bool,
}

impl ClientCommand {
    /// Runs the command to its end and tells the exit code; errors go to standard error. `root` is the whole command
    /// line, for completions.
    pub fn run(self, root: clap::Command) -> ExitCode {
        let json = self.json();
        let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.dispatch(root)),
            Err(error) => Err(CliError::file("runtime", error)),
        };
        let exit = match result {
            Ok(exit) => exit,
            Err(error) => {
                if !error.is_broken_pipe() {
                    output::error(&error, json);
                }
                error.exit()
            }
        };
        exit.into()
    }

    fn json(&self) -> bool {
        match self {
            Self::Identify(args) => args.common.json,
            Self::Get(args) => args.common.json,
            Self::Delete(args) => args.common.json,
            Self::Attributes(args) => args.common.json,
            Self::Write(args) => args.common.json,
            Self::Import(args) => args.common.json,
            Self::Export(args) => args.json,
            Self::Completions(_) => false,
        }
    }

    async fn dispatch(self, root: clap::Command) -> Result<Exit, CliError> {
        match self {
            Self::Identify(args) => identify::run(&args).await,
            Self::Get(args) => get::run(&args).await,
            Self::Delete(args) => delete::run(&args).await,
            Self::Attributes(args) => attributes::run(&args).await,
            Self::Write(args) => get_write::run(&args).await,
            Self::Import(args) => import::run(&args).await,
            Self::Export(args) => export::run(&args).await,
            Self::Completions(args) => completions::run(&args, root),
        }
    }
}
