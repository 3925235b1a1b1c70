//! What holds for every history.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::oracle::{Oracle, Outcome};
use super::*;
use crate::model::codec::{decode_entry, decode_record, encode_entry, encode_record};
use crate::model::{Command, Entry, Instant, NodeId, Site, User};

const START: u64 = 1_586_500_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn items() -> impl Strategy<Value = Box<[Box<str>]>> {
    vec("[a-c]", 0..3).prop_map(|items| items.into_iter().map(Into::into).collect())
}

fn value() -> impl Strategy<Value = Value> {
    let instant = |(seconds, nanos)| Value::Time(Instant { seconds, nanos });
    prop_oneof![
        4 => (0..3_i32).prop_map(|n| Value::Number(f64::from(n))),
        2 => items().prop_map(Value::List),
        1 => "[a-c]{0,2}".prop_map(|text| Value::String(text.into())),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => (any::<i64>(), 0..1_000_000_000_u32).prop_map(instant),
    ]
}

fn change_of(number: bool) -> BoxedStrategy<Change> {
    let common = |value: BoxedStrategy<Value>| {
        prop_oneof![
            3 => value.clone().prop_map(Change::Set),
            1 => value.prop_map(Change::SetOnce),
            1 => Just(Change::Unset),
        ]
    };
    if number {
        let numbers = (0..3_i32).prop_map(|n| Value::Number(f64::from(n))).boxed();
        let by = prop_oneof![4 => (-1..3_i32).prop_map(f64::from), 1 => Just(f64::MAX)];
        prop_oneof![4 => common(numbers), 2 => by.prop_map(Change::Add)].boxed()
    } else {
        let lists = items().prop_map(Value::List).boxed();
        prop_oneof![
            3 => common(lists),
            1 => items().prop_map(Change::Append),
            1 => items().prop_map(Change::Union),
            1 => items().prop_map(Change::Remove),
        ]
        .boxed()
    }
}

fn change() -> impl Strategy<Value = AttributeChange> {
    let known = any::<bool>().prop_flat_map(|number| {
        let names = if number { vec!["n", "m"] } else { vec!["l", "k"] };
        (prop::sample::select(names), change_of(number))
    });
    // Any value under one name: the types of which do not always fit.
    let wild = (Just("w"), prop_oneof![value().prop_map(Change::Set), change_of(true), change_of(false)]);
    (prop_oneof![6 => known, 1 => wild], option::weighted(0.1, event_time()))
        .prop_map(|((name, change), occurred_at)| AttributeChange { name: name.into(), change, occurred_at })
}

/// Around the start of the history, so that some are stale and some lie ahead.
fn event_time() -> impl Strategy<Value = EventTime> {
    (0..30_u64).prop_map(|seconds| EventTime(START + seconds * SECOND))
}

fn write() -> impl Strategy<Value = Write> {
    let kind = prop_oneof![
        6 => vec(change(), 0..4).prop_map(|mut changes| {
            changes.sort_by(|a, b| a.name.cmp(&b.name));
            changes.dedup_by(|a, b| a.name == b.name);
            ChangeKind::Identify(changes)
        }),
        1 => Just(ChangeKind::Delete),
    ];
    let request_id = option::weighted(0.3, "[rst]".prop_map(Box::from));
    (request_id, option::of(event_time()), option::weighted(0.2, 0..4_u64), kind).prop_map(
        |(request_id, occurred_at, if_version, kind)| Write {
            user: User::new("u"),
            request_id,
            occurred_at,
            if_version,
            kind,
        },
    )
}

/// Writes with their stamps: mostly seconds apart, sometimes so long that something expires.
fn history() -> impl Strategy<Value = Vec<(Write, Stamp)>> {
    let gap = prop_oneof![
        12 => 1..5_u64,
        1 => Just(RECENT_LIFE.as_secs()),
        1 => Just(TOMBSTONE_LIFE.as_secs()),
    ];
    (vec((write(), gap), 1..25), prop::sample::select(vec![0_u64, 3])).prop_map(|(writes, refresh)| {
        let mut now = START;
        let stamped = writes.into_iter().zip(1..).map(|((write, gap), number)| {
            now += gap * SECOND;
            (write, stamp(number, EventTime(now), Duration::from_secs(refresh)))
        });
        stamped.collect()
    })
}

fn stamp(number: u64, accepted_at: EventTime, refresh_after: Duration) -> Stamp {
    let position = Position { node: NodeId(1), number };
    Stamp { position, accepted_at, refresh_after, semantics: SEMANTICS }
}

