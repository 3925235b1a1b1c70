//! From domain types to messages.

use std::time::Duration;

use prost_types::Timestamp;

use super::status::Failure;
use crate::command::{Outcome, ProfileView, Receipt, WriteState};
use crate::model::{
    AttributeChange, Change, EventTime, Position, Refusal, Site, User, Value, ValueType, Write,
};
use crate::proto;
use crate::store::AttributeInfo;

/// What the caller of a write gets.
pub fn receipt(receipt: Receipt) -> proto::Receipt {
    let outcome = match receipt.outcome {
        Outcome::Applied => proto::Outcome::Applied,
        Outcome::Unchanged => proto::Outcome::Unchanged,
        Outcome::Duplicate => proto::Outcome::Duplicate,
        Outcome::Deferred => proto::Outcome::Deferred,
    };
    let note = |reason: proto::attribute_note::Reason| {
        move |name: Box<str>| proto::AttributeNote { name: name.into(), reason: reason.into() }
    };
    let stale = receipt.notes.stale.into_iter().map(note(proto::attribute_note::Reason::Stale));
    let disabled = receipt.notes.disabled.into_iter().map(note(proto::attribute_note::Reason::Disabled));
    proto::Receipt {
        outcome: outcome.into(),
        version: receipt.version,
        position: receipt.position.map(position),
        notes: stale.chain(disabled).collect(),
    }
}

/// The result of one item.
pub fn result(result: Result<Receipt, Failure>) -> proto::WriteResult {
    use proto::write_result::Result as Told;
    let told = match result {
        Ok(given) => Told::Receipt(receipt(given)),
        Err(failure) => Told::Error(failure.into_item()),
    };
    proto::WriteResult { result: Some(told) }
}

/// A place in the journal.
pub fn position(position: Position) -> proto::Position {
    proto::Position { node: position.node.to_string(), number: position.number }
}

/// A profile with what waits for it; none where there is none.
pub fn profile(site: &Site, user: &User, view: &ProfileView, times: bool) -> Option<proto::Profile> {
    let pending = (view.pending > 0).then(|| proto::PendingWrites {
        count: u32::try_from(view.pending).unwrap_or(u32::MAX),
        overlaid: view.overlaid,
    });
    let Some(profile) = view.live() else {
        // With more waiting than is laid on top it cannot be said that there is nobody.
        return (!view.overlaid).then(|| proto::Profile {
            site: site.as_str().to_owned(),
            user: user.as_str().to_owned(),
            pending,
            ..Default::default()
        });
    };
    let attributes = profile.attributes.iter();
    let occurred_at = if times {
        attributes.clone().map(|a| (a.name.to_string(), event_time(a.occurred_at))).collect()
    } else {
        Default::default()
    };
    Some(proto::Profile {
        site: site.as_str().to_owned(),
        user: user.as_str().to_owned(),
        attributes: attributes.map(|a| (a.name.to_string(), value(&a.value))).collect(),
        occurred_at,
        version: profile.version,
        created_at: Some(event_time(profile.created_at)),
        updated_at: Some(event_time(profile.updated_at)),
        pending,
    })
}

fn value(value: &Value) -> proto::Value {
    use proto::value::Kind;
    let kind = match value {
        Value::String(text) => Kind::StringValue(text.to_string()),
        Value::Number(number) => Kind::NumberValue(*number),
        Value::Bool(bool) => Kind::BoolValue(*bool),
        Value::Time(time) => Kind::TimeValue(Timestamp { seconds: time.seconds, nanos: time.nanos as i32 }),
        Value::List(items) => {
            Kind::ListValue(proto::StringList { values: items.iter().map(ToString::to_string).collect() })
        }
    };
    proto::Value { kind: Some(kind) }
}

/// When something happened.
pub fn event_time(time: EventTime) -> Timestamp {
    const SECOND: u64 = 1_000_000_000;
    Timestamp { seconds: (time.0 / SECOND) as i64, nanos: (time.0 % SECOND) as i32 }
}

/// A length of time.
pub fn span(span: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: span.as_secs() as i64, nanos: span.subsec_nanos() as i32 }
}

/// A write of attributes, as it could be sent again.
pub fn identify(site: &Site, write: &Write, changes: &[AttributeChange]) -> proto::IdentifyRequest {
    use proto::attribute_change::Change as Told;
    let strings =
        |items: &[Box<str>]| proto::StringList { values: items.iter().map(ToString::to_string).collect() };
    let changes = changes.iter().map(|change| {
        let told = match &change.change {
            Change::Set(given) => Told::Set(value(given)),
            Change::SetOnce(given) => Told::SetOnce(value(given)),
            Change::Unset => Told::Unset(()),
            Change::Add(by) => Told::Add(*by),
            Change::Append(items) => Told::Append(strings(items)),
            Change::Union(items) => Told::Union(strings(items)),
            Change::Remove(items) => Told::Remove(strings(items)),
        };
        proto::AttributeChange { name: change.name.to_string(), change: Some(told) }
    });
    proto::IdentifyRequest {
        site: site.as_str().to_owned(),
        user: write.user.as_str().to_owned(),
        changes: changes.collect(),
        occurred_at: write.occurred_at.map(event_time),
        request_id: write.request_id.as_deref().unwrap_or_default().to_owned(),
        if_version: write.if_version,
        ..Default::default()
    }
}

