//! `steadfast import`: the attributes of many users, from a file.
//!
//! Two passes: the first reads everything, finds types and bad rows, and writes nothing; the second sends.

mod args;
mod batches;
mod csv_rows;
mod infer;
mod jsonl_rows;
mod plan;
pub mod progress;
mod quotes;
mod report;
mod resume;
mod row;
mod rows;
mod send;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use prost_types::Timestamp;
use serde_json::json;

pub use self::args::ImportArgs;
use self::batches::Batches;
use self::infer::Evidence;
use self::plan::{Plan, Wishes};
use self::progress::Progress;
use self::report::Report;
use self::resume::{ResumeFile, Settled};
use self::rows::{Layout, Rows};
use self::send::Sender;
use self::source::Source;
use super::exit::Exit;
use super::failure::CliError;
use super::output::{self, Style};
use super::times;
use crate::clock::{Clock as _, SystemClock};
use crate::proto::{ListAttributesRequest, ValueType};

/// What the first pass found.
struct Survey {
    plan: Plan,
    rows: u64,
    bad: u64,
    /// The first few bad rows.
    bad_examples: Vec<String>,
    digest: u128,
}

fn survey(
    source: &Source,
    layout: &Layout,
    wishes: &Wishes,
    site: Option<&BTreeMap<String, ValueType>>,
) -> Result<Survey, CliError> {
    let mut rows = Rows::open(source, layout)?;
    let mut evidence: Vec<Evidence> = vec![];
    let (mut good, mut bad, mut bad_examples) = (0, 0, vec![]);
    while let Some(row) = rows.next_row()? {
        match row.and_then(|row| wishes.check(&row, rows.columns()).map(|()| row)) {
            Ok(row) => {
                good += 1;
                for (number, cell) in &row.cells {
                    if evidence.len() <= *number {
                        evidence.resize_with(number + 1, Evidence::default);
                    }
                    if let Some(evidence) = evidence.get_mut(*number) {
                        evidence.see(row.line, cell);
                    }
                }
            }
            Err(row) => {
                bad += 1;
                if bad_examples.len() < 3 {
                    bad_examples.push(report::text(&row));
                }
            }
        }
    }
    let plan = Plan::new(rows.columns(), &evidence, good, wishes, site)?;
    Ok(Survey { plan, rows: good + bad, bad, bad_examples, digest: rows.digest() })
}

