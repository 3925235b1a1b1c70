//! Segments that are begun on demand, quotas that change while it runs, and an end that does not come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::super::fs::{Fault, FaultyFs};
use super::super::{
    Committed, Journal, JournalError, JournalOptions, JournalState, Kept, RollError, Sink, SubmitReason,
};
use super::support::*;

#[test]
fn a_roll_begins_a_segment_unless_the_last_one_is_empty() {
    let fs = FaultyFs::new();
    let (journal, heard) = start(open(&fs).unwrap());
    assert_eq!(journal.roll().unwrap(), 1);
    for n in 1..=3 {
        keep(&journal, &heard, n);
    }
    assert_eq!(journal.roll().unwrap(), 4);
    assert_eq!(journal.roll().unwrap(), 4);
    let infos = journal.reader().segments();
    let seen: Vec<_> =
        infos.iter().map(|s| (s.number, s.first_position, s.last_position, s.sealed, s.detached)).collect();
    assert_eq!(seen, [(1, 1, 3, true, false), (2, 4, 0, false, false)]);
    assert_eq!(infos[1].end, 128);
    assert_eq!(keep(&journal, &heard, 4).position, 4);
    assert_eq!(journal.reader().segments()[1].last_position, 4);
    journal.close().unwrap();
    assert!(matches!(journal.roll(), Err(RollError::Closed)));
    assert_eq!(all(&open(&fs).unwrap().reader).len(), 4);
}

#[test]
fn rolls_between_writes_keep_order_and_lose_nothing() {
    let fs = FaultyFs::new();
    let (journal, heard) = start(open(&fs).unwrap());
    let writers = 3;
    let mut starts = BTreeSet::new();
    std::thread::scope(|scope| {
        for thread in 0..writers {
            let journal = journal.clone();
            scope.spawn(move || {
                for n in 0..60 {
                    while journal.submit(submission(thread * 1000 + n)).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        for _ in 0..20 {
            starts.insert(journal.roll().unwrap());
        }
    });
    journal.close().unwrap();
    let mut kept = 0;
    while let Ok(Heard::Committed(batch)) = heard.try_recv() {
        kept += batch.len();
    }
    assert_eq!(kept, 180);
    let opened = open(&fs).unwrap();
    assert_eq!(
        all(&opened.reader).iter().map(|e| e.position).collect::<Vec<_>>(),
        (1..=180).collect::<Vec<_>>()
    );
    let firsts: BTreeSet<u64> = opened.reader.segments().iter().map(|s| s.first_position).collect();
    assert!(starts.is_subset(&firsts), "{starts:?} {firsts:?}");
}

fn fill(journal: &Journal<u64>, heard: &Receiver<Heard>) {
    let mut n = 0;
    while offer(journal, heard, n, 3_500) {
        n += 1;
        assert!(n < 1000, "never full");
    }
}

#[test]
fn what_is_reserved_is_kept_from_entries_but_not_from_a_roll() {
    let segment = options().segment_bytes;
    let fs = FaultyFs::new();
    let total = JournalOptions { total_quota: 4 * segment, ..options() };
    let (journal, heard) = start(open_with(&fs, total).unwrap());
    journal.set_reserved(segment);
    assert_eq!(journal.usage().reserved, segment);
    fill(&journal, &heard);
    let usage = journal.usage();
    assert!(usage.used <= 3 * segment && usage.used > 2 * segment, "{usage:?}");
    let full = loop {
        let reason = journal.submit(super::super::Submission { payload: payload(1, 3_500), ticket: 1 });
        match reason.unwrap_err().reason {
            SubmitReason::Overloaded => std::thread::yield_now(),
            reason => break reason,
        }
    };
    assert!(matches!(full, SubmitReason::Full { limit, .. } if limit == 3 * segment), "{full}");
    assert_eq!(journal.reader().segments().len(), 3);
    assert_eq!(journal.roll().unwrap(), journal.reader().end() + 1);
    keep(&journal, &heard, 2);
    match journal.roll() {
        Err(RollError::Full { limit, .. }) => assert_eq!(limit, 4 * segment),
        other => panic!("{other:?}"),
    }
    // More room, given while it runs, is used; less refuses.
    fill(&journal, &heard);
    journal.set_total_quota(6 * segment);
    assert!(offer(&journal, &heard, 5, 3_500));
    fill(&journal, &heard);
    assert_eq!(journal.reader().segments().len(), 5);
    journal.set_total_quota(segment);
    assert!(!offer(&journal, &heard, 6, 3_500));
    journal.close().unwrap();
    open(&fs).unwrap();
}

#[test]
fn a_roll_without_room_on_the_disk_says_so_and_harms_nothing() {
    let fs = FaultyFs::new();
    let (journal, heard) = start(open(&fs).unwrap());
    keep(&journal, &heard, 0);
    // The spare that is ready, and no more.
    journal.roll().unwrap();
    keep(&journal, &heard, 1);
    fs.limit_space(Some(fs.used()));
    let mut rolled = 0;
    let failed = loop {
        match journal.roll() {
            Ok(_) => rolled += 1,
            Err(error) => break error,
        }
        keep(&journal, &heard, 2);
    };
    assert!(matches!(failed, RollError::NoSpace(_)), "{failed}");
    assert!(rolled <= 2);
    keep(&journal, &heard, 3);
    assert!(matches!(journal.state(), JournalState::Running));
    fs.limit_space(None);
    journal.close().unwrap();
    assert_eq!(all(&open(&fs).unwrap().reader).len(), 3 + rolled);
}

#[test]
fn a_roll_that_fails_ends_the_journal_and_is_answered() {
    let fs = FaultyFs::new();
    let (journal, heard) = start(open(&fs).unwrap());
    keep(&journal, &heard, 1);
    fs.break_writes(Fault::Eio);
    let error = journal.roll().unwrap_err();
    assert!(matches!(error, RollError::Failed(_) | RollError::NoSpace(_)), "{error}");
    journal.submit(submission(2)).ok();
    journal.close().unwrap_err();
    assert!(matches!(journal.roll(), Err(RollError::Failed(_))));
}

/// A sink that never returns, as if the disk did not.
struct Stuck(Receiver<()>);

impl Sink<u64> for Stuck {
    fn committed(&mut self, _: Vec<Committed<u64>>) {
        let _let_go = self.0.recv();
    }
    fn failed(&mut self, _: Vec<u64>, _: Kept, _: Arc<JournalError>) {}
}

#[test]
fn closing_gives_up_in_time_and_leaves_the_lock() {
    let fs = FaultyFs::new();
    let (let_go, stuck) = channel();
    let journal = open(&fs).unwrap().start(settings, Box::new(Stuck(stuck))).unwrap();
    journal.submit(submission(1)).unwrap();
    let error = journal.close_within(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(&*error, JournalError::Hung(_)), "{error}");
    assert!(open(&fs).unwrap_err().to_string().contains("in use"));
    // Once the disk answers after all, it ends in order.
    drop(let_go);
    journal.close_within(Duration::from_mins(1)).unwrap();
    assert!(open(&fs).unwrap().was_clean);
}
