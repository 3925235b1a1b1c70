//! What a request must look like to be accepted: everything that can be told without the profile and
//! without the site's registry. Nothing is cut or mended; what does not fit is refused.

use super::limits::{AHEAD, LIST_ITEMS, Limits};
use super::time::EventTime;
use super::value::Value;
use super::write::{AttributeChange, Change, ChangeKind, Write};
use smallvec::SmallVec;

/// Ids that only a client's mistake produces, compared without regard to ASCII case and to white space
/// around them: a missing value that was turned into text. Under such an id many people would share one
/// profile.
pub const MISTAKEN_USERS: [&str; 14] = [
    "null",
    "(null)",
    "<null>",
    "undefined",
    "nan",
    "none",
    "nil",
    "<nil>",
    "true",
    "false",
    "[object object]",
    "[object undefined]",
    "[object null]",
    "not_authenticated",
];

/// Which rule a field breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldReason {
    /// It is larger than allowed.
    LimitExceeded,
    /// It is missing, malformed, or not one of the values allowed.
    Invalid,
}

/// A field of a request that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Its path in the request, such as `attributes["plan"].string_value` or `changes[3].name`.
    pub field: String,
    /// Which rule it breaks.
    pub reason: FieldReason,
    /// What is wrong, for people.
    pub message: String,
}

impl FieldError {
    /// The field at path `field` is missing or malformed.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason: FieldReason::Invalid, message: message.into() }
    }

    /// The field at path `field` is larger than allowed.
    pub fn limit(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason: FieldReason::LimitExceeded, message: message.into() }
    }
}

/// Checks a site's name: `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`.
pub fn validate_site(site: &str, limits: &Limits) -> Result<(), FieldError> {
    if site.is_empty() {
        return Err(FieldError::invalid("site", "must be given"));
    }
    if site.len() > limits.site_chars {
        let message = format!("has more than {} characters", limits.site_chars);
        return Err(FieldError::limit("site", message));
    }
    if !site.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(FieldError::invalid("site", "may only have the characters A-Z a-z 0-9 . _ -"));
    }
    Ok(())
}

/// Checks a user's id. See [`MISTAKEN_USERS`].
pub fn validate_user(user: &str, limits: &Limits) -> Result<(), FieldError> {
    let trimmed = user.trim();
    if trimmed.is_empty() {
        return Err(FieldError::invalid("user", "must be given, and not be white space alone"));
    }
    if user.len() > limits.user_bytes {
        return Err(FieldError::limit("user", format!("has more than {} bytes", limits.user_bytes)));
    }
    if MISTAKEN_USERS.iter().any(|mistaken| mistaken.eq_ignore_ascii_case(trimmed)) {
        return Err(FieldError::invalid("user", format!("{trimmed:?} is not an id but a client's mistake")));
    }
    Ok(())
}

/// Checks an attribute's name, found at path `field`: not empty, no control characters.
pub fn validate_attribute_name(name: &str, field: &str, limits: &Limits) -> Result<(), FieldError> {
    if name.is_empty() {
        return Err(FieldError::invalid(field, "the name must be given"));
    }
    if longer(name, limits.attribute_name_chars) {
        let message = format!("the name has more than {} characters", limits.attribute_name_chars);
        return Err(FieldError::limit(field, message));
    }
    if name.chars().any(char::is_control) {
        return Err(FieldError::invalid(field, "the name has a control character"));
    }
    Ok(())
}

/// Checks a write whose changes all come from a request's `changes`. See [`validate_request`].
pub fn validate_write(write: &Write, limits: &Limits, now: EventTime) -> Result<(), FieldError> {
    validate_request(write, limits, now, 0)
}

/// Checks a write. Its first `from_map` changes come from the map `attributes`, which only matters for the
/// paths in errors. `now` is the wall time, which event times must not be far ahead of.
pub fn validate_request(
    write: &Write,
    limits: &Limits,
    now: EventTime,
    from_map: usize,
) -> Result<(), FieldError> {
    validate_user(write.user.as_str(), limits)?;
    if let Some(id) = &write.request_id {
        if id.is_empty() {
            return Err(FieldError::invalid("request_id", "must not be empty where it is given"));
        }
        if id.len() > limits.request_id_bytes {
            let message = format!("has more than {} bytes", limits.request_id_bytes);
            return Err(FieldError::limit("request_id", message));
        }
    }
    check_event_time(write.occurred_at, now, || "occurred_at".to_owned())?;
    match &write.kind {
        ChangeKind::Delete if write.if_version == Some(0) => {
            Err(FieldError::invalid("if_version", "there is nothing to delete where there is no profile"))
        }
        ChangeKind::Delete => Ok(()),
        ChangeKind::Identify(changes) => check_changes(changes, limits, now, from_map),
    }
}

