//! Taking a snapshot: from a new segment of the journal to the manifest that names it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::SnapshotError;
use super::format::Header;
use super::pace::Pace;
use super::reader::{Counts, SnapshotReader};
use super::waiters::Waiters;
use super::writer::{SnapshotWriter, Written};
use super::{file_name, next_number, sweep, temporary};
use crate::accept::Requests;
use crate::clock::Clock;
use crate::command::TaskRefused;
use crate::fs::Fs;
use crate::journal::{IoFailure, Journal, ReadError, Released, RollError, SnapshotRef, Switch, SwitchError};
use crate::sites::Sites;
use crate::store::{Store, StoreError, StoreFuture};

/// Records that are asked of the store at once: about a millisecond's work.
const PAGE: usize = 500;
/// Entries that are carried between two rests.
const CARRIED_AT_ONCE: usize = 1000;
/// A store that needs longer for one page, or for a flush, is not well enough to be copied.
const STORE_LIMIT: Duration = Duration::from_mins(1);

/// The store that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Its generation: another one later means that the store was replaced.
    pub generation: u64,
    /// Its commit number.
    pub commit_number: u64,
    /// About how many records it has.
    pub records: u64,
}

/// What snapshots ask of the node.
pub trait Host: Send + Sync + 'static {
    /// The store in use, if it is trusted and may be copied.
    fn may_take(&self) -> Result<InUse, TaskRefused>;
    /// Flushes the store and notes, durably, how far it has come.
    fn checkpoint(&self) -> StoreFuture<()>;
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The store is not one to be copied.
    #[error(transparent)]
    Refused(#[from] TaskRefused),
    /// The file.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// No segment could be begun.
    #[error(transparent)]
    Roll(#[from] RollError),
    /// A waiting entry could not be read.
    #[error("a waiting entry could not be carried over: {0}")]
    Read(#[from] ReadError),
    /// Waiting entries could not be written.
    #[error("waiting entries could not be carried over: {0}")]
    Carry(IoFailure),
    /// The journal did not take it up.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store does not answer.
    #[error("the store has not answered a call of the snapshot for {} s", STORE_LIMIT.as_secs())]
    StoreSilent,
    /// The store was replaced meanwhile.
    #[error("the store was replaced while it was copied")]
    StoreReplaced,
}

/// A snapshot that the journal goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// As the manifest names it.
    pub snapshot: SnapshotRef,
    /// What is in it.
    pub counts: Counts,
    /// What the journal gave back.
    pub released: Released,
    /// Segments before it that stay, because most of their bytes wait.
    pub kept: u64,
    /// Entries that were carried over.
    pub carried: u64,
}

/// All that a snapshot is taken of, and where it goes.
pub struct Source<T: Send + 'static> {
    /// The files.
    pub fs: Arc<dyn Fs>,
    /// The snapshots' directory.
    pub dir: PathBuf,
    /// The journal.
    pub journal: Journal<T>,
    /// The lanes.
    pub sites: Arc<Sites>,
    /// The request ids.
    pub requests: Arc<Requests>,
    /// The store, as everybody calls it.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The node.
    pub host: Arc<dyn Host>,
}

