//! The rules, one by one.

use super::*;
use crate::model::limits::LIST_ITEMS;
use crate::model::{NodeId, User};

const NODE: NodeId = NodeId(7);
/// A day in 2020.
const DAY: u64 = 1_586_500_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// `seconds` into the day.
fn at(seconds: u64) -> EventTime {
    EventTime(DAY + seconds * SECOND)
}

fn stamp(number: u64, accepted_at: EventTime) -> Stamp {
    let position = Position { node: NODE, number };
    Stamp { position, accepted_at, refresh_after: Duration::from_mins(10), semantics: SEMANTICS }
}

fn change(name: &str, change: Change) -> AttributeChange {
    AttributeChange { name: name.into(), change, occurred_at: None }
}

fn number(name: &str, value: f64) -> AttributeChange {
    change(name, Change::Set(Value::Number(value)))
}

fn items(items: &[&str]) -> Box<[Box<str>]> {
    items.iter().map(|item| (*item).into()).collect()
}

fn identify(changes: impl Into<Vec<AttributeChange>>) -> Write {
    Write {
        user: User::new("u"),
        request_id: None,
        occurred_at: None,
        if_version: None,
        kind: ChangeKind::Identify(changes.into()),
    }
}

fn erase() -> Write {
    Write { kind: ChangeKind::Delete, ..identify([]) }
}

impl Write {
    fn when(self, time: EventTime) -> Self {
        Self { occurred_at: Some(time), ..self }
    }
    fn id(self, id: &str) -> Self {
        Self { request_id: Some(id.into()), ..self }
    }
    fn if_version(self, version: u64) -> Self {
        Self { if_version: Some(version), ..self }
    }
}

/// One user's record, written to once a second.
#[derive(Default)]
struct Book {
    record: Option<Record>,
    number: u64,
    now: u64,
}

impl Book {
    fn write(&mut self, write: &Write) -> Evaluation {
        self.number += 1;
        self.now += 1;
        let stamp = stamp(self.number, at(self.now));
        let evaluation = evaluate(self.record.as_ref(), write, &stamp);
        if let Evaluation::Applied { record, .. } = &evaluation {
            self.record = Some(record.clone());
        }
        evaluation
    }

    /// Writes what must be applied, and answers the names that were stale.
    #[track_caller]
    fn apply(&mut self, write: &Write) -> Vec<Box<str>> {
        match self.write(write) {
            Evaluation::Applied { notes, .. } => notes.stale,
            other => panic!("not applied: {other:?}"),
        }
    }

    fn profile(&self) -> &Profile {
        self.record.as_ref().and_then(Record::live).expect("a profile")
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.profile().attribute(name).map(|a| &a.value)
    }

    fn wait(&mut self, seconds: u64) {
        self.now += seconds;
    }
}

fn unchanged_at(version: u64) -> Evaluation {
    Evaluation::Unchanged { version: Some(version), notes: Notes::default() }
}

fn stale(version: u64, name: &str) -> Evaluation {
    let notes = Notes { stale: vec![name.into()], disabled: Vec::new() };
    Evaluation::Unchanged { version: Some(version), notes }
}

fn refused(refusal: Refusal) -> Evaluation {
    Evaluation::Refused(refusal)
}

#[test]
fn the_first_write_makes_the_profile() {
    let mut book = Book::default();
    book.apply(&identify([number("seats", 12.0)]).when(at(0)));
    let profile = book.profile();
    assert_eq!((profile.number, profile.version), (1, 1));
    assert_eq!((profile.created_at, profile.updated_at), (at(1), at(1)));
    assert_eq!(profile.applied.of(NODE), 1);
    assert_eq!(profile.attribute("seats").map(|a| a.occurred_at), Some(at(0)));
}

