//! The tokens of one call, where its work is done.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::errors::Errors;
use super::{Guard, Operation, classify};
use crate::breaker::{CallToken, Outcome};
use crate::store::StoreError;
use crate::store::watch::{BoxedWatch, Watch};

/// Judged by its site's breaker, by the operation's, or by both.
#[derive(Debug)]
pub(super) struct Followed {
    /// From when the backend has the call.
    site: Option<CallToken>,
    /// From when one of its threads begins it; if there is no `site`, as that.
    store: Option<CallToken>,
    errors: &'static Errors,
}

impl Followed {
    pub fn of_store(token: CallToken, errors: &'static Errors) -> Self {
        Self { site: None, store: Some(token), errors }
    }

    pub fn of_site(token: CallToken, store: CallToken, errors: &'static Errors) -> Self {
        Self { site: Some(token), store: Some(store), errors }
    }

    /// Whether the state of a breaker depends on it.
    pub fn is_probe(&self) -> bool {
        self.site.iter().chain(&self.store).any(CallToken::is_probe)
    }

    pub fn watch(self) -> BoxedWatch {
        Box::new(self)
    }

    fn finish(&mut self, outcome: Outcome) {
        for token in [self.site.take(), self.store.take()].into_iter().flatten() {
            token.finished(outcome);
        }
    }
}

impl Watch for Followed {
    fn reached(&mut self) {
        if let Some(token) = self.site.as_mut().or(self.store.as_mut()) {
            token.started();
        }
    }

    fn began(&mut self) {
        for token in self.site.iter_mut().chain(&mut self.store) {
            token.started();
        }
    }

    fn ended(&mut self, error: Option<&StoreError>) {
        let outcome = classify::outcome(error);
        if let (Outcome::Bad, Some(error)) = (outcome, error) {
            let scopes = self.site.iter().chain(&self.store).map(CallToken::scope);
            self.errors.note(scopes, error, Instant::now());
        }
        self.finish(outcome);
    }
}

/// A flush, for the rule that a flush must not take much longer than usual.
struct Flush {
    guard: Arc<Guard>,
    /// Of which store it is.
    generation: u64,
}

impl Flush {
    fn is_of_this_store(&self) -> bool {
        self.guard.generation.load(Ordering::Relaxed) == self.generation
    }
}

impl Watch for Flush {
    fn reached(&mut self) {}

    fn began(&mut self) {
        if self.is_of_this_store() {
            self.guard.root(Operation::Apply).flush_started();
        }
    }

    fn ended(&mut self, error: Option<&StoreError>) {
        if self.is_of_this_store() {
            let commits = self.guard.root(Operation::Apply);
            commits.flush_finished();
            if let (Outcome::Bad, Some(error)) = (classify::outcome(error), error) {
                self.guard.errors.note(std::iter::once(commits.name()), error, Instant::now());
            }
        }
    }
}

impl Guard {
    /// To be carried with a flush of the store.
    pub fn flush_watch(self: &Arc<Self>) -> BoxedWatch {
        Box::new(Flush { guard: Arc::clone(self), generation: self.generation.load(Ordering::Relaxed) })
    }
}
