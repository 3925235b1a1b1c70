//! The committer: order, bounds, stalls, failures, a full disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::fs::{Fault, FaultyFs, Fs as _};
use super::super::{
    Committed, Journal, JournalError, JournalOptions, JournalState, Kept, Monotonic, Sink, Submission,
    SubmitReason,
};
use super::support::*;

/// A sink that says when it is called and goes on when it is told: the committer stands still meanwhile.
struct Gate {
    entered: Sender<usize>,
    go_on: Receiver<()>,
}

impl Sink<u64> for Gate {
    fn committed(&mut self, batch: Vec<Committed<u64>>) {
        let _test_is_over = self.entered.send(batch.len());
        let _test_is_over = self.go_on.recv();
    }
    fn failed(&mut self, _: Vec<u64>, _: Kept, _: Arc<JournalError>) {}
}

fn gated(options: JournalOptions) -> (Journal<u64>, Receiver<usize>, Sender<()>) {
    let (entered, seen) = channel();
    let (release, go_on) = channel();
    let opened = open_with(&FaultyFs::new(), options).unwrap();
    (opened.start(settings, Box::new(Gate { entered, go_on })).unwrap(), seen, release)
}

#[test]
fn what_waits_goes_as_one_batch_and_no_more_than_fits() {
    let (journal, seen, release) = gated(JournalOptions { queue_entries: 4, ..options() });
    journal.submit(submission(0)).unwrap();
    assert_eq!(seen.recv().unwrap(), 1);
    journal.submit(submission(1)).unwrap();
    journal.submit_many(vec![submission(2), submission(3)]).unwrap();
    let error = journal.submit_many(vec![submission(4), submission(5)]).unwrap_err();
    assert!(matches!(error.reason, SubmitReason::Overloaded));
    assert_eq!(error.tickets, [4, 5]);
    journal.submit(submission(6)).unwrap();
    let error = journal.submit(submission(7)).unwrap_err();
    assert!(matches!(error.reason, SubmitReason::Overloaded));
    assert_eq!(error.ticket, 7);
    let large = Submission { payload: vec![0; 5 << 10], ticket: 8 };
    assert!(matches!(journal.submit(large).unwrap_err().reason, SubmitReason::TooLarge { .. }));
    release.send(()).unwrap();
    assert_eq!(seen.recv().unwrap(), 4);
    release.send(()).unwrap();
    journal.close().unwrap();
    assert!(matches!(journal.submit(submission(9)).unwrap_err().reason, SubmitReason::Closed));
    assert!(matches!(journal.state(), JournalState::Closed));
}

#[test]
fn a_stall_is_noticed_by_age_and_ends_by_itself() {
    let nanos = Arc::new(AtomicU64::new(0));
    let (base, read) = (Instant::now(), Arc::clone(&nanos));
    let monotonic = Monotonic::new(move || base + Duration::from_nanos(read.load(Ordering::SeqCst)));
    let advance = |millis: u64| nanos.fetch_add(millis * 1_000_000, Ordering::SeqCst);
    let (journal, seen, release) = gated(JournalOptions { monotonic, ..options() });
    journal.submit(submission(0)).unwrap();
    seen.recv().unwrap();
    assert_eq!(journal.oldest_unsynced(), None);
    journal.submit(submission(1)).unwrap();
    advance(900);
    journal.submit(submission(2)).unwrap();
    assert_eq!(journal.oldest_unsynced(), Some(Duration::from_millis(900)));
    assert!(matches!(journal.state(), JournalState::Running));
    advance(101);
    assert!(matches!(journal.state(), JournalState::Stalled(_)));
    let error = journal.submit(submission(3)).unwrap_err();
    assert!(matches!(error.reason, SubmitReason::Stalled { oldest } if oldest.as_millis() == 1001));
    release.send(()).unwrap();
    assert_eq!(seen.recv().unwrap(), 2);
    assert_eq!(journal.oldest_unsynced(), None);
    journal.submit(submission(4)).unwrap();
    drop(release);
    journal.close().unwrap();
}

#[test]
fn nothing_is_acknowledged_that_is_written_to_a_removed_file() {
    let fs = FaultyFs::new();
    let (journal, heard) = start(open(&fs).unwrap());
    keep(&journal, &heard, 1);
    for name in fs.list(Path::new(DIR)).unwrap().iter().filter(|name| name.starts_with("segment-")) {
        fs.remove(&Path::new(DIR).join(name)).unwrap();
    }
    journal.submit(submission(2)).unwrap();
    assert_eq!(heard.recv().unwrap(), Heard::Failed(vec![2], Kept::Unknown));
    let JournalState::Failed(error) = journal.state() else { panic!("{:?}", journal.state()) };
    assert!(error.to_string().contains("it was removed"), "{error}");
}

#[test]
fn a_failed_sync_ends_the_journal() {
    for fault in [None, Some(Fault::Eio), Some(Fault::Enospc), Some(Fault::ShortWrite)] {
        let fs = FaultyFs::new();
        let (journal, heard) = start(open(&fs).unwrap());
        keep(&journal, &heard, 1);
        match fault {
            None => fs.break_syncs(),
            Some(fault) => fs.break_writes(fault),
        }
        journal.submit(submission(2)).unwrap();
        assert_eq!(heard.recv().unwrap(), Heard::Failed(vec![2], Kept::Unknown));
        assert!(matches!(journal.submit(submission(3)).unwrap_err().reason, SubmitReason::Failed(_)));
        assert!(matches!(journal.state(), JournalState::Failed(_)));
        assert_eq!(journal.oldest_unsynced(), None);
        assert_eq!(all(&journal.reader()).len(), 1);
        journal.close().unwrap_err();
        assert!(heard.try_recv().is_err());
    }
}