#[test]
fn a_write_without_changes_makes_nothing() {
    let none = Evaluation::Unchanged { version: None, notes: Notes::default() };
    assert_eq!(Book::default().write(&identify([])), none);
    assert_eq!(Book::default().write(&erase()), none);
    let remove = identify([change("tags", Change::Remove(items(&["x"])))]);
    assert_eq!(Book::default().write(&remove), none);
}

#[test]
fn the_later_event_wins_and_of_equal_ones_the_later_arrival() {
    let mut book = Book::default();
    book.apply(&identify([number("n", 1.0)]).when(at(1)));
    assert_eq!(book.write(&identify([number("n", 2.0)]).when(at(0))), stale(1, "n"));
    book.apply(&identify([number("n", 3.0)]).when(at(1)));
    assert_eq!(book.value("n"), Some(&Value::Number(3.0)));
    let both = identify([number("n", 4.0), number("m", 4.0)]).when(at(0));
    assert_eq!(book.apply(&both), ["n".into()]);
    assert_eq!(book.value("m"), Some(&Value::Number(4.0)));
    assert_eq!(book.value("n"), Some(&Value::Number(3.0)));
}

#[test]
fn an_event_ahead_of_its_acceptance_counts_as_accepted_then() {
    let mut book = Book::default();
    book.apply(&identify([number("n", 1.0)]).when(at(100)));
    book.apply(&identify([number("n", 2.0)]));
    assert_eq!(book.value("n"), Some(&Value::Number(2.0)));
}

#[test]
fn a_repeated_value_is_renewed_only_after_a_while() {
    let mut book = Book::default();
    let write = identify([number("n", 1.0)]);
    book.apply(&write);
    assert_eq!(book.write(&write), unchanged_at(1));
    book.wait(10 * 60 - 2);
    assert_eq!(book.write(&write), unchanged_at(1));
    book.apply(&write);
    assert_eq!(book.profile().version, 2);
}

#[test]
fn with_refresh_after_zero_every_newer_event_is_kept() {
    let mut book = Book::default();
    let write = identify([number("n", 1.0)]);
    book.apply(&write);
    let always = Stamp { refresh_after: Duration::ZERO, ..stamp(2, at(2)) };
    assert!(matches!(evaluate(book.record.as_ref(), &write, &always), Evaluation::Applied { .. }));
    let same_time = write.when(at(1));
    assert_eq!(evaluate(book.record.as_ref(), &same_time, &always), unchanged_at(1));
}

#[test]
fn an_unset_keeps_older_sets_out_also_where_nothing_was() {
    let mut book = Book::default();
    book.apply(&identify([change("n", Change::Unset)]).when(at(1)));
    assert_eq!(book.value("n"), None);
    assert_eq!(book.write(&identify([number("n", 1.0)]).when(at(0))), stale(1, "n"));
    assert_eq!(book.write(&identify([change("n", Change::Unset)])), unchanged_at(1));
    book.apply(&identify([number("n", 1.0)]).when(at(1)));
    assert_eq!(book.value("n"), Some(&Value::Number(1.0)));
    assert_eq!(book.profile().unset, []);
}

#[test]
fn a_tombstone_lives_30_days_from_its_acceptance() {
    let mut book = Book::default();
    book.apply(&identify([change("n", Change::Unset)]));
    book.wait(TOMBSTONE_LIFE.as_secs() - 2);
    assert_eq!(book.write(&identify([number("n", 1.0)]).when(at(0))), stale(1, "n"));
    book.apply(&identify([number("n", 1.0)]).when(at(0)));
}

#[test]
fn of_too_many_tombstones_the_oldest_goes() {
    let mut book = Book::default();
    let name = |n: usize| format!("n{n:02}");
    for n in 0..=UNSET_KEPT {
        book.apply(&identify([change(&name(n), Change::Unset)]));
    }
    assert_eq!(book.profile().unset.len(), UNSET_KEPT);
    assert_eq!(book.apply(&identify([number(&name(0), 1.0)]).when(at(0))), []);
    assert!(matches!(
        book.write(&identify([number(&name(1), 1.0)]).when(at(0))),
        Evaluation::Unchanged { .. }
    ));
}