/// An erasure, as it could be sent again.
pub fn delete(site: &Site, write: &Write) -> proto::DeleteProfileRequest {
    proto::DeleteProfileRequest {
        site: site.as_str().to_owned(),
        user: write.user.as_str().to_owned(),
        occurred_at: write.occurred_at.map(event_time),
        request_id: write.request_id.as_deref().unwrap_or_default().to_owned(),
        if_version: write.if_version,
        ..Default::default()
    }
}

/// An attribute of a site's registry.
pub fn attribute(info: &AttributeInfo) -> proto::Attribute {
    let kind = match info.value_type {
        ValueType::String => proto::ValueType::String,
        ValueType::Number => proto::ValueType::Number,
        ValueType::Bool => proto::ValueType::Bool,
        ValueType::Time => proto::ValueType::Time,
        ValueType::List => proto::ValueType::List,
    };
    let state = if info.disabled { proto::AttributeState::Disabled } else { proto::AttributeState::Enabled };
    proto::Attribute {
        name: info.name.to_string(),
        r#type: kind.into(),
        first_seen: Some(event_time(info.first_seen)),
        indexed: info.indexed,
        state: state.into(),
    }
}

/// What became of a write; a failure where there is none.
pub fn write_state(state: &WriteState) -> Result<proto::GetWriteResponse, Failure> {
    let (state, refusal, message) = match state {
        WriteState::Unknown => return Err(Failure::position_unknown()),
        WriteState::Pending => (proto::WriteState::Pending, proto::RefusalReason::Unspecified, String::new()),
        WriteState::Applied => (proto::WriteState::Applied, proto::RefusalReason::Unspecified, String::new()),
        WriteState::Refused { reason, .. } => {
            (proto::WriteState::Refused, refusal_reason(reason), reason.to_string())
        }
    };
    Ok(proto::GetWriteResponse { state: state.into(), refusal: refusal.into(), message })
}

/// Why a write was refused.
pub fn refusal_reason(reason: &Refusal) -> proto::RefusalReason {
    match reason {
        Refusal::VersionMismatch { .. } => proto::RefusalReason::VersionMismatch,
        Refusal::ListTooLong { .. } => proto::RefusalReason::ListTooLong,
        Refusal::NumberOverflow { .. } => proto::RefusalReason::NumberOverflow,
        Refusal::ProfileTooLarge => proto::RefusalReason::ProfileTooLarge,
        Refusal::TypeMismatch { .. } => proto::RefusalReason::TypeMismatch,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Attribute, Instant, NodeId, Notes, Profile};

    #[test]
    fn a_profile_is_told_whole() {
        let at = EventTime(1_000_000_000_000_000_007);
        let attribute = |name: &str, value| Attribute { name: name.into(), value, occurred_at: at };
        let profile_at = Profile {
            number: 1,
            version: 3,
            created_at: at,
            updated_at: at,
            attributes: vec![
                attribute("born", Value::Time(Instant { seconds: -5, nanos: 9 })),
                attribute("tags", Value::List(Box::new(["a".into(), "b".into()]))),
            ],
            unset: Vec::new(),
            erased: None,
            applied: Default::default(),
            recent: Vec::new(),
        };
        let view = ProfileView {
            profile: Some(Arc::new(crate::model::Record::Live(profile_at))),
            pending: 2,
            overlaid: true,
        };
        let (site, user) = (Site::new("acme"), User::new("u1"));
        let told = profile(&site, &user, &view, true).unwrap();
        assert_eq!((told.site.as_str(), told.user.as_str(), told.version), ("acme", "u1", 3));
        assert_eq!(told.occurred_at["born"], Timestamp { seconds: 1_000_000_000, nanos: 7 });
        let Some(proto::value::Kind::TimeValue(born)) = &told.attributes["born"].kind else { panic!() };
        assert_eq!(*born, Timestamp { seconds: -5, nanos: 9 });
        assert_eq!(told.pending, Some(proto::PendingWrites { count: 2, overlaid: true }));
        assert!(profile(&site, &user, &view, false).unwrap().occurred_at.is_empty());
        let nobody = ProfileView { profile: None, pending: 0, overlaid: true };
        assert_eq!(profile(&site, &user, &nobody, true), None);
        let unseen = ProfileView { pending: 129, overlaid: false, ..nobody };
        let told = profile(&site, &user, &unseen, true).unwrap();
        assert_eq!((told.user.as_str(), told.version), ("u1", 0));
        assert_eq!(told.pending, Some(proto::PendingWrites { count: 129, overlaid: false }));
    }

    #[test]
    fn a_receipt_is_told_whole() {
        let told = receipt(Receipt {
            outcome: Outcome::Deferred,
            version: None,
            position: Some(Position { node: NodeId(0xab), number: 9 }),
            notes: Notes { stale: vec!["a".into()], disabled: vec!["b".into()] },
        });
        assert_eq!(told.outcome(), proto::Outcome::Deferred);
        assert_eq!(told.position.unwrap().node, "00000000000000ab");
        assert_eq!(told.notes[0].reason(), proto::attribute_note::Reason::Stale);
        assert_eq!(told.notes[1].reason(), proto::attribute_note::Reason::Disabled);
    }
}
