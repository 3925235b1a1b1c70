//! The write stack's innermost service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout, timeout_at};
use tower::Service;

use super::sink::HotMemory;
use super::{BatchStamp, End, Heard, Pending, RequestKey, Requests, Seen, Ticket, Verdict};
use crate::clock::Clock;
use crate::command::{Outcome, Receipt, Wait, WriteError, WriteRequest};
use crate::journal::{Journal, Submission, SubmitReason};
use crate::model::evaluate::unchanged;
use crate::model::{
    ChangeKind, Command, Entry, NodeId, Notes, Position, ProfileKey, Record, Refusal, Site, codec, hash,
};
use crate::read::ProfileCache;
use crate::sites::{Lane, SiteState, Sites};
use crate::store::service::Load;
use crate::store::{Purpose, StoreError};

/// What an entry takes in the journal beyond its content.
pub const ENTRY_OVERHEAD: u32 = 20;

/// What acceptance is bounded by.
#[derive(Clone, Copy, Debug)]
pub struct AcceptOptions {
    /// A write that is not applied by then is answered as deferred.
    pub reply_after: Duration,
    /// How long a unary write may wait for one load that could spare the journal an entry.
    pub load_within: Duration,
    /// Attributes a site may have.
    pub attributes_per_site: usize,
    /// Waiting bytes a site may have in the journal, unless an operator says otherwise.
    pub site_quota: u64,
    /// The configuration that entries are accepted under.
    pub stamp: BatchStamp,
}

/// Whether nothing of a site is applied at present, for whatever reason. Asked for each write.
pub type LeftAlone = Arc<dyn Fn(&Site) -> bool + Send + Sync>;

/// Waiting bytes over all sites.
#[derive(Debug, Default)]
pub struct Usage {
    /// Of all sites.
    pub pending: AtomicU64,
    /// Of those that are not being applied.
    pub stalled: AtomicU64,
}

/// What acceptance works on; shared by all clones of [`Accept`].
pub struct Shared {
    /// This node.
    pub node: NodeId,
    /// The sites.
    pub sites: Arc<Sites>,
    /// The profile cache.
    pub cache: Arc<ProfileCache>,
    /// The request table.
    pub requests: Arc<Requests>,
    /// The journal.
    pub journal: Journal<Arc<Pending>>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Waiting bytes.
    pub usage: Arc<Usage>,
    /// Memory for waiting entries.
    pub hot: HotMemory,
    /// Bounds.
    pub options: AcceptOptions,
    /// Whose lanes are left alone at present: to wait for the applier would be in vain.
    pub left_alone: LeftAlone,
    /// Counts writes that needed no journal entry.
    pub without_journal: metrics::Counter,
    /// Set when the server goes down: nothing is accepted from then on.
    pub draining: AtomicBool,
}

/// Accepts writes. `L` loads records, through whatever layers reads go through.
#[derive(Clone)]
pub struct Accept<L> {
    shared: Arc<Shared>,
    load: L,
}

type Answer = Result<Receipt, WriteError>;

impl<L> Accept<L> {
    /// Accepts writes for what is in `shared`.
    pub fn new(shared: Arc<Shared>, load: L) -> Self {
        Self { shared, load }
    }
}

impl<L> Service<WriteRequest> for Accept<L>
where
    L: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError> + Clone + Send + 'static,
    L::Future: Send,
{
    type Response = Receipt;
    type Error = WriteError;
    type Future = Either<Ready<Answer>, BoxFuture<'static, Answer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: WriteRequest) -> Self::Future {
        let prepared = match self.shared.prepare(request) {
            Ok(prepared) => prepared,
            Err(error) => return Either::Left(ready(Err(error))),
        };
        match self.shared.known_to_be_settled(&prepared) {
            Known::Answer(answer) => Either::Left(ready(answer)),
            Known::IfLoaded if prepared.request.may_load => {
                Either::Right(Box::pin(load_first(Arc::clone(&self.shared), self.load.clone(), prepared)))
            }
            Known::IfLoaded | Known::No => match self.shared.register(prepared) {
                Ok(waiting) => Either::Right(Box::pin(waiting.answer())),
                Err(answer) => Either::Left(ready(answer)),
            },
        }
    }
}

