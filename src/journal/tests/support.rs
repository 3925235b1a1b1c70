//! What the journal's tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::super::format::{BATCH_MAGIC, BATCH_OVERHEAD};
use super::super::fs::{FaultyFs, Fs};
use super::super::log::Log;
use super::super::{
    BatchSettings, Carried, Carrier, Committed, Journal, JournalError, JournalOptions, JournalReader, Kept,
    OpenError, Opened, Released, Sink, SnapshotRef, StoredEntry, Submission, SubmitReason, Switch,
    SwitchError,
};
use crate::clock::ManualClock;
use crate::model::EventTime;

pub const DIR: &str = "/journal";

pub fn start_time() -> EventTime {
    EventTime::MIN.plus(Duration::from_secs(1_000_000))
}

pub fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 16 << 10,
        batch_bytes: 6 << 10,
        max_entry_bytes: 4 << 10,
        queue_entries: 1000,
        queue_bytes: 6 << 10,
        total_quota: 16 << 20,
        ..JournalOptions::new(DIR)
    }
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(start_time()))
}

pub fn open(fs: &FaultyFs) -> Result<Opened, OpenError> {
    open_with(fs, options())
}

pub fn open_with(fs: &FaultyFs, options: JournalOptions) -> Result<Opened, OpenError> {
    Journal::<u64>::open(options, Arc::new(fs.clone()), clock())
}

pub fn settings() -> BatchSettings {
    BatchSettings { refresh_after: Duration::from_mins(10), semantics: 1 }
}

/// The payload of the `n`th entry of a script: its length varies, its content tells which it is.
pub fn payload(n: u64, length: usize) -> Vec<u8> {
    let mut bytes = format!("entry {n} ").into_bytes();
    bytes.resize(bytes.len().max(length), (n % 251) as u8);
    bytes
}

/// Commits one batch without threads.
pub fn append(log: &mut Log, payloads: &[Vec<u8>]) -> Result<Vec<u64>, super::super::IoFailure> {
    let mut positions = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        loop {
            if let Some((placed, _)) = log.push(start_time(), payload) {
                positions.push(placed.position);
                break;
            }
            if index > 0 {
                log.commit(settings())?;
            }
            log.roll()?;
        }
    }
    log.commit(settings())?;
    Ok(positions)
}

/// A switch to a snapshot that begins with the segment that holds `position`; nothing before it waits.
fn nothing_before(reader: &JournalReader, carried: Carried, position: u64) -> Switch {
    let segments = reader.segments();
    let start = segments.iter().rev().find(|s| s.first_position <= position).unwrap().first_position;
    let snapshot = SnapshotRef { name: "snapshot".to_owned(), start, bytes: 1, taken_at: start_time() };
    Switch { snapshot, keep: Vec::new(), carried }
}

/// Gives up the segments before the one that holds `position`.
pub fn release(journal: &Journal<u64>, position: u64) -> Result<Released, SwitchError> {
    let carried = journal.carrier(&[]).finish().unwrap();
    journal.switch(nothing_before(&journal.reader(), carried, position))
}

/// The same without threads.
pub fn release_in(log: &Log, position: u64) -> Result<Released, SwitchError> {
    let carried = Carrier::new(Arc::clone(log.shared()), &[]).finish().unwrap();
    let switch = nothing_before(&JournalReader::new(Arc::clone(log.shared())), carried, position);
    log.shared().switch(log.spares(), switch)
}

pub fn all(reader: &JournalReader) -> Vec<StoredEntry> {
    reader.scan(0).map(|entry| entry.expect("a whole journal")).collect()
}

/// What a sink heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Committed(Vec<Committed<u64>>),
    Failed(Vec<u64>, Kept),
}

pub struct Ear(Sender<Heard>);

impl Sink<u64> for Ear {
    fn committed(&mut self, batch: Vec<Committed<u64>>) {
        let _test_is_over = self.0.send(Heard::Committed(batch));
    }
    fn failed(&mut self, tickets: Vec<u64>, kept: Kept, _error: Arc<JournalError>) {
        let _test_is_over = self.0.send(Heard::Failed(tickets, kept));
    }
}

pub fn start(opened: Opened) -> (Journal<u64>, Receiver<Heard>) {
    let (sender, receiver) = channel();
    (opened.start(settings, Box::new(Ear(sender))).unwrap(), receiver)
}

/// Submits one entry and waits for it; while it is not yet known whether the disk has room for the next segment
/// (which takes as long as these small ones are written) it is offered again. `false` when it is full.
pub fn offer(journal: &Journal<u64>, heard: &Receiver<Heard>, n: u64, length: usize) -> bool {
    loop {
        match journal.submit(Submission { payload: payload(n, length), ticket: n }) {
            Ok(()) => {
                assert!(matches!(heard.recv().unwrap(), Heard::Committed(_)));
                return true;
            }
            Err(error) => match error.reason {
                SubmitReason::Full { .. } => return false,
                SubmitReason::Overloaded => std::thread::yield_now(),
                other => panic!("{other}"),
            },
        }
    }
}

pub fn submission(n: u64) -> Submission<u64> {
    Submission { payload: payload(n, 20), ticket: n }
}

/// Submits one entry and waits for it.
pub fn keep(journal: &Journal<u64>, heard: &Receiver<Heard>, n: u64) -> Committed<u64> {
    journal.submit(submission(n)).unwrap();
    match heard.recv().unwrap() {
        Heard::Committed(mut batch) => batch.pop().unwrap(),
        Heard::Failed(..) => panic!("entry {n} failed"),
    }
}

pub fn file_of(fs: &FaultyFs, prefix: &str) -> PathBuf {
    let names = fs.list(Path::new(DIR)).unwrap();
    let name = names.iter().rfind(|name| name.starts_with(prefix)).unwrap();
    Path::new(DIR).join(name)
}

/// Where the content of a file ends. The checksum at the end of the last batch may end with zeros, like those behind it.
pub fn end_of(content: &[u8]) -> usize {
    match content.windows(BATCH_MAGIC.len()).rposition(|bytes| bytes == BATCH_MAGIC) {
        Some(batch) => {
            let length: [u8; 4] = content[batch + 4..batch + 8].try_into().unwrap();
            batch + BATCH_OVERHEAD as usize + u32::from_le_bytes(length) as usize
        }
        None => content.iter().rposition(|byte| *byte != 0).unwrap() + 1,
    }
}
