//! The embedded backend: one generation on sled, in a directory of its own.
//!
//! sled is used as a cache that survives restarts, not as a place of truth: its `flush()` does not sync,
//! and a power cut can destroy what was synced before. The journal and its snapshots are the truth; this
//! is what has been applied, and it is thrown away when in doubt.
//!
//! Writes are plain inserts and removes by one writer thread. sled's batches take a lock of the whole
//! process that starves readers. After a kill, what is there is a prefix of that thread's writes.

mod build;
mod fill;
mod pool;
mod scan;
mod trees;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub use self::fill::Filling;
use self::pool::Pool;
pub use self::pool::PoolState;
pub use self::trees::Mark;
use self::trees::Trees;
use self::writer::Writer;
use super::index::{AttributeIndex, IndexSize, IndexState};
use super::{
    AttributeInfo, Call, Committed, Declaration, Flushed, IndexPage, IndexScan, Operation, Purpose,
    RecordCursor, RecordPage, RefusedRecord, SiteCommit, Store, StoreError, StoreFuture, WorkerHook,
};
use crate::model::{NodeId, ProfileKey, Record, Site};

/// How a generation is opened.
#[derive(Clone)]
pub struct SledOptions {
    /// sled's page cache, bytes. Smaller than the working set, a change costs three times as much.
    pub cache_capacity: u64,
    /// Threads that load for reads.
    pub get_threads: usize,
    /// Threads for queries, exports and scans.
    pub query_threads: usize,
    /// Threads that load for the applier.
    pub apply_threads: usize,
    /// Calls that may wait in each pool; more are answered [`StoreError::Busy`].
    pub queue: usize,
    /// The attribute index in memory, bytes; attributes that do not fit are not indexed.
    pub index_capacity: u64,
    /// Asked before each call on the thread that runs it.
    pub hook: Option<Arc<dyn WorkerHook>>,
    /// The number of this generation, as hooks and decorators are told.
    pub generation: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_capacity: 256 << 20,
            get_threads: 2,
            query_threads: 2,
            apply_threads: 2,
            queue: 1024,
            index_capacity: 512 << 20,
            hook: None,
            generation: 0,
        }
    }
}

/// One generation of the store.
pub struct SledStore {
    dir: PathBuf,
    // The file that was opened, which may not be the one that lies there later.
    files: Option<FileId>,
    stored_mark: Option<Mark>,
    shared: Arc<Shared>,
    writer: Arc<Pool>,
    // Disconnects when the index builder has ended.
    builder: Receiver<()>,
    // Of its own, so that a flush on a frozen disk holds up no commit by itself.
    flusher: Pool,
    gets: Pool,
    queries: Pool,
    apply: Pool,
}

/// What the threads of one generation share.
struct Shared {
    generation: u64,
    // Emptied at close: sled ends, and releases its file, when the last handle is gone.
    trees: ArcSwapOption<Trees>,
    writer: parking_lot::Mutex<Writer>,
    index: AttributeIndex,
    // Rises when a commit begins and when it ends.
    clock: AtomicU64,
    wake_builder: Sender<()>,
    stop: AtomicBool,
    committed: AtomicU64,
    written_bytes: AtomicU64,
    flushed_bytes: AtomicU64,
    damaged: AtomicBool,
    // Its files are not where they were opened. What is open is whole, but there is no future for it.
    lost: AtomicBool,
    profiles: AtomicU64,
    // As of the last flush: to look is to ask the disk.
    disk_bytes: AtomicU64,
    // sled takes no more writes after the first that failed, whatever becomes of the disk.
    failed: AtomicBool,
}

impl Shared {
    fn trees(&self) -> Result<Arc<Trees>, StoreError> {
        self.trees.load_full().ok_or(StoreError::Closed)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Has the index builder look for work, or for the end.
    fn wake_builder(&self) {
        // Full: it has been woken and has not looked yet.
        let _ = self.wake_builder.try_send(());
    }

    /// Notes damage, so that the generation is replaced whoever met it.
    fn watch<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Corrupt(_))) {
            self.damaged.store(true, Ordering::Release);
        }
        result
    }

    /// Runs `work` and notes what it says of the generation. A panic inside sled is damage: what it asserts
    /// about its own files does not hold any more.
    fn call<T>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let error = StoreError::panicked(panic.as_ref());
            tracing::error!(?operation, %error, "a call panicked inside the store");
            self.damaged.store(true, Ordering::Release);
            Err(error)
        });
        match self.watch(result) {
            Err(StoreError::Io(error)) if !operation.only_reads() => {
                self.failed.store(true, Ordering::Release);
                Err(StoreError::Failed(error))
            }
            result => result,
        }
    }
}