impl<T: Send + 'static> Source<T> {
    /// Takes a snapshot. `told` hears how many records have been written, and of how many. An error leaves
    /// journal and snapshots as they were.
    pub(super) async fn take(
        &self,
        pace: &mut Pace,
        told: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Taken, TakeError> {
        let before = self.host.may_take()?;
        let current = self.journal.reader().snapshot();
        let number = next_number(&*self.fs, &self.dir, current.as_ref())?;
        let outcome = self.try_take(pace, told, before, number).await;
        let cleaned = match &outcome {
            Ok(taken) => sweep(&*self.fs, &self.dir, Some(&taken.snapshot)),
            // The manifest on the disk may name the new one, so both stay; the next success, or start, knows.
            Err(TakeError::Switch(SwitchError::Io(_))) => Ok(()),
            Err(_) => self.remove(number),
        };
        if let Err(error) = cleaned {
            tracing::warn!(%error, "snapshots that are not needed were not removed; the next one will try");
        }
        outcome
    }

    /// Removes what is there of the snapshot with this number.
    fn remove(&self, number: u64) -> Result<(), SnapshotError> {
        for name in [temporary(number), file_name(number)] {
            let file = self.dir.join(name);
            crate::fs::remove_if_there(&*self.fs, &file).map_err(|source| IoFailure {
                operation: "remove",
                file,
                source,
            })?;
        }
        Ok(())
    }

    async fn try_take(
        &self,
        pace: &mut Pace,
        told: &(dyn Fn(u64, u64) + Sync),
        before: InUse,
        number: u64,
    ) -> Result<Taken, TakeError> {
        let created_at = self.clock.now();
        let reader = self.journal.reader();
        // When this returns the lanes know all entries before it.
        let start = self.journal.roll()?;
        let waiters = Waiters::of(&self.sites, start);
        let segments = reader.segments();
        let keep = waiters.keep(&segments, start);
        let keep_list: Vec<u64> = keep.iter().copied().collect();
        let header =
            Header { node: reader.node(), number, start, commit_number: before.commit_number, created_at };

        let mut carrier = self.journal.carrier(&keep_list);
        let mut since_rest = 0;
        for segment in segments.iter().filter(|s| s.first_position < start && !keep.contains(&s.number)) {
            for place in waiters.within(segment) {
                let entry = reader.read(place.position, place.offset)?;
                carrier.push(&entry).map_err(TakeError::Carry)?;
                since_rest += 1;
                if since_rest == CARRIED_AT_ONCE {
                    since_rest = 0;
                    pace.rest()?;
                }
            }
        }
        let mut carried = carrier.finish().map_err(TakeError::Carry)?;

        let written = self.write(pace, told, header, &waiters, before).await?;
        let copy = SnapshotReader::open_file(&*self.fs, written.path())?;
        copy.verify(&mut |_| pace.rest())?;
        if self.host.may_take()?.generation != before.generation {
            return Err(TakeError::StoreReplaced);
        }
        // From here on nothing before the start is needed but what waits: the store has it, noted as written.
        pace.wait(self.host.checkpoint(), STORE_LIMIT).await?.ok_or(TakeError::StoreSilent)??;

        let (bytes, counts) = (written.bytes, written.counts);
        let name = written.publish()?;
        // Once it has been told to stop the journal may be given up, and its manifest be somebody else's.
        pace.rest()?;
        let snapshot = SnapshotRef { name, start, bytes, taken_at: created_at };
        let places = std::mem::take(&mut carried.places);
        let released =
            self.journal.switch(Switch { snapshot: snapshot.clone(), keep: keep_list, carried })?;
        waiters.repoint(&places);
        Ok(Taken { snapshot, counts, released, kept: keep.len() as u64, carried: places.len() as u64 })
    }

    async fn write(
        &self,
        pace: &mut Pace,
        told: &(dyn Fn(u64, u64) + Sync),
        header: Header,
        waiters: &Waiters,
        before: InUse,
    ) -> Result<Written, TakeError> {
        let mut writer = SnapshotWriter::create(Arc::clone(&self.fs), &self.dir, header)?;
        let mut after = None;
        loop {
            let page = self.store.scan_records(after.take(), PAGE);
            let page = pace.wait(page, STORE_LIMIT).await?.ok_or(TakeError::StoreSilent)??;
            for item in &page.items {
                writer.push(item)?;
            }
            told(writer.records(), before.records.max(writer.records()));
            pace.rest()?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for id in self.requests.export(self.clock.now()) {
            writer.push_id(&id)?;
        }
        Ok(writer.finish(&waiters.set(header.start))?)
    }
}
