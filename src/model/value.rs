//! Typed attribute values.

use serde::{Deserialize, Serialize};

use super::time::Instant;

/// One typed value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Value {
    /// Text.
    String(Box<str>),
    /// A finite number.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// An instant.
    Time(Instant),
    /// A list of strings, in order.
    List(Box<[Box<str>]>),
}

/// The type of an attribute: fixed by the first accepted write that uses its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ValueType {
    /// Text.
    String,
    /// A finite number.
    Number,
    /// A truth value.
    Bool,
    /// An instant.
    Time,
    /// A list of strings.
    List,
}

impl Value {
    /// This value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::String(_) => ValueType::String,
            Self::Number(_) => ValueType::Number,
            Self::Bool(_) => ValueType::Bool,
            Self::Time(_) => ValueType::Time,
            Self::List(_) => ValueType::List,
        }
    }
}

impl PartialEq for Value {
    /// Identity, bit for bit: `-0.0` is not `0.0`, so that what was set is what is read back.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a.to_bits() == b.to_bits(),
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            _ => false,
        }
    }
}
impl Eq for Value {}

impl ValueType {
    /// The word for people and for the API: `string`, `number`, `bool`, `time`, `list`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Bool => "bool",
            Self::Time => "time",
            Self::List => "list",
        }
    }
}
