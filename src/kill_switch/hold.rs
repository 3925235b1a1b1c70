//! A hold: what it stops, how, why, and until when.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::scope::{Operation, Scope};
use crate::model::EventTime;

/// Bytes of a reason, an owner or a ticket.
pub const TEXT_LIMIT: usize = 1_000;
/// Holds in force at once.
pub const HOLDS_LIMIT: usize = 1_000;
/// How long a hold lasts when nothing is said.
pub const DEFAULT_LASTS: Duration = Duration::from_hours(1);
/// The longest that a hold may last, unless it never expires.
pub const LASTS_LIMIT: Duration = Duration::from_hours(30 * 24);

/// What a hold does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Only counts what it would have stopped.
    Observe,
    /// Writes are accepted and wait.
    Defer,
    /// Refuses.
    Reject,
}

/// A hold's name: `hold-17`, or `holds-unreadable`. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HoldId(pub u64);

impl HoldId {
    /// The hold that the server places when it cannot read its holds.
    pub const UNREADABLE: Self = Self(0);
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNREADABLE => f.write_str("holds-unreadable"),
            Self(number) => write!(f, "hold-{number}"),
        }
    }
}

/// Not the name of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("holds are called like `hold-17`")]
pub struct NotAHoldId;

impl FromStr for HoldId {
    type Err = NotAHoldId;

    fn from_str(text: &str) -> Result<Self, NotAHoldId> {
        if text == "holds-unreadable" {
            return Ok(Self::UNREADABLE);
        }
        let number = text.strip_prefix("hold-").ok_or(NotAHoldId)?;
        let plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
        number.parse().ok().filter(|_| plain).map(Self).ok_or(NotAHoldId)
    }
}

impl TryFrom<String> for HoldId {
    type Error = NotAHoldId;

    fn try_from(text: String) -> Result<Self, NotAHoldId> {
        text.parse()
    }
}

impl From<HoldId> for String {
    fn from(id: HoldId) -> Self {
        id.to_string()
    }
}

/// When something ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// By the wall clock as it was when this was set.
    pub at: EventTime,
    /// How long it was to last when this was set: never longer after a restart, whatever the clock says.
    pub lasts: Duration,
}

impl Expiry {
    /// `lasts` from `now` on.
    pub fn after(lasts: Duration, now: EventTime) -> Self {
        Self { at: now.plus(lasts), lasts }
    }

    /// What is left at a start, when only the wall clock can tell; zero: it is over.
    pub fn left_at_start(&self, now: EventTime) -> Duration {
        self.at.since(now).min(self.lasts)
    }
}

/// An operator's kill switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name.
    pub id: HoldId,
    /// What it stops.
    pub scope: Scope,
    /// What it does.
    pub mode: Mode,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who placed it.
    pub owner: String,
    /// A ticket or link; may be empty.
    pub ticket: String,
    /// When it was placed.
    pub created_at: EventTime,
    /// When it ends by itself; none: never.
    pub expiry: Option<Expiry>,
    /// Rises by 1 with each change, from 1.
    pub version: u64,
}

impl Hold {
    /// What stands for the holds that cannot be read.
    pub fn unreadable(problem: &str, now: EventTime) -> Self {
        Self {
            id: HoldId::UNREADABLE,
            scope: Scope::ALL_WRITES,
            mode: Mode::Defer,
            reason: format!("the holds could not be read: {problem}"),
            owner: "steadfast".to_owned(),
            ticket: String::new(),
            created_at: now,
            expiry: None,
            version: 1,
        }
    }
}

/// When a new hold shall end by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lasting {
    /// After [`DEFAULT_LASTS`].
    #[default]
    Default,
    /// After so long.
    For(Duration),
    /// Not by itself.
    Never,
}

impl Lasting {
    /// How long; none: for ever. The error names what is wrong with the field `expires_in`.
    pub fn span(self) -> Result<Option<Duration>, Invalid> {
        match self {
            Self::Default => Ok(Some(DEFAULT_LASTS)),
            Self::Never => Ok(None),
            Self::For(span) if span.is_zero() => Err(Invalid::new("expires_in", "must be above 0")),
            Self::For(span) if span > LASTS_LIMIT => Err(Invalid::new(
                "expires_in",
                "must be at most 30 days; what shall not end by itself is placed with `never`",
            )),
            Self::For(span) => Ok(Some(span)),
        }
    }
}