impl SledStore {
    /// Opens or creates the generation in `dir` for `node`. Blocks; sled's panics are caught.
    pub fn open(dir: &Path, node: NodeId, options: &SledOptions) -> Result<Self, StoreError> {
        let cache_capacity = options.cache_capacity;
        let opened = catch_unwind(|| {
            let trees = Trees::open(dir, cache_capacity)?;
            let (mark, registry, disk_bytes) = (trees.mark()?, trees.load_registry()?, trees.disk_bytes()?);
            Ok::<_, StoreError>((trees, mark, registry, disk_bytes))
        });
        let (trees, mark, registry, disk_bytes) =
            opened.unwrap_or_else(|panic| Err(StoreError::panicked(panic.as_ref())))?;
        let stored_mark = mark;
        let mark = mark.unwrap_or(Mark { node, commit_number: 0, last_position: 0, profiles: 0 });
        let index = AttributeIndex::new(options.index_capacity);
        for (site, info) in &registry {
            index.declare(site, &info.name, info.indexed);
        }
        let (wake_builder, woken) = bounded(1);
        let shared = Arc::new(Shared {
            generation: options.generation,
            trees: ArcSwapOption::from_pointee(trees),
            writer: parking_lot::Mutex::new(Writer::new(mark)),
            index,
            clock: AtomicU64::new(0),
            wake_builder,
            stop: AtomicBool::new(false),
            committed: AtomicU64::new(mark.commit_number),
            written_bytes: AtomicU64::new(0),
            flushed_bytes: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            profiles: AtomicU64::new(mark.profiles),
            disk_bytes: AtomicU64::new(disk_bytes),
            failed: AtomicBool::new(false),
        });
        let no_thread = |e| StoreError::Io(format!("cannot start a thread: {e}"));
        let pool = |name, threads| {
            Pool::start(name, threads, options.queue, options.hook.clone()).map_err(no_thread)
        };
        let (life, builder) = bounded(0);
        let store = Self {
            dir: dir.to_owned(),
            files: FileId::of(dir),
            stored_mark,
            shared: Arc::clone(&shared),
            writer: Arc::new(pool("store-writer", 1)?),
            builder,
            flusher: pool("store-flush", 1)?,
            gets: pool("store-get", options.get_threads)?,
            queries: pool("store-query", options.query_threads)?,
            apply: pool("store-apply", options.apply_threads)?,
        };
        let writer = Arc::clone(&store.writer);
        let build = move || {
            let _life: Sender<()> = life;
            build::run(&shared, &writer, &woken);
        };
        std::thread::Builder::new().name("store-index".to_owned()).spawn(build).map_err(no_thread)?;
        Ok(store)
    }

    /// Its number.
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How far it has come, as of the last finished commit.
    pub fn mark(&self) -> Mark {
        self.shared.writer.lock().mark()
    }

    /// Profiles in it, about. Never waits for a commit that hangs: then it is what was known before.
    pub fn profiles(&self) -> u64 {
        if let Some(writer) = self.shared.writer.try_lock() {
            self.shared.profiles.store(writer.mark().profiles, Ordering::Relaxed);
        }
        self.shared.profiles.load(Ordering::Relaxed)
    }

