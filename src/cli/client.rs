//! The commands that talk to a running server.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::connect::ServerArgs;
use super::exit::Exit;
use super::failure::CliError;
use super::{
    attribute, attributes, breaker, completions, delete, export, fault, get, get_write, hold, identify,
    import, incidents, output, quota, refused, snapshot, status, store,
};

/// The commands for people and scripts that use a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Save attributes of a user.
    ///
    /// NAME=VALUE is a string. NAME:=VALUE is typed: a number (seats:=12), true or false, @TIME (an RFC 3339 date, midnight
    /// UTC, or timestamp: signed_up:=@2020-04-10), a list of strings in JSON (`tags:=["a","b"]`), or a string in JSON.
    /// The first write of an attribute fixes its type for the site.
    Identify(Box<identify::IdentifyArgs>),
    /// Show a user's profile.
    Get(get::GetArgs),
    /// Erase a user's profile.
    ///
    /// What was written before never reappears, and writes that happened before stay out for 30 days. Nothing to erase is
    /// no error ("unchanged").
    Delete(delete::DeleteArgs),
    /// List the attributes that a site knows: name, type, when first seen, whether queries can use an index, state.
    Attributes(attributes::AttributesArgs),
    /// Tell what became of a write, by the position in its receipt: pending, applied or refused.
    ///
    /// Exits with 0 if it is applied, 75 while it is pending, 65 if it was refused.
    Write(get_write::GetWriteArgs),
    /// Set the attributes of many users, from a CSV or JSON Lines file.
    ///
    /// CSV has a header; --user-column names the column with the user, every other column becomes an attribute. JSON Lines
    /// are what `steadfast export` writes, or, with --user-column, flat objects. An empty CSV cell, and a JSON null, is
    /// absent: that attribute of that user stays as it is.
    ///
    /// TYPES are found over the whole file and shown before anything is written. A CSV column is a number only if every
    /// cell reads back exactly as it is written: 12 and -0.5, but not 02139, 1e5, +1, 1.50 or ids of 17 digits, which stay
    /// text; bool only if every cell is true or false; time only if every cell is an RFC 3339 date or timestamp. JSON values
    /// are what they are. --type overrides, and reads generously. A type that the site already knows must fit.
    ///
    /// REPEATING is safe. Every row is written with one event time (the start of the import, or --occurred-at) plus its row
    /// number in nanoseconds. So a row that is sent twice changes nothing the second time, a value that somebody else
    /// writes meanwhile is not overwritten, and of two rows of one user the later one wins. While an import runs,
    /// FILE.steadfast-resume says how far the server has acknowledged it, and at which event time; after an interruption
    /// the same command with --resume goes on from there. It is removed at the end.
    ///
    /// BAD ROWS (ragged, not UTF-8, refused by the server, ...) are reported with line, column and reason; all other rows
    /// are imported, and the exit code is 65.
    Import(Box<import::ImportArgs>),
    /// Write all profiles of a site as JSON Lines, one object a profile, with the time of each attribute.
    ///
    /// `steadfast import` reads the result: the same profiles, value for value, with the same times. The export is not one
    /// instant: what is written meanwhile may or may not be in it. A broken stream is continued where it broke. A FILE gets
    /// its name only when it is complete (until then it ends in .part).
    Export(export::ExportArgs),
    /// Show the state of a node on one screen: what it does and why, rates, latencies, journal, what waits, store,
    /// snapshot, rebuild, and what a restart now would mean.
    Status(status::StatusArgs),
    /// The same, live, until interrupted.
    Watch(status::WatchArgs),
    /// Take a snapshot of a running server, or make a backup of it.
    Snapshot(snapshot::SnapshotArgs),
    /// Hold writes or reads back: of the whole node, a site, some operations, some of the users.
    ///
    /// A DEFER hold accepts writes and lets them wait; a REJECT hold refuses; an OBSERVE hold only counts. It is in force
    /// at once, whatever the store does, and ends by itself after an hour unless told otherwise.
    Hold(Box<hold::HoldArgs>),
    /// End a hold: what waited is applied at a rising rate.
    ///
    /// Exits with 75 if that is not on disk yet; then the hold is still in force.
    Release(hold::ReleaseArgs),
    /// List the holds in force, with the time that is left and what they have stopped.
    Holds(hold::HoldsArgs),
    /// Look after a running server's store.
    Store(store::StoreArgs),
    /// Force a breaker of the store open or closed, make it only observe, or give it back to itself.
    Breaker(breaker::BreakerArgs),
    /// Set or pause the rate at which waiting entries are applied, until the server restarts.
    Pace(breaker::PaceArgs),
    /// Inject faults into the store of a server that was started with --fault-injection, or end them.
    Fault(fault::FaultArgs),
    /// Set how much of the journal a site, or all together, may use, until the server restarts.
    Quota(quota::QuotaArgs),
    /// Let an attribute of a site take changes or ignore them, be indexed or not.
    Attribute(attribute::AttributeArgs),
    /// List what went wrong: each disturbance from the first evidence until all was applied.
    Incidents(incidents::IncidentsArgs),
    /// Show one incident whole, as a page or as JSON.
    Incident(incidents::IncidentArgs),
    /// List, retry, discard or export writes that were accepted and could not be applied.
    Refused(refused::RefusedArgs),
    /// Print completions for a shell, to be sourced or saved where the shell looks for them.
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
            Self::Status(args) => args.operator.json,
            Self::Watch(args) => args.operator.json,
            Self::Snapshot(args) => args.operator.json,
            Self::Hold(args) => args.operator().json,
            Self::Release(args) => args.operator.json,
            Self::Holds(args) => args.operator.json,
            Self::Store(args) => args.json(),
            Self::Breaker(args) => args.operator.json,
            Self::Pace(args) => args.operator.json,
            Self::Fault(args) => args.json(),
            Self::Quota(args) => args.operator.json,
            Self::Attribute(args) => args.operator.json,
            Self::Incidents(args) => args.operator.json,
            Self::Incident(args) => args.json(),
            Self::Refused(args) => args.json(),
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
            Self::Status(args) => status::run(&args).await,
            Self::Watch(args) => status::watch(&args).await,
            Self::Snapshot(args) => snapshot::run(&args).await,
            Self::Hold(args) => hold::run(&args).await,
            Self::Release(args) => hold::release(&args).await,
            Self::Holds(args) => hold::list(&args).await,
            Self::Store(args) => store::run(&args).await,
            Self::Breaker(args) => breaker::run(&args).await,
            Self::Pace(args) => breaker::pace(&args).await,
            Self::Fault(args) => fault::run(&args).await,
            Self::Quota(args) => quota::run(&args).await,
            Self::Attribute(args) => attribute::run(&args).await,
            Self::Incidents(args) => incidents::list(&args).await,
            Self::Incident(args) => incidents::run(&args).await,
            Self::Refused(args) => refused::run(&args).await,
            Self::Completions(args) => completions::run(&args, root),
        }
    }
}
