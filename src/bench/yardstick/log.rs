//! The least that a durable log does: appends, and one `fdatasync` for all that wait.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use tokio::sync::oneshot;

/// Entries that may wait to be written.
const QUEUE: usize = 65_536;
/// Bytes written with one sync, as the journal has it.
const BATCH_BYTES: usize = 1 << 20;
/// The file: zero-filled before anything is measured, and written over from its start when it is full.
const FILE_BYTES: u64 = 64 << 20;

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLogged {
    /// Too many wait.
    Full,
    /// A write or a sync failed.
    Failed,
}

struct Append {
    entry: Vec<u8>,
    done: oneshot::Sender<()>,
}

/// The queue to the thread that writes.
#[derive(Clone, Debug)]
pub struct Log {
    queue: Sender<Append>,
}

impl Log {
    /// Makes the file at `path`, in place of one that is there, and starts the thread.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let zeros = vec![0; BATCH_BYTES];
        for _ in 0..FILE_BYTES / BATCH_BYTES as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        let (queue, entries) = crossbeam_channel::bounded(QUEUE);
        thread::Builder::new().name("yardstick-log".to_owned()).spawn(move || commit(&file, &entries))?;
        Ok(Self { queue })
    }

    /// Appends an entry; returns when it is synced.
    pub async fn append(&self, entry: Vec<u8>) -> Result<(), NotLogged> {
        let (done, synced) = oneshot::channel();
        self.queue.try_send(Append { entry, done }).map_err(|error| match error {
            TrySendError::Full(_) => NotLogged::Full,
            TrySendError::Disconnected(_) => NotLogged::Failed,
        })?;
        synced.await.map_err(|_| NotLogged::Failed)
    }
}

/// Takes what waits, writes it, syncs, and tells those who wait. Ends at the first error: they hear that too.
fn commit(file: &File, entries: &Receiver<Append>) {
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    let mut waiting = Vec::new();
    let mut offset = 0;
    while let Ok(first) = entries.recv() {
        batch.clear();
        let mut next = Some(first);
        while let Some(Append { entry, done }) = next {
            batch.extend_from_slice(&(entry.len() as u32).to_le_bytes());
            batch.extend_from_slice(&crc32c::crc32c(&entry).to_le_bytes());
            batch.extend_from_slice(&entry);
            waiting.push(done);
            next = if batch.len() < BATCH_BYTES { entries.try_recv().ok() } else { None };
        }
        if offset + batch.len() as u64 > FILE_BYTES {
            offset = 0;
        }
        if let Err(error) = file.write_all_at(&batch, offset).and_then(|()| file.sync_data()) {
            tracing::error!(%error, "yardstick: the log failed");
            return;
        }
        offset += batch.len() as u64;
        for done in waiting.drain(..) {
            // A caller that has gone away needs no answer.
            let _ = done.send(());
        }
    }
}
