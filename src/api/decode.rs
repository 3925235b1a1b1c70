//! From messages to domain types. An unset oneof or an unknown enum value is refused, never ignored; what is
//! well formed is checked by the model.

use std::sync::Arc;
use std::time::Instant as Deadline;

use prost_types::Timestamp;

use super::status::{Failure, Paths};
use crate::clock::Clock;
use crate::command::{Wait, WriteRequest};
use crate::model::limits::Limits;
use crate::model::validate::{FieldError, FieldReason, validate_request, validate_site, validate_user};
use crate::model::{
    AttributeChange, Change, ChangeKind, EventTime, Instant, NodeId, Position, Site, User, Value, Write,
};
use crate::proto;

/// Decodes and checks requests.
#[derive(Clone)]
pub struct Decoder {
    /// What is accepted.
    pub limits: Limits,
    /// Tells which event times are in the future.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl From<FieldError> for Failure {
    fn from(error: FieldError) -> Self {
        match error.reason {
            FieldReason::LimitExceeded => Self::over_limit(error.field, error.message),
            FieldReason::Invalid => Self::invalid(error.field, error.message),
        }
    }
}

/// When and how a write is to be answered.
#[derive(Clone, Copy, Debug)]
pub struct Answering {
    /// The deadline.
    pub deadline: Deadline,
    /// Whether it may wait for one load.
    pub may_load: bool,
}

impl Decoder {
    /// An `Identify`.
    pub fn identify(
        &self,
        request: proto::IdentifyRequest,
        answering: Answering,
    ) -> Result<(WriteRequest, Paths), Failure> {
        let from_map = request.attributes.len();
        let mut changes = Vec::with_capacity(from_map + request.changes.len());
        for (name, value) in request.attributes {
            let path = || format!("attributes[{name:?}]");
            let change = Change::Set(decode_value(Some(value), path)?);
            changes.push(AttributeChange { name: name.into(), change, occurred_at: None });
        }
        let mut paths = Paths::default();
        for (at, change) in request.changes.into_iter().enumerate() {
            let change = decode_change(change, at)?;
            paths.changes.push(change.name.clone());
            changes.push(change);
        }
        let write = Write {
            user: User::new(request.user),
            request_id: some(request.request_id),
            occurred_at: event_time(request.occurred_at, || "occurred_at".to_owned())?,
            if_version: request.if_version,
            kind: ChangeKind::Identify(changes),
        };
        let request = self.write(request.site, write, from_map, decode_wait(request.wait)?, answering)?;
        Ok((request, paths))
    }

    /// A `DeleteProfile`.
    pub fn delete(
        &self,
        request: proto::DeleteProfileRequest,
        answering: Answering,
    ) -> Result<WriteRequest, Failure> {
        let write = Write {
            user: User::new(request.user),
            request_id: some(request.request_id),
            occurred_at: event_time(request.occurred_at, || "occurred_at".to_owned())?,
            if_version: request.if_version,
            kind: ChangeKind::Delete,
        };
        self.write(request.site, write, 0, decode_wait(request.wait)?, answering)
    }

    /// One record of an import: sets, each with an event time of its own.
    pub fn record(
        &self,
        site: &Site,
        record: proto::ImportRecord,
        answering: Answering,
    ) -> Result<WriteRequest, Failure> {
        let mut times = record.attribute_occurred_at;
        let mut changes = Vec::with_capacity(record.attributes.len());
        for (name, value) in record.attributes {
            let change = Change::Set(decode_value(Some(value), || format!("attributes[{name:?}]"))?);
            let occurred_at = event_time(times.remove(&name), || format!("attribute_occurred_at[{name:?}]"))?;
            changes.push(AttributeChange { name: name.into(), change, occurred_at });
        }
        if let Some(name) = times.keys().next() {
            let path = format!("attribute_occurred_at[{name:?}]");
            return Err(Failure::invalid(path, "names an attribute that is not in attributes"));
        }
        if changes.is_empty() {
            return Err(Failure::invalid("attributes", "there must be at least one"));
        }
        let from_map = changes.len();
        let write = Write {
            user: User::new(record.user),
            request_id: None,
            occurred_at: event_time(record.occurred_at, || "occurred_at".to_owned())?,
            if_version: None,
            kind: ChangeKind::Identify(changes),
        };
        validate_request(&write, &self.limits, self.clock.now(), from_map).map_err(of_record)?;
        Ok(WriteRequest {
            site: site.clone(),
            write,
            wait: Wait::Journaled,
            deadline: answering.deadline,
            may_load: answering.may_load,
        })
    }

    fn write(
        &self,
        site: String,
        write: Write,
        from_map: usize,
        wait: Wait,
        answering: Answering,
    ) -> Result<WriteRequest, Failure> {
        let site = self.site(site)?;
        validate_request(&write, &self.limits, self.clock.now(), from_map)?;
        Ok(WriteRequest { site, write, wait, deadline: answering.deadline, may_load: answering.may_load })
    }

