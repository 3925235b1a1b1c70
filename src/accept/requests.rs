//! The request table: which request ids were accepted lately, and what became of them.
//!
//! An id is known from its acceptance until a window (10 minutes) after it was dealt with. Ids that wait
//! are bounded by the journal's quota, ids that are done by a capacity; where it is exceeded the oldest
//! go early, which is counted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::ticket::{End, Ticket, Verdict};
use crate::model::{EventTime, Site, hash};

const SHARDS: usize = 64;

/// Site and request id, hashed to 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestKey(u128);

impl RequestKey {
    /// The key of `request_id` on `site`.
    pub fn new(site: &Site, request_id: &str) -> Self {
        Self(hash::site_request_hash(site, request_id))
    }

    fn shard(self) -> usize {
        (self.0 as usize) % SHARDS
    }
}

/// Request ids and what became of them.
#[derive(Debug)]
pub struct Requests {
    shards: Vec<Mutex<Shard>>,
    capacity: usize,
    window: Duration,
}

#[derive(Debug, Default)]
struct Shard {
    ids: HashMap<RequestKey, Known>,
    /// Those that are done, oldest first.
    done: VecDeque<(EventTime, RequestKey)>,
}

#[derive(Debug)]
struct Known {
    payload: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(Arc<Ticket>),
    Done(Verdict, EventTime),
}

/// An id that has been dealt with, as snapshots keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoneId {
    /// Site and id.
    pub key: RequestKey,
    /// Hash of what was asked for under it.
    pub payload: u64,
    /// When it was dealt with: its window runs from here.
    pub done_at: EventTime,
    /// What became of it.
    pub verdict: Verdict,
}

/// What the table says of an id.
#[derive(Debug)]
pub enum Seen {
    /// It is new, and is now known as waiting.
    New,
    /// It waits, with this ticket.
    Waiting(Arc<Ticket>),
    /// It has been dealt with.
    Done(Verdict),
    /// It was used for something else.
    Reused,
}

