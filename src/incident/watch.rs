//! Notices changes of what is only ever looked at: the journal's level, and parked users. Pure.

use std::collections::HashMap;
use std::time::Duration;

use super::event::JournalLevel;
use crate::model::Site;

/// Of a hundred: from here on the journal fills up, and from there on it no longer does.
const FILLING: u64 = 80;
const NO_LONGER: u64 = 70;

/// How much room the journal has.
#[derive(Clone, Copy, Debug)]
pub struct JournalRoom {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that entries may use.
    pub limit: u64,
    /// Whether next to nothing is taken at this moment.
    pub is_short: bool,
    /// Whether that is all until something is released or the disk has room again.
    pub is_full: bool,
}

/// How the journal was when it was last looked at.
#[derive(Debug)]
pub struct JournalWatch(JournalLevel);

impl Default for JournalWatch {
    fn default() -> Self {
        Self(JournalLevel::Normal)
    }
}

impl JournalWatch {
    /// The new level and what to say of it, when it is another one. `stalled`: the age of the oldest write that has
    /// not been synced.
    pub fn look(
        &mut self,
        failed: Option<&str>,
        stalled: Option<Duration>,
        room: JournalRoom,
    ) -> Option<(JournalLevel, String)> {
        let JournalRoom { used, limit, .. } = room;
        let above = |percent: u64| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
        // Once full it is so until there is clearly room again, or it would be told at every segment.
        let level = if failed.is_some() {
            JournalLevel::Failed
        } else if stalled.is_some() {
            JournalLevel::Stalled
        } else if used >= limit
            || room.is_full
            || (self.0 == JournalLevel::Full && (above(98) || room.is_short))
        {
            JournalLevel::Full
        } else if above(FILLING) || (self.0 != JournalLevel::Normal && above(NO_LONGER)) {
            JournalLevel::Filling
        } else {
            JournalLevel::Normal
        };
        if std::mem::replace(&mut self.0, level) == level {
            return None;
        }
        let mib = |bytes: u64| bytes >> 20;
        let message = match level {
            JournalLevel::Failed => format!("The journal failed: {}", failed.unwrap_or_default()),
            JournalLevel::Stalled => {
                let age = stalled.unwrap_or_default();
                format!("The journal's disk has not answered for {age:.1?}; new writes are refused")
            }
            JournalLevel::Full if !above(FILLING) => format!(
                "The journal's disk is full, with {} of {} MiB in use; new writes are refused",
                mib(used),
                mib(limit)
            ),
            JournalLevel::Full => {
                format!("The journal is full: {} of {} MiB; new writes are refused", mib(used), mib(limit))
            }
            JournalLevel::Filling => format!("The journal holds {} of {} MiB", mib(used), mib(limit)),
            JournalLevel::Normal => format!("The journal takes writes; {} of {} MiB", mib(used), mib(limit)),
        };
        Some((level, message))
    }
}

/// How many users were parked when they were last counted.
#[derive(Debug, Default)]
pub struct ParkedWatch(HashMap<Site, u64>);

impl ParkedWatch {
    /// Where the number is another one now. `parked`: the sites that have parked users.
    pub fn look(&mut self, parked: Vec<(Site, u64)>) -> Vec<(Site, u64, String)> {
        let now: HashMap<Site, u64> = parked.into_iter().filter(|(_, users)| *users > 0).collect();
        let gone = self.0.keys().filter(|site| !now.contains_key(*site));
        let mut changed: Vec<(Site, u64, String)> =
            gone.map(|site| (site.clone(), 0, "No entries are parked any more".to_owned())).collect();
        for (site, users) in &now {
            if self.0.get(site) != Some(users) {
                let message = format!(
                    "The store fails on {users} user(s) of this site and on nobody else: their entries are parked; all others go on"
                );
                changed.push((site.clone(), *users, message));
            }
        }
        self.0 = now;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_told_once_and_do_not_flutter() {
        let mut watch = JournalWatch::default();
        let room = |used| JournalRoom { used, limit: 100, is_short: false, is_full: false };
        let mut look = |used| watch.look(None, None, room(used)).map(|(level, _)| level);
        let told = [10, 79, 80, 81, 75, 69, 100, 99, 97, 100, 50].map(&mut look);
        use JournalLevel::*;
        let expected = [
            None,
            None,
            Some(Filling),
            None,
            None,
            Some(Normal),
            Some(Full),
            None,
            Some(Filling),
            Some(Full),
            Some(Normal),
        ];
        assert_eq!(told, expected);
        let stalled = watch.look(None, Some(Duration::from_secs(2)), room(50)).unwrap();
        assert_eq!(stalled.0, Stalled);
        assert!(stalled.1.contains("2.0s"), "{}", stalled.1);
        assert_eq!(watch.look(Some("EIO"), Some(Duration::from_secs(2)), room(50)).unwrap().0, Failed);
    }

    #[test]
    fn a_full_disk_is_a_full_journal() {
        let mut watch = JournalWatch::default();
        let mut look = |is_short, is_full| {
            watch.look(None, None, JournalRoom { used: 10, limit: 100, is_short, is_full })
        };
        assert_eq!(look(true, false), None, "more is about to come");
        let (level, message) = look(true, true).unwrap();
        assert_eq!(level, JournalLevel::Full);
        assert!(message.contains("disk is full"), "{message}");
        assert_eq!(look(true, false), None, "it is tried again");
        assert_eq!(look(false, false).unwrap().0, JournalLevel::Normal);
    }

    #[test]
    fn parked_users_are_told_when_their_number_changes() {
        let mut watch = ParkedWatch::default();
        let site = Site::new("a");
        let mut look =
            |users| watch.look(vec![(site.clone(), users)]).into_iter().map(|told| told.1).collect();
        let told: [Vec<u64>; 5] = [0, 1, 1, 2, 0].map(&mut look);
        assert_eq!(told, [vec![], vec![1], vec![], vec![2], vec![0]]);
    }
}
