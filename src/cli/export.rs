//! `steadfast export`: all profiles of a site as JSON Lines.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tonic::{Request, Status};

use super::connect::{self, ATTEMPTS, Client, ServerArgs};
use super::exit::{Exit, after_help};
use super::failure::{CliError, Failure};
use super::import::progress::Progress;
use super::output;
use crate::proto::ExportProfilesRequest;

/// How long one response may take before the stream is given up and another one made. The stream as a whole has no
/// deadline: a server then gives each page a time of its own.
const ANSWERED_WITHIN: Duration = Duration::from_secs(90);

/// The command line of `steadfast export`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast export acme acme.jsonl
  steadfast export acme | gzip > acme.jsonl.gz
  steadfast export acme | steadfast import acme-copy - --format jsonl --yes"))]
pub struct ExportArgs {
    /// The site
    pub site: String,
    /// Where to write; - or nothing: standard output
    pub file: Option<PathBuf>,
    /// Where the server is.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print errors as JSON (the export is JSON Lines in any case)
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub async fn run(args: &ExportArgs) -> Result<Exit, CliError> {
    match args.file.as_deref().filter(|path| *path != Path::new("-")) {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            export(args, &mut |line| writeln!(out, "{line}").map_err(CliError::Output)).await?;
            out.flush()?;
        }
        Some(path) => {
            let mut part = path.as_os_str().to_owned();
            part.push(".part");
            let part = PathBuf::from(part);
            let failed = |error| CliError::file(&part, error);
            let mut out = BufWriter::new(File::create(&part).map_err(failed)?);
            export(args, &mut |line| writeln!(out, "{line}").map_err(failed)).await?;
            let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
            file.sync_all().map_err(failed)?;
            std::fs::rename(&part, path).map_err(|error| CliError::file(path, error))?;
        }
    }
    Ok(Exit::Ok)
}

async fn export(
    args: &ExportArgs,
    write: &mut dyn FnMut(&str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let to_terminal =
        args.file.as_deref().is_none_or(|path| path == Path::new("-")) && io::stdout().is_terminal();
    let mut progress = Progress::new(None, 0, args.json || to_terminal);
    let mut client = args.server.connect().await?;
    let mut token = String::new();
    let mut failures = 0;
    loop {
        let before = token.clone();
        let status = match stream(&mut client, &args.site, &mut token, write, &mut progress).await? {
            Ok(()) => break,
            Err(status) => status,
        };
        // What counts is failing again without having got any further.
        failures = if token == before { failures + 1 } else { 1 };
        let failure = Failure::of_read(&status);
        let pause =
            connect::pause(failures, failure.retry_after).filter(|_| failure.passes() && failures < ATTEMPTS);
        let Some(pause) = pause else { return Err(CliError::Server(Box::new(failure))) };
        tokio::time::sleep(pause).await;
    }
    let took = progress.finish();
    if !args.json && !to_terminal {
        progress.message(&format!("exported all profiles of {} ({took})", args.site));
    }
    Ok(())
}

/// One stream, from `token` on, which it moves. The inner error is the stream's, and may be worth another one.
async fn stream(
    client: &mut Client,
    site: &str,
    token: &mut String,
    write: &mut dyn FnMut(&str) -> Result<(), CliError>,
    progress: &mut Progress,
) -> Result<Result<(), Status>, CliError> {
    let request = Request::new(ExportProfilesRequest { site: site.to_owned(), resume_token: token.clone() });
    let mut responses = match client.export_profiles(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    loop {
        let response = match tokio::time::timeout(ANSWERED_WITHIN, responses.message()).await {
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) => return Ok(Ok(())),
            Ok(Err(status)) => return Ok(Err(status)),
            Err(_) => return Ok(Err(Status::deadline_exceeded("the server does not answer"))),
        };
        for profile in &response.profiles {
            write(&output::profile_json(profile)?.to_string())?;
        }
        *token = response.resume_token;
        progress.advance(response.profiles.len() as u64);
    }
}