impl Requests {
    /// An empty table: `capacity` ids that are done are kept for `window`.
    pub fn new(capacity: usize, window: Duration) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, capacity: capacity.div_ceil(SHARDS), window }
    }

    /// How long an id is kept after it was dealt with.
    pub fn window(&self) -> Duration {
        self.window
    }

    fn shard(&self, key: RequestKey) -> Option<&Mutex<Shard>> {
        self.shards.get(key.shard())
    }

    /// Looks `key` up, and notes it as waiting with `ticket` if it is new.
    pub fn admit(&self, key: RequestKey, payload: u64, ticket: &Arc<Ticket>, now: EventTime) -> Seen {
        let Some(shard) = self.shard(key) else { return Seen::New };
        let mut shard = shard.lock();
        shard.expire(now, self.window, self.capacity);
        match shard.ids.get(&key) {
            Some(known) if known.payload != payload => Seen::Reused,
            Some(Known { state: State::Waiting(ticket), .. }) => Seen::Waiting(Arc::clone(ticket)),
            Some(Known { state: State::Done(verdict, _), .. }) => Seen::Done(verdict.clone()),
            None => {
                shard.ids.insert(key, Known { payload, state: State::Waiting(Arc::clone(ticket)) });
                Seen::New
            }
        }
    }

    /// Forgets an id whose write was not accepted after all.
    pub fn withdraw(&self, key: RequestKey) {
        if let Some(shard) = self.shard(key) {
            shard.lock().ids.remove(&key);
        }
    }

    /// Notes an id found in the journal that is not dealt with.
    pub fn restore(&self, key: RequestKey, payload: u64, ticket: Arc<Ticket>) {
        if let Some(shard) = self.shard(key) {
            shard.lock().ids.insert(key, Known { payload, state: State::Waiting(ticket) });
        }
    }

    /// Notes what became of an id; answers the ticket under which it waited.
    pub fn end(
        &self,
        key: RequestKey,
        payload: u64,
        verdict: Verdict,
        now: EventTime,
    ) -> Option<Arc<Ticket>> {
        let mut shard = self.shard(key)?.lock();
        // The id may have been used again after its window, and that use waits still.
        if let Some(Known { state: State::Waiting(ticket), .. }) = shard.ids.get(&key)
            && ticket.position() != verdict.position
        {
            return None;
        }
        let before = shard.ids.insert(key, Known { payload, state: State::Done(verdict, now) });
        shard.done.push_back((now, key));
        shard.expire(now, self.window, self.capacity);
        match before {
            Some(Known { state: State::Waiting(ticket), .. }) => Some(ticket),
            _ => None,
        }
    }

    /// The ids that are done and still in their window at `now`.
    pub fn export(&self, now: EventTime) -> Vec<DoneId> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            found.extend(shard.ids.iter().filter_map(|(key, known)| match &known.state {
                State::Done(verdict, done_at) if now.since(*done_at) < self.window => Some(DoneId {
                    key: *key,
                    payload: known.payload,
                    done_at: *done_at,
                    verdict: verdict.clone(),
                }),
                State::Done(..) | State::Waiting(_) => None,
            }));
        }
        found
    }

    /// Takes up what [`Self::export`] gave, as far as it is still in its window at `now`. To be called before
    /// anything else is noted as done. Answers how many there were.
    pub fn import(&self, mut ids: Vec<DoneId>, now: EventTime) -> u64 {
        // Each shard drops its oldest first.
        ids.sort_by_key(|id| id.done_at);
        let mut taken = 0;
        for id in ids {
            // A clock that has been set back must not keep an id for longer than its window.
            let done_at = id.done_at.min(now);
            if now.since(done_at) >= self.window {
                continue;
            }
            let Some(shard) = self.shard(id.key) else { continue };
            let mut shard = shard.lock();
            shard.ids.insert(id.key, Known { payload: id.payload, state: State::Done(id.verdict, done_at) });
            shard.done.push_back((done_at, id.key));
            shard.expire(now, self.window, self.capacity);
            taken += 1;
        }
        taken
    }

    /// Whether what became of the write at `position` is known under `key`.
    pub fn knows_end(&self, key: RequestKey, position: u64) -> bool {
        let Some(shard) = self.shard(key) else { return false };
        let shard = shard.lock();
        matches!(shard.ids.get(&key), Some(Known { state: State::Done(verdict, _), .. }) if verdict.position == position)
    }

    /// How many ids are known.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().ids.len()).sum()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shard {
    fn expire(&mut self, now: EventTime, window: Duration, capacity: usize) {
        while let Some(&(at, key)) = self.done.front() {
            let early = self.done.len() > capacity;
            if !early && now.since(at) < window {
                break;
            }
            if early && now.since(at) < window {
                metrics::counter!(crate::metrics::REQUEST_IDS_EVICTED_EARLY).increment(1);
            }
            self.done.pop_front();
            // The id may have been dealt with once more since.
            if let Some(Known { state: State::Done(_, done_at), .. }) = self.ids.get(&key)
                && *done_at == at
            {
                self.ids.remove(&key);
            }
        }
    }
}