#[test]
fn set_once_is_never_stale_and_leaves_the_tombstone_its_work() {
    let mut book = Book::default();
    book.apply(&identify([change("n", Change::Unset)]).when(at(1)));
    let once = |value| identify([change("n", Change::SetOnce(Value::Number(value)))]);
    book.apply(&once(1.0).when(at(0)));
    assert_eq!(book.profile().attribute("n").map(|a| a.occurred_at), Some(at(0)));
    assert_eq!(book.write(&once(2.0)), unchanged_at(2));
    let between = EventTime(at(0).0 + 1);
    assert_eq!(book.write(&identify([number("n", 3.0)]).when(between)), stale(2, "n"));
    assert_eq!(book.write(&identify([change("n", Change::Unset)]).when(between)), stale(2, "n"));
    book.apply(&identify([number("n", 4.0)]).when(at(2)));
    assert_eq!(book.profile().unset, []);
}

#[test]
fn numbers_add_up_in_order_of_arrival() {
    let mut book = Book::default();
    let add = |by| identify([change("n", Change::Add(by))]);
    book.apply(&add(2.0).when(at(1)));
    book.apply(&add(3.0).when(at(0)));
    assert_eq!(book.value("n"), Some(&Value::Number(5.0)));
    assert_eq!(book.profile().attribute("n").map(|a| a.occurred_at), Some(at(1)));
    assert_eq!(book.write(&add(0.0)), unchanged_at(2));
    book.apply(&add(f64::MAX));
    let overflow = refused(Refusal::NumberOverflow { name: "n".into() });
    assert_eq!(book.write(&add(f64::MAX)), overflow);
}

#[test]
fn an_add_after_an_unset_starts_from_zero_and_keeps_old_sets_out() {
    let mut book = Book::default();
    book.apply(&identify([number("n", 5.0)]).when(at(0)));
    book.apply(&identify([change("n", Change::Unset)]));
    book.apply(&identify([change("n", Change::Add(1.0))]).when(at(1)));
    assert_eq!(book.value("n"), Some(&Value::Number(1.0)));
    assert_eq!(book.write(&identify([number("n", 9.0)]).when(at(1))), stale(3, "n"));
}

#[test]
fn lists_are_appended_to_united_and_removed_from() {
    let mut book = Book::default();
    let list = |list: &[&str]| Some(Value::List(items(list)));
    let write = |change_| identify([change("tags", change_)]);
    book.apply(&write(Change::Append(items(&["a", "b", "a"]))));
    book.apply(&write(Change::Union(items(&["b", "c", "c"]))));
    assert_eq!(book.value("tags"), list(&["a", "b", "a", "c"]).as_ref());
    assert_eq!(book.write(&write(Change::Union(items(&["a"])))), unchanged_at(2));
    assert_eq!(book.write(&write(Change::Remove(items(&["x"])))), unchanged_at(2));
    book.apply(&write(Change::Remove(items(&["a", "x"]))));
    assert_eq!(book.value("tags"), list(&["b", "c"]).as_ref());
    let many: Vec<Box<str>> = (0..LIST_ITEMS - 1).map(|n| n.to_string().into()).collect();
    let too_long = refused(Refusal::ListTooLong { name: "tags".into() });
    assert_eq!(book.write(&write(Change::Append(many.clone().into()))), too_long);
    assert_eq!(book.write(&write(Change::Union(many.into()))), too_long);
    assert_eq!(book.profile().version, 3);
}

#[test]
fn another_type_is_refused_not_coerced() {
    let mut book = Book::default();
    book.apply(&identify([number("n", 1.0), change("t", Change::Append(items(&["a"])))]));
    let mismatch = |name: &str| refused(Refusal::TypeMismatch { name: name.into() });
    assert_eq!(book.write(&identify([change("t", Change::Add(1.0))])), mismatch("t"));
    for change_ in [Change::Append(items(&["a"])), Change::Union(items(&[])), Change::Remove(items(&[]))] {
        assert_eq!(book.write(&identify([change("n", change_)])), mismatch("n"));
    }
}

