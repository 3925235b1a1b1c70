//! What an error says about the store, and what a refusal says to the caller.

use crate::breaker::{Outcome, Reason, Refused};
use crate::store::StoreError;

use super::Operation;

/// Bytes of an error that are told.
const WORDS: usize = 200;

/// A refusal for the caller's own fault is an answer; that there is no store, or not the whole of it, says
/// nothing about the one that comes.
pub(super) fn outcome(error: Option<&StoreError>) -> Outcome {
    match error {
        None | Some(StoreError::Conflict | StoreError::NotIndexed(_) | StoreError::Invalid(_)) => {
            Outcome::Good
        }
        Some(
            StoreError::Io(_)
            | StoreError::Failed(_)
            | StoreError::Corrupt(_)
            | StoreError::Busy
            | StoreError::Panicked(_),
        ) => Outcome::Bad,
        Some(
            StoreError::IndexBuilding { .. }
            | StoreError::Rebuilding { .. }
            | StoreError::Closed
            | StoreError::Withheld { .. },
        ) => Outcome::Ignored,
    }
}

/// What may be told of an error that counts against the store. What a panic or a damaged record says may hold what
/// services have written, which is nobody's business here.
pub(super) fn words(error: &StoreError) -> String {
    let mut text = match error {
        StoreError::Corrupt(_) => "store: damaged".to_owned(),
        StoreError::Panicked(_) => "store: the call panicked".to_owned(),
        other => other.to_string(),
    };
    if text.len() > WORDS {
        let end = (0..=WORDS).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
    text
}

/// In which state a breaker refuses so.
pub(super) fn state(reason: Reason) -> &'static str {
    match reason {
        Reason::Open => "open",
        Reason::Probing => "half open",
        Reason::Paced | Reason::Ramping => "recovering",
    }
}

pub(super) fn withheld(operation: Operation, refused: &Refused) -> StoreError {
    StoreError::Withheld {
        operation: operation.as_str(),
        state: state(refused.reason),
        site: refused.scope.site.is_some(),
        retry_after: refused.retry_after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_says_is_bounded_and_nobodys_data() {
        assert_eq!(words(&StoreError::Io("ENOSPC".into())), "store: ENOSPC");
        assert_eq!(words(&StoreError::Corrupt("user ann".into())), "store: damaged");
        assert_eq!(words(&StoreError::Panicked("user ann".into())), "store: the call panicked");
        let long = words(&StoreError::Failed("é".repeat(WORDS)));
        assert!((WORDS - 1..=WORDS).contains(&long.len()), "{}", long.len());
    }

    #[test]
    fn only_the_backends_own_failures_count_against_it() {
        for good in [None, Some(StoreError::Conflict), Some(StoreError::NotIndexed("a".into()))] {
            assert_eq!(outcome(good.as_ref()), Outcome::Good);
        }
        let busy = StoreError::Busy;
        for bad in [StoreError::Io("x".into()), StoreError::Corrupt("x".into()), busy] {
            assert_eq!(outcome(Some(&bad)), Outcome::Bad);
        }
        let building = StoreError::IndexBuilding { done: 0, total: 1 };
        for ignored in [StoreError::Closed, building] {
            assert_eq!(outcome(Some(&ignored)), Outcome::Ignored);
        }
    }
}
