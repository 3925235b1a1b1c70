//! Faults injected into a running node, for a game day.

use std::time::Duration;

use crate::store::faulty::Fault;

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Injection {
    /// Calls of the store.
    Store {
        /// What happens, and to which calls.
        fault: Fault,
        /// Whether stores that are built later suffer too. Otherwise it belongs to the one that is in use now.
        every_generation: bool,
    },
    /// Each sync of the journal takes so much longer.
    Journal(Duration),
}

/// A fault to inject.
#[derive(Clone, Debug)]
pub struct FaultOrder {
    /// What goes wrong.
    pub what: Injection,
    /// For how long.
    pub lasts: Duration,
}

/// A fault that is in force, or was until now.
#[derive(Clone, Debug)]
pub struct InjectedFault {
    /// Its id.
    pub id: String,
    /// What goes wrong.
    pub what: Injection,
    /// How long it still lasts.
    pub left: Duration,
    /// Calls that it has struck; those of the journal are not counted.
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