/// A write whose every part that needs no profile has been checked.
struct Prepared {
    request: WriteRequest,
    site: Arc<SiteState>,
    key: ProfileKey,
    user: u64,
    notes: Notes,
}

/// What can be said of a write without the journal.
enum Known {
    /// Everything: what the answer says is durable already.
    Answer(Answer),
    /// Everything, once the profile has been loaded.
    IfLoaded,
    /// Nothing.
    No,
}

impl Shared {
    fn prepare(&self, mut request: WriteRequest) -> Result<Prepared, WriteError> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(WriteError::Draining);
        }
        if std::time::Instant::now() >= request.deadline {
            return Err(WriteError::NotAccepted);
        }
        let conditional = request.write.if_version.is_some();
        if conditional && request.wait == Wait::Journaled {
            return Err(WriteError::ConditionNeedsApplied);
        }
        let site = self.sites.look(&request.site);
        let mut notes = Notes::default();
        if let ChangeKind::Identify(changes) = &mut request.write.kind {
            let registry = site.registry.load();
            changes.retain(|change| {
                let disabled = registry.get(&change.name).is_some_and(|known| known.disabled);
                if disabled {
                    notes.disabled.push(change.name.clone());
                }
                !disabled
            });
            registry.check(changes, self.options.attributes_per_site)?;
        }
        let key = ProfileKey::new(request.site.clone(), request.write.user.clone());
        let user = key.hash64();
        Ok(Prepared { request, site, key, user, notes })
    }

    /// A write without a request id whose user has nothing pending needs no journal if it changes nothing
    /// or its condition fails: both are judged against what is durable.
    fn known_to_be_settled(&self, prepared: &Prepared) -> Known {
        if matches!(&prepared.request.write.kind, ChangeKind::Identify(changes) if changes.is_empty()) {
            // All attributes are disabled.
            let notes = prepared.notes.clone();
            return Known::Answer(Ok(Receipt {
                outcome: Outcome::Unchanged,
                version: None,
                position: None,
                notes,
            }));
        }
        let write = &prepared.request.write;
        // A delete also erases what the refused list has of the user, profile or not.
        let needs_journal = write.request_id.is_some() || matches!(write.kind, ChangeKind::Delete);
        if needs_journal || prepared.site.lane.lock().has(prepared.user) {
            return Known::No;
        }
        match self.cache.get(&prepared.key) {
            None => Known::IfLoaded,
            Some(record) => self.judge(prepared, record.as_deref()).map_or(Known::No, Known::Answer),
        }
    }

    /// The answer, if the stored record alone gives it.
    fn judge(&self, prepared: &Prepared, record: Option<&Record>) -> Option<Answer> {
        let write = &prepared.request.write;
        if let Some(wanted) = write.if_version {
            let current = record.and_then(Record::live).map_or(0, |profile| profile.version);
            let reason = Refusal::VersionMismatch { current };
            return (wanted != current).then_some(Err(WriteError::Refused { reason, position: None }));
        }
        let refresh_after = self.options.stamp.refresh_after;
        let (version, mut notes) = unchanged(record, write, self.clock.now(), refresh_after)?;
        notes.disabled.clone_from(&prepared.notes.disabled);
        self.without_journal.increment(1);
        Some(Ok(Receipt { outcome: Outcome::Unchanged, version, position: None, notes }))
    }

    /// Gives the write its place: in the request table, in its lane and in the journal's queue. The error
    /// is the answer, which may be a good one: a retry that is known already.
    fn register(self: &Arc<Self>, prepared: Prepared) -> Result<Waiting, Answer> {
        let Prepared { request, site, user, notes, .. } = prepared;
        let now = self.clock.now();
        let ticket = Arc::new(Ticket::default());
        let journaled = request.wait == Wait::Journaled || (self.left_alone)(&site.site);
        let mut waiting = Waiting {
            heard: ticket.wait(journaled),
            ticket,
            joined: false,
            journaled,
            conditional: request.write.if_version.is_some(),
            reply_at: std::time::Instant::now() + self.options.reply_after,
            deadline: request.deadline,
            node: self.node,
            notes,
        };
        let id = request.write.request_id.as_deref().map(|id| RequestKey::new(&site.site, id));
        if let Some(id) = id {
            let payload = hash::payload_hash(&request.write);
            match self.requests.admit(id, payload, &waiting.ticket, now) {
                Seen::New => {}
                Seen::Reused => return Err(Err(WriteError::RequestIdReused)),
                Seen::Done(verdict) => return Err(waiting.receipt(verdict, true)),
                Seen::Waiting(ticket) => {
                    waiting.heard = ticket.wait(waiting.journaled);
                    waiting.ticket = ticket;
                    waiting.joined = true;
                    return Ok(waiting);
                }
            }
        }
        let conditional = waiting.conditional;
        let entry = Entry { site: site.site.clone(), command: Command::Write(request.write) };
        match self.submit(user, entry, Arc::clone(&waiting.ticket), conditional) {
            Ok(()) => Ok(waiting),
            Err(error) => {
                if let Some(id) = id {
                    self.requests.withdraw(id);
                }
                waiting.ticket.fail(error.clone());
                Err(Err(error))
            }
        }
    }

    /// Registers an entry and hands it to the journal, in one step under the lane's lock.
    pub fn submit(
        &self,
        user: u64,
        entry: Entry,
        ticket: Arc<Ticket>,
        conditional: bool,
    ) -> Result<(), WriteError> {
        let payload = codec::encode_entry(&entry);
        let bytes = payload.len() as u32 + ENTRY_OVERHEAD;
        // What is refused before this leaves no trace of its site.
        let site = &self.sites.get_or_create(&entry.site)?;
        let pending = Arc::new(Pending {
            site: Arc::clone(site),
            user,
            entry: Arc::new(entry),
            bytes,
            accepted_at: std::sync::OnceLock::new(),
            ticket,
            memory: self.hot.share(bytes),
        });
        let mut lane = site.lane.lock();
        if conditional && (lane.is_stalled() || (self.left_alone)(&site.site)) {
            return Err(WriteError::ConditionNeedsStore { retry_after: Duration::from_secs(1) });
        }
        let site_bytes = lane.bytes() + site.refused_bytes.load(Ordering::Relaxed);
        self.check_quota(site, site_bytes, lane.is_stalled(), u64::from(bytes))?;
        let changes = match &pending.entry.command {
            Command::Write(write) => match &write.kind {
                ChangeKind::Identify(changes) => changes.as_slice(),
                ChangeKind::Delete => &[],
            },
            _ => &[],
        };
        // Checked again: another write may have declared the name since.
        let new_names = site.registry.load().check(changes, self.options.attributes_per_site)?;
        self.journal
            .submit(Submission { payload, ticket: Arc::clone(&pending) })
            .map_err(|error| not_submitted(&error.reason))?;
        if new_names {
            let now = self.clock.now();
            site.change_registry(&mut lane, |registry| registry.declare(changes, now));
        }
        if let Command::SetAttributeState { name, disabled, indexed } = &pending.entry.command {
            // It holds from here on; the entry makes it last.
            site.change_registry(&mut lane, |registry| registry.set_state(name, *disabled, *indexed));
        }
        self.registered(&mut lane, pending);
        Ok(())
    }

    /// As [`submit`](Self::submit), for several entries of one site that use no new attributes: all or none.
    pub fn submit_together(&self, entries: Vec<(u64, Entry, Arc<Ticket>)>) -> Result<(), WriteError> {
        let Some((_, first, _)) = entries.first() else { return Ok(()) };
        let site = &self.sites.get_or_create(&first.site)?;
        let mut submissions = Vec::with_capacity(entries.len());
        for (user, entry, ticket) in entries {
            let payload = codec::encode_entry(&entry);
            let bytes = payload.len() as u32 + ENTRY_OVERHEAD;
            let pending = Pending {
                site: Arc::clone(site),
                user,
                entry: Arc::new(entry),
                bytes,
                accepted_at: std::sync::OnceLock::new(),
                ticket,
                memory: self.hot.share(bytes),
            };
            submissions.push(Submission { payload, ticket: Arc::new(pending) });
        }
        let all: Vec<Arc<Pending>> = submissions.iter().map(|given| Arc::clone(&given.ticket)).collect();
        let mut lane = site.lane.lock();
        let site_bytes = lane.bytes() + site.refused_bytes.load(Ordering::Relaxed);
        let bytes = all.iter().map(|pending| u64::from(pending.bytes)).sum();
        self.check_quota(site, site_bytes, lane.is_stalled(), bytes)?;
        self.journal.submit_many(submissions).map_err(|error| not_submitted(&error.reason))?;
        for pending in all {
            self.registered(&mut lane, pending);
        }
        Ok(())
    }

    /// An entry is with the journal: it waits in its lane from now on.
    fn registered(&self, lane: &mut Lane, pending: Arc<Pending>) {
        let bytes = u64::from(pending.bytes);
        self.usage.pending.fetch_add(bytes, Ordering::Relaxed);
        if lane.is_stalled() {
            self.usage.stalled.fetch_add(bytes, Ordering::Relaxed);
        }
        pending.site.written_at.store(self.clock.now().0, Ordering::Relaxed);
        lane.register(pending.user, pending.bytes, pending);
    }

    /// Waits for what became of an entry: for `reply_after`, then until it is durable, at most until `deadline`.
    /// `journaled`: that it is durable is enough.
    pub async fn answer(
        &self,
        ticket: Arc<Ticket>,
        journaled: bool,
        deadline: std::time::Instant,
    ) -> Result<Receipt, WriteError> {
        let waiting = Waiting {
            heard: ticket.wait(journaled),
            ticket,
            joined: false,
            journaled,
            conditional: false,
            reply_at: std::time::Instant::now() + self.options.reply_after,
            deadline,
            node: self.node,
            notes: Notes::default(),
        };
        waiting.answer().await
    }

    /// Waiting bytes that `site` may have in the journal.
    pub fn site_quota(&self, site: &SiteState) -> u64 {
        match site.quota.load(Ordering::Relaxed) {
            0 => self.options.site_quota,
            quota => quota,
        }
    }

    fn check_quota(
        &self,
        site: &SiteState,
        site_bytes: u64,
        stalled: bool,
        bytes: u64,
    ) -> Result<(), WriteError> {
        let site_quota = self.site_quota(site);
        if site_bytes + bytes > site_quota {
            let (used, limit) = (site_bytes, site_quota);
            return Err(WriteError::JournalFull { scope: "site", used, limit });
        }
        if stalled {
            let (used, limit) = (self.usage.stalled.load(Ordering::Relaxed), self.stalled_quota());
            if used + bytes > limit {
                return Err(WriteError::JournalFull {
                    scope: "sites that are not being applied",
                    used,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Waiting bytes that sites may have together while they are not being applied: 80 % of what entries may take
    /// at present, the rest is for healthy ones. What is kept for the next snapshot is nobody's.
    fn stalled_quota(&self) -> u64 {
        let usage = self.journal.usage();
        usage.limit.saturating_sub(usage.reserved) / 5 * 4
    }
}

fn not_submitted(reason: &SubmitReason) -> WriteError {
    match reason {
        SubmitReason::Overloaded => WriteError::Overloaded,
        SubmitReason::Stalled { .. } => WriteError::JournalStalled,
        SubmitReason::Full { used, limit } => {
            WriteError::JournalFull { scope: "total", used: *used, limit: *limit }
        }
        SubmitReason::TooLarge { bytes, limit } => WriteError::TooLarge { bytes: *bytes, limit: *limit },
        SubmitReason::Failed(error) => WriteError::JournalFailed(error.to_string()),
        SubmitReason::Closed => WriteError::Draining,
    }
}

/// Loads the profile, to see whether the write changes anything, before it goes to the journal. Whatever
/// goes wrong with the load is no reason to refuse: then the journal has it.
async fn load_first<L>(shared: Arc<Shared>, mut load: L, prepared: Prepared) -> Answer
where
    L: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>,
{
    let stamp = shared.cache.stamp(prepared.user);
    let call = load.call(Load { purpose: Purpose::Get, keys: vec![prepared.key.clone()] });
    if let Ok(Ok(records)) = timeout(shared.options.load_within, call).await {
        let record = records.into_iter().next().flatten();
        shared.cache.fill(prepared.user, stamp, prepared.key.clone(), record);
        // Judged again from the cache: a write of the same user may have come in between.
        if let Known::Answer(answer) = shared.known_to_be_settled(&prepared) {
            return answer;
        }
    }
    match shared.register(prepared) {
        Ok(waiting) => waiting.answer().await,
        Err(answer) => answer,
    }
}

/// A caller that waits for its answer.
struct Waiting {
    ticket: Arc<Ticket>,
    heard: oneshot::Receiver<Heard>,
    /// A retry that found the first try waiting.
    joined: bool,
    journaled: bool,
    conditional: bool,
    reply_at: std::time::Instant,
    deadline: std::time::Instant,
    node: NodeId,
    notes: Notes,
}

impl Waiting {
    async fn answer(mut self) -> Answer {
        let deadline = tokio::time::Instant::from_std(self.deadline);
        if !self.journaled {
            let reply_at = deadline.min(tokio::time::Instant::from_std(self.reply_at));
            tokio::select! {
                biased;
                heard = &mut self.heard => return self.hear(heard.ok()),
                () = sleep_until(reply_at) => {}
            }
            // From here on it is enough to know that it is kept.
            self.heard = self.ticket.wait(true);
        }
        match timeout_at(deadline, &mut self.heard).await {
            Ok(heard) => self.hear(heard.ok()),
            Err(_) => Err(WriteError::AcceptanceUnknown),
        }
    }

    fn hear(self, heard: Option<Heard>) -> Answer {
        match heard {
            Some(Heard::Durable(number)) => {
                let position = Position { node: self.node, number };
                if self.conditional {
                    return Err(WriteError::ConditionPending { position });
                }
                Ok(Receipt {
                    outcome: Outcome::Deferred,
                    version: None,
                    position: Some(position),
                    notes: self.notes,
                })
            }
            // The applier may be faster than this caller, who asked for no more than that it is kept.
            Some(Heard::Ended(verdict)) if self.journaled && !self.joined => {
                self.hear(Some(Heard::Durable(verdict.position)))
            }
            Some(Heard::Ended(verdict)) => {
                let joined = self.joined;
                self.receipt(verdict, joined)
            }
            Some(Heard::Failed(error)) => Err(error),
            // The entry went out of memory, which is only done once it is durable.
            None => Err(WriteError::AcceptanceUnknown),
        }
    }

    fn receipt(self, verdict: Verdict, seen_before: bool) -> Answer {
        let position = Position { node: self.node, number: verdict.position };
        let (outcome, version, mut notes) = match verdict.end {
            End::Applied { version, notes } => (Outcome::Applied, Some(version), notes),
            End::Unchanged { version, notes } => (Outcome::Unchanged, version, notes),
            End::Duplicate { version } => (Outcome::Duplicate, Some(version), Notes::default()),
            End::Refused(reason) => {
                return Err(WriteError::Refused { reason, position: Some(position) });
            }
        };
        notes.disabled = self.notes.disabled;
        let outcome = if seen_before { Outcome::Duplicate } else { outcome };
        Ok(Receipt { outcome, version, position: Some(position), notes })
    }
}