fn check_changes(
    changes: &[AttributeChange],
    limits: &Limits,
    now: EventTime,
    from_map: usize,
) -> Result<(), FieldError> {
    if changes.is_empty() {
        return Err(FieldError::invalid("changes", "there must be at least one change"));
    }
    if changes.len() > limits.changes_per_write {
        let field = if from_map > limits.changes_per_write { "attributes" } else { "changes" };
        let message = format!("there are more than {} changes", limits.changes_per_write);
        return Err(FieldError::limit(field, message));
    }
    for (index, change) in changes.iter().enumerate() {
        let path = ChangePath { index, from_map, change };
        path.check(limits, now)?;
    }
    let mut names: SmallVec<[(&str, usize); 16]> =
        changes.iter().enumerate().map(|(index, change)| (&*change.name, index)).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        if let [(first, _), (second, index)] = pair
            && first == second
        {
            let change = changes.get(*index);
            let field = change.map(|change| ChangePath { index: *index, from_map, change }.name());
            let message = format!("the attribute {second:?} is given twice");
            return Err(FieldError::invalid(field.unwrap_or_default(), message));
        }
    }
    Ok(())
}

/// Where a change stands in the request. Paths are only written when there is an error.
struct ChangePath<'w> {
    index: usize,
    from_map: usize,
    change: &'w AttributeChange,
}

impl ChangePath<'_> {
    fn in_map(&self) -> bool {
        self.index < self.from_map
    }

    fn name(&self) -> String {
        if self.in_map() { self.of("") } else { format!("changes[{}].name", self.index - self.from_map) }
    }

    /// The path of the change itself, or of its part `field` where it has one.
    fn of(&self, field: &str) -> String {
        let dot = if field.is_empty() { "" } else { "." };
        if self.in_map() {
            format!("attributes[{:?}]{dot}{field}", self.change.name)
        } else {
            format!("changes[{}]{dot}{field}", self.index - self.from_map)
        }
    }

    /// The path of a value, or of its part.
    fn value(&self, part: &str) -> String {
        match self.change.change {
            Change::Set(_) if self.in_map() => self.of(part),
            Change::SetOnce(_) => self.of(&format!("set_once.{part}")),
            _ => self.of(&format!("set.{part}")),
        }
    }

    fn check(&self, limits: &Limits, now: EventTime) -> Result<(), FieldError> {
        // An over-long name is not repeated in the path.
        let name = &self.change.name;
        if longer(name, limits.attribute_name_chars) && self.in_map() {
            validate_attribute_name(name, "attributes", limits)?;
        }
        validate_attribute_name(name, "", limits).map_err(|e| FieldError { field: self.name(), ..e })?;
        check_event_time(self.change.occurred_at, now, || self.of("occurred_at"))?;
        match &self.change.change {
            Change::Set(value) | Change::SetOnce(value) => self.check_value(value, limits),
            Change::Unset => Ok(()),
            Change::Add(by) if by.is_finite() => Ok(()),
            Change::Add(_) => Err(FieldError::invalid(self.of("add"), NOT_FINITE)),
            Change::Append(items) => check_list(items, limits, || self.of("append")),
            Change::Union(items) => check_list(items, limits, || self.of("union")),
            Change::Remove(items) => check_list(items, limits, || self.of("remove")),
        }
    }

    fn check_value(&self, value: &Value, limits: &Limits) -> Result<(), FieldError> {
        match value {
            Value::String(text) => check_text(text, limits, || self.value("string_value")),
            Value::Number(number) if !number.is_finite() => {
                Err(FieldError::invalid(self.value("number_value"), NOT_FINITE))
            }
            Value::Time(time) if !time.is_valid() => {
                let message = "must lie in the years 0001 to 9999, its nanos from 0 to 999,999,999";
                Err(FieldError::invalid(self.value("time_value"), message))
            }
            Value::Number(_) | Value::Time(_) | Value::Bool(_) => Ok(()),
            Value::List(items) => check_list(items, limits, || self.value("list_value")),
        }
    }
}

const NOT_FINITE: &str = "must be a finite number";

fn check_text(text: &str, limits: &Limits, path: impl Fn() -> String) -> Result<(), FieldError> {
    if longer(text, limits.string_chars) {
        let message = format!("has more than {} characters", limits.string_chars);
        return Err(FieldError::limit(path(), message));
    }
    Ok(())
}

fn check_list(items: &[Box<str>], limits: &Limits, path: impl Fn() -> String) -> Result<(), FieldError> {
    if items.len() > LIST_ITEMS {
        return Err(FieldError::limit(path(), format!("has more than {LIST_ITEMS} items")));
    }
    items
        .iter()
        .enumerate()
        .try_for_each(|(at, item)| check_text(item, limits, || format!("{}.values[{at}]", path())))
}

fn check_event_time(
    time: Option<EventTime>,
    now: EventTime,
    path: impl Fn() -> String,
) -> Result<(), FieldError> {
    match time {
        Some(time) if time < EventTime::MIN => {
            Err(FieldError::invalid(path(), "lies before 2000-01-01T00:00:00Z"))
        }
        Some(time) if time > now.plus(AHEAD) => {
            Err(FieldError::invalid(path(), "lies more than 5 minutes ahead of the server's clock"))
        }
        _ => Ok(()),
    }
}

/// Whether `text` has more than `chars` characters. Counts only where the bytes leave it open.
fn longer(text: &str, chars: usize) -> bool {
    text.len() > chars && text.chars().nth(chars).is_some()
}

#[cfg(test)]
mod tests;
