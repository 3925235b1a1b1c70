//! Turns, evaluated by hand.

use super::*;
use crate::accept::BatchStamp;
use crate::model::evaluate::SEMANTICS;
use crate::model::{AttributeChange, Change, Entry, EventTime, NodeId, Position, Site, Value};
use crate::sites::Sites;

const NODE: NodeId = NodeId(1);

fn stamped(position: u64, user: &str, kind: ChangeKind) -> Stamped {
    let write = Write { user: User::new(user), request_id: None, occurred_at: None, if_version: None, kind };
    Stamped {
        position: Position { node: NODE, number: position },
        accepted_at: EventTime(EventTime::MIN.0 + position),
        batch: BatchStamp { refresh_after: std::time::Duration::from_mins(10), semantics: SEMANTICS },
        entry: Arc::new(Entry { site: Site::new("s"), command: Command::Write(write) }),
    }
}

fn change(name: &str, change: Change) -> ChangeKind {
    ChangeKind::Identify(vec![AttributeChange { name: name.into(), change, occurred_at: None }])
}

fn add(position: u64, user: &str) -> Stamped {
    stamped(position, user, change("visits", Change::Add(1.0)))
}

fn delete(position: u64, user: &str) -> Stamped {
    stamped(position, user, ChangeKind::Delete)
}

/// More than a list can hold.
fn too_long(position: u64, user: &str) -> Stamped {
    let items: Vec<Box<str>> = (0..101).map(|n| n.to_string().into()).collect();
    stamped(position, user, change("tags", Change::Append(items.into())))
}

fn evaluate_all(entries: &[Stamped], records: &[(&str, Option<Arc<Record>>)], refused: &RefusedList) -> Turn {
    let site = Sites::new(1).get_or_create(&Site::new("s")).unwrap();
    for entry in entries {
        if let Command::Write(Write { kind: ChangeKind::Identify(changes), .. }) = &entry.entry.command {
            let mut lane = site.lane.lock();
            site.change_registry(&mut lane, |registry| registry.declare(changes, EventTime::MIN));
        }
    }
    let records = records.iter().map(|(user, record)| (User::new(*user), record.clone())).collect();
    turn(&site, entries, records, refused)
}

fn versions(turn: &Turn) -> Vec<Option<u64>> {
    let version = |end: &Option<End>| match end {
        Some(End::Applied { version, .. }) => Some(*version),
        _ => None,
    };
    turn.ends.iter().map(version).collect()
}

#[test]
fn entries_of_one_user_meet_each_other_and_are_put_once() {
    let refused = RefusedList::default();
    let entries = [add(1, "a"), add(2, "b"), add(3, "a"), add(4, "a")];
    let turn = evaluate_all(&entries, &[("a", None), ("b", None)], &refused);
    assert_eq!(versions(&turn), [Some(1), Some(1), Some(2), Some(3)]);
    assert_eq!((turn.commit.profiles.len(), turn.commit.last_position), (2, 4));
    let put = turn.commit.profiles.iter().find(|put| put.user.as_str() == "a").unwrap();
    let profile = put.after.live().unwrap();
    assert_eq!((profile.version, &profile.attribute("visits").unwrap().value), (3, &Value::Number(3.0)));
    assert_eq!(put.before, None);
    assert_eq!(turn.commit.registry.len(), 1);
    assert!(!turn.is_settled() && turn.failing.is_empty());

    // A replay of all of it changes nothing.
    let after: Vec<_> =
        turn.commit.profiles.iter().map(|put| (put.user.as_str(), Some(Arc::clone(&put.after)))).collect();
    let again = evaluate_all(&entries, &after, &refused);
    assert_eq!(again.commit.profiles.len(), 0);
    assert!(again.ends.iter().all(|end| matches!(end, Some(End::Applied { .. }))));
}

#[test]
fn what_is_refused_is_kept_and_said_again() {
    let refused = RefusedList::default();
    let entries = [too_long(1, "a"), add(2, "a")];
    let turn = evaluate_all(&entries, &[("a", None)], &refused);
    assert!(matches!(turn.ends[0], Some(End::Refused(Refusal::ListTooLong { .. }))));
    assert_eq!((turn.commit.refused.len(), turn.commit.refused[0].position), (1, 1));
    assert!(turn.commit.refused[0].listed);

    // After a crash the record knows a later position: still it was refused.
    refused.add(&turn.commit.refused[0], EventTime::MIN);
    let record = Some(Arc::clone(&turn.commit.profiles[0].after));
    let again = evaluate_all(&entries, &[("a", record)], &refused);
    assert!(matches!(again.ends[0], Some(End::Refused(Refusal::ListTooLong { .. }))));
    assert!(matches!(again.ends[1], Some(End::Applied { .. })));
}

#[test]
fn a_delete_takes_the_refused_entries_of_its_user_along() {
    let refused = RefusedList::default();
    let before = evaluate_all(&[too_long(1, "a"), too_long(2, "b")], &[("a", None), ("b", None)], &refused);
    for record in &before.commit.refused {
        refused.add(record, EventTime::MIN);
    }
    let entries = [too_long(3, "a"), too_long(4, "b"), delete(5, "a")];
    let turn = evaluate_all(&entries, &[("a", None), ("b", None)], &refused);
    assert!(matches!(turn.ends[2], Some(End::Unchanged { version: None, .. })));
    assert_eq!(turn.commit.forget_refused, [1]);
    let left: Vec<u64> = turn.commit.refused.iter().map(|record| record.position).collect();
    assert_eq!(left, [4]);
}

#[test]
fn a_turn_that_changes_nothing_needs_no_store() {
    let refused = RefusedList::default();
    let first = evaluate_all(&[add(1, "a")], &[("a", None)], &refused);
    let record = Some(Arc::clone(&first.commit.profiles[0].after));
    let site = Sites::new(1).get_or_create(&Site::new("s")).unwrap();
    let entries = [stamped(2, "a", change("gone", Change::Remove(Box::new(["x".into()])))), delete(3, "b")];
    let records = [(User::new("a"), record), (User::new("b"), None)].into_iter().collect();
    let turn = turn(&site, &entries, records, &refused);
    assert!(turn.is_settled(), "{turn:?}");
    assert!(turn.ends.iter().all(|end| matches!(end, Some(End::Unchanged { .. }))));
}
