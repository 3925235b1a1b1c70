//! What an error says about the store, and what a refusal says to the caller.

use crate::breaker::{Outcome, Reason, Refused};
use crate::store::StoreError;

use super::Operation;

/// A refusal for the caller's own fault is an answer; that there is no store, or not the whole of it, says
/// nothing about the one that comes.
pub(super) fn outcome(error: Option<&StoreError>) -> Outcome {
    match error {
        None | Some(StoreError::Conflict | StoreError::NotIndexed(_) | StoreError::Invalid(_)) => {
            Outcome::Good
        }
        Some(StoreError::Io(_) | StoreError::Corrupt(_) | StoreError::Busy | StoreError::Panicked(_)) => {
            Outcome::Bad
        }
        Some(
            StoreError::IndexBuilding { .. }
            | StoreError::Rebuilding { .. }
            | StoreError::Closed
            | StoreError::Withheld { .. },
        ) => Outcome::Ignored,
    }
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
