//! A lane against a plain list of entries that is searched from the front for every question.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::accept::{HotMemory, Ticket};
use crate::model::{ChangeKind, Command, Entry, Site, User, Write};
use crate::sites::Sites;

/// Numbers that only look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        // Steele, Lea, Flood: SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

#[derive(Clone, Debug)]
struct Item {
    user: u64,
    bytes: u32,
    /// 0 until durable.
    position: u64,
    state: State,
    hot: bool,
}

/// The plain list.
#[derive(Default)]
struct Oracle {
    items: Vec<Item>,
    parked: BTreeSet<u64>,
    position: u64,
}

impl Oracle {
    fn waiting(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.state != State::Done)
    }

    fn take(&mut self, limit: usize, one_user: bool, held: &BTreeSet<u64>) -> Vec<u64> {
        let mut taken = Vec::new();
        let mut only = None;
        for item in self.items.iter_mut().filter(|item| item.position != 0 && item.state == State::Waiting) {
            if taken.len() == limit {
                break;
            }
            if self.parked.contains(&item.user) || held.contains(&item.user) {
                continue;
            }
            if one_user && *only.get_or_insert(item.user) != item.user {
                break;
            }
            item.state = State::Taken;
            taken.push(item.position);
        }
        taken
    }

    fn set(&mut self, positions: &[u64], state: State) -> u64 {
        let mut bytes = 0;
        for item in self.items.iter_mut().filter(|item| positions.contains(&item.position)) {
            item.state = state;
            bytes += u64::from(item.bytes);
        }
        bytes
    }

    /// Forgets what is done and before everything that waits, as nothing asks for it.
    fn tidy(&mut self) {
        self.items.retain(|item| item.state != State::Done);
    }
}

fn pending(user: u64, bytes: u32) -> Arc<Pending> {
    let site = Site::new("s");
    let write = Write {
        user: User::new(format!("u{user}")),
        request_id: None,
        occurred_at: None,
        if_version: None,
        kind: ChangeKind::Delete,
    };
    Arc::new(Pending {
        site: Sites::new(1).get_or_create(&site).unwrap(),
        user,
        entry: Arc::new(Entry { site, command: Command::Write(write) }),
        bytes,
        accepted_at: std::sync::OnceLock::new(),
        ticket: Arc::new(Ticket::default()),
        memory: HotMemory::new(1).share(bytes),
    })
}

fn check(lane: &Lane, oracle: &Oracle, users: u64) {
    assert_eq!(lane.waiting(), oracle.waiting().count());
    assert_eq!(lane.bytes(), oracle.waiting().map(|item| u64::from(item.bytes)).sum::<u64>());
    let low = oracle.waiting().map(|item| item.position).find(|position| *position != 0);
    assert_eq!(lane.low_water(), low);
    for user in 0..users {
        let of_user: Vec<&Item> = oracle.waiting().filter(|item| item.user == user).collect();
        assert_eq!(lane.has(user), !of_user.is_empty());
        let found = lane.pending_of(user, 20);
        assert_eq!((found.count, found.too_many), (of_user.len() as u64, of_user.len() > 20));
        if !found.too_many {
            let expected: Vec<(u64, bool)> = of_user
                .iter()
                .filter(|item| item.position != 0)
                .map(|item| (item.position, item.hot))
                .collect();
            let entries: Vec<_> =
                found.entries.iter().map(|entry| (entry.position, entry.hot.is_some())).collect();
            assert_eq!(entries, expected);
        }
    }
}

