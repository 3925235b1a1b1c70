//! A lane: one site's entries that are accepted and not yet applied, in order of arrival, with a chain
//! per user through them.
//!
//! A waiting entry takes 32 bytes here and its user about 8 in the table of chains; its content is in
//! `hot` while there is room for it and is read back from the journal otherwise. Whoever is outside
//! the lane's lock names an entry by its position.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashTable;

use crate::accept::Pending;
use crate::kill_switch::Operation;
use crate::model::EventTime;

/// Entries that were applied stay as gaps while an earlier one waits; more gaps than this, and more
/// gaps than waiting entries, are squeezed out.
const GAPS_KEPT: usize = 1024;

/// One site's entries on their way to the store.
#[derive(Debug, Default)]
pub struct Lane {
    slots: VecDeque<Slot>,
    /// The sequence number of the first slot.
    first: u64,
    /// How many slots at the front are durable; those behind wait for their fsync.
    durable: usize,
    /// Where `take` looks on: what is before it is taken, done or skipped.
    cursor: usize,
    /// Users passed over since the cursor was last at the front.
    skipped: HashSet<u64>,
    /// Users whose entries are left alone, because the store fails on them and on nobody else.
    parked: HashMap<u64, Parked>,
    users: HashTable<Chain>,
    hot: HashMap<u64, Arc<Pending>>,
    waiting: usize,
    bytes: u64,
    scheduled: bool,
    stalled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// 0 until durable.
    position: u64,
    user: u64,
    offset: u32,
    bytes: u32,
    /// How many slots back the user's previous entry is; 0: none waits.
    back: u32,
    state: State,
    /// What it does to its user; none for entries about the site itself.
    operation: Option<Operation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Taken,
    Done,
}

/// A user's waiting entries: the low bits of the last one's sequence number, and how many.
#[derive(Clone, Copy, Debug)]
struct Chain {
    last: u32,
    count: u32,
}

/// An entry as the lane names it to others.
#[derive(Clone, Debug)]
pub struct EntryRef {
    /// Its number in the journal.
    pub position: u64,
    /// Its user's hash.
    pub user: u64,
    /// Where it starts in its segment.
    pub offset: u32,
    /// Its content, unless it must be read back.
    pub hot: Option<Arc<Pending>>,
}

/// Where a waiting entry is, and how much of the journal it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number in the journal.
    pub position: u64,
    /// Where it starts in its segment.
    pub offset: u32,
    /// Its bytes there.
    pub bytes: u32,
}

/// Why and when a user was parked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parked {
    failure: String,
    at: EventTime,
}

/// A parked user.
#[derive(Clone, Debug)]
pub struct ParkedUser {
    /// The entry that it is all about: the user's first one that waits.
    pub first: EntryRef,
    /// How many of the user's entries wait, that one included.
    pub count: u64,
    /// What the store said.
    pub failure: String,
    /// When the user was parked.
    pub at: EventTime,
}

/// What a reader must lay on top of a stored profile.
#[derive(Clone, Debug, Default)]
pub struct PendingOf {
    /// The user's durable waiting entries, oldest first; empty if there are more than the limit.
    pub entries: Vec<EntryRef>,
    /// How many of the user's entries wait, those included that are not durable yet.
    pub count: u64,
    /// Whether there were more than the limit.
    pub too_many: bool,
}

impl Lane {
    /// Whether an entry of `user` waits, on its fsync or on the store.
    pub fn has(&self, user: u64) -> bool {
        self.chain(user).is_some()
    }

    /// How many entries wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of the entries that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The position of the oldest durable entry that waits: everything before it has been dealt with.
    pub fn low_water(&self) -> Option<u64> {
        self.slots.iter().take(self.durable).find(|s| s.state != State::Done).map(|s| s.position)
    }

    /// As [`Self::low_water`], but without the entries of parked users, which nobody waits for.
    pub fn low_water_of_active(&self) -> Option<u64> {
        let waits = |slot: &&Slot| slot.state != State::Done && !self.parked.contains_key(&slot.user);
        self.slots.iter().take(self.durable).find(waits).map(|slot| slot.position)
    }

