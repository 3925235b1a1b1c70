//! How much the files take in all, over a long time and whatever fails.

use std::sync::atomic::Ordering;

use super::node::{Node, contents, options};
use crate::journal::JournalOptions;
use crate::model::{
    AttributeChange, Change, ChangeKind, Command, Entry, ProfileKey, Site, User, Value, Write,
};
use crate::snapshot::due::{Figures, due};

/// A snapshot is due at the earliest after so many bytes.
const LEAST: u64 = 64 << 10;
const SEGMENT: u64 = 16 << 10;
const QUOTA: u64 = 4 << 20;
const SITES: usize = 100;

fn node() -> Node {
    Node::with(JournalOptions { total_quota: QUOTA, ..options() })
}

fn entry(site: usize, user: usize, text: usize) -> Entry {
    let change = Change::Set(Value::String(format!("{text:08}{}", "x".repeat(100)).into()));
    let changes = vec![AttributeChange { name: "plan".into(), change, occurred_at: None }];
    let write = Write {
        user: User::new(format!("user-{user}")),
        request_id: None,
        occurred_at: None,
        if_version: None,
        kind: ChangeKind::Identify(changes),
    };
    Entry { site: Site::new(format!("site-{site:02}")), command: Command::Write(write) }
}

/// Does what the snapshotter does each second; says whether one was taken.
fn tend(node: &Node, data: &mut u64) -> Option<bool> {
    let figures = Figures::take(&node.source(500, || {}), *data, SEGMENT);
    due(&figures, LEAST)?;
    let taken = node.snapshot();
    if let Ok(taken) = &taken {
        *data = taken.counts.raw_bytes;
    }
    Some(taken.is_ok())
}

fn pending(node: &Node) -> u64 {
    node.sites.all().iter().map(|site| site.lane.lock().bytes()).sum()
}

/// What everything may take beside what data and pending entries ask for: the journal since the last snapshot, a
/// segment that is being written, those that are begun by snapshots, spares.
const SLACK: u64 = 2 * LEAST + 8 * SEGMENT;

#[test]
fn one_stalled_site_among_99_busy_ones_for_an_hour() {
    let mut node = node();
    let stalled: Vec<u64> = (0..10)
        .map(|user| ProfileKey::new(Site::new("site-00"), User::new(format!("user-{user}"))).hash64())
        .collect();
    let (mut data, mut most, mut taken) = (0, 0.0_f64, 0);
    // Each minute every site writes a few entries; one site's never reach the store.
    for minute in 0..60 {
        for n in 0..5 {
            for site in 0..SITES {
                assert!(node.accept(entry(site, n, minute * 5 + n)), "the journal is full");
            }
            taken += usize::from(tend(&node, &mut data) == Some(true));
            node.apply(usize::MAX, |user| stalled.contains(&user));
        }
        let allowed = 4 * (data + pending(&node)) + SLACK;
        most = most.max(node.fs.used() as f64 / allowed as f64);
    }
    assert!(taken > 10, "{taken}");
    assert!(most <= 1.0, "{most} times of what is allowed");
    assert!(node.journal.usage().used < QUOTA / 4, "{:?}", node.journal.usage());
    // It heals, and what it held goes.
    node.apply(usize::MAX, |_| false);
    assert_eq!(contents(&node.state.store).users.len(), SITES * 5);
    node.snapshot().unwrap();
    assert!(node.fs.used() < 2 * data + SLACK, "{} for {data}", node.fs.used());
}

#[test]
fn a_frozen_store_and_failing_snapshots_fill_the_quota_and_no_more() {
    for frozen in [true, false] {
        let mut node = node();
        node.trust.distrusted.store(frozen, Ordering::SeqCst);
        node.trust.checkpoint_fails.store(!frozen, Ordering::SeqCst);
        let (mut data, mut accepted, mut tries) = (0, 0, 0);
        let mut full = 0;
        while full < 50 {
            let taken = node.accept(entry(accepted % SITES, accepted % 5, accepted));
            accepted += usize::from(taken);
            full += usize::from(!taken);
            if accepted % 100 == 0 {
                assert_ne!(tend(&node, &mut data), Some(true));
                tries += 1;
                if !frozen {
                    node.apply(usize::MAX, |_| false);
                }
            }
            assert!(node.fs.used() <= QUOTA + 4 * SEGMENT, "{}", node.fs.used());
        }
        assert!(tries > 10 && accepted > 5000, "{tries} {accepted}");
        let usage = node.journal.usage();
        assert!(usage.used + usage.reserved <= QUOTA, "{usage:?}");

        // What ails it is over: a full journal can still begin a snapshot, and has room again.
        node.trust.distrusted.store(false, Ordering::SeqCst);
        node.trust.checkpoint_fails.store(false, Ordering::SeqCst);
        node.apply(usize::MAX, |_| false);
        assert_eq!(tend(&node, &mut data), Some(true));
        assert!(node.fs.used() < 2 * data + SLACK, "{} for {data}", node.fs.used());
        assert!(node.accept(entry(0, 0, accepted)));
    }
}
