//! The layer.

use tower::Layer;

use super::service::{BreakerService, HandOver, InFuture};

/// Puts a breaker around a service. `admit` finds the request's scope and asks it ([`fixed`] for one scope);
/// it takes the request, so that whatever decides the scope stays outside this module.
///
/// Two ways to follow a call:
/// - [`BreakerLayer::new`]: the call lives as long as its future; `classify` judges the result. A future
///   dropped before it is slow gives no verdict.
/// - [`BreakerLayer::handing_over`]: the inner service gets the token with the request ([`Guarded`]) and
///   passes it to the thread that does the work, so that a call whose caller is gone still counts.
///
/// [`fixed`]: super::fixed
/// [`Guarded`]: super::Guarded
#[derive(Clone, Debug)]
pub struct BreakerLayer<A, M> {
    admit: A,
    mode: M,
}

impl<A, C> BreakerLayer<A, InFuture<C>> {
    /// The call lives in the future.
    pub fn new(admit: A, classify: C) -> Self {
        Self { admit, mode: InFuture(classify) }
    }
}

impl<A> BreakerLayer<A, HandOver> {
    /// The call lives with the job.
    pub fn handing_over(admit: A) -> Self {
        Self { admit, mode: HandOver }
    }
}

impl<S, A: Clone, M: Clone> Layer<S> for BreakerLayer<A, M> {
    type Service = BreakerService<S, A, M>;

    fn layer(&self, inner: S) -> Self::Service {
        BreakerService::new(inner, self.admit.clone(), self.mode.clone())
    }
}
