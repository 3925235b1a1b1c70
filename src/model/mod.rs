//! What a write means: values, profiles, writes, and the pure function that turns one profile into
//! the next. Nothing in here reads a clock, does I/O or knows a configuration.

pub mod codec;
pub mod evaluate;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod low_water;
pub mod order;
pub mod profile;
pub mod refusal;
pub mod time;
pub mod validate;
pub mod value;
pub mod write;

pub use evaluate::{Evaluation, Stamp, evaluate};
pub use ids::{NodeId, Position, ProfileKey, Site, User};
pub use limits::Limits;
pub use low_water::LowWater;
pub use profile::{Applied, Attribute, Erasure, Grave, Profile, RecentRequest, Record, Unset};
pub use refusal::Refusal;
pub use time::{EventTime, Instant};
pub use value::{Value, ValueType};
pub use write::{AttributeChange, Change, ChangeKind, Command, Entry, Notes, Write};
