//! Faults that operators inject into the store, each for a limited time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::command::faults::{FaultDesk, FaultOrder, FaultRefused, InjectedFault};
use crate::store::faulty::{Fault, Faults};

/// Faults in force at once.
const MOST: usize = 100;

/// The faults in force.
#[derive(Clone)]
pub struct Desk {
    faults: Faults,
    until: Arc<Mutex<BTreeMap<u64, (Fault, Instant)>>>,
}

impl Desk {
    /// Nothing is wrong yet. `faults` must be in the store's layers.
    pub fn new(faults: Faults) -> Self {
        Self { faults, until: Arc::default() }
    }

    /// Ends those whose time is over; to be called now and then.
    pub fn expire(&self, now: Instant) {
        self.until.lock().retain(|id, (_, until)| {
            if *until > now {
                return true;
            }
            self.faults.clear_one(*id);
            tracing::warn!(id, "an injected fault is over");
            false
        });
    }

    fn told(&self, id: u64, fault: &Fault, left: Duration) -> InjectedFault {
        let struck = self.faults.struck_by(id).unwrap_or_default();
        InjectedFault { id: id.to_string(), fault: fault.clone(), left, struck }
    }
}

impl FaultDesk for Desk {
    fn inject(&self, order: FaultOrder) -> Result<InjectedFault, FaultRefused> {
        let mut until = self.until.lock();
        if until.len() >= MOST {
            return Err(FaultRefused::TooMany);
        }
        let id = self.faults.add(order.fault.clone());
        tracing::warn!(id, fault = ?order.fault, lasts = ?order.lasts, "a fault is injected");
        until.insert(id, (order.fault.clone(), Instant::now() + order.lasts));
        Ok(self.told(id, &order.fault, order.lasts))
    }

    fn clear(&self, ids: &[String]) -> Vec<InjectedFault> {
        let now = Instant::now();
        let mut ended = Vec::new();
        self.until.lock().retain(|id, (fault, until)| {
            if !ids.is_empty() && !ids.contains(&id.to_string()) {
                return true;
            }
            let mut told = self.told(*id, fault, until.saturating_duration_since(now));
            told.struck = self.faults.clear_one(*id).unwrap_or(told.struck);
            ended.push(told);
            false
        });
        ended
    }

    fn faults(&self) -> Vec<InjectedFault> {
        let now = Instant::now();
        let until = self.until.lock();
        let each = until.iter();
        each.map(|(id, (fault, until))| self.told(*id, fault, until.saturating_duration_since(now))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{FaultKind, FaultLevel};

    fn order(lasts: Duration) -> FaultOrder {
        FaultOrder { fault: Fault::new(FaultKind::Hang, FaultLevel::Call), lasts }
    }

    #[test]
    fn faults_end_when_told_or_when_their_time_is_over() {
        let desk = Desk::new(Faults::default());
        let first = desk.inject(order(Duration::from_mins(1))).unwrap();
        let second = desk.inject(order(Duration::from_hours(1))).unwrap();
        desk.expire(Instant::now() + Duration::from_mins(2));
        let left: Vec<_> = desk.faults().into_iter().map(|fault| fault.id).collect();
        assert_eq!(left, std::slice::from_ref(&second.id));
        assert!(desk.clear(&[first.id]).is_empty());
        assert_eq!(desk.clear(&[]).len(), 1);
        assert!(desk.faults().is_empty());
    }

    #[test]
    fn they_are_bounded() {
        let desk = Desk::new(Faults::default());
        for _ in 0..MOST {
            desk.inject(order(Duration::from_mins(1))).unwrap();
        }
        assert_eq!(desk.inject(order(Duration::from_mins(1))).unwrap_err(), FaultRefused::TooMany);
    }
}
