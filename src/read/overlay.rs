//! Laying a user's pending entries on top of a stored record.

use std::borrow::Cow;
use std::sync::Arc;

use crate::accept::BatchStamp;
use crate::journal::JournalReader;
use crate::model::evaluate::{Evaluation, Stamp, evaluate};
use crate::model::{Command, Entry, EventTime, NodeId, Position, Record, User, codec};
use crate::sites::EntryRef;

/// A read lays at most so many entries on top; with more it shows the stored profile and says so.
pub const OVERLAY_LIMIT: usize = 128;

/// An entry with all that `evaluate` wants to know of it.
#[derive(Clone, Debug)]
pub struct Stamped {
    /// Its place, and whose it is: this node's, or that of an ancestor.
    pub position: Position,
    /// When it was accepted.
    pub accepted_at: EventTime,
    /// What it was accepted under.
    pub batch: BatchStamp,
    /// What is asked for.
    pub entry: Arc<Entry>,
}

impl Stamped {
    /// The stamp of this entry.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            position: self.position,
            accepted_at: self.accepted_at,
            refresh_after: self.batch.refresh_after,
            semantics: self.batch.semantics,
        }
    }
}

/// Where the content of entries comes from: memory, or the journal.
#[derive(Clone, Debug)]
pub struct EntrySource {
    node: NodeId,
    reader: JournalReader,
    current: BatchStamp,
}

impl EntrySource {
    /// Reads back through `reader`; entries in memory were accepted by `node` under `current`.
    pub fn new(node: NodeId, reader: JournalReader, current: BatchStamp) -> Self {
        Self { node, reader, current }
    }

    /// Whether this entry's content is in memory.
    pub fn is_hot(entry: &EntryRef) -> bool {
        entry.hot.as_ref().is_some_and(|hot| hot.accepted_at.get().is_some())
    }

    /// The entry. Blocks on the disk unless it is hot.
    pub fn fetch(&self, entry: &EntryRef) -> Result<Stamped, String> {
        if let Some(hot) = &entry.hot
            && let Some(accepted_at) = hot.accepted_at.get()
        {
            return Ok(Stamped {
                position: Position { node: self.node, number: entry.position },
                accepted_at: *accepted_at,
                batch: self.current,
                entry: Arc::clone(&hot.entry),
            });
        }
        let stored = self.reader.read(entry.position, entry.offset).map_err(|error| error.to_string())?;
        let content = codec::decode_entry(&stored.payload).map_err(|error| error.to_string())?;
        Ok(Stamped {
            position: Position { node: stored.node, number: entry.position },
            accepted_at: stored.accepted_at,
            batch: BatchStamp { refresh_after: stored.refresh_after, semantics: stored.semantics },
            entry: Arc::new(content),
        })
    }
}

/// `record` as it will be when `entries` (oldest first) have been applied.
pub fn overlay(record: Option<Arc<Record>>, user: &User, entries: &[Stamped]) -> Option<Arc<Record>> {
    let mut current: Option<Cow<'_, Record>> = record.as_deref().map(Cow::Borrowed);
    for entry in entries {
        // Two users can share a hash, and with it a chain.
        let Command::Write(write) = &entry.entry.command else { continue };
        if write.user != *user {
            continue;
        }
        if let Evaluation::Applied { record, .. } = evaluate(current.as_deref(), write, &entry.stamp()) {
            current = Some(Cow::Owned(record));
        }
    }
    match current {
        Some(Cow::Owned(record)) => Some(Arc::new(record)),
        Some(Cow::Borrowed(_)) | None => record,
    }
}