impl Verdict {
    /// The version that the entry led to, for the answer to a retry.
    pub fn version(&self) -> Option<u64> {
        match &self.end {
            End::Applied { version, .. } | End::Duplicate { version } => Some(*version),
            End::Unchanged { version, .. } => *version,
            End::Refused(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Notes, Refusal};

    const WINDOW: Duration = Duration::from_mins(10);

    fn key(n: u32) -> RequestKey {
        RequestKey::new(&Site::new("s"), &n.to_string())
    }

    fn at(seconds: u64) -> EventTime {
        EventTime::MIN.plus(Duration::from_secs(seconds))
    }

    fn verdict(position: u64) -> Verdict {
        Verdict { position, end: End::Applied { version: 4, notes: Notes::default() } }
    }

    fn admit(requests: &Requests, n: u32, payload: u64, now: EventTime) -> Seen {
        requests.admit(key(n), payload, &Arc::default(), now)
    }

    #[test]
    fn an_id_is_known_from_acceptance_until_its_window_has_passed() {
        let requests = Requests::new(1000, WINDOW);
        let ticket = Arc::<Ticket>::default();
        assert!(matches!(requests.admit(key(1), 7, &ticket, at(0)), Seen::New));
        let Seen::Waiting(found) = admit(&requests, 1, 7, at(9000)) else { panic!("it waits, however long") };
        assert!(Arc::ptr_eq(&found, &ticket));
        assert!(matches!(admit(&requests, 1, 8, at(9000)), Seen::Reused));
        ticket.durable(3);
        let told = requests.end(key(1), 7, verdict(3), at(9000)).unwrap();
        assert!(Arc::ptr_eq(&told, &ticket));
        let Seen::Done(done) = admit(&requests, 1, 7, at(9599)) else { panic!("it is done") };
        assert_eq!((done.position, done.version()), (3, Some(4)));
        assert!(matches!(admit(&requests, 1, 8, at(9599)), Seen::Reused));
        assert!(matches!(admit(&requests, 1, 8, at(9600)), Seen::New));
        assert!(requests.end(key(2), 7, verdict(4), at(9600)).is_none());
    }

    #[test]
    fn an_old_use_of_an_id_does_not_end_a_new_one() {
        let requests = Requests::new(1000, WINDOW);
        // A replay of the whole journal meets both uses of the id; the later one waits.
        requests.restore(key(1), 7, Arc::new(Ticket::durable_at(1)));
        requests.restore(key(1), 8, Arc::new(Ticket::durable_at(100)));
        assert!(requests.end(key(1), 7, verdict(1), at(0)).is_none());
        assert!(matches!(admit(&requests, 1, 8, at(0)), Seen::Waiting(_)));
        assert!(requests.end(key(1), 8, verdict(100), at(0)).is_some());
        assert!(matches!(admit(&requests, 1, 8, at(0)), Seen::Done(_)));
    }

    #[test]
    fn what_was_not_accepted_is_forgotten() {
        let requests = Requests::new(1000, WINDOW);
        assert!(matches!(admit(&requests, 1, 7, at(0)), Seen::New));
        requests.withdraw(key(1));
        assert!(requests.is_empty());
        assert!(matches!(admit(&requests, 1, 8, at(0)), Seen::New));
        requests.restore(key(2), 7, Arc::default());
        assert!(matches!(admit(&requests, 2, 7, at(0)), Seen::Waiting(_)));
    }

    #[test]
    fn the_same_id_on_two_sites_is_two() {
        assert_ne!(RequestKey::new(&Site::new("a"), "r"), RequestKey::new(&Site::new("b"), "r"));
    }

    #[test]
    fn ids_that_are_done_are_bounded_and_those_that_wait_are_kept() {
        const CAPACITY: usize = SHARDS * 4;
        let requests = Requests::new(CAPACITY, WINDOW);
        for n in 0..1000 {
            assert!(matches!(admit(&requests, n, 7, at(0)), Seen::New));
        }
        for n in 1000..20_000 {
            requests.admit(key(n), 7, &Arc::new(Ticket::durable_at(1)), at(0));
            requests.end(key(n), 7, verdict(1), at(0));
        }
        assert!(requests.len() <= 1000 + CAPACITY, "{}", requests.len());
        assert!((0..1000).all(|n| matches!(admit(&requests, n, 7, at(0)), Seen::Waiting(_))));
    }

    #[test]
    fn what_is_done_goes_through_a_snapshot_with_its_time() {
        let requests = Requests::new(1000, WINDOW);
        for n in 0..5 {
            requests.end(key(n), 7, verdict(u64::from(n)), at(u64::from(n)));
        }
        admit(&requests, 9, 7, at(0));
        let exported = requests.export(at(10));
        assert_eq!(exported.len(), 5, "what waits is in the journal");

        let again = Requests::new(1000, WINDOW);
        // 602 s: the window of the first three is over.
        assert_eq!(again.import(exported, at(602)), 2);
        assert!(matches!(admit(&again, 3, 8, at(602)), Seen::Reused));
        assert!(matches!(admit(&again, 3, 7, at(602)), Seen::Done(_)));
        assert!(again.knows_end(key(4), 4) && !again.knows_end(key(4), 5) && !again.knows_end(key(9), 9));
        assert!(matches!(admit(&again, 3, 7, at(603)), Seen::New), "its window is that of before");
    }

    #[test]
    fn a_second_use_is_known_for_its_own_window() {
        let requests = Requests::new(1000, WINDOW);
        requests.end(key(1), 7, verdict(1), at(0));
        requests.end(key(1), 7, verdict(2), at(500));
        assert!(matches!(admit(&requests, 1, 7, at(700)), Seen::Done(_)));
        assert!(matches!(admit(&requests, 1, 7, at(1100)), Seen::New));
    }

    #[test]
    fn a_verdict_knows_its_version() {
        let of = |end| Verdict { position: 1, end }.version();
        assert_eq!(of(End::Duplicate { version: 2 }), Some(2));
        assert_eq!(of(End::Unchanged { version: None, notes: Notes::default() }), None);
        assert_eq!(of(End::Refused(Refusal::ProfileTooLarge)), None);
    }
}
