//! The read stack's innermost service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use tower::Service;

use super::ProfileCache;
use super::overlay::{EntrySource, OVERLAY_LIMIT, Stamped, overlay};
use crate::command::{ProfileView, ReadError, ReadRequest};
use crate::model::{ProfileKey, Record};
use crate::sites::{EntryRef, PendingOf, Sites};
use crate::store::service::Load;
use crate::store::{Purpose, StoreError};

/// How many reads may wait for journal files at once.
const JOURNAL_READS: usize = 64;

/// What reads work on; shared by all clones of [`Read`].
pub struct ReadShared {
    sites: Arc<Sites>,
    cache: Arc<ProfileCache>,
    entries: EntrySource,
    journal_reads: Arc<Semaphore>,
    hits: metrics::Counter,
    misses: metrics::Counter,
    /// Set when the server has stopped reading.
    pub draining: AtomicBool,
}

impl ReadShared {
    /// Reads profiles of `sites`.
    pub fn new(sites: Arc<Sites>, cache: Arc<ProfileCache>, entries: EntrySource) -> Self {
        let journal_reads = Arc::new(Semaphore::new(JOURNAL_READS));
        let reads =
            |found: &'static str| metrics::counter!(crate::metrics::PROFILE_CACHE_READS, "found" => found);
        let (hits, misses) = (reads("yes"), reads("no"));
        Self { sites, cache, entries, journal_reads, hits, misses, draining: AtomicBool::new(false) }
    }
}

/// Reads profiles by key. `L` loads records, through whatever layers reads go through.
#[derive(Clone)]
pub struct Read<L> {
    shared: Arc<ReadShared>,
    load: L,
}

type Answer = Result<Vec<ProfileView>, ReadError>;

impl<L> Read<L> {
    /// Reads what is in `shared`.
    pub fn new(shared: Arc<ReadShared>, load: L) -> Self {
        Self { shared, load }
    }
}

/// One profile on its way to the reader.
struct Wanted {
    key: ProfileKey,
    user: u64,
    pending: PendingOf,
    /// `None`: it must be loaded.
    #[expect(clippy::option_option, reason = "a profile that is known not to exist needs no load")]
    stored: Option<Option<Arc<Record>>>,
}

impl<L> Service<ReadRequest> for Read<L>
where
    L: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError> + Clone + Send + 'static,
    L::Future: Send,
{
    type Response = Vec<ProfileView>;
    type Error = ReadError;
    type Future = Either<Ready<Answer>, BoxFuture<'static, Answer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: ReadRequest) -> Self::Future {
        if self.shared.draining.load(Ordering::Relaxed) {
            return Either::Left(ready(Err(ReadError::Draining)));
        }
        let wanted: Vec<Wanted> = request.keys.into_iter().map(|key| self.shared.look(key)).collect();
        if wanted.iter().all(Wanted::is_complete) {
            let views = wanted.into_iter().map(|wanted| wanted.view(&[])).collect();
            return Either::Left(ready(Ok(views)));
        }
        let deadline = tokio::time::Instant::from_std(request.deadline);
        let reading = finish(Arc::clone(&self.shared), self.load.clone(), wanted);
        Either::Right(Box::pin(async move {
            timeout_at(deadline, reading).await.unwrap_or(Err(ReadError::Deadline))
        }))
    }
}

impl ReadShared {
    /// What memory has of one user. The pending entries first: what is applied after this look is in the
    /// stored record, and `evaluate` skips what a record has applied.
    fn look(&self, key: ProfileKey) -> Wanted {
        let user = key.hash64();
        let pending = match self.sites.get(&key.site) {
            Some(site) => site.lane.lock().pending_of(user, OVERLAY_LIMIT),
            None => PendingOf::default(),
        };
        let stored = self.cache.get(&key);
        if stored.is_some() { &self.hits } else { &self.misses }.increment(1);
        Wanted { key, user, pending, stored }
    }
}

impl Wanted {
    fn is_complete(&self) -> bool {
        self.stored.is_some() && self.pending.entries.is_empty()
    }

    fn view(self, entries: &[Stamped]) -> ProfileView {
        let record = overlay(self.stored.flatten(), &self.key.user, entries);
        let profile = match record.as_deref() {
            Some(Record::Live(_)) => record,
            Some(Record::Deleted(_)) | None => None,
        };
        ProfileView { profile, pending: self.pending.count, overlaid: !self.pending.too_many }
    }
}

/// Loads what memory did not have.
async fn finish<L>(shared: Arc<ReadShared>, mut load: L, mut wanted: Vec<Wanted>) -> Answer
where
    L: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>,
{
    let missing: Vec<_> = wanted
        .iter()
        .filter(|wanted| wanted.stored.is_none())
        .map(|wanted| (wanted.key.clone(), wanted.user, shared.cache.stamp(wanted.user)))
        .collect();
    if !missing.is_empty() {
        let keys = missing.iter().map(|(key, ..)| key.clone()).collect();
        let records = load.call(Load { purpose: Purpose::Get, keys }).await.map_err(of_store)?;
        let mut loaded = missing.into_iter().zip(records);
        for wanted in wanted.iter_mut().filter(|wanted| wanted.stored.is_none()) {
            let Some(((key, user, stamp), record)) = loaded.next() else {
                return Err(ReadError::Store("the store answered fewer records than were asked for".into()));
            };
            shared.cache.fill(user, stamp, key, record.clone());
            wanted.stored = Some(record);
        }
    }
    let mut views = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let entries = shared.fetch(&wanted.pending.entries).await?;
        views.push(wanted.view(&entries));
    }
    Ok(views)
}

impl ReadShared {
    async fn fetch(&self, entries: &[EntryRef]) -> Result<Vec<Stamped>, ReadError> {
        let source = self.entries.clone();
        let fetch_all = |source: &EntrySource, entries: &[EntryRef]| {
            entries.iter().map(|entry| source.fetch(entry)).collect::<Result<Vec<_>, _>>()
        };
        if entries.iter().all(EntrySource::is_hot) {
            return fetch_all(&source, entries).map_err(ReadError::Store);
        }
        let Ok(_permit) = Arc::clone(&self.journal_reads).try_acquire_owned() else {
            return Err(ReadError::Overloaded);
        };
        let entries = entries.to_vec();
        tokio::task::spawn_blocking(move || fetch_all(&source, &entries))
            .await
            .map_err(|error| ReadError::Store(error.to_string()))?
            .map_err(ReadError::Store)
    }
}

/// What a reader hears of a store call that failed.
pub fn of_store(error: StoreError) -> ReadError {
    match error {
        StoreError::Rebuilding { done, total } => ReadError::Rebuilding { done, total },
        StoreError::Busy => ReadError::Overloaded,
        StoreError::Closed => ReadError::Draining,
        StoreError::Withheld { operation, state, site, retry_after } => {
            ReadError::BreakerOpen { operation, state, site, retry_after }
        }
        other => ReadError::Store(other.to_string()),
    }
}