    /// How many durable entries wait whose positions lie within `from..=to`.
    pub fn waiting_within(&self, from: u64, to: u64) -> usize {
        let durable = self.slots.range(..self.durable.min(self.slots.len()));
        let begin = self.slots.partition_point(|slot| slot.position != 0 && slot.position < from);
        durable
            .skip(begin)
            .take_while(|slot| slot.position <= to)
            .filter(|slot| slot.state != State::Done)
            .count()
    }

    /// The position of the newest durable entry here; none if nothing durable is kept in memory.
    pub fn last_durable(&self) -> Option<u64> {
        self.durable.checked_sub(1).and_then(|at| self.slots.get(at)).map(|slot| slot.position)
    }

    /// Adds an entry that is on its way to the journal.
    pub fn register(&mut self, user: u64, bytes: u32, pending: Arc<Pending>) {
        let operation = Operation::of(&pending.entry);
        let slot = Slot { position: 0, user, offset: 0, bytes, back: 0, state: State::Waiting, operation };
        let sequence = self.push(slot);
        self.hot.insert(sequence, pending);
    }

    /// The oldest entry that was not durable now is. `keep` says whether its content may stay in memory.
    /// Answers whether the lane must be scheduled.
    pub fn settle(&mut self, position: u64, offset: u32, keep: bool) -> bool {
        let sequence = self.first + self.durable as u64;
        let Some(slot) = self.slots.get_mut(self.durable) else {
            debug_assert!(false, "more became durable than was registered");
            return false;
        };
        slot.position = position;
        slot.offset = offset;
        self.durable += 1;
        if !keep {
            self.hot.remove(&sequence);
        }
        !std::mem::replace(&mut self.scheduled, true)
    }

    /// Adds an entry found in the journal. Answers whether the lane must be scheduled.
    pub fn restore(
        &mut self,
        position: u64,
        user: u64,
        offset: u32,
        bytes: u32,
        operation: Option<Operation>,
    ) -> bool {
        debug_assert_eq!(self.durable, self.slots.len(), "restored before anything is accepted");
        self.push(Slot { position, user, offset, bytes, back: 0, state: State::Waiting, operation });
        self.durable += 1;
        !std::mem::replace(&mut self.scheduled, true)
    }

    /// Takes up to `limit` durable entries for applying, or only those of one user. Entries of parked
    /// users and whatever `held` says, by user and operation, are passed over, and so is all that follows of
    /// the same user. Nothing to take: the lane counts as not scheduled from here on.
    pub fn take(
        &mut self,
        limit: usize,
        one_user: bool,
        mut held: impl FnMut(u64, Option<Operation>) -> bool,
    ) -> Vec<EntryRef> {
        let mut taken: Vec<EntryRef> = Vec::new();
        let mut only = None;
        let mut at = self.cursor;
        while at < self.durable && taken.len() < limit {
            let Some(slot) = self.slots.get_mut(at) else { break };
            let index = at;
            at += 1;
            if slot.state == State::Waiting {
                let user = slot.user;
                let skip = self.skipped.contains(&user)
                    || self.parked.contains_key(&user)
                    || held(user, slot.operation);
                if skip {
                    self.skipped.insert(user);
                } else if one_user && *only.get_or_insert(user) != user {
                    break;
                } else {
                    slot.state = State::Taken;
                    taken.push(EntryRef {
                        position: slot.position,
                        user,
                        offset: slot.offset,
                        hot: self.hot.get(&(self.first + index as u64)).cloned(),
                    });
                }
            }
            self.cursor = at;
        }
        if taken.is_empty() {
            self.scheduled = false;
        }
        taken
    }

    /// Nothing is taken for now, without a look at each entry: the lane counts as not scheduled from here on.
    pub fn rest(&mut self) {
        self.scheduled = false;
    }

    /// How many durable entries wait of which `counted` says so, by user and operation.
    pub fn count(&self, mut counted: impl FnMut(u64, Option<Operation>) -> bool) -> u64 {
        let waiting = self.slots.iter().take(self.durable).filter(|slot| slot.state == State::Waiting);
        waiting.filter(|slot| counted(slot.user, slot.operation)).count() as u64
    }

