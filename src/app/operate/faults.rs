//! Faults that operators inject into the store and the journal, each for a limited time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::command::faults::{FaultDesk, FaultOrder, FaultRefused, InjectedFault, Injection};
use crate::fs::SyncGate;
use crate::store::faulty::Faults;

/// Faults in force at once.
const MOST: usize = 100;

/// Where a running node can be broken.
#[derive(Clone, Default)]
pub struct Weak {
    /// In the layers of the store.
    pub store: Faults,
    /// In the journal's files.
    pub journal: SyncGate,
}

/// The faults in force.
#[derive(Clone)]
pub struct Desk {
    weak: Weak,
    /// The number of the store that is in use.
    generation: Arc<dyn Fn() -> u64 + Send + Sync>,
    board: Arc<Mutex<Board>>,
}

#[derive(Default)]
struct Board {
    last_id: u64,
    active: BTreeMap<u64, Active>,
}

#[derive(Clone)]
struct Active {
    what: Injection,
    until: Instant,
    /// Its number in the store's layers.
    in_store: Option<u64>,
}

impl Desk {
    /// Nothing is wrong yet. `generation` answers the number of the store that is in use.
    pub fn new(weak: Weak, generation: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { weak, generation: Arc::new(generation), board: Arc::default() }
    }

    /// Ends those whose time is over; to be called now and then.
    pub fn expire(&self, now: Instant) {
        let mut board = self.board.lock();
        for (id, _) in self.end(&mut board, now, |_, active| active.until <= now) {
            tracing::warn!(id, "an injected fault is over");
        }
    }

    fn end(
        &self,
        board: &mut Board,
        now: Instant,
        ends: impl Fn(u64, &Active) -> bool,
    ) -> Vec<(u64, InjectedFault)> {
        let mut ended = Vec::new();
        board.active.retain(|id, active| {
            if !ends(*id, active) {
                return true;
            }
            let mut told = self.told(*id, active, now);
            let struck = active.in_store.and_then(|fault| self.weak.store.clear_one(fault));
            told.struck = struck.unwrap_or(told.struck);
            ended.push((*id, told));
            false
        });
        if ended.iter().any(|(_, fault)| matches!(fault.what, Injection::Journal(_))) {
            self.weak.journal.open();
            self.delay_journal(board);
        }
        ended
    }

    fn delay_journal(&self, board: &Board) {
        let delays = board.active.values().filter_map(|active| match active.what {
            Injection::Journal(delay) => Some(delay),
            Injection::Store { .. } => None,
        });
        if let Some(longest) = delays.max() {
            self.weak.journal.delay(longest);
        }
    }

    fn told(&self, id: u64, active: &Active, now: Instant) -> InjectedFault {
        let struck = active.in_store.and_then(|fault| self.weak.store.struck_by(fault)).unwrap_or_default();
        let left = active.until.saturating_duration_since(now);
        InjectedFault { id: id.to_string(), what: active.what.clone(), left, struck }
    }
}

impl FaultDesk for Desk {
    fn inject(&self, order: FaultOrder) -> Result<InjectedFault, FaultRefused> {
        let mut board = self.board.lock();
        if board.active.len() >= MOST {
            return Err(FaultRefused::TooMany);
        }
        board.last_id += 1;
        let (id, now) = (board.last_id, Instant::now());
        tracing::warn!(id, what = ?order.what, lasts = ?order.lasts, "a fault is injected");
        let in_store = match &order.what {
            Injection::Store { fault, every_generation } => {
                let generation = (!every_generation).then(|| (self.generation)());
                Some(self.weak.store.add(crate::store::faulty::Fault { generation, ..fault.clone() }))
            }
            Injection::Journal(_) => None,
        };
        let active = Active { what: order.what, until: now + order.lasts, in_store };
        let told = self.told(id, &active, now);
        board.active.insert(id, active);
        self.delay_journal(&board);
        Ok(told)
    }

    fn clear(&self, ids: &[String]) -> Vec<InjectedFault> {
        let mut board = self.board.lock();
        let named = |id: u64, _: &Active| ids.is_empty() || ids.contains(&id.to_string());
        let ended = self.end(&mut board, Instant::now(), named);
        ended.into_iter().map(|(_, fault)| fault).collect()
    }

    fn faults(&self) -> Vec<InjectedFault> {
        let (board, now) = (self.board.lock(), Instant::now());
        board.active.iter().map(|(id, active)| self.told(*id, active, now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::faulty::{Fault, FaultKind, FaultLevel};
    use crate::store::{Call, Operation, StoreError, WorkerHook as _};

    fn order(kind: FaultKind, lasts: Duration) -> FaultOrder {
        let fault = Fault::new(kind, FaultLevel::Thread);
        FaultOrder { what: Injection::Store { fault, every_generation: false }, lasts }
    }

    fn desk() -> Desk {
        Desk::new(Weak::default(), || 7)
    }

    #[test]
    fn faults_end_when_told_or_when_their_time_is_over() {
        let desk = desk();
        let first = desk.inject(order(FaultKind::Hang, Duration::from_mins(1))).unwrap();
        let second = desk.inject(order(FaultKind::Hang, Duration::from_hours(1))).unwrap();
        desk.expire(Instant::now() + Duration::from_mins(2));
        let left: Vec<_> = desk.faults().into_iter().map(|fault| fault.id).collect();
        assert_eq!(left, std::slice::from_ref(&second.id));
        assert!(desk.clear(&[first.id]).is_empty());
        assert_eq!(desk.clear(&[]).len(), 1);
        assert!(desk.faults().is_empty());
    }

    #[test]
    fn a_fault_belongs_to_the_store_of_its_time() {
        let desk = desk();
        let broken = StoreError::Io("broken".to_owned());
        desk.inject(order(FaultKind::Error(broken.clone()), Duration::from_mins(1))).unwrap();
        let call = |generation| Call { generation, operation: Operation::Commit, site: None };
        assert_eq!(desk.weak.store.before(&call(7)), Err(broken.clone()));
        assert_eq!(desk.weak.store.before(&call(8)), Ok(()));
        let fault = Fault::new(FaultKind::Error(broken.clone()), FaultLevel::Thread);
        let what = Injection::Store { fault, every_generation: true };
        desk.inject(FaultOrder { what, lasts: Duration::from_mins(1) }).unwrap();
        assert_eq!(desk.weak.store.before(&call(8)), Err(broken));
        assert_eq!(desk.clear(&[]).iter().map(|fault| fault.struck).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn a_slow_journal_is_quick_again_when_it_is_told() {
        let desk = desk();
        for delay in [Duration::from_hours(1), Duration::from_hours(2)] {
            let order = FaultOrder { what: Injection::Journal(delay), lasts: Duration::from_hours(3) };
            desk.inject(order).unwrap();
        }
        assert_eq!(desk.weak.journal.delayed(), Some(Duration::from_hours(2)));
        desk.clear(&["2".to_owned()]);
        assert_eq!(desk.weak.journal.delayed(), Some(Duration::from_hours(1)));
        desk.expire(Instant::now() + Duration::from_hours(4));
        assert_eq!(desk.weak.journal.delayed(), None);
    }

    #[test]
    fn they_are_bounded() {
        let desk = desk();
        for _ in 0..MOST {
            desk.inject(order(FaultKind::Hang, Duration::from_mins(1))).unwrap();
        }
        let refused = desk.inject(order(FaultKind::Hang, Duration::from_mins(1)));
        assert_eq!(refused.unwrap_err(), FaultRefused::TooMany);
    }
}