#[test]
fn a_write_is_whole_or_not_at_all() {
    let mut book = Book::default();
    book.apply(&identify([number("n", f64::MAX)]));
    let before = book.record.clone();
    let write = identify([number("a", 1.0), change("n", Change::Add(f64::MAX))]);
    assert!(matches!(book.write(&write), Evaluation::Refused(_)));
    assert_eq!(book.record, before);
}

#[test]
fn a_profile_has_a_largest_size_but_may_always_shrink() {
    let mut book = Book::default();
    let text = |length| Value::String("x".repeat(length).into());
    let set = |name: &str, length| identify([change(name, Change::Set(text(length)))]);
    book.apply(&set("a", PROFILE_BYTES - 17));
    assert_eq!(book.write(&set("b", 1)), refused(Refusal::ProfileTooLarge));
    let Some(Record::Live(profile)) = &mut book.record else { panic!("a profile") };
    profile.attributes.push(Attribute { name: "z".into(), value: text(1000), occurred_at: at(0) });
    book.apply(&set("z", 900));
    assert_eq!(book.write(&set("z", 901)), refused(Refusal::ProfileTooLarge));
}

#[test]
fn a_condition_is_judged_by_the_version() {
    let mut book = Book::default();
    let write = |value| identify([number("n", value)]);
    let mismatch = |current| refused(Refusal::VersionMismatch { current });
    assert_eq!(book.write(&write(1.0).if_version(1)), mismatch(0));
    book.apply(&write(1.0).if_version(0));
    assert_eq!(book.write(&write(2.0).if_version(0)), mismatch(1));
    book.apply(&write(2.0).if_version(1));
    assert_eq!(book.write(&erase().if_version(1)), mismatch(2));
    book.apply(&erase().if_version(2));
    assert_eq!(book.write(&write(3.0).if_version(3)), mismatch(0));
    book.apply(&write(3.0).if_version(0));
    assert_eq!(book.profile().version, 4);
}

#[test]
fn a_delete_keeps_older_writes_out_also_after_the_profile_is_back() {
    let mut book = Book::default();
    book.apply(&identify([number("n", 1.0)]));
    book.apply(&erase());
    assert_eq!(book.write(&erase()), unchanged_at(2));
    let old = |value| identify([number("n", value), change("s", Change::Add(1.0))]).when(at(1));
    let Evaluation::Unchanged { version: Some(2), notes } = book.write(&old(1.0)) else { panic!("let in") };
    assert_eq!(notes.stale, ["n".into(), "s".into()]);
    book.apply(&identify([number("m", 1.0)]));
    assert_eq!((book.profile().number, book.profile().version), (5, 3));
    assert_eq!(book.profile().attributes.len(), 1);
    assert!(matches!(book.write(&old(1.0)), Evaluation::Unchanged { version: Some(3), .. }));
    // Nor does a second delete with an older time forget the first.
    book.apply(&erase().when(at(0)));
    assert!(matches!(book.write(&old(1.0)), Evaluation::Unchanged { version: Some(4), .. }));
}

#[test]
fn a_grave_expires_30_days_after_its_acceptance() {
    let mut book = Book::default();
    book.apply(&identify([number("n", 1.0)]));
    book.apply(&erase());
    let write = identify([number("n", 1.0)]).when(at(0));
    book.wait(TOMBSTONE_LIFE.as_secs() - 2);
    assert_eq!(book.write(&write), stale(2, "n"));
    book.apply(&write);
    assert_eq!(book.profile().version, 1);
    assert_eq!(book.profile().erased, None);
}