    /// Entries that were taken have been dealt with. Answers the bytes that are free again.
    pub fn finish(&mut self, positions: impl IntoIterator<Item = u64>) -> u64 {
        let mut freed = 0;
        for position in positions {
            let Some(at) = self.index_of(position) else { continue };
            let Some(slot) = self.slots.get_mut(at) else { continue };
            if slot.state == State::Done {
                continue;
            }
            slot.state = State::Done;
            let (user, bytes) = (slot.user, u64::from(slot.bytes));
            self.hot.remove(&(self.first + at as u64));
            self.waiting -= 1;
            self.bytes -= bytes;
            freed += bytes;
            self.shorten_chain(user);
        }
        while self.durable > 0 && self.slots.front().is_some_and(|s| s.state == State::Done) {
            self.slots.pop_front();
            self.first += 1;
            self.durable -= 1;
            self.cursor = self.cursor.saturating_sub(1);
        }
        if self.slots.len() - self.waiting > GAPS_KEPT.max(self.waiting) {
            self.squeeze();
        }
        freed
    }

    /// Entries that were taken could not be applied: they wait again, in their places.
    pub fn put_back(&mut self, positions: impl IntoIterator<Item = u64>) {
        for position in positions {
            let at = self.index_of(position);
            if let Some(slot) = at.and_then(|at| self.slots.get_mut(at))
                && slot.state == State::Taken
            {
                slot.state = State::Waiting;
            }
        }
        self.look_again();
    }

    /// Leaves the entries of `user` alone from `at` on, because of `failure`.
    pub fn park(&mut self, user: u64, failure: &str, at: EventTime) {
        self.parked.insert(user, Parked { failure: failure.to_owned(), at });
    }

    /// Lets the entries of `user` be tried again; answers whether the lane must be scheduled.
    pub fn unpark(&mut self, user: u64) -> bool {
        self.parked.remove(&user);
        self.look_again();
        self.claim()
    }

    /// The parked users that have entries waiting.
    pub fn parked_users(&self) -> Vec<ParkedUser> {
        let users = self.parked.iter().filter_map(|(user, parked)| {
            let chain = self.chain(*user)?;
            let mut at = self.index(chain.last);
            let mut first = None;
            loop {
                let slot = self.slots.get(at)?;
                if slot.state != State::Done && at < self.durable {
                    first = Some((at, slot));
                }
                match at.checked_sub(slot.back as usize).filter(|_| slot.back != 0) {
                    Some(before) => at = before,
                    None => break,
                }
            }
            let (at, slot) = first?;
            let hot = self.hot.get(&(self.first + at as u64)).cloned();
            let first = EntryRef { position: slot.position, user: *user, offset: slot.offset, hot };
            let Parked { failure, at } = parked.clone();
            Some(ParkedUser { first, count: u64::from(chain.count), failure, at })
        });
        users.collect()
    }

    /// Whether the lane's entries are not being applied at present.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Notes whether the lane's entries are being applied; answers whether that is news.
    pub fn set_stalled(&mut self, stalled: bool) -> bool {
        std::mem::replace(&mut self.stalled, stalled) != stalled
    }

    /// Notes that the lane is scheduled; answers whether it was not.
    pub fn claim(&mut self) -> bool {
        !std::mem::replace(&mut self.scheduled, true)
    }

    /// Users that are parked.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Entries of parked users.
    pub fn parked_entries(&self) -> u64 {
        self.parked.keys().filter_map(|user| self.chain(*user)).map(|chain| u64::from(chain.count)).sum()
    }

    /// Looks at every waiting entry anew at the next `take`: something that held them may have changed.
    pub fn look_again(&mut self) {
        self.cursor = 0;
        self.skipped.clear();
    }

    /// The waiting entries of `user`, at most `limit` of them.
    pub fn pending_of(&self, user: u64, limit: usize) -> PendingOf {
        let Some(chain) = self.chain(user) else { return PendingOf::default() };
        let mut found = PendingOf { count: u64::from(chain.count), ..PendingOf::default() };
        if chain.count as usize > limit {
            found.too_many = true;
            return found;
        }
        let mut at = Some(self.index(chain.last));
        while let Some((index, slot)) = at.and_then(|at| self.slots.get(at).map(|slot| (at, slot))) {
            if slot.state != State::Done && index < self.durable {
                found.entries.push(EntryRef {
                    position: slot.position,
                    user,
                    offset: slot.offset,
                    hot: self.hot.get(&(self.first + index as u64)).cloned(),
                });
            }
            at = if slot.back == 0 { None } else { index.checked_sub(slot.back as usize) };
        }
        found.entries.reverse();
        found
    }

