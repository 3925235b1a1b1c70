//! An operator's word on a breaker.

use std::time::Duration;

/// What an operator may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The breaker decides.
    #[default]
    Auto,
    /// Refuses everything, probes too.
    ForceOpen,
    /// Never trips. Does not pass an Open parent.
    ForceClosed,
    /// Judges and reports, never refuses by itself.
    Observe,
}

/// An override with what must be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What.
    pub mode: Mode,
    /// Why; not empty.
    pub reason: String,
    /// Who; not empty.
    pub owner: String,
    /// For how long by monotonic time; `None`: until somebody ends it.
    pub lasts: Option<Duration>,
}

/// An override that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// Nobody would know why.
    #[error("an override needs a reason")]
    NoReason,
    /// Nobody would know whom to ask.
    #[error("an override needs an owner")]
    NoOwner,
    /// More than 1,000 bytes.
    #[error("the reason or the owner is longer than 1,000 bytes")]
    TooLong,
}

impl Override {
    /// Reason and owner are there, and not endless.
    pub fn check(&self) -> Result<(), OverrideError> {
        if self.reason.trim().is_empty() {
            Err(OverrideError::NoReason)
        } else if self.owner.trim().is_empty() {
            Err(OverrideError::NoOwner)
        } else if self.reason.len().max(self.owner.len()) > 1_000 {
            Err(OverrideError::TooLong)
        } else {
            Ok(())
        }
    }
}
