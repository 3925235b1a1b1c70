//! Attributes as arguments: `plan=pro` is a string, `seats:=12` is typed.

use serde_json::Value as Json;

use super::{numbers, values};
use crate::proto::attribute_change::Change;
use crate::proto::value::Kind;
use crate::proto::{AttributeChange, StringList, Value};

/// An argument that does not say what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("argument {argument:?}: {reason}")]
pub struct AssignError {
    argument: String,
    reason: String,
}

/// An assignment, split: the name, and what stands right of `=` or `:=`.
enum Assigned<'a> {
    Text(&'a str),
    Typed(&'a str),
}

fn split(argument: &str) -> Result<(&str, Assigned<'_>), String> {
    let missing =
        "write it as name=value (a string) or name:=value (a number, true, false, @time, or a list)";
    let (left, right) = argument.split_once('=').ok_or(missing)?;
    let (name, assigned) = match left.strip_suffix(':') {
        Some(name) => (name, Assigned::Typed(right)),
        None => (left, Assigned::Text(right)),
    };
    if name.is_empty() { Err(format!("no attribute name; {missing}")) } else { Ok((name, assigned)) }
}

/// What stands right of `:=`: `12`, `true`, `@2020-04-10`, `["a","b"]`, `"text"`.
fn typed(text: &str) -> Result<Kind, String> {
    if let Some(time) = text.strip_prefix('@') {
        return values::time(time).map(Kind::TimeValue);
    }
    let json: Json = serde_json::from_str(text).map_err(|_| {
        format!("{text:?} is not a number, true, false, @time or a JSON list of strings; for a string write name=value")
    })?;
    if json.is_null() {
        return Err("null is no value; use --unset to remove one".to_owned());
    }
    values::from_json(&json)
}

fn change(
    argument: &str,
    parse: impl FnOnce(&str) -> Result<(&str, Change), String>,
) -> Result<AttributeChange, AssignError> {
    match parse(argument) {
        Ok((name, change)) => Ok(AttributeChange { name: name.to_owned(), change: Some(change) }),
        Err(reason) => Err(AssignError { argument: argument.to_owned(), reason }),
    }
}

fn value(argument: &str) -> Result<(&str, Value), String> {
    let (name, assigned) = split(argument)?;
    let kind = match assigned {
        Assigned::Text(text) => Kind::StringValue(text.to_owned()),
        Assigned::Typed(text) => typed(text)?,
    };
    Ok((name, Value { kind: Some(kind) }))
}

fn items(argument: &str) -> Result<(&str, StringList), String> {
    let (name, assigned) = split(argument)?;
    let values = match assigned {
        Assigned::Text("") => return Err("no items; write name=a,b".to_owned()),
        Assigned::Text(text) => text.split(',').map(str::to_owned).collect(),
        Assigned::Typed(text) => match typed(text)? {
            Kind::ListValue(list) => list.values,
            _ => return Err("needs a list: name=a,b or name:=[\"a\",\"b\"]".to_owned()),
        },
    };
    Ok((name, StringList { values }))
}

/// `NAME=VALUE` or `NAME:=VALUE`: set it.
pub fn set(argument: &str) -> Result<AttributeChange, AssignError> {
    change(argument, |a| value(a).map(|(name, value)| (name, Change::Set(value))))
}

/// The same, only if there is no value yet.
pub fn set_once(argument: &str) -> Result<AttributeChange, AssignError> {
    change(argument, |a| value(a).map(|(name, value)| (name, Change::SetOnce(value))))
}

/// `NAME`: remove its value.
pub fn unset(argument: &str) -> Result<AttributeChange, AssignError> {
    change(argument, |name| {
        if name.is_empty() { Err("no attribute name".to_owned()) } else { Ok((name, Change::Unset(()))) }
    })
}

/// `NAME=NUMBER`.
pub fn add(argument: &str) -> Result<AttributeChange, AssignError> {
    change(argument, |a| {
        let (name, Assigned::Text(text) | Assigned::Typed(text)) = split(a)?;
        let number = numbers::parse_exact(text)
            .ok_or_else(|| format!("{text:?} is not a number that can be kept exactly"))?;
        Ok((name, Change::Add(number)))
    })
}

/// `NAME=A,B`: append.
pub fn append(argument: &str) -> Result<AttributeChange, AssignError> {
    change(argument, |a| items(a).map(|(name, list)| (name, Change::Append(list))))
}

/// `NAME=A,B`: append those that are not there.
pub fn union(argument: &str) -> Result<AttributeChange, AssignError> {
    change(argument, |a| items(a).map(|(name, list)| (name, Change::Union(list))))
}

/// `NAME=A,B`: remove.
pub fn remove(argument: &str) -> Result<AttributeChange, AssignError> {
    change(argument, |a| items(a).map(|(name, list)| (name, Change::Remove(list))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(argument: &str) -> Kind {
        match set(argument).unwrap().change {
            Some(Change::Set(Value { kind: Some(kind) })) => kind,
            other => panic!("{other:?}"),
        }
    }

    fn list(items: &[&str]) -> StringList {
        StringList { values: items.iter().map(|&item| item.to_owned()).collect() }
    }

    #[test]
    fn equals_is_a_string_and_colon_equals_is_typed() {
        assert_eq!(kind("plan=pro"), Kind::StringValue("pro".into()));
        assert_eq!(kind("seats=12"), Kind::StringValue("12".into()));
        assert_eq!(kind("url=a:=b=c"), Kind::StringValue("a:=b=c".into()));
        assert_eq!(kind("empty="), Kind::StringValue(String::new()));
        assert_eq!(kind("seats:=12"), Kind::NumberValue(12.0));
        assert_eq!(kind("trial:=false"), Kind::BoolValue(false));
        assert_eq!(kind("s:=\"12\""), Kind::StringValue("12".into()));
        assert_eq!(kind("tags:=[\"a\",\"b\"]"), Kind::ListValue(list(&["a", "b"])));
        let time = prost_types::Timestamp { seconds: 1_586_476_800, nanos: 0 };
        assert_eq!(kind("signed_up:=@2020-04-10"), Kind::TimeValue(time));
    }

    #[test]
    fn errors_name_the_argument() {
        for (argument, part) in [
            ("plan", "name=value"),
            ("=pro", "no attribute name"),
            (":=1", "no attribute name"),
            ("seats:=twelve", "not a number"),
            ("seats:=12345678901234567", "cannot be kept exactly"),
            ("old:=null", "--unset"),
            ("at:=@yesterday", "RFC 3339"),
            ("tags:=[1]", "strings only"),
        ] {
            let error = set(argument).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("argument {argument:?}: ")) && error.contains(part),
                "{error}"
            );
        }
        assert!(add("visits=x").is_err());
        assert!(append("tags=").is_err());
        assert!(append("tags:=1").is_err());
        assert!(unset("").is_err());
    }

    #[test]
    fn the_other_changes() {
        assert_eq!(add("visits=-1").unwrap().change, Some(Change::Add(-1.0)));
        assert_eq!(append("tags=a,b").unwrap().change, Some(Change::Append(list(&["a", "b"]))));
        assert_eq!(union("tags:=[\"a,b\"]").unwrap().change, Some(Change::Union(list(&["a,b"]))));
        assert_eq!(remove("tags=a").unwrap().change, Some(Change::Remove(list(&["a"]))));
        assert_eq!(unset("old").unwrap().change, Some(Change::Unset(())));
    }

    proptest! {
        #[test]
        fn never_panics(argument in "\\PC*", near in "[a=:@,\\[\"0-9-]{0,12}") {
            for parse in [set, set_once, unset, add, append, union, remove] {
                let _ = (parse(&argument), parse(&near));
            }
        }
    }
}