/// A field that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The path of the field in the request.
    pub field: &'static str,
    /// What is wrong.
    pub problem: String,
}

impl Invalid {
    /// What is wrong with `field`.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct NewHold {
    /// What to stop.
    pub scope: Scope,
    /// What to do.
    pub mode: Mode,
    /// Why.
    pub reason: String,
    /// Who.
    pub owner: String,
    /// A ticket or link; may be empty.
    pub ticket: String,
    /// When it ends by itself.
    pub lasting: Lasting,
}

impl NewHold {
    /// Whether it can be placed, with the first field that stands in the way.
    pub fn check(&self) -> Result<(), Invalid> {
        check_text("reason", &self.reason, true)?;
        check_text("owner", &self.owner, true)?;
        check_text("ticket", &self.ticket, false)?;
        self.lasting.span()?;
        let operations = self.scope.operations;
        if operations.is_empty() {
            return Err(Invalid::new("scope.operations", "must name at least one operation"));
        }
        if self.mode == Mode::Defer && operations.iter().any(|operation| !operation.is_write()) {
            return Err(Invalid::new("mode", "DEFER is for writes; a read cannot wait"));
        }
        if self.scope.share.is_some() && operations.has(Operation::Query) {
            let problem = "a query is not about single users";
            return Err(Invalid::new("scope.user_percentage", problem));
        }
        Ok(())
    }
}

/// Whether a text of an operator can be kept.
pub fn check_text(field: &'static str, text: &str, required: bool) -> Result<(), Invalid> {
    if required && text.trim().is_empty() {
        return Err(Invalid::new(field, "must be given"));
    }
    if text.len() > TEXT_LIMIT {
        return Err(Invalid::new(field, format!("has {} bytes, more than {TEXT_LIMIT}", text.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::scope::{Operations, UserShare};
    use super::*;

    fn new_hold() -> NewHold {
        NewHold {
            scope: Scope::ALL_WRITES,
            mode: Mode::Defer,
            reason: "r".into(),
            owner: "o".into(),
            ticket: String::new(),
            lasting: Lasting::Default,
        }
    }

    #[test]
    fn fields_in_the_way_are_named() {
        assert_eq!(new_hold().check(), Ok(()));
        let with = |change: fn(&mut NewHold)| {
            let mut hold = new_hold();
            change(&mut hold);
            hold.check().unwrap_err().field
        };
        assert_eq!(with(|hold| hold.reason = " ".into()), "reason");
        assert_eq!(with(|hold| hold.owner.clear()), "owner");
        assert_eq!(with(|hold| hold.ticket = "t".repeat(1_001)), "ticket");
        assert_eq!(with(|hold| hold.lasting = Lasting::For(Duration::ZERO)), "expires_in");
        assert_eq!(with(|hold| hold.lasting = Lasting::For(LASTS_LIMIT * 2)), "expires_in");
        assert_eq!(with(|hold| hold.scope.operations = Operations::NONE), "scope.operations");
        assert_eq!(
            with(|hold| hold.scope.operations = Operations::WRITES.with(Operation::Get)),
            "mode",
            "reads cannot be deferred"
        );
        assert_eq!(
            with(|hold| {
                hold.mode = Mode::Reject;
                hold.scope.share = UserShare::new(10.0).unwrap();
                hold.scope.operations = Operations::NONE.with(Operation::Query);
            }),
            "scope.user_percentage"
        );
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for id in [HoldId(17), HoldId::UNREADABLE, HoldId(u64::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for wrong in ["", "hold-", "hold-0", "hold-017", "hold-+1", "17", "hold-99999999999999999999"] {
            assert_eq!(wrong.parse::<HoldId>(), Err(NotAHoldId), "{wrong}");
        }
    }

    #[test]
    fn what_is_left_at_a_start_never_grows() {
        let placed = EventTime(EventTime::MIN.0 + 1_000_000_000_000);
        let expiry = Expiry::after(Duration::from_mins(1), placed);
        assert_eq!(expiry.left_at_start(placed.plus(Duration::from_secs(20))), Duration::from_secs(40));
        assert_eq!(expiry.left_at_start(placed.minus(Duration::from_secs(500))), Duration::from_mins(1));
        assert_eq!(expiry.left_at_start(placed.plus(Duration::from_mins(1))), Duration::ZERO);
    }
}