#[test]
fn a_request_id_seen_by_the_profile_is_a_duplicate() {
    let mut book = Book::default();
    let write = identify([change("n", Change::Add(1.0))]);
    book.apply(&write.clone().id("first"));
    book.apply(&write);
    assert_eq!(book.write(&write.clone().id("first")), Evaluation::Duplicate { version: 1 });
    // A condition that held the first time is not judged again.
    book.apply(&write.clone().id("if").if_version(2));
    assert_eq!(book.write(&write.clone().id("if").if_version(2)), Evaluation::Duplicate { version: 3 });
    book.apply(&erase().id("gone"));
    assert_eq!(book.write(&erase().id("gone")), Evaluation::Duplicate { version: 4 });
    assert_eq!(book.write(&write.clone().id("first")), Evaluation::Duplicate { version: 1 });
    // The same id with other content is for the table of request ids to judge.
    let other = identify([number("n", 1.0)]).id("first");
    book.apply(&other);
    assert_eq!(book.write(&other), Evaluation::Duplicate { version: 5 });
}

#[test]
fn a_profile_remembers_eight_request_ids_for_ten_minutes() {
    let mut book = Book::default();
    let add = |id: &str| identify([change("n", Change::Add(1.0))]).id(id);
    for n in 0..=RECENT_KEPT {
        book.apply(&add(&n.to_string()));
    }
    assert_eq!(book.write(&add("1")), Evaluation::Duplicate { version: 2 });
    book.apply(&add("0"));
    assert_eq!(book.profile().recent.len(), RECENT_KEPT);
    book.wait(RECENT_LIFE.as_secs());
    book.apply(&add("0"));
    assert_eq!(book.profile().recent.len(), 1);
}

#[test]
fn a_replay_is_known_by_its_position_on_each_node() {
    let mut book = Book::default();
    let write = identify([change("n", Change::Add(1.0))]);
    book.apply(&write);
    let again = evaluate(book.record.as_ref(), &write, &stamp(1, at(1)));
    assert_eq!(again, Evaluation::AlreadyApplied);
    let position = Position { node: NodeId(8), number: 1 };
    let elsewhere = Stamp { position, ..stamp(1, at(5)) };
    assert!(matches!(evaluate(book.record.as_ref(), &write, &elsewhere), Evaluation::Applied { .. }));
}

#[test]
fn what_was_applied_is_known_across_a_delete_and_a_new_beginning() {
    let mut book = Book::default();
    let write = identify([number("n", 1.0)]);
    book.apply(&write);
    book.apply(&erase().id("gone"));
    let grave = book.record.clone();
    let position = Position { node: NodeId(8), number: 1 };
    for gap in [1, RECENT_LIFE.as_secs(), TOMBSTONE_LIFE.as_secs()] {
        let stamp = Stamp { position, ..stamp(9, at(book.now + gap)) };
        let Evaluation::Applied { record, .. } = evaluate(grave.as_ref(), &write, &stamp) else {
            panic!("not applied")
        };
        assert_eq!((record.applied().of(NODE), record.applied().of(NodeId(8))), (2, 1));
        assert_eq!(record.recent().len(), usize::from(gap <= RECENT_LIFE.as_secs()));
    }
}

#[test]
fn what_changes_nothing_can_be_told_without_a_position() {
    let mut book = Book::default();
    let write = identify([number("n", 1.0)]);
    let ask = |book: &Book, write: &Write| {
        unchanged(book.record.as_ref(), write, at(book.now + 1), Duration::from_mins(10))
    };
    assert_eq!(ask(&book, &write), None);
    assert_eq!(ask(&book, &erase()), Some((None, Notes::default())));
    book.apply(&write);
    assert_eq!(ask(&book, &write), Some((Some(1), Notes::default())));
    assert_eq!(ask(&book, &write.clone().id("r")), None);
    assert_eq!(ask(&book, &write.clone().if_version(1)), None);
    assert_eq!(ask(&book, &erase()), None);
    let old = identify([number("n", 2.0)]).when(at(0));
    assert_eq!(ask(&book, &old).map(|(_, notes)| notes.stale), Some(vec!["n".into()]));
}
