//! What a lane does when its turns fail: back off, find out whether it is one user, and leave that one
//! alone. No clock and no I/O: `now` is passed in.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The first pause; it doubles with each failure in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A user on whom the store fails so often, and serves others in between each time, is parked.
const PARK_AFTER: u32 = 5;

/// Users that are watched at once.
const WATCHED: usize = 1024;

/// The failures of one lane.
#[derive(Debug, Default)]
pub struct Trouble {
    in_a_row: u32,
    users: HashMap<u64, Suspect>,
    timer_set: bool,
}

#[derive(Debug)]
struct Suspect {
    failures: u32,
    /// Those of them between which the store has served others.
    alone: u32,
    due: Instant,
    /// Whether the lane has been told that it is due.
    told: bool,
    /// Turns committed anywhere when it failed last.
    successes_then: u64,
}

impl Trouble {
    /// Whether the next turn should be of one user, to see on whom it is that the store fails.
    pub fn one_user(&self) -> bool {
        self.in_a_row > 0
    }

    /// Whether `user` failed lately and must wait its time.
    pub fn holds_back(&self, user: u64, now: Instant) -> bool {
        self.users.get(&user).is_some_and(|suspect| now < suspect.due)
    }

    /// Whether `user` failed lately, however long ago.
    pub fn is_suspect(&self, user: u64) -> bool {
        self.users.contains_key(&user)
    }

    /// Whether the time of a user that was held back has come since this was asked last: the lane, which has
    /// passed over its entries, must look at them again.
    pub fn has_become_due(&mut self, now: Instant) -> bool {
        let mut news = false;
        for suspect in self.users.values_mut().filter(|suspect| !suspect.told && suspect.due <= now) {
            suspect.told = true;
            news = true;
        }
        news
    }

    /// How long until the first user that is held back is due.
    pub fn next_due(&self, now: Instant) -> Option<Duration> {
        self.users.values().map(|suspect| suspect.due.saturating_duration_since(now)).min()
    }

    /// A turn of `users` failed, after `successes` turns over all lanes. Answers how long the lane should
    /// pause, and the user to park, if it is clear that it is that one.
    pub fn failed(&mut self, users: &[u64], successes: u64, now: Instant) -> (Duration, Option<u64>) {
        self.in_a_row += 1;
        let pause = pause_after(self.in_a_row);
        let [user] = users else { return (pause, None) };
        if self.users.len() >= WATCHED && !self.users.contains_key(user) {
            return (pause, None);
        }
        let suspect = self.users.entry(*user).or_insert(Suspect {
            failures: 0,
            alone: 0,
            due: now,
            told: false,
            successes_then: successes,
        });
        suspect.failures += 1;
        // Others get the next turns; this one waits longer than the lane does.
        suspect.due = now + pause_after(suspect.failures) * 2;
        suspect.told = false;
        // One success in a long outage blames nobody.
        suspect.alone += u32::from(successes > suspect.successes_then);
        suspect.successes_then = successes;
        (pause, (suspect.alone >= PARK_AFTER).then_some(*user))
    }

    /// A turn of `users` was committed. Answers whether there is nothing left to watch.
    pub fn succeeded(&mut self, users: impl IntoIterator<Item = u64>) -> bool {
        self.in_a_row = 0;
        if !self.users.is_empty() {
            for user in users {
                self.users.remove(&user);
            }
        }
        self.users.is_empty()
    }

    /// Whether a timer for [`Self::next_due`] must be set: one at a time.
    pub fn set_timer(&mut self) -> bool {
        !std::mem::replace(&mut self.timer_set, true)
    }

    /// The timer has gone off.
    pub fn timer_done(&mut self) {
        self.timer_set = false;
    }

    /// Stops watching `user`.
    pub fn forget(&mut self, user: u64) {
        self.users.remove(&user);
    }

    /// Whether this failure should be logged: the first, and then ever fewer.
    pub fn worth_a_line(&self) -> bool {
        self.in_a_row.is_power_of_two()
    }
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_backs_off_up_to_a_bound() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert!(!trouble.one_user());
        let pauses: Vec<u128> = (0..9).map(|_| trouble.failed(&[1, 2], 0, now).0.as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert!(trouble.one_user());
        assert!(trouble.succeeded([1, 2]));
        assert_eq!(trouble.failed(&[1, 2], 0, now).0, FIRST_PAUSE);
        for _ in 0..100 {
            assert!(trouble.failed(&[1], 0, now).0 <= LONGEST_PAUSE);
        }
    }

    #[test]
    fn only_a_user_that_fails_alone_while_others_succeed_is_parked() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        // The whole store is sick: nobody is to blame.
        for _ in 0..20 {
            assert_eq!(trouble.failed(&[1], 5, now).1, None);
        }
        // A single success in between does not change that.
        for _ in 0..20 {
            assert_eq!(trouble.failed(&[1], 6, now).1, None);
        }
        for successes in 7..10 {
            assert_eq!(trouble.failed(&[1], successes, now).1, None);
        }
        assert_eq!(trouble.failed(&[1], 10, now).1, Some(1));
        trouble.forget(1);
        for successes in 10..15 {
            assert_eq!(trouble.failed(&[1], successes, now).1, None);
        }
        assert_eq!(trouble.failed(&[1], 15, now).1, Some(1));
        // Of several in a turn it cannot be told who it was.
        for successes in 0..20 {
            assert_eq!(trouble.failed(&[1, 2], successes, now).1, None);
        }
    }

    #[test]
    fn a_lane_hears_once_of_each_time_that_comes() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        trouble.failed(&[1], 0, now);
        assert!(!trouble.has_become_due(now));
        let due = now + FIRST_PAUSE * 2;
        assert!(trouble.has_become_due(due) && !trouble.has_become_due(due));
        trouble.failed(&[1], 0, due);
        assert!(!trouble.has_become_due(due) && trouble.has_become_due(due + LONGEST_PAUSE));
    }

    #[test]
    fn a_user_that_failed_waits_its_time() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        trouble.failed(&[1], 0, now);
        assert!(trouble.holds_back(1, now) && !trouble.holds_back(2, now));
        let due = trouble.next_due(now).unwrap();
        assert_eq!(due, FIRST_PAUSE * 2);
        assert!(!trouble.holds_back(1, now + due));
        assert_eq!(trouble.next_due(now + due * 2), Some(Duration::ZERO));
        assert!(!trouble.succeeded([2]));
        assert!(trouble.succeeded([1]));
        assert_eq!(trouble.next_due(now), None);
    }

    #[test]
    fn the_users_that_are_watched_are_bounded() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        for user in 0..5000 {
            trouble.failed(&[user], user, now);
        }
        assert_eq!(trouble.users.len(), WATCHED);
    }

    #[test]
    fn one_timer_at_a_time() {
        let mut trouble = Trouble::default();
        assert!(trouble.set_timer() && !trouble.set_timer());
        trouble.timer_done();
        assert!(trouble.set_timer());
    }

    #[test]
    fn ever_fewer_lines_are_logged() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        let lines = (0..1000).filter(|_| {
            trouble.failed(&[1, 2], 0, now);
            trouble.worth_a_line()
        });
        assert_eq!(lines.count(), 10);
    }
}