/// `steps` random steps, with a lane that is asked and a list that knows the answers.
fn run(seed: u64, steps: u32, users: u64) {
    let mut numbers = Numbers(seed);
    let (mut lane, mut oracle) = (Lane::default(), Oracle::default());
    let mut turns: Vec<Vec<u64>> = Vec::new();
    for step in 0..steps {
        match numbers.below(100) {
            0..45 => {
                let (user, bytes) = (numbers.below(users), 20 + numbers.below(50) as u32);
                lane.register(user, bytes, pending(user, bytes));
                oracle.items.push(Item { user, bytes, position: 0, state: State::Waiting, hot: true });
            }
            45..75 => {
                oracle.position += 1 + numbers.below(3);
                let keep = numbers.below(4) > 0;
                let position = oracle.position;
                if let Some(item) = oracle.items.iter_mut().find(|item| item.position == 0) {
                    item.position = position;
                    item.hot = keep;
                    lane.settle(position, 0, keep);
                }
            }
            75..85 => {
                let held: BTreeSet<u64> = if numbers.below(3) == 0 {
                    (0..2).map(|_| numbers.below(users)).collect()
                } else {
                    BTreeSet::new()
                };
                let (limit, one_user) = (1 + numbers.below(30) as usize, numbers.below(4) == 0);
                // Passed over once, a user is passed over until then.
                lane.look_again();
                let taken = lane.take(limit, one_user, |user, _| held.contains(&user));
                let taken: Vec<u64> = taken.iter().map(|entry| entry.position).collect();
                assert_eq!(taken, oracle.take(limit, one_user, &held), "step {step} of seed {seed}");
                if !taken.is_empty() {
                    turns.push(taken);
                }
            }
            85..97 if !turns.is_empty() => {
                let turn = turns.remove(numbers.below(turns.len() as u64) as usize);
                let bytes = oracle.set(&turn, State::Done);
                assert_eq!(lane.finish(turn.iter().copied()), bytes);
                assert!(turn.iter().all(|position| !lane.is_waiting(*position)));
                oracle.tidy();
            }
            97..99 if !turns.is_empty() => {
                let turn = turns.remove(numbers.below(turns.len() as u64) as usize);
                oracle.set(&turn, State::Waiting);
                lane.put_back(turn.iter().copied());
                assert!(turn.iter().all(|position| lane.is_waiting(*position)));
            }
            99 if numbers.below(8) == 0 => {
                let user = numbers.below(users);
                lane.park(user, "it failed", EventTime(1));
                oracle.parked.insert(user);
            }
            _ => {}
        }
        if step % 16 == 0 {
            check(&lane, &oracle, users);
        }
    }
    check(&lane, &oracle, users);
}

#[test]
fn it_answers_as_a_plain_list_does() {
    for seed in 0..40 {
        run(seed, 1500, 1 + seed % 12);
    }
}

#[test]
fn gaps_are_squeezed_out_behind_an_entry_that_waits() {
    let (mut lane, mut oracle) = (Lane::default(), Oracle::default());
    let put = |lane: &mut Lane, oracle: &mut Oracle, user: u64| {
        lane.register(user, 30, pending(user, 30));
        oracle.position += 1;
        lane.settle(oracle.position, 0, true);
        let position = oracle.position;
        oracle.items.push(Item { user, bytes: 30, position, state: State::Waiting, hot: true });
    };
    lane.park(0, "it failed", EventTime(1));
    oracle.parked.insert(0);
    for n in 0..10 * GAPS_KEPT as u64 {
        put(&mut lane, &mut oracle, if n % 500 == 0 { 0 } else { 1 + n % 7 });
        if n % 100 == 0 {
            let turn: Vec<u64> =
                lane.take(usize::MAX, false, |_, _| false).iter().map(|entry| entry.position).collect();
            assert_eq!(turn, oracle.take(usize::MAX, false, &BTreeSet::new()));
            oracle.set(&turn, State::Done);
            oracle.tidy();
            lane.finish(turn);
            check(&lane, &oracle, 8);
        }
    }
    assert!(lane.slots.len() <= 2 * GAPS_KEPT + lane.waiting(), "{}", lane.slots.len());
}

#[test]
fn what_was_found_in_the_journal_comes_before_what_is_accepted() {
    let mut lane = Lane::default();
    assert!(lane.restore(3, 1, 0, 10, None));
    assert!(!lane.restore(5, 2, 0, 10, None));
    lane.register(1, 10, pending(1, 10));
    assert_eq!((lane.low_water(), lane.waiting(), lane.pending_of(1, 9).entries.len()), (Some(3), 3, 1));
    assert!(!lane.settle(9, 0, true));
    let taken: Vec<_> =
        lane.take(9, false, |_, _| false).iter().map(|entry| (entry.position, entry.hot.is_some())).collect();
    assert_eq!(taken, [(3, false), (5, false), (9, true)]);
    // Scheduled until it was found empty; then the next one wakes it.
    assert!(!lane.claim());
    assert!(lane.take(9, false, |_, _| false).is_empty());
    assert_eq!(lane.finish([3, 5, 9]), 30);
    lane.register(1, 10, pending(1, 10));
    assert!(lane.settle(10, 0, true));
}

#[test]
fn a_user_that_is_passed_over_is_so_as_a_whole() {
    let mut lane = Lane::default();
    for (position, user) in [(1, 7), (2, 8), (3, 7)] {
        lane.restore(position, user, 0, 10, None);
    }
    let positions = |taken: Vec<EntryRef>| taken.iter().map(|entry| entry.position).collect::<Vec<_>>();
    // Held at the first of its entries only: the second must not overtake it.
    let mut asked = 0;
    let taken = lane.take(9, false, |user, _| {
        asked += u32::from(user == 7);
        user == 7 && asked == 1
    });
    assert_eq!(positions(taken), [2]);
    assert_eq!(positions(lane.take(9, false, |_, _| false)), [0; 0]);
    lane.look_again();
    assert_eq!(positions(lane.take(9, false, |_, _| false)), [1, 3]);
}