    /// A site's name.
    pub fn site(&self, site: String) -> Result<Site, Failure> {
        validate_site(&site, &self.limits)?;
        Ok(Site::new(site))
    }

    /// A user's id.
    pub fn user(&self, user: String) -> Result<User, Failure> {
        validate_user(&user, &self.limits)?;
        Ok(User::new(user))
    }
}

/// An import says the times of its attributes in a map of their own.
fn of_record(mut error: FieldError) -> FieldError {
    let name = error.field.strip_prefix("attributes").and_then(|rest| rest.strip_suffix(".occurred_at"));
    if let Some(name) = name {
        error.field = format!("attribute_occurred_at{name}");
    }
    error
}

/// The place of a write.
pub fn position(position: Option<proto::Position>) -> Result<Position, Failure> {
    let Some(position) = position else {
        return Err(Failure::invalid("position", "must be given"));
    };
    let node: NodeId = position
        .node
        .parse()
        .map_err(|_| Failure::invalid("position.node", "is not a node: give back what the receipt said"))?;
    if position.number == 0 {
        return Err(Failure::invalid("position.number", "numbers begin at 1"));
    }
    Ok(Position { node, number: position.number })
}

/// When to answer.
pub fn decode_wait(wait: i32) -> Result<Wait, Failure> {
    match proto::Wait::try_from(wait) {
        Ok(proto::Wait::Unspecified | proto::Wait::Applied) => Ok(Wait::Applied),
        Ok(proto::Wait::Journaled) => Ok(Wait::Journaled),
        Err(_) => Err(Failure::invalid("wait", format!("{wait} is not a known value"))),
    }
}

fn some(text: String) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into_boxed_str())
}

fn decode_change(change: proto::AttributeChange, at: usize) -> Result<AttributeChange, Failure> {
    use proto::attribute_change::Change as Given;
    let path = |part: &str| format!("changes[{at}]{part}");
    let decoded = match change.change {
        None => return Err(Failure::invalid(path(""), "says nothing to do: set one of the kinds of change")),
        Some(Given::Set(value)) => Change::Set(decode_value(Some(value), || path(".set"))?),
        Some(Given::SetOnce(value)) => Change::SetOnce(decode_value(Some(value), || path(".set_once"))?),
        Some(Given::Unset(())) => Change::Unset,
        Some(Given::Add(by)) => Change::Add(by),
        Some(Given::Append(list)) => Change::Append(items(list)),
        Some(Given::Union(list)) => Change::Union(items(list)),
        Some(Given::Remove(list)) => Change::Remove(items(list)),
    };
    Ok(AttributeChange { name: change.name.into(), change: decoded, occurred_at: None })
}

fn decode_value(value: Option<proto::Value>, path: impl Fn() -> String) -> Result<Value, Failure> {
    use proto::value::Kind;
    match value.and_then(|value| value.kind) {
        None => Err(Failure::invalid(path(), "has no value: set one of the kinds")),
        Some(Kind::StringValue(text)) => Ok(Value::String(text.into())),
        Some(Kind::NumberValue(number)) => Ok(Value::Number(number)),
        Some(Kind::BoolValue(bool)) => Ok(Value::Bool(bool)),
        // Nanos below zero become far too many, and are refused with them.
        Some(Kind::TimeValue(time)) => {
            Ok(Value::Time(Instant { seconds: time.seconds, nanos: time.nanos as u32 }))
        }
        Some(Kind::ListValue(list)) => Ok(Value::List(items(list))),
    }
}

fn items(list: proto::StringList) -> Box<[Box<str>]> {
    list.values.into_iter().map(String::into_boxed_str).collect()
}

