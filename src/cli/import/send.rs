//! The stream to the server: a window of batches, acknowledged in order; a broken stream is followed by another one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::batches::{Batch, Batches};
use super::progress::Progress;
use super::report::Report;
use super::resume::{ResumeFile, Settled};
use super::row::BadRow;
use crate::cli::connect::{self, ATTEMPTS, Client, ServerArgs};
use crate::cli::failure::{CliError, Failure};
use crate::proto::{ImportProfilesRequest, ImportProfilesResponse, ImportRecord};

/// Batches that may be unanswered. A server takes 16 before it stops reading.
const WINDOW: usize = 8;

/// How long an acknowledgement may take before the stream is given up and another one made. The stream as a whole has
/// no deadline: a server then gives each batch a time of its own (60 s by default).
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(90);

/// How long the server may take to end a stream of which all is answered.
const ENDED_WITHIN: Duration = Duration::from_secs(1);

/// Sends the batches of one file.
pub struct Sender<'a> {
    /// Where to.
    pub server: &'a ServerArgs,
    /// What is left of the file.
    pub batches: Batches<'a>,
    /// What is settled.
    pub settled: Settled,
    /// Where that is kept, if it is.
    pub resume: Option<&'a ResumeFile>,
    /// Bad rows go here.
    pub report: Report,
    /// For people.
    pub progress: Progress,
    /// Sent and not acknowledged, oldest first: at most the window.
    unacknowledged: VecDeque<Batch>,
    /// Records that the server did not keep for now: at most the window's.
    again: Vec<ImportRecord>,
    again_pause: Option<Duration>,
    again_failure: Option<Failure>,
    /// Acknowledged, but not settled while earlier records are to be sent again.
    acknowledged: (u64, u64, u64),
    /// Streams, or rounds of records sent again, that failed since something was last kept.
    failures: u32,
    /// Attributes that are disabled on the site, and in how many rows.
    disabled: BTreeMap<String, u64>,
}

/// How a stream ended.
enum End {
    Done,
    Broken(Box<Failure>),
}

impl<'a> Sender<'a> {
    /// Nothing sent yet.
    pub fn new(
        server: &'a ServerArgs,
        batches: Batches<'a>,
        settled: Settled,
        resume: Option<&'a ResumeFile>,
        report: Report,
        progress: Progress,
    ) -> Self {
        Self {
            server,
            batches,
            settled,
            resume,
            report,
            progress,
            unacknowledged: VecDeque::new(),
            again: vec![],
            again_pause: None,
            again_failure: None,
            acknowledged: (0, 0, 0),
            failures: 0,
            disabled: BTreeMap::new(),
        }
    }

