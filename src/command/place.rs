//! The place of the one long task that may run, and who goes before whom.

use tokio::sync::watch;

use super::TaskRefused;

/// The place of the one long task that may run. Clones speak of the same place.
#[derive(Clone, Debug)]
pub struct TaskSlot(watch::Sender<Place>);

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Whose it is.
    holder: Option<Holder>,
    /// Guards that live: the holder's, and those of tasks that have given way and are not at their end yet.
    guards: usize,
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    number: u64,
    task: &'static str,
    gives_way: bool,
}

/// A long task's hold on its place; the place is free again when this is dropped.
#[derive(Debug)]
pub struct TaskGuard {
    place: watch::Sender<Place>,
    number: u64,
}

/// Hears that a task has to give way.
#[derive(Clone, Debug)]
pub struct GiveWay {
    place: watch::Receiver<Place>,
    number: u64,
}

impl Default for TaskSlot {
    fn default() -> Self {
        Self(watch::Sender::new(Place::default()))
    }
}

impl TaskSlot {
    /// Takes the place for `task` (`a snapshot`, for instance), or says what has it. It has to give way when it hears so.
    pub fn begin(&self, task: &'static str) -> Result<TaskGuard, TaskRefused> {
        self.take(task, true)
    }

    /// Takes the place for a task that does not wait for those that give way: a store that is sick is not cured by the
    /// end of its copying. [`TaskGuard::alone`] tells when they have ended.
    pub fn begin_first(&self, task: &'static str) -> Result<TaskGuard, TaskRefused> {
        self.take(task, false)
    }

    fn take(&self, task: &'static str, gives_way: bool) -> Result<TaskGuard, TaskRefused> {
        let mut taken = Err(TaskRefused::Draining);
        self.0.send_if_modified(|place| {
            if let Some(holder) = place.holder.filter(|holder| gives_way || !holder.gives_way) {
                taken = Err(TaskRefused::Busy { task: holder.task });
                return false;
            }
            place.last += 1;
            place.guards += 1;
            place.holder = Some(Holder { number: place.last, task, gives_way });
            taken = Ok(TaskGuard { place: self.0.clone(), number: place.last });
            true
        });
        taken
    }
}

impl TaskGuard {
    /// Tells the task when it has to give way.
    pub fn give_way(&self) -> GiveWay {
        GiveWay { place: self.place.subscribe(), number: self.number }
    }

    /// Waits until all tasks that had to give way have ended.
    pub async fn alone(&self) {
        let mut place = self.place.subscribe();
        // The sender is in this guard.
        let _open = place.wait_for(|place| place.guards == 1).await;
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let number = self.number;
        self.place.send_modify(|place| {
            place.guards -= 1;
            if place.holder.is_some_and(|holder| holder.number == number) {
                place.holder = None;
            }
        });
    }
}

impl GiveWay {
    /// Whether it has to.
    pub fn is_due(&self) -> bool {
        self.place.borrow().is_anothers(self.number)
    }

    /// Waits until it has to; for ever if it never does.
    pub async fn due(&mut self) {
        let number = self.number;
        if self.place.wait_for(|place| place.is_anothers(number)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Place {
    fn is_anothers(&self, number: u64) -> bool {
        self.holder.is_none_or(|holder| holder.number != number)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_at_a_time_but_what_cures_goes_first() {
        let slot = TaskSlot::default();
        let snapshot = slot.begin("a snapshot").unwrap();
        let way = snapshot.give_way();
        let busy = |task| Err(TaskRefused::Busy { task });
        assert_eq!(slot.begin("a backup").map(drop), busy("a snapshot"));
        assert!(!way.is_due());

        let rebuild = slot.begin_first("a rebuild").unwrap();
        assert!(way.is_due());
        assert_eq!(way.clone().due().now_or_never(), Some(()));
        assert_eq!(rebuild.alone().now_or_never(), None, "the snapshot is not at its end");
        for taken in [slot.begin("a snapshot"), slot.begin_first("a rebuild")] {
            assert_eq!(taken.map(drop), busy("a rebuild"));
        }
        drop(snapshot);
        assert_eq!(rebuild.alone().now_or_never(), Some(()));
        assert_eq!(
            slot.begin("a snapshot").map(drop),
            busy("a rebuild"),
            "whoever gave way has no place to free"
        );
        drop(rebuild);
        let next = slot.begin("a snapshot").unwrap();
        assert_eq!(next.give_way().due().now_or_never(), None);
    }
}
