//! The second pass over the file: rows become batches of records.

use prost::Message as _;
use prost_types::Timestamp;

use super::plan::Plan;
use super::progress::Progress;
use super::report::Report;
use super::rows::Rows;
use crate::cli::failure::CliError;
use crate::proto::ImportRecord;

/// Records in a batch. A server takes 1,000.
const BATCH_RECORDS: usize = 500;

/// Bytes in a batch, before the record that exceeds them: far below the smallest message that servers take.
const BATCH_BYTES: usize = 1 << 20;

/// Records to send together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The records: empty only at the end of a file, after bad rows.
    pub records: Vec<ImportRecord>,
    /// Rows of the file that this settles.
    pub rows: u64,
    /// Of these, bad ones that are not sent.
    pub bad: u64,
    /// Whether these records were sent before, and were not kept for now.
    pub again: bool,
}

/// The batches of a file.
pub struct Batches<'a> {
    /// The rows, from the file's start.
    pub rows: Rows,
    /// What becomes of them.
    pub plan: &'a Plan,
    /// The event time of row 0; row n counts n nanoseconds more, so that of two rows of one user the later wins, in
    /// whatever order and however often they are sent.
    pub base: Timestamp,
    /// Rows already taken.
    pub row: u64,
    /// No row is left.
    pub ended: bool,
}

impl Batches<'_> {
    /// Passes over the first `rows` rows: they are settled.
    pub fn skip(&mut self, rows: u64) -> Result<(), CliError> {
        while self.row < rows && self.rows.next_row()?.is_some() {
            self.row += 1;
        }
        Ok(())
    }

    /// The next batch; `None` at the end.
    pub fn next_batch(
        &mut self,
        report: &mut Report,
        progress: &Progress,
    ) -> Result<Option<Batch>, CliError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.records.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            let Some(row) = self.rows.next_row()? else {
                self.ended = true;
                break;
            };
            self.row += 1;
            batch.rows += 1;
            match row.and_then(|row| self.plan.record(row, later(self.base, self.row))) {
                Ok(record) => {
                    bytes += record.encoded_len();
                    batch.records.push(record);
                }
                Err(bad) => {
                    batch.bad += 1;
                    report.bad(&bad, progress)?;
                }
            }
        }
        Ok((batch.rows > 0).then_some(batch))
    }
}

fn later(base: Timestamp, nanos: u64) -> Timestamp {
    let total = base.nanos as u64 + nanos;
    Timestamp {
        seconds: base.seconds + (total / 1_000_000_000) as i64,
        nanos: (total % 1_000_000_000) as i32,
    }
}
