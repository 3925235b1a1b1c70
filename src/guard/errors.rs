//! What the store said when it failed: the last error of each breaker, told with its state and its trips.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::classify;
use crate::breaker::{ScopeHandle, ScopeName};
use crate::store::StoreError;

/// An error that is older says nothing of now.
const RECENT: Duration = Duration::from_secs(10);

/// Breakers of which errors are known at once; with more, those of others are not told.
const BREAKERS: usize = 1_000;

/// The last errors. Lives as long as the process, as breakers do, so that a call need not count who knows of it.
#[derive(Debug, Default)]
pub(super) struct Errors {
    last: Mutex<HashMap<ScopeName, Said>>,
    /// What had been said when a breaker tripped.
    at_trip: Mutex<HashMap<ScopeName, String>>,
    /// The breaker of all commits.
    commits: OnceLock<ScopeHandle>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    words: String,
}

impl Errors {
    /// For one guard.
    pub fn leak() -> &'static Self {
        Box::leak(Box::default())
    }

    /// Names the breaker that is to trip when the store takes no more writes.
    pub fn tell(&self, commits: ScopeHandle) {
        let first = self.commits.set(commits).is_ok();
        debug_assert!(first, "said once");
    }

    /// A call that these breakers judge has failed through the store's fault.
    pub fn note(&self, scopes: impl Iterator<Item = ScopeName>, error: &StoreError, now: Instant) {
        if let (StoreError::Failed(_), Some(commits)) = (error, self.commits.get()) {
            commits.backend_failed();
        }
        let words = classify::words(error);
        let mut last = self.last.lock();
        for scope in scopes {
            if last.len() >= BREAKERS && !last.contains_key(&scope) {
                last.retain(|_, said| said.is_recent(now));
                if last.len() >= BREAKERS {
                    continue;
                }
            }
            last.insert(scope, Said { at: now, words: words.clone() });
        }
    }

    /// The last error that says something of now; empty if there is none.
    pub fn recent(&self, scope: &ScopeName, now: Instant) -> String {
        let last = self.last.lock();
        let said = last.get(scope).filter(|said| said.is_recent(now));
        said.map(|said| said.words.clone()).unwrap_or_default()
    }

    /// A breaker has tripped.
    pub fn tripped(&self, scope: &ScopeName, now: Instant) {
        let words = self.recent(scope, now);
        let mut at_trip = self.at_trip.lock();
        at_trip.remove(scope);
        if words.is_empty() {
            return;
        }
        if at_trip.len() >= BREAKERS {
            at_trip.clear();
        }
        at_trip.insert(scope.clone(), words);
    }

    /// What had been said when it tripped last; empty: nothing.
    pub fn at_trip(&self, scope: &ScopeName) -> String {
        self.at_trip.lock().get(scope).cloned().unwrap_or_default()
    }
}

impl Said {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < RECENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(site: Option<&str>) -> ScopeName {
        ScopeName { operation: "apply".into(), site: site.map(Into::into) }
    }

    #[test]
    fn an_error_is_told_of_its_breaker_for_a_while_and_of_a_trip_for_good() {
        let (errors, begin) = (Errors::default(), Instant::now());
        let full = StoreError::Io("no space left".into());
        errors.note([scope(None), scope(Some("a"))].into_iter(), &full, begin);
        assert_eq!(errors.recent(&scope(Some("a")), begin), "store: no space left");
        assert_eq!(errors.recent(&scope(Some("b")), begin), "");
        errors.tripped(&scope(None), begin + RECENT / 2);
        errors.tripped(&scope(Some("a")), begin + RECENT);
        assert_eq!(errors.recent(&scope(None), begin + RECENT), "");
        assert_eq!(errors.at_trip(&scope(None)), "store: no space left");
        assert_eq!(errors.at_trip(&scope(Some("a"))), "", "that was long ago");
        errors.tripped(&scope(None), begin + RECENT);
        assert_eq!(errors.at_trip(&scope(None)), "", "this time it said nothing");
    }

    #[test]
    fn they_are_bounded() {
        let (errors, begin) = (Errors::default(), Instant::now());
        for n in 0..2 * BREAKERS {
            errors.note(std::iter::once(scope(Some(&n.to_string()))), &StoreError::Busy, begin);
            errors.tripped(&scope(Some(&n.to_string())), begin);
        }
        assert_eq!(errors.last.lock().len(), BREAKERS);
        assert!(errors.at_trip.lock().len() <= BREAKERS);
        errors.note(std::iter::once(scope(None)), &StoreError::Busy, begin + RECENT);
        assert_eq!(errors.last.lock().len(), 1);
    }
}
