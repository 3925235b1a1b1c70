//! Puts the switch around a stack.

use std::sync::Arc;

use tower::Layer;

use super::service::Switched;
use super::switch::KillSwitch;

/// Makes services of [`Switched`].
#[derive(Clone, Debug)]
pub struct SwitchLayer(Arc<KillSwitch>);

impl SwitchLayer {
    /// Asks `switch`.
    pub fn new(switch: Arc<KillSwitch>) -> Self {
        Self(switch)
    }
}

impl<S> Layer<S> for SwitchLayer {
    type Service = Switched<S>;

    fn layer(&self, inner: S) -> Switched<S> {
        Switched::new(Arc::clone(&self.0), inner)
    }
}
