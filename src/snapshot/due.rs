//! When a snapshot is due, and how much room is kept for it. No clock, no I/O, but for
//! the figures that it rests on.

use super::take::Source;
use crate::journal::{SegmentInfo, SnapshotRef};

/// What the decision rests on, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Entries in the journal since the last snapshot.
    pub since: u64,
    /// The files that they take.
    pub files_since: u64,
    /// All records, as the last snapshot had them; 0 if there is none.
    pub data: u64,
    /// Entries that wait.
    pub waiting: u64,
    /// The journal's quota in use.
    pub used: u64,
    /// What of it is reserved.
    pub reserved: u64,
    /// All of it.
    pub quota: u64,
}

impl Figures {
    /// The figures of now; `data` are the bytes of the records in the current snapshot. Keeps room for the next
    /// one: segments are `segment` bytes long.
    pub fn take<T: Send + 'static>(source: &Source<T>, data: u64, segment: u64) -> Self {
        let journal = &source.journal;
        let reader = journal.reader();
        let last = reader.snapshot();
        let (since, files_since) = Self::since(&reader.segments(), last.as_ref());
        let usage = journal.usage();
        let reserved = reserve(last.map_or(0, |last| last.bytes), since, segment, usage.limit);
        if reserved != usage.reserved {
            journal.set_reserved(reserved);
        }
        let waiting = source.sites.all().iter().map(|site| site.lane.lock().bytes()).sum();
        Self { since, files_since, data, waiting, used: usage.used, reserved, quota: usage.limit }
    }

    /// How much of `segments` came since `last`: content, and files.
    fn since(segments: &[SegmentInfo], last: Option<&SnapshotRef>) -> (u64, u64) {
        let start = last.map_or(0, |last| last.start);
        let since = segments.iter().filter(|segment| segment.first_position >= start);
        since.fold((0, 0), |(content, files), segment| {
            let file = if segment.sealed { segment.bytes } else { segment.end };
            (content + segment.end, files + file)
        })
    }
}

/// Why a snapshot is due, if it is.
///
/// Copying all data, and all that waits, is worth while when as much has been written since; `least` keeps small
/// stores from being copied all the time. Before half of the quota is taken by one stretch of the journal, or when
/// room becomes scarce and there is something to be had, it is due all the same. `2 * waiting` is the most that
/// waiting entries can hold on to: at least half of each kept segment waits.
pub(super) fn due(figures: &Figures, least: u64) -> Option<&'static str> {
    let Figures { since, files_since, data, waiting, used, reserved, quota } = *figures;
    let free = quota.saturating_sub(used.saturating_add(reserved));
    let to_be_had = used.saturating_sub(waiting.saturating_mul(2)).min(files_since);
    if since > least.max(data).max(waiting) {
        Some("the journal has grown")
    } else if files_since > quota / 2 {
        Some("the journal takes half of its quota")
    } else if free < quota / 4 && to_be_had > quota / 8 {
        Some("the journal's quota runs out")
    } else {
        None
    }
}

/// Bytes of the quota that entries may not take: the last snapshot, the next one (a quarter more, and what a quarter
/// of the journal since makes: records take less than the writes that made them, and are compressed), and the segment
/// that it begins with. At most half of the quota: where that is not enough the quota is too small for the data, and
/// snapshots go beyond it.
pub(super) fn reserve(last_bytes: u64, since: u64, segment: u64, quota: u64) -> u64 {
    let next = last_bytes.saturating_add(last_bytes / 4).saturating_add(since / 4);
    last_bytes.saturating_add(next).saturating_add(segment).min(quota / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LEAST: u64 = 256 * MIB;

    fn figures() -> Figures {
        Figures { quota: 8192 * MIB, ..Figures::default() }
    }

    #[test]
    fn it_is_due_when_as_much_was_written_as_must_be_copied() {
        let written = |since: u64, data: u64, waiting: u64| {
            let since = since * MIB;
            let figures = Figures {
                since,
                files_since: since,
                used: since,
                data: data * MIB,
                waiting: waiting * MIB,
                ..figures()
            };
            due(&figures, LEAST).is_some()
        };
        assert!(!written(256, 0, 0) && written(257, 0, 0));
        assert!(!written(257, 300, 0) && written(301, 300, 0));
        assert!(!written(301, 300, 400) && written(401, 300, 400));
        // A store of 100 GiB is copied when half of the quota is taken.
        assert!(!written(4000, 100_000, 0) && written(4097, 100_000, 0));
    }

    #[test]
    fn it_is_due_when_room_runs_out_and_some_can_be_had() {
        let stalled = Figures {
            since: 1500 * MIB,
            files_since: 1500 * MIB,
            data: 3000 * MIB,
            waiting: 2000 * MIB,
            used: 5500 * MIB,
            reserved: 1000 * MIB,
            ..figures()
        };
        assert_eq!(due(&stalled, LEAST), Some("the journal's quota runs out"));
        // Nearly all of it waits: a snapshot would give nothing back.
        assert_eq!(due(&Figures { waiting: 2500 * MIB, ..stalled }, LEAST), None);
        assert_eq!(due(&Figures { used: 4000 * MIB, ..stalled }, LEAST), None);
    }

    #[test]
    fn what_is_reserved_leaves_half_for_entries() {
        assert_eq!(reserve(0, 0, 64 * MIB, 8192 * MIB), 64 * MIB);
        assert_eq!(reserve(400 * MIB, 400 * MIB, 64 * MIB, 8192 * MIB), (400 + 500 + 100 + 64) * MIB);
        assert_eq!(reserve(10_000 * MIB, 0, 64 * MIB, 8192 * MIB), 4096 * MIB);
    }
}