    /// Bytes on disk, as of the last flush. Never waits for the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.disk_bytes.load(Ordering::Relaxed)
    }

    /// The mark that was found at open; none in a generation without commits.
    pub fn stored_mark(&self) -> Option<Mark> {
        self.stored_mark
    }

    /// The registry of all sites. Blocks; meant for the start.
    pub fn registry(&self) -> Result<Vec<(Site, AttributeInfo)>, StoreError> {
        self.shared.watch(self.shared.trees()?.load_registry())
    }

    /// Whether the attribute index is built.
    pub fn index_state(&self) -> IndexState {
        self.shared.index.state()
    }

    /// Bytes that the attribute index takes.
    pub fn index_bytes(&self) -> u64 {
        self.shared.index.used()
    }

    /// Attributes that are not indexed because the index was full.
    pub fn attributes_left_out(&self) -> u64 {
        self.shared.index.left_out()
    }

    /// The index of each attribute of `site`.
    pub fn index_sizes(&self, site: &Site) -> Vec<IndexSize> {
        self.shared.index.sizes(site)
    }

    /// The refused records of all sites. Blocks; meant for the start.
    pub fn refused(&self) -> Result<Vec<RefusedRecord>, StoreError> {
        self.shared.watch(self.shared.trees()?.load_all_refused())
    }

    /// What each pool is doing at `now`: the writer, flushes, gets, queries, the applier's loads.
    pub fn pools(&self, now: Instant) -> Vec<PoolState> {
        self.all_pools().iter().map(|pool| pool.state(now)).collect()
    }

    /// The age of the oldest call that runs at `now`.
    pub fn oldest_call(&self, now: Instant) -> Option<Duration> {
        self.pools(now).iter().filter_map(PoolState::oldest).max()
    }

    /// Bytes put since the last flush that succeeded.
    pub fn unflushed_bytes(&self) -> u64 {
        let flushed = self.shared.flushed_bytes.load(Ordering::Acquire);
        self.shared.written_bytes.load(Ordering::Acquire).saturating_sub(flushed)
    }

    /// Whether a call has met damage: this generation is to be replaced.
    pub fn is_damaged(&self) -> bool {
        self.shared.damaged.load(Ordering::Acquire)
    }

    /// Whether its files have been removed or replaced: it can be read, but is to be replaced.
    pub fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Acquire)
    }

    /// Whether a write has failed: sled takes none from then on.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// For how long the oldest call has been inside sled at `now`.
    pub fn oldest_inside(&self, now: Instant) -> Option<Duration> {
        self.pools(now).iter().flat_map(|pool| pool.inside.iter().copied()).max()
    }

    /// Threads with a call older than `age` at `now`.
    pub fn threads_older_than(&self, age: Duration, now: Instant) -> usize {
        self.pools(now).iter().map(|pool| pool.older_than(age)).sum()
    }

    /// Whether all of its threads have ended.
    pub fn has_ended(&self) -> bool {
        self.all_pools().iter().all(|pool| pool.wait_closed(Duration::ZERO))
    }

    /// Looks whether its files still lie where they were opened. Asks the disk.
    pub fn check_files(&self) -> StoreFuture<()> {
        let (dir, opened) = (self.dir.clone(), self.files);
        self.run(&self.flusher, Operation::Upkeep, None, move |shared, _| {
            if FileId::of(&dir) == opened {
                return Ok(());
            }
            shared.lost.store(true, Ordering::Release);
            Err(StoreError::Io(format!("its files in {} were removed or replaced", dir.display())))
        })
    }

    /// Shows that it takes writes: puts `bytes` of scratch, writes them out, reads them back and removes them.
    pub fn prove(&self, bytes: usize) -> StoreFuture<()> {
        self.run(&self.writer, Operation::Upkeep, None, move |_, trees| trees.prove(bytes))
    }

    /// Fills it with the profiles of a snapshot, as long as it is empty.
    pub fn filling(&self) -> Filling<'_> {
        Filling::of(self)
    }

    /// Gives it up: takes no more calls, lets go of the files as soon as no thread is inside any more, and waits
    /// for that at most `limit`. Nothing is written out. Whether all threads have ended.
    pub fn retire(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        self.stop();
        // A call that hangs before it has come to sled finds it closed when it goes on.
        drop(self.shared.trees.swap(None));
        let left = || until.saturating_duration_since(Instant::now());
        let built = self.builder.recv_timeout(left()) == Err(RecvTimeoutError::Disconnected);
        self.all_pools().iter().all(|pool| pool.wait_closed(left())) && built
    }

    /// Finishes what waits, flushes and lets go of the files. Blocks, at most `limit` for the calls that
    /// still run; an error leaves the generation unclean.
    pub fn close(&self, limit: Duration) -> Result<(), StoreError> {
        let until = Instant::now() + limit;
        self.stop();
        // Nothing is ever sent: the channel only disconnects.
        if self.builder.recv_timeout(limit) != Err(RecvTimeoutError::Disconnected) {
            return Err(StoreError::Busy);
        }
        for pool in self.all_pools() {
            if !pool.wait_closed(until.saturating_duration_since(Instant::now())) {
                return Err(StoreError::Busy);
            }
        }
        let trees = self.shared.trees.swap(None).ok_or(StoreError::Closed)?;
        let trees = Arc::into_inner(trees).ok_or(StoreError::Busy)?;
        trees.flush()?;
        drop(trees);
        wait_released(&self.dir, until)
    }

    /// Takes no more calls; what waits in the writer's queue still runs.
    fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake_builder();
        for pool in self.all_pools() {
            pool.close();
        }
    }

    fn all_pools(&self) -> [&Pool; 5] {
        [&self.writer, &self.flusher, &self.gets, &self.queries, &self.apply]
    }

    fn run<T: Send + 'static>(
        &self,
        pool: &Pool,
        operation: Operation,
        site: Option<Site>,
        work: impl FnOnce(&Shared, &Trees) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<T> {
        let shared = Arc::clone(&self.shared);
        pool.run(Call { generation: shared.generation, operation, site }, move || {
            let trees = shared.trees()?;
            shared.call(operation, || work(&shared, &trees))
        })
    }
}

