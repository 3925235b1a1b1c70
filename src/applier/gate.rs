//! The gate between the lanes and the store. While it is closed nothing is applied; closing it abandons the
//! turns that are under way, however long the store has kept them: their entries wait again, and whatever
//! the store answers late is not heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// Opened and closed from outside; the applier's turns pass through it.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    /// As in the state: every write that is accepted asks, and is not to wait for the others.
    open: AtomicBool,
    /// How often it was opened and closed: odd while it is open. Turns watch it.
    changes: watch::Sender<u64>,
    idle: Notify,
}

#[derive(Debug)]
struct State {
    open: bool,
    /// Who keeps it closed; it opens when the last one is gone.
    closers: u64,
    passing: usize,
}

/// Keeps the gate closed until it is dropped.
#[derive(Debug)]
pub struct Closed(Arc<Gate>);

/// A turn that has passed the gate, until it is dropped.
#[derive(Debug)]
pub struct Pass<'a>(&'a Gate);

impl Gate {
    /// An open gate.
    pub fn new() -> Arc<Self> {
        let state = State { open: true, closers: 0, passing: 0 };
        Arc::new(Self {
            state: Mutex::new(state),
            open: AtomicBool::new(true),
            changes: watch::Sender::new(1),
            idle: Notify::new(),
        })
    }

    /// A gate that is closed from the start.
    pub fn new_closed() -> (Arc<Self>, Closed) {
        let gate = Self::new();
        let closed = gate.shut();
        (gate, closed)
    }

    /// Closes it; returns when all turns under way have been abandoned. That takes no longer than the applier's
    /// thread needs to hear of it.
    pub async fn close(self: &Arc<Self>) -> Closed {
        let closed = self.shut();
        loop {
            // Made before the look, so that the news cannot be missed in between.
            let idle = self.idle.notified();
            if self.state.lock().passing == 0 {
                return closed;
            }
            idle.await;
        }
    }

    /// Whether turns may pass.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    fn shut(self: &Arc<Self>) -> Closed {
        let mut state = self.state.lock();
        state.closers += 1;
        if std::mem::replace(&mut state.open, false) {
            self.open.store(false, Ordering::Release);
            self.changes.send_modify(|changes| *changes += 1);
        }
        Closed(Arc::clone(self))
    }

    /// Lets a turn pass, if the gate is open.
    pub fn enter(&self) -> Option<Pass<'_>> {
        let mut state = self.state.lock();
        state.open.then(|| {
            state.passing += 1;
            Pass(self)
        })
    }

    /// Returns when the gate is closed.
    pub async fn closed(&self) {
        // Fails only without a sender, which is here.
        drop(self.changes.subscribe().wait_for(|changes| changes % 2 == 0).await);
    }

    /// Returns when the gate is open.
    pub async fn opened(&self) {
        drop(self.changes.subscribe().wait_for(|changes| changes % 2 == 1).await);
    }

    /// How often it has been opened and closed.
    pub fn changes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Returns when it has been opened anew since [`changes`](Self::changes) said `since`.
    pub async fn opened_anew(&self, since: u64) {
        let anew = |changes: &u64| changes % 2 == 1 && *changes > since;
        drop(self.changes.subscribe().wait_for(anew).await);
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closers -= 1;
        if state.closers == 0 {
            state.open = true;
            self.0.open.store(true, Ordering::Release);
            self.0.changes.send_modify(|changes| *changes += 1);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.passing -= 1;
        if state.passing == 0 && !state.open {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn closing_waits_for_those_who_have_passed_and_lets_nobody_else_through() {
        let gate = Gate::new();
        let pass = gate.enter().unwrap();
        let before = gate.changes();
        let mut closing = std::pin::pin!(gate.close());
        assert!(matches!(poll!(&mut closing), Poll::Pending));
        gate.closed().await;
        assert!(gate.enter().is_none() && !gate.is_open());
        drop(pass);
        let closed = closing.await;
        let second = gate.close().await;
        let mut anew = std::pin::pin!(gate.opened_anew(before));
        drop(closed);
        assert!(matches!(poll!(&mut anew), Poll::Pending));
        drop(second);
        anew.await;
        gate.opened().await;
        assert!(gate.enter().is_some());
    }

    #[tokio::test]
    async fn a_gate_can_be_closed_from_the_start() {
        let (gate, closed) = Gate::new_closed();
        assert!(gate.enter().is_none());
        drop(closed);
        assert!(gate.enter().is_some());
    }
}
