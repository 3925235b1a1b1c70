//! The changes that apply in order of arrival: what they make of the old value. None: it stays as it is.
//! Where there is no value, all but `remove` start from zero or the empty list.

use crate::model::limits::LIST_ITEMS;
use crate::model::{Refusal, Value};

type Items = Box<[Box<str>]>;

pub(super) fn add(name: &str, old: Option<&Value>, by: f64) -> Result<Option<Value>, Refusal> {
    let number = match old {
        None => 0.0,
        Some(Value::Number(number)) => *number,
        Some(_) => return Err(Refusal::TypeMismatch { name: name.into() }),
    };
    let sum = number + by;
    if !sum.is_finite() {
        return Err(Refusal::NumberOverflow { name: name.into() });
    }
    let sum = Value::Number(sum);
    Ok((old != Some(&sum)).then_some(sum))
}

pub(super) fn append(name: &str, old: Option<&Value>, items: &Items) -> Result<Option<Value>, Refusal> {
    let list = list(name, old)?;
    if items.is_empty() && old.is_some() {
        return Ok(None);
    }
    bounded(name, list.iter().chain(items).map(AsRef::as_ref).collect())
}

/// An item that is given twice is added once; what the list holds twice stays so.
pub(super) fn union(name: &str, old: Option<&Value>, items: &Items) -> Result<Option<Value>, Refusal> {
    let list = list(name, old)?;
    if old.is_some() && items.iter().all(|item| list.contains(item)) {
        return Ok(None);
    }
    let mut all: Vec<&str> = list.iter().map(AsRef::as_ref).collect();
    for item in items {
        if !all.contains(&item.as_ref()) {
            all.push(item);
        }
    }
    bounded(name, all)
}

/// Removes every occurrence.
pub(super) fn remove(name: &str, old: Option<&Value>, items: &Items) -> Result<Option<Value>, Refusal> {
    let list = list(name, old)?;
    if !list.iter().any(|item| items.contains(item)) {
        return Ok(None);
    }
    Ok(Some(Value::List(list.iter().filter(|item| !items.contains(item)).cloned().collect())))
}

fn list<'v>(name: &str, old: Option<&'v Value>) -> Result<&'v [Box<str>], Refusal> {
    match old {
        None => Ok(&[]),
        Some(Value::List(items)) => Ok(items),
        Some(_) => Err(Refusal::TypeMismatch { name: name.into() }),
    }
}

fn bounded(name: &str, items: Vec<&str>) -> Result<Option<Value>, Refusal> {
    if items.len() > LIST_ITEMS {
        return Err(Refusal::ListTooLong { name: name.into() });
    }
    Ok(Some(Value::List(items.into_iter().map(Box::from).collect())))
}