/// The types that the site knows; `None` if the server cannot be asked and nothing is to be written.
async fn site_types(args: &ImportArgs) -> Result<Option<BTreeMap<String, ValueType>>, CliError> {
    let asked = async {
        let mut client = args.common.server.connect().await?;
        let request = ListAttributesRequest { site: args.site.clone() };
        let answer = client.list_attributes(args.common.server.request(request)).await;
        let attributes = answer.map_err(|status| CliError::read(&status))?.into_inner().attributes;
        Ok(attributes.into_iter().map(|attribute| (attribute.name.clone(), attribute.r#type())).collect())
    };
    match asked.await {
        Ok(types) => Ok(Some(types)),
        Err(CliError::Unreachable { addr, message }) if args.dry_run => {
            let text =
                format!("not compared with the types that the site knows: cannot reach {addr}: {message}");
            let _ = writeln!(io::stderr(), "{text}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn show(args: &ImportArgs, survey: &Survey, source: &Source) -> Result<(), CliError> {
    if args.common.json {
        if args.dry_run {
            let json = json!({ "rows": survey.rows, "bad": survey.bad, "columns": survey.plan.json() });
            output::line(&json.to_string())?;
        }
        return Ok(());
    }
    output::line(&format!("{}: {} rows\n{}", source.name(), survey.rows, survey.plan.text(Style::stdout())))?;
    if survey.bad > 0 {
        output::line(&format!("bad rows, which cannot be imported: {}", survey.bad))?;
        for example in &survey.bad_examples {
            output::line(&format!("  {example}"))?;
        }
        if survey.bad > survey.bad_examples.len() as u64 {
            output::line("  ...")?;
        }
    }
    Ok(())
}

fn confirm(args: &ImportArgs, rows: u64) -> Result<(), CliError> {
    if args.yes {
        return Ok(());
    }
    if args.file == Path::new("-") || !io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "nobody to ask whether to write this: give --yes (or --dry-run)".to_owned(),
        ));
    }
    let mut err = io::stderr();
    write!(err, "Write {rows} rows to {}? [y/N] ", args.site)?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| CliError::file("standard input", error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Usage("not confirmed, nothing was written".to_owned())),
    }
}

/// Where to begin: anew, or where an interrupted import of the same file was.
fn beginning(args: &ImportArgs, survey: &Survey, resume: Option<&ResumeFile>) -> Result<Settled, CliError> {
    let left = resume.map(ResumeFile::read).transpose()?.flatten().filter(|_| !args.restart);
    let now = SystemClock.now().0;
    let now = Timestamp { seconds: (now / 1_000_000_000) as i64, nanos: (now % 1_000_000_000) as i32 };
    let anew = Settled {
        site: args.site.clone(),
        file: format!("{:032x}", survey.digest),
        plan: format!("{:032x}", survey.plan.fingerprint()),
        occurred_at: times::format(&args.occurred_at.unwrap_or(now))
            .ok_or_else(|| CliError::Usage("the clock is out of range: give --occurred-at".to_owned()))?,
        rows: 0,
        kept: 0,
        bad: 0,
    };
    let path = || resume.map(|resume| resume.path().display().to_string()).unwrap_or_default();
    match (left, args.resume) {
        (None, false) => Ok(anew),
        (None, true) => Err(CliError::Usage(format!(
            "--resume: there is no interrupted import to go on with (no {}); leave it out to begin",
            path()
        ))),
        (Some(left), false) => Err(CliError::Usage(format!(
            "an import of this file was interrupted after {} rows ({}): --resume goes on, --restart begins anew",
            left.rows,
            path()
        ))),
        (Some(left), true) => {
            let same = (&left.site, &left.file, &left.plan) == (&anew.site, &anew.file, &anew.plan);
            if same && left.rows <= survey.rows {
                return Ok(left);
            }
            Err(CliError::Data(format!(
                "the site, the file, or what becomes of its columns is not what it was when the import was \
                 interrupted ({}): --restart begins anew",
                path()
            )))
        }
    }
}

/// Runs the command.
pub async fn run(args: &ImportArgs) -> Result<Exit, CliError> {
    let (layout, wishes) = (args.layout(), args.wishes()?);
    let source = Source::open(&args.file)?;
    let site = site_types(args).await?;
    let survey = survey(&source, &layout, &wishes, site.as_ref())?;
    show(args, &survey, &source)?;
    if let Some(most) = args.max_bad.filter(|most| survey.bad > *most) {
        return Err(report::too_many(survey.bad, most));
    }
    if args.dry_run {
        return Ok(if survey.bad > 0 { Exit::Refused } else { Exit::Ok });
    }
    let resume = args.resume_file();
    let settled = beginning(args, &survey, resume.as_ref())?;
    confirm(args, survey.rows - settled.rows)?;
    write(args, &source, &layout, &survey, settled, resume.as_ref()).await
}

async fn write(
    args: &ImportArgs,
    source: &Source,
    layout: &Layout,
    survey: &Survey,
    settled: Settled,
    resume: Option<&ResumeFile>,
) -> Result<Exit, CliError> {
    if let Some(resume) = resume {
        // Before the first row: a place that cannot be written is found now, and the event time is on disk.
        resume.write(&settled)?;
    }
    let from = settled.rows;
    let base = times::parse(&settled.occurred_at)
        .map_err(|error| CliError::Data(format!("resume file: occurred_at: {error}")))?;
    let rows = Rows::open(source, layout)?;
    let mut batches = Batches { rows, plan: &survey.plan, base, row: 0, ended: false };
    batches.skip(from)?;
    let report = Report::new(
        args.bad_rows.as_deref(),
        args.resume.then_some(settled.bad),
        args.max_bad,
        args.common.json,
    )?;
    let progress = Progress::new(Some(survey.rows), from, args.common.json);
    let mut sender = Sender::new(&args.common.server, batches, settled, resume, report, progress);
    let result = sender.run().await;
    let took = sender.progress.finish();
    if let Err(error) = result {
        if !args.common.json {
            let hint = match resume {
                Some(_) => "the same command with --resume goes on from there",
                None => "sending all of it again is safe",
            };
            let text = format!("stopped after {} of {} rows; {hint}", sender.settled.rows, survey.rows);
            let _ = writeln!(io::stderr(), "{text}");
        }
        return Err(error);
    }
    if sender.batches.rows.digest() != survey.digest {
        return Err(CliError::Data(format!(
            "{} changed while it was imported: what was written may be of either content; import it again",
            source.name()
        )));
    }
    resume.map_or(Ok(()), ResumeFile::remove)?;
    summary(args, &sender, &took, from)
}

fn summary(args: &ImportArgs, sender: &Sender<'_>, took: &str, from: u64) -> Result<Exit, CliError> {
    let settled = &sender.settled;
    if args.common.json {
        let json = json!({
            "site": settled.site, "rows": settled.rows, "kept": settled.kept, "bad": settled.bad,
            "occurred_at": settled.occurred_at, "resumed_from": from, "disabled": sender.disabled(),
        });
        output::line(&json.to_string())?;
    } else {
        output::line(&format!(
            "kept {} rows on {} ({took}), {} bad",
            settled.kept, settled.site, settled.bad
        ))?;
        for (name, rows) in sender.disabled() {
            output::line(&format!("  attribute {name:?} is disabled on this site: ignored in {rows} rows"))?;
        }
    }
    Ok(if settled.bad > 0 { Exit::Refused } else { Exit::Ok })
}
