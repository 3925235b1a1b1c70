//! A file system whose syncs can be made to hang: what a frozen or overloaded disk does to the journal.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Fs, FsFile, FsLock, OpenMode};

/// Holds syncs of files while it is closed, or for a while each. Clones speak of the same gate.
#[derive(Clone, Debug, Default)]
pub struct SyncGate(Arc<(Mutex<Held>, Condvar)>);

#[derive(Debug, Default)]
struct Held {
    closed: bool,
    delay: Option<Duration>,
}

impl SyncGate {
    /// Syncs hang from now on.
    pub fn close(&self) {
        self.0.0.lock().closed = true;
    }

    /// Syncs go on, those that are delayed too.
    pub fn open(&self) {
        *self.0.0.lock() = Held::default();
        self.0.1.notify_all();
    }

    /// Each sync takes so much longer from now on.
    pub fn delay(&self, by: Duration) {
        self.0.0.lock().delay = Some(by);
    }

    /// How much longer each sync takes.
    pub fn delayed(&self) -> Option<Duration> {
        self.0.0.lock().delay
    }

    fn pass(&self) {
        let mut held = self.0.0.lock();
        if let Some(delay) = held.delay {
            // Over is over, whichever came first.
            self.0.1.wait_while_for(&mut held, |held| held.delay.is_some(), delay);
        }
        self.0.1.wait_while(&mut held, |held| held.closed);
    }
}

/// `inner`, with syncs that pass a gate.
#[derive(Debug)]
pub struct SlowFs<F: ?Sized> {
    inner: Arc<F>,
    gate: SyncGate,
}

impl<F: Fs + ?Sized> SlowFs<F> {
    /// `inner` behind `gate`.
    pub fn new(inner: Arc<F>, gate: SyncGate) -> Self {
        Self { inner, gate }
    }
}

impl<F: Fs + ?Sized> Fs for SlowFs<F> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn FsFile>> {
        let inner = self.inner.open(path, mode)?;
        Ok(Box::new(SlowFile { inner, gate: self.gate.clone() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FsLock>>> {
        self.inner.lock(path)
    }
}

#[derive(Debug)]
struct SlowFile {
    inner: Box<dyn FsFile>,
    gate: SyncGate,
}

impl FsFile for SlowFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.inner.allocate(length)
    }

    fn has_name(&self) -> io::Result<bool> {
        self.inner.has_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FaultyFs;

    #[test]
    fn a_sync_waits_for_the_gate() {
        let gate = SyncGate::default();
        let fs = SlowFs::new(Arc::new(FaultyFs::new()), gate.clone());
        let file = fs.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
        file.sync_data().unwrap();
        gate.close();
        let (done, heard) = std::sync::mpsc::channel();
        let syncing = std::thread::spawn(move || {
            file.sync_data().unwrap();
            done.send(()).unwrap();
        });
        assert!(heard.try_recv().is_err());
        gate.open();
        heard.recv().unwrap();
        syncing.join().unwrap();
    }
}