/// What tells a file from another that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file that sled keeps everything in; none if it is not there.
    fn of(dir: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(dir.join("db")).ok()?;
        Some(Self { device: found.dev(), inode: found.ino() })
    }
}

/// Waits until sled has let go of its files. Its threads, which belong to the process, may still be
/// writing when the last handle has gone; they hold the lock on the file `db` until they are done.
fn wait_released(dir: &Path, until: Instant) -> Result<(), StoreError> {
    let file = std::fs::File::open(dir.join("db")).map_err(|e| StoreError::Io(e.to_string()))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Busy),
            Err(std::fs::TryLockError::Error(error)) => return Err(StoreError::Io(error.to_string())),
        }
    }
}

impl Drop for SledStore {
    /// Without a close, the threads end by themselves when they have run dry.
    fn drop(&mut self) {
        self.stop();
    }
}

impl Store for SledStore {
    fn declaration(&self) -> Declaration {
        Declaration { durable: false, isolates_sites: false, exclusive: true }
    }

    fn load(&self, purpose: Purpose, keys: Vec<ProfileKey>) -> StoreFuture<Vec<Option<Arc<Record>>>> {
        let pool = match purpose {
            Purpose::Get => &self.gets,
            Purpose::Query => &self.queries,
            Purpose::Apply => &self.apply,
        };
        let site = keys.first().map(|key| key.site.clone());
        self.run(pool, Operation::Load(purpose), site, move |_, trees| {
            keys.iter().map(|key| Ok(trees.load(key)?.map(Arc::new))).collect()
        })
    }

    fn commit(&self, commit: SiteCommit) -> StoreFuture<Committed> {
        let site = Some(commit.site.clone());
        self.run(&self.writer, Operation::Commit, site, move |shared, trees| {
            let mut writer = shared.writer.lock();
            let done = writer.commit(trees, &shared.index, &shared.clock, &commit)?;
            let commit_number = writer.mark().commit_number;
            if done.build {
                shared.wake_builder();
            }
            shared.written_bytes.fetch_add(done.bytes, Ordering::AcqRel);
            shared.committed.store(commit_number, Ordering::Release);
            Ok(Committed { commit_number })
        })
    }

    fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage> {
        self.run(&self.queries, Operation::ScanIndex, Some(scan.site.clone()), move |shared, trees| {
            scan::index_page(trees, &shared.index, &scan)
        })
    }

    fn scan_records(&self, after: Option<RecordCursor>, limit: usize) -> StoreFuture<RecordPage> {
        self.run(&self.queries, Operation::ScanRecords, None, move |_, trees| {
            scan::page(trees, after.as_ref(), limit)
        })
    }

    fn load_refused(&self, site: Site, position: u64) -> StoreFuture<Option<RefusedRecord>> {
        self.run(&self.gets, Operation::LoadRefused, Some(site.clone()), move |_, trees| {
            trees.load_refused(&site, position)
        })
    }

    fn flush(&self) -> StoreFuture<Flushed> {
        self.run(&self.flusher, Operation::Flush, None, |shared, trees| {
            // Noted first: commits that end while the flush runs may or may not be in it.
            let commit_number = shared.committed.load(Ordering::Acquire);
            let bytes = shared.written_bytes.load(Ordering::Acquire);
            trees.flush()?;
            shared.flushed_bytes.fetch_max(bytes, Ordering::AcqRel);
            // A directory that has been removed is no fault of this flush: `check_files` tells of it.
            if let Ok(bytes) = trees.disk_bytes() {
                shared.disk_bytes.store(bytes, Ordering::Relaxed);
            }
            Ok(Flushed { commit_number })
        })
    }
}

#[cfg(test)]
mod tests;