/// An event time. Whether it is too old or too far ahead is checked by the model.
fn event_time(time: Option<Timestamp>, path: impl Fn() -> String) -> Result<Option<EventTime>, Failure> {
    let Some(time) = time else { return Ok(None) };
    let nanos = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let Some(nanos) = nanos else {
        return Err(Failure::invalid(path(), "nanos must be from 0 to 999,999,999"));
    };
    // Before 1970 is before 2000 too.
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    Ok(Some(EventTime(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::ManualClock;

    fn decoder() -> Decoder {
        Decoder {
            limits: Limits::default(),
            clock: Arc::new(ManualClock::new(EventTime::MIN.plus_days(8_000))),
        }
    }

    impl EventTime {
        fn plus_days(self, days: u64) -> Self {
            self.plus(std::time::Duration::from_secs(days * 86_400))
        }
    }

    fn answering() -> Answering {
        Answering { deadline: Deadline::now(), may_load: true }
    }

    fn value(kind: proto::value::Kind) -> proto::Value {
        proto::Value { kind: Some(kind) }
    }

    fn request() -> proto::IdentifyRequest {
        proto::IdentifyRequest {
            site: "acme".into(),
            user: "u1".into(),
            attributes: BTreeMap::from([(
                "plan".to_owned(),
                value(proto::value::Kind::StringValue("pro".into())),
            )]),
            ..Default::default()
        }
    }

    fn set(name: &str, value: Option<proto::Value>) -> proto::AttributeChange {
        let change = value.map(proto::attribute_change::Change::Set);
        proto::AttributeChange { name: name.into(), change }
    }

    #[test]
    fn a_request_becomes_a_write() {
        let mut given = request();
        given.changes.push(proto::AttributeChange {
            name: "visits".into(),
            change: Some(proto::attribute_change::Change::Add(1.0)),
        });
        given.request_id = "r1".into();
        given.wait = 2;
        let (decoded, paths) = decoder().identify(given, answering()).unwrap();
        assert_eq!(decoded.site.as_str(), "acme");
        assert_eq!(decoded.wait, Wait::Journaled);
        assert_eq!(decoded.write.request_id.as_deref(), Some("r1"));
        let ChangeKind::Identify(changes) = decoded.write.kind else { panic!("not an identify") };
        assert_eq!(changes[0].change, Change::Set(Value::String("pro".into())));
        assert_eq!(changes[1].change, Change::Add(1.0));
        assert_eq!(paths.of("visits"), "changes[0]");
        assert_eq!(paths.of("plan"), "attributes[\"plan\"]");
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Spoil = fn(&mut proto::IdentifyRequest);
        let cases: Vec<(Spoil, &str)> = vec![
            (|r| r.site.clear(), "site"),
            (|r| r.user = "undefined".into(), "user"),
            (|r| r.wait = 9, "wait"),
            (|r| r.changes.push(set("x", None)), "changes[0]"),
            (|r| r.changes.push(set("x", Some(proto::Value { kind: None }))), "changes[0].set"),
            (
                |r| r.changes.push(set("plan", Some(value(proto::value::Kind::BoolValue(true))))),
                "changes[0].name",
            ),
            (
                |r| {
                    r.attributes.insert("n".into(), value(proto::value::Kind::NumberValue(f64::NAN)));
                },
                "attributes[\"n\"].number_value",
            ),
            (
                |r| {
                    r.attributes.insert("n".into(), proto::Value { kind: None });
                },
                "attributes[\"n\"]",
            ),
            (
                |r| {
                    let time = Timestamp { seconds: 1, nanos: -1 };
                    r.attributes.insert("t".into(), value(proto::value::Kind::TimeValue(time)));
                },
                "attributes[\"t\"].time_value",
            ),
            (|r| r.occurred_at = Some(Timestamp { seconds: 0, nanos: 0 }), "occurred_at"),
            (|r| r.occurred_at = Some(Timestamp { seconds: i64::MAX, nanos: 0 }), "occurred_at"),
            (|r| r.occurred_at = Some(Timestamp { seconds: i64::MIN, nanos: -5 }), "occurred_at"),
        ];
        for (spoil, field) in cases {
            let mut given = request();
            spoil(&mut given);
            let failure = decoder().identify(given, answering()).unwrap_err();
            assert_eq!(failure.code(), tonic::Code::InvalidArgument);
            assert_eq!(failure.into_item().field, field);
        }
    }

    #[test]
    fn an_import_keeps_the_time_of_each_attribute() {
        let record = proto::ImportRecord {
            user: "u1".into(),
            attributes: request().attributes,
            attribute_occurred_at: BTreeMap::from([(
                "plan".to_owned(),
                Timestamp { seconds: 1_000_000_000, nanos: 5 },
            )]),
            ..Default::default()
        };
        let site = Site::new("acme");
        let decoded = decoder().record(&site, record.clone(), answering()).unwrap();
        let ChangeKind::Identify(changes) = decoded.write.kind else { panic!("not an identify") };
        assert_eq!(changes[0].occurred_at, Some(EventTime(1_000_000_000_000_000_005)));
        let mut stray = record;
        stray.attributes.insert("x".into(), value(proto::value::Kind::BoolValue(true)));
        stray.attributes.remove("plan");
        let failure = decoder().record(&site, stray, answering()).unwrap_err();
        assert_eq!(failure.into_item().field, "attribute_occurred_at[\"plan\"]");
    }

    #[test]
    fn positions_are_given_back() {
        let given = proto::Position { node: NodeId(0xab).to_string(), number: 7 };
        assert_eq!(position(Some(given)).unwrap(), Position { node: NodeId(0xab), number: 7 });
        for wrong in [
            None,
            Some(proto::Position { node: "x".into(), number: 1 }),
            Some(proto::Position { node: "ab".into(), number: 0 }),
        ] {
            assert_eq!(position(wrong).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
