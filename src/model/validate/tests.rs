use super::*;
use crate::model::{Instant, User};

const NOW: EventTime = EventTime(1_586_500_000_000_000_000);

fn set(name: &str, value: Value) -> AttributeChange {
    change(name, Change::Set(value))
}

fn change(name: &str, change: Change) -> AttributeChange {
    AttributeChange { name: name.into(), change, occurred_at: None }
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

fn one() -> Write {
    identify([set("plan", Value::Bool(true))])
}

fn text(length: usize) -> Value {
    // Three bytes a character: characters are what counts.
    Value::String("\u{20ac}".repeat(length).into())
}

fn items(count: usize, length: usize) -> Box<[Box<str>]> {
    vec!["\u{20ac}".repeat(length).into(); count].into()
}

/// Checks `write`, whose first change comes from the map, and answers field and reason.
fn fault(write: &Write) -> Option<(String, FieldReason)> {
    let result = validate_request(write, &Limits::default(), NOW, 1);
    result.err().map(|e| (e.field, e.reason))
}

#[track_caller]
fn invalid(write: &Write, field: &str) {
    assert_eq!(fault(write), Some((field.to_owned(), FieldReason::Invalid)));
}

#[track_caller]
fn too_large(write: &Write, field: &str) {
    assert_eq!(fault(write), Some((field.to_owned(), FieldReason::LimitExceeded)));
}

#[test]
fn sites_are_short_and_plain() {
    let limits = Limits::default();
    let reason = |site: &str| validate_site(site, &limits).err().map(|e| e.reason);
    assert_eq!(reason("Shop-1.eu_west"), None);
    assert_eq!(reason(&"s".repeat(64)), None);
    assert_eq!(reason(&"s".repeat(65)), Some(FieldReason::LimitExceeded));
    for site in ["", "a b", "a/b", "\u{e4}", "a\0"] {
        assert_eq!(reason(site), Some(FieldReason::Invalid), "{site:?}");
    }
}

#[test]
fn users_are_ids_not_mistakes() {
    let limits = Limits::default();
    let reason = |user: &str| validate_user(user, &limits).err().map(|e| e.reason);
    for user in ["u", "0", "nullable", "J\u{f6}rg", "[object]"] {
        assert_eq!(reason(user), None, "{user:?}");
    }
    assert_eq!(reason(&"\u{e4}".repeat(128)), None);
    assert_eq!(reason(&"\u{e4}".repeat(129)), Some(FieldReason::LimitExceeded));
    for user in ["", " \t", "null", "NULL", " undefined ", "NaN", "[object Object]", "None", "nil", "True"] {
        assert_eq!(reason(user), Some(FieldReason::Invalid), "{user:?}");
    }
}

#[test]
fn a_write_has_one_to_a_hundred_changes_each_of_another_attribute() {
    let many =
        |count: usize| -> Vec<_> { (0..count).map(|n| set(&format!("n{n}"), Value::Bool(true))).collect() };
    assert_eq!(fault(&one()), None);
    assert_eq!(fault(&identify(many(100))), None);
    too_large(&identify(many(101)), "changes");
    let from_map = validate_request(&identify(many(101)), &Limits::default(), NOW, 101);
    assert_eq!(from_map.map_err(|e| e.field), Err("attributes".to_owned()));
    invalid(&identify([]), "changes");
    let twice = [set("a", Value::Bool(true)), set("b", Value::Bool(true)), change("a", Change::Unset)];
    invalid(&identify(twice), "changes[1].name");
}

#[test]
fn attribute_names_are_short_and_printable() {
    let named = |name: &str| identify([set("first", Value::Bool(true)), change(name, Change::Unset)]);
    assert_eq!(fault(&named(&"\u{20ac}".repeat(50))), None);
    too_large(&named(&"x".repeat(51)), "changes[0].name");
    invalid(&named(""), "changes[0].name");
    invalid(&named("a\nb"), "changes[0].name");
    invalid(&identify([set("", Value::Bool(true))]), "attributes[\"\"]");
    too_large(&identify([set(&"x".repeat(51), Value::Bool(true))]), "attributes");
}

#[test]
fn values_are_bounded_and_the_path_leads_to_them() {
    let second = |it: Change| identify([set("first", Value::Bool(true)), change("x", it)]);
    assert_eq!(fault(&identify([set("plan", text(200))])), None);
    too_large(&identify([set("plan", text(201))]), "attributes[\"plan\"].string_value");
    too_large(&second(Change::Set(text(201))), "changes[0].set.string_value");
    too_large(&second(Change::SetOnce(text(201))), "changes[0].set_once.string_value");
    assert_eq!(fault(&identify([set("l", Value::List(items(100, 200)))])), None);
    too_large(&identify([set("l", Value::List(items(101, 1)))]), "attributes[\"l\"].list_value");
    too_large(&second(Change::Append(items(1, 201))), "changes[0].append.values[0]");
    too_large(&second(Change::Union(items(101, 1))), "changes[0].union");
    too_large(&second(Change::Remove(items(101, 1))), "changes[0].remove");
    invalid(&identify([set("n", Value::Number(f64::NAN))]), "attributes[\"n\"].number_value");
    invalid(&second(Change::Add(f64::INFINITY)), "changes[0].add");
    let time = |seconds, nanos| Value::Time(Instant { seconds, nanos });
    assert_eq!(fault(&identify([set("t", time(-62_135_596_800, 0))])), None);
    invalid(&identify([set("t", time(-62_135_596_801, 0))]), "attributes[\"t\"].time_value");
    invalid(&second(Change::Set(time(0, 1_000_000_000))), "changes[0].set.time_value");
}

#[test]
fn event_times_lie_between_2000_and_soon() {
    let at = |time| Write { occurred_at: Some(time), ..one() };
    assert_eq!(fault(&at(EventTime::MIN)), None);
    assert_eq!(fault(&at(NOW.plus(AHEAD))), None);
    invalid(&at(EventTime(EventTime::MIN.0 - 1)), "occurred_at");
    invalid(&at(EventTime(NOW.plus(AHEAD).0 + 1)), "occurred_at");
    let mut changes = vec![set("a", Value::Bool(true)), set("b", Value::Bool(true))];
    changes[1].occurred_at = Some(EventTime(0));
    invalid(&identify(changes), "changes[0].occurred_at");
}

#[test]
fn request_ids_and_conditions_make_sense() {
    let id = |id: &str| Write { request_id: Some(id.into()), ..one() };
    assert_eq!(fault(&id(&"r".repeat(64))), None);
    too_large(&id(&"r".repeat(65)), "request_id");
    invalid(&id(""), "request_id");
    let delete = |if_version| Write { if_version, kind: ChangeKind::Delete, ..one() };
    assert_eq!(fault(&delete(None)), None);
    assert_eq!(fault(&delete(Some(1))), None);
    invalid(&delete(Some(0)), "if_version");
    invalid(&Write { user: User::new("null"), ..one() }, "user");
}