fn run<'h>(start: Option<Record>, history: impl IntoIterator<Item = &'h (Write, Stamp)>) -> Option<Record> {
    history.into_iter().fold(start, |current, (write, stamp)| {
        match evaluate(current.as_ref(), write, stamp) {
            Evaluation::Applied { record, .. } => Some(record),
            _ => current,
        }
    })
}

proptest! {
    #[test]
    fn every_history_goes_as_the_oracle_says(history in history()) {
        let mut oracle = Oracle::default();
        let mut current: Option<Record> = None;
        for (write, stamp) in &history {
            let evaluation = evaluate(current.as_ref(), write, stamp);
            let expected = oracle.write(write, stamp);
            prop_assert_eq!(&Outcome::from(&evaluation), &expected, "{:?} on {:?}", write, current);
            let quick = unchanged(current.as_ref(), write, stamp.accepted_at, stamp.refresh_after);
            match evaluation {
                Evaluation::Unchanged { version, notes }
                    if write.request_id.is_none() && write.if_version.is_none() =>
                {
                    prop_assert_eq!(quick, Some((version, notes)));
                }
                Evaluation::Applied { record, .. } => {
                    prop_assert_eq!(quick, None);
                    let stored = decode_record(&encode_record(&record));
                    prop_assert_eq!(stored.as_ref(), Ok(&record));
                    current = Some(record);
                    prop_assert!(oracle.agrees_with(current.as_ref()), "{:?}: {:?}", oracle, current);
                }
                _ => prop_assert_eq!(quick, None),
            }
        }
    }

    #[test]
    fn versions_rise_by_one_as_long_as_something_is_left(history in history()) {
        let mut current: Option<Record> = None;
        for (write, stamp) in &history {
            if let Evaluation::Applied { record, .. } = evaluate(current.as_ref(), write, stamp) {
                let left = current.filter(|old| !has_expired(old, stamp.accepted_at));
                prop_assert_eq!(record.version(), left.map_or(0, |old| old.version()) + 1);
                prop_assert_eq!(record.applied().of(stamp.position.node), stamp.position.number);
                current = Some(record);
            }
        }
    }

    #[test]
    fn a_replay_from_anywhere_changes_nothing(history in history(), from in any::<prop::sample::Index>()) {
        let once = run(None, &history);
        let again = run(once.clone(), &history[from.index(history.len())..]);
        prop_assert_eq!(once, again);
    }

    #[test]
    fn evaluating_in_one_go_is_the_same_as_through_the_store(history in history()) {
        let stored = history.iter().fold(None, |bytes: Option<Vec<u8>>, entry| {
            let current = bytes.as_deref().map(|bytes| decode_record(bytes).expect("what was encoded"));
            run(current, [entry]).as_ref().map(encode_record)
        });
        prop_assert_eq!(stored, run(None, &history).as_ref().map(encode_record));
    }

    #[test]
    fn sets_and_unsets_may_arrive_in_any_order(
        events in vec((prop::sample::select(vec!["a", "b", "c"]), option::of(value())), 1..12)
            .prop_map(|events| events.into_iter().zip(0_u64..).collect::<Vec<_>>()),
        shuffled in any::<prop::sample::Index>(),
        turned in any::<bool>(),
    ) {
        let attributes = |events: &[((&str, Option<Value>), u64)]| {
            let writes = events.iter().zip(1..).map(|(((name, value), time), number)| {
                let change = value.clone().map_or(Change::Unset, Change::Set);
                let changes = vec![AttributeChange { name: (*name).into(), change, occurred_at: None }];
                let write = Write {
                    user: User::new("u"),
                    request_id: None,
                    occurred_at: Some(EventTime(START + time)),
                    if_version: None,
                    kind: ChangeKind::Identify(changes),
                };
                (write, stamp(number, EventTime(START + SECOND + number), Duration::ZERO))
            });
            match run(None, &writes.collect::<Vec<_>>()) {
                Some(Record::Live(profile)) => profile.attributes,
                other => panic!("no profile but {other:?}"),
            }
        };
        let mut moved = events.clone();
        moved.rotate_left(shuffled.index(events.len()));
        if turned {
            moved.reverse();
        }
        prop_assert_eq!(attributes(&events), attributes(&moved));
    }

    #[test]
    fn entries_read_back(write in write()) {
        let entry = Entry { site: Site::new("shop"), command: Command::Write(write) };
        prop_assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
    }
}