    /// Sends all of it. When this returns without an error, every row is settled.
    pub async fn run(&mut self) -> Result<(), CliError> {
        loop {
            let failure = match self.server.connect().await {
                Ok(client) => match self.stream(client).await? {
                    End::Done => return Ok(()),
                    End::Broken(failure) => failure,
                },
                // The first connection was made to ask for the site's attributes: this one may come back.
                Err(error) => {
                    self.failures += 1;
                    match connect::pause(self.failures, None).filter(|_| self.failures < ATTEMPTS) {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => return Err(error),
                    }
                    continue;
                }
            };
            self.failures += 1;
            let pause = connect::pause(self.failures, failure.retry_after);
            match pause.filter(|_| failure.passes() && self.failures < ATTEMPTS) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(CliError::Server(failure)),
            }
        }
    }

    async fn stream(&mut self, mut client: Client) -> Result<End, CliError> {
        // As much room as the window, so that sending never waits.
        let (send, receive) = mpsc::channel(WINDOW);
        for batch in &self.unacknowledged {
            push(&send, self.request(batch));
        }
        if self.unacknowledged.is_empty() && !self.more(&send).await? {
            return Ok(End::Done);
        }
        let request = Request::new(ReceiverStream::new(receive));
        let mut responses = match client.import_profiles(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(End::Broken(Box::new(Failure::of_read(&status)))),
        };
        while self.more(&send).await? {
            let status = match tokio::time::timeout(ACKNOWLEDGED_WITHIN, responses.message()).await {
                Ok(Ok(Some(response))) => {
                    self.acknowledge(response)?;
                    continue;
                }
                Ok(Ok(None)) => {
                    tonic::Status::unavailable("the server ended the stream before it answered all of it")
                }
                Ok(Err(status)) => status,
                Err(_) => tonic::Status::deadline_exceeded("the server does not answer"),
            };
            return Ok(End::Broken(Box::new(Failure::of_read(&status))));
        }
        // Every batch is acknowledged; how the stream ends says nothing more, but it is to end, not to be cut.
        drop(send);
        let _ = tokio::time::timeout(ENDED_WITHIN, responses.message()).await;
        Ok(End::Done)
    }

    /// Fills the window. Says whether anything is unacknowledged.
    async fn more(&mut self, send: &mpsc::Sender<ImportProfilesRequest>) -> Result<bool, CliError> {
        if !self.again.is_empty() {
            // Only when all else is answered: then what is settled stays a simple number of rows.
            if self.unacknowledged.is_empty() {
                self.send_again(send).await?;
            }
            return Ok(true);
        }
        while self.unacknowledged.len() < WINDOW && !self.batches.ended {
            let Some(batch) = self.batches.next_batch(&mut self.report, &self.progress)? else { break };
            if batch.records.is_empty() && self.unacknowledged.is_empty() {
                self.settle(&batch, 0)?;
            } else if batch.records.is_empty() {
                // Bad rows at the end of the file: settled with the batch before them.
                if let Some(last) = self.unacknowledged.back_mut() {
                    last.rows += batch.rows;
                    last.bad += batch.bad;
                }
            } else {
                push(send, self.request(&batch));
                self.unacknowledged.push_back(batch);
            }
        }
        Ok(!self.unacknowledged.is_empty())
    }

    async fn send_again(&mut self, send: &mpsc::Sender<ImportProfilesRequest>) -> Result<(), CliError> {
        self.failures += 1;
        let pause =
            connect::pause(self.failures, self.again_pause.take()).filter(|_| self.failures < ATTEMPTS);
        match (pause, self.again_failure.take()) {
            (Some(pause), _) => tokio::time::sleep(pause).await,
            (None, Some(failure)) => return Err(CliError::Server(Box::new(failure))),
            (None, None) => {
                return Err(CliError::Answer("records were not kept, without a reason".to_owned()));
            }
        }
        let records = std::mem::take(&mut self.again);
        for chunk in records.chunks(records.len().div_ceil(WINDOW).max(1)) {
            let batch = Batch { records: chunk.to_vec(), rows: 0, bad: 0, again: true };
            push(send, self.request(&batch));
            self.unacknowledged.push_back(batch);
        }
        Ok(())
    }

    fn request(&self, batch: &Batch) -> ImportProfilesRequest {
        ImportProfilesRequest {
            site: self.settled.site.clone(),
            resume_token: token(batch),
            records: batch.records.clone(),
        }
    }

    fn acknowledge(&mut self, response: ImportProfilesResponse) -> Result<(), CliError> {
        let wrong = |text: &str| CliError::Answer(format!("import: {text}"));
        let batch = self.unacknowledged.pop_front().ok_or_else(|| wrong("an answer to nothing"))?;
        if response.resume_token != token(&batch) {
            return Err(wrong("the resume token is not the one of the oldest batch"));
        }
        if response.kept as usize + response.errors.len() != batch.records.len() {
            return Err(wrong("kept and refused records are not all of them"));
        }
        if response.kept > 0 {
            self.failures = 0;
        }
        let mut records: HashMap<u64, &ImportRecord> = batch.records.iter().map(|r| (r.number, r)).collect();
        let mut bad = 0;
        for error in response.errors {
            let record =
                records.remove(&error.number).ok_or_else(|| wrong("an error of an unknown record"))?;
            let failure = Failure::of_item(&error.error.unwrap_or_default());
            if failure.passes() {
                self.again_pause = self.again_pause.max(failure.retry_after);
                self.again_failure = Some(failure);
                self.again.push(record.clone());
                continue;
            }
            bad += 1;
            let field = failure.fields.first().map(|(field, _)| field.clone()).unwrap_or_default();
            let row = BadRow {
                line: record.number,
                column: self.batches.plan.column_of_field(&field),
                user: Some(record.user.clone()),
                reason: format!("{} ({})", failure.message, failure.reason),
            };
            self.report.bad(&row, &self.progress)?;
        }
        for note in response.notes.iter().filter_map(|note| note.note.as_ref()) {
            *self.disabled.entry(note.name.clone()).or_default() += 1;
        }
        self.progress.advance(batch.rows);
        let kept = u64::from(response.kept);
        self.settle(&Batch { bad: batch.bad + bad, ..batch }, kept)
    }

    fn settle(&mut self, batch: &Batch, kept: u64) -> Result<(), CliError> {
        let (rows, all_kept, bad) = &mut self.acknowledged;
        *rows += batch.rows;
        *all_kept += kept;
        *bad += batch.bad;
        if !self.again.is_empty() || self.unacknowledged.iter().any(|batch| batch.again) {
            return Ok(());
        }
        self.settled.rows += *rows;
        self.settled.kept += *all_kept;
        self.settled.bad += *bad;
        self.acknowledged = (0, 0, 0);
        self.resume.map_or(Ok(()), |resume| resume.write(&self.settled))
    }

    /// Attributes that the site ignores, and in how many rows.
    pub fn disabled(&self) -> &BTreeMap<String, u64> {
        &self.disabled
    }
}

/// The line of the batch's last record: tells the batches of a file apart.
fn token(batch: &Batch) -> String {
    batch.records.last().map(|record| record.number.to_string()).unwrap_or_default()
}

/// The window has room; if the stream is gone, its status says so where it is read.
fn push(send: &mpsc::Sender<ImportProfilesRequest>, request: ImportProfilesRequest) {
    let _ = send.try_send(request);
}