proptest! {
    /// Whatever is held, and whenever that changes: an entry that is held is not taken, each user's entries are
    /// dealt with in the order of their acceptance, and in the end all are.
    #[test]
    fn holds_never_change_the_order_of_a_user(
        entries in prop::collection::vec((0_u64..4, any::<bool>()), 1..60),
        steps in prop::collection::vec((0_u8..16, 0_u8..3, 1_usize..9, any::<bool>()), 1..40),
    ) {
        let mut lane = Lane::default();
        let mut operations = Vec::new();
        let mut arriving = entries.iter();
        let mut done: HashMap<u64, Vec<u64>> = HashMap::new();
        // Each step: some arrive, other users and operations are held, and a turn succeeds or fails.
        for (held_users, held_operations, count, fails) in steps {
            for (user, deletes) in arriving.by_ref().take(count) {
                let operation = if *deletes { Operation::Delete } else { Operation::Identify };
                operations.push((*user, operation));
                lane.restore(operations.len() as u64, *user, 0, 10, Some(operation));
            }
            lane.look_again();
            let held = |user: u64, operation: Option<Operation>| {
                let deletes = operation == Some(Operation::Delete);
                held_users & (1 << user) != 0
                    && match held_operations { 0 => deletes, 1 => !deletes, _ => true }
            };
            let taken: Vec<u64> = lane.take(count, false, held).iter().map(|entry| entry.position).collect();
            for position in &taken {
                let (user, operation) = operations[*position as usize - 1];
                prop_assert!(!held(user, Some(operation)), "{position} is held");
            }
            if fails {
                lane.put_back(taken);
                continue;
            }
            for position in &taken {
                done.entry(operations[*position as usize - 1].0).or_default().push(*position);
            }
            lane.finish(taken);
        }
        lane.look_again();
        let rest: Vec<u64> = lane.take(usize::MAX, false, |_, _| false).iter().map(|entry| entry.position).collect();
        for position in rest {
            done.entry(operations[position as usize - 1].0).or_default().push(position);
        }
        for (user, applied) in &done {
            prop_assert!(applied.is_sorted(), "user {user}: {applied:?}");
        }
        prop_assert_eq!(done.values().map(Vec::len).sum::<usize>(), operations.len());
    }
}

#[test]
fn waiting_entries_are_listed_in_parts_and_repointed() {
    let mut lane = Lane::default();
    for position in 1..=20 {
        lane.restore(position * 10, position % 3, position as u32, 5, None);
    }
    let taken = lane.take(4, false, |_, _| false);
    lane.finish([taken[1].position, taken[2].position]);
    let mut listed = Vec::new();
    let mut from = 0;
    loop {
        let part = lane.waiting_between(from, 150, 5);
        let Some(last) = part.last() else { break };
        from = last.position + 1;
        assert!(part.len() <= 5);
        listed.extend(part.iter().map(|place| place.position));
    }
    // Those that are being applied wait too.
    assert_eq!(listed, [10, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140]);
    lane.repoint(20, 7);
    lane.repoint(50, 99);
    assert_eq!(lane.waiting_between(50, 60, 9), [Place { position: 50, offset: 99, bytes: 5 }]);
    lane.register(1, 5, pending(1, 5));
    assert_eq!(lane.waiting_between(190, u64::MAX, 9).len(), 2, "what is not durable has no position yet");
}

#[test]
fn a_parked_user_is_told_of_and_goes_on_when_asked_to() {
    let mut lane = Lane::default();
    for (position, user) in [(3, 1), (4, 2), (5, 1), (6, 1)] {
        lane.restore(position, user, 0, 10, None);
    }
    lane.park(1, "it failed", EventTime(7));
    let taken: Vec<_> = lane.take(9, false, |_, _| false).iter().map(|entry| entry.position).collect();
    assert_eq!(taken, [4]);
    let parked = lane.parked_users();
    let told = |user: &ParkedUser| (user.first.position, user.first.user, user.count, user.at);
    assert_eq!(parked.iter().map(told).collect::<Vec<_>>(), [(3, 1, 3, EventTime(7))]);
    assert_eq!((parked[0].failure.as_str(), lane.parked_entries()), ("it failed", 3));
    assert!(lane.take(9, false, |_, _| false).is_empty());
    assert!(lane.unpark(1) && !lane.claim(), "it was found empty, so it must be scheduled");
    let taken: Vec<_> = lane.take(9, false, |_, _| false).iter().map(|entry| entry.position).collect();
    assert_eq!((taken, lane.parked_users().len()), (vec![3, 5, 6], 0));
}