#[test]
fn the_quota_is_met_by_full_and_a_release_makes_room() {
    let fs = FaultyFs::new();
    let quota = 4 * options().segment_bytes;
    let (journal, heard) = start(open_with(&fs, JournalOptions { total_quota: quota, ..options() }).unwrap());
    let kept = fill(&journal, &heard, quota);
    assert!(kept > 12, "{kept}");
    let usage = journal.usage();
    assert!(usage.used <= usage.limit && usage.limit == quota && usage.used > quota / 4 * 3);
    assert!(fs.used() <= quota + 2 * options().segment_bytes + 20_000, "{}", fs.used());
    assert!(release(&journal, kept).unwrap().segments >= 2);
    assert!(journal.usage().used < usage.used);
    journal.close().unwrap();
    let (journal, heard) = start(open_with(&fs, JournalOptions { total_quota: quota, ..options() }).unwrap());
    assert_eq!(keep(&journal, &heard, 1).position, kept + 1);
}

#[test]
fn a_full_disk_is_met_by_full_before_it_is_met_by_an_error() {
    for spare_bytes in [0, 1, 25_000, 38_000, 75_000] {
        let fs = FaultyFs::new();
        let (journal, heard) = start(open(&fs).unwrap());
        keep(&journal, &heard, 0);
        fs.limit_space(Some(fs.used() + spare_bytes));
        let kept = fill(&journal, &heard, 512 << 10);
        assert!(kept >= 4, "{kept}");
        assert!(matches!(journal.state(), JournalState::Running));
        fs.limit_space(None);
        journal.close().unwrap();
        assert_eq!(all(&open(&fs).unwrap().reader).len() as u64, kept);
    }
}

/// Writes until it is full; how many entries there are then.
fn fill(journal: &Journal<u64>, heard: &Receiver<Heard>, most: u64) -> u64 {
    let mut offered = 0;
    while offer(journal, heard, offered, 3_500) {
        offered += 1;
        assert!(offered < most / 2_500, "never full");
    }
    journal.reader().end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever several threads submit at once is kept once, whole, and in the order of each thread.
    #[test]
    fn concurrent_submissions_are_kept_once_and_in_order(
        threads in prop::collection::vec(prop::collection::vec((1usize..4, 0usize..2000), 1..20), 1..5),
    ) {
        let fs = FaultyFs::new();
        let roomy = JournalOptions { segment_bytes: 64 << 10, queue_bytes: 1 << 20, ..options() };
        let (journal, heard) = start(open_with(&fs, roomy).unwrap());
        // All segments but two are made when they are needed: let what is offered fit into the first.
        let mut budget = 50_000usize;
        let plan: Vec<Vec<Vec<(u64, usize)>>> = threads
            .iter()
            .enumerate()
            .map(|(thread, groups)| {
                let mut n = 0;
                let mut groups: Vec<Vec<(u64, usize)>> = groups
                    .iter()
                    .map(|(count, length)| {
                        let sized = (0..*count).map(|_| {
                            n += 1;
                            (thread as u64 * 1_000_000 + n, *length)
                        });
                        sized.collect()
                    })
                    .collect();
                groups.retain(|group| {
                    let bytes = group.iter().map(|(_, length)| length + 60).sum::<usize>();
                    let fits = bytes <= budget;
                    budget -= if fits { bytes } else { 0 };
                    fits
                });
                groups
            })
            .collect();
        let barrier = Barrier::new(plan.len());
        std::thread::scope(|scope| {
            for groups in &plan {
                let (journal, barrier) = (journal.clone(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for group in groups {
                        let submissions = group
                            .iter()
                            .map(|(n, length)| Submission { payload: payload(*n, *length), ticket: *n });
                        journal.submit_many(submissions.collect()).expect("room for all");
                    }
                });
            }
        });
        journal.close().unwrap();
        let mut kept = Vec::new();
        while let Ok(Heard::Committed(batch)) = heard.try_recv() {
            kept.extend(batch);
        }
        let offered: usize = plan.iter().flatten().map(Vec::len).sum();
        prop_assert_eq!(kept.len(), offered);
        prop_assert!(kept.iter().zip(1..).all(|(committed, position)| committed.position == position));
        prop_assert!(kept.is_sorted_by(|a, b| a.accepted_at < b.accepted_at));
        for thread in 0..plan.len() as u64 {
            let of_thread = kept.iter().map(|c| c.ticket).filter(|n| n / 1_000_000 == thread);
            prop_assert!(of_thread.is_sorted());
        }
        // The entries of one call have neighbouring numbers.
        for group in plan.iter().flatten() {
            let at = kept.iter().position(|c| Some(c.ticket) == group.first().map(|(n, _)| *n)).unwrap();
            for (offset, (n, _)) in group.iter().enumerate() {
                prop_assert_eq!(kept[at + offset].ticket, *n);
            }
        }
        let entries = all(&open(&fs).unwrap().reader);
        prop_assert_eq!(entries.len(), kept.len());
        for (entry, committed) in entries.iter().zip(&kept) {
            prop_assert_eq!(entry.position, committed.position);
            let start = format!("entry {} ", committed.ticket);
            prop_assert!(entry.payload.starts_with(start.as_bytes()));
        }
    }
}