    /// Up to `limit` durable entries from position `from` on and before `before` that wait, in order.
    pub fn waiting_between(&self, from: u64, before: u64, limit: usize) -> Vec<Place> {
        let at = self.slots.partition_point(|slot| slot.position != 0 && slot.position < from);
        self.slots
            .iter()
            .take(self.durable)
            .skip(at)
            .take_while(|slot| slot.position < before)
            .filter(|slot| slot.state != State::Done)
            .take(limit)
            .map(|slot| Place { position: slot.position, offset: slot.offset, bytes: slot.bytes })
            .collect()
    }

    /// The entry at `position`, if it is still here, has been carried to `offset` of another segment.
    pub fn repoint(&mut self, position: u64, offset: u32) {
        if let Some(slot) = self.index_of(position).and_then(|at| self.slots.get_mut(at)) {
            slot.offset = offset;
        }
    }

    /// Whether the entry at `position` waits.
    pub fn is_waiting(&self, position: u64) -> bool {
        self.index_of(position)
            .and_then(|at| self.slots.get(at))
            .is_some_and(|slot| slot.state != State::Done)
    }

    fn push(&mut self, slot: Slot) -> u64 {
        let sequence = self.first + self.slots.len() as u64;
        let back = self.extend_chain(slot.user, sequence as u32);
        self.slots.push_back(Slot { back, ..slot });
        self.waiting += 1;
        self.bytes += u64::from(slot.bytes);
        sequence
    }

    /// The place in `slots` of a sequence number of which the low bits are known.
    fn index(&self, low: u32) -> usize {
        low.wrapping_sub(self.first as u32) as usize
    }

    fn index_of(&self, position: u64) -> Option<usize> {
        let at = self.slots.partition_point(|s| s.position != 0 && s.position < position);
        (self.slots.get(at)?.position == position).then_some(at)
    }

    fn chain(&self, user: u64) -> Option<Chain> {
        self.users.find(user, |chain| self.user_at(chain.last) == Some(user)).copied()
    }

    fn user_at(&self, low: u32) -> Option<u64> {
        self.slots.get(self.index(low)).map(|slot| slot.user)
    }

    /// Notes one more waiting entry of `user`; answers how far back the one before it is.
    fn extend_chain(&mut self, user: u64, last: u32) -> u32 {
        let (slots, first) = (&self.slots, self.first as u32);
        let user_at = |low: u32| slots.get(low.wrapping_sub(first) as usize).map_or(0, |slot| slot.user);
        if let Some(chain) = self.users.find_mut(user, |chain| user_at(chain.last) == user) {
            let back = last.wrapping_sub(chain.last);
            *chain = Chain { last, count: chain.count + 1 };
            back
        } else {
            self.users.insert_unique(user, Chain { last, count: 1 }, |chain| user_at(chain.last));
            0
        }
    }

    fn shorten_chain(&mut self, user: u64) {
        let (slots, first) = (&self.slots, self.first as u32);
        let user_at = |low: u32| slots.get(low.wrapping_sub(first) as usize).map_or(0, |slot| slot.user);
        if let Ok(mut found) = self.users.find_entry(user, |chain| user_at(chain.last) == user) {
            let chain = found.get_mut();
            chain.count -= 1;
            if chain.count == 0 {
                found.remove();
            }
        }
    }

    /// Builds the lane anew without the gaps.
    fn squeeze(&mut self) {
        let mut anew = Lane {
            skipped: std::mem::take(&mut self.skipped),
            parked: std::mem::take(&mut self.parked),
            scheduled: self.scheduled,
            stalled: self.stalled,
            ..Lane::default()
        };
        for (at, slot) in self.slots.iter().enumerate() {
            if slot.state == State::Done {
                continue;
            }
            let sequence = anew.push(*slot);
            if at < self.durable {
                anew.durable += 1;
            }
            if at < self.cursor {
                anew.cursor += 1;
            }
            if let Some(pending) = self.hot.remove(&(self.first + at as u64)) {
                anew.hot.insert(sequence, pending);
            }
        }
        *self = anew;
    }
}

#[cfg(test)]
mod tests;
