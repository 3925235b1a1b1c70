//! Faults injected into the store of a running node, for a game day.

use std::time::Duration;

use crate::store::faulty::Fault;

/// A fault to inject.
#[derive(Clone, Debug)]
pub struct FaultOrder {
    /// What goes wrong, and for which calls.
    pub fault: Fault,
    /// For how long.
    pub lasts: Duration,
}

/// A fault that is in force, or was until now.
#[derive(Clone, Debug)]
pub struct InjectedFault {
    /// Its id.
    pub id: String,
    /// What goes wrong.
    pub fault: Fault,
    /// How long it still lasts.
    pub left: Duration,
    /// Calls that it has struck.
    pub struck: u64,
}

/// Why a fault is not injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultRefused {
    /// There are 100.
    #[error("100 faults are in force already: clear some of them")]
    TooMany,
}

/// Injects faults; only there when the server was started for it.
pub trait FaultDesk: Send + Sync + 'static {
    /// Injects one.
    fn inject(&self, order: FaultOrder) -> Result<InjectedFault, FaultRefused>;

    /// Ends those with these ids, or all if there are none; calls that hang in them go on.
    fn clear(&self, ids: &[String]) -> Vec<InjectedFault>;

    /// Those in force.
    fn faults(&self) -> Vec<InjectedFault>;
}
