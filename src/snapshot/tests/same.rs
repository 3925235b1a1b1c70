//! A fuzzy snapshot and the journal after it make the same as the whole journal: over random histories with
//! deletes, refusals, attribute states and held users, with entries applied between the pages of the scan.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;

use super::node::{Node, contents, stamp, take};
use super::replica::Replica;
use super::support::dir;
use crate::model::{
    AttributeChange, Change, ChangeKind, Command, Entry, EventTime, Position, Site, User, Value, Write, codec,
};
use crate::read::Stamped;
use crate::snapshot::SnapshotReader;

#[derive(Clone, Debug)]
enum Step {
    Write {
        site: u8,
        user: u8,
        what: u8,
        number: u8,
        if_version: Option<u8>,
        at: u8,
        id: Option<u8>,
    },
    Delete {
        site: u8,
        user: u8,
    },
    Attribute {
        site: u8,
        what: u8,
        disabled: bool,
    },
    /// An operator is done with the refused entry that is listed first.
    Discard,
    Apply(u8),
    Hold(u8),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    let option = |range: std::ops::Range<u8>| proptest::option::weighted(0.3, range);
    prop_oneof![
        8 => (0..2_u8, 0..4_u8, 0..5_u8, any::<u8>(), option(0..4), 0..5_u8, option(0..6))
            .prop_map(|(site, user, what, number, if_version, at, id)| {
                Step::Write { site, user, what, number, if_version, at, id }
            }),
        2 => (0..2_u8, 0..4_u8).prop_map(|(site, user)| Step::Delete { site, user }),
        1 => (0..2_u8, 0..5_u8, any::<bool>())
            .prop_map(|(site, what, disabled)| Step::Attribute { site, what, disabled }),
        1 => Just(Step::Discard),
        4 => (1..6_u8).prop_map(Step::Apply),
        1 => (0..4_u8).prop_map(Step::Hold),
        1 => Just(Step::Release),
    ]
}

struct Story {
    node: Node,
    held: BTreeSet<u64>,
    /// Ids are used once: what a retry hears is not what this is about.
    ids: u32,
}

fn site(n: u8) -> Site {
    Site::new(["acme", "shop"][usize::from(n)])
}

fn user(n: u8) -> User {
    User::new(format!("user-{n}"))
}

fn change(what: u8, number: u8) -> (&'static str, Change) {
    let words = |count: u8| (0..count).map(|n| format!("{n}").into()).collect::<Box<[Box<str>]>>();
    match what {
        0 => ("plan", Change::Set(Value::String(format!("{}", number % 3).into()))),
        1 => ("plan", Change::Unset),
        2 => ("first", Change::SetOnce(Value::Number(number.into()))),
        3 => ("seats", Change::Add(f64::from(number))),
        // A few of these and the list is too long: refused.
        _ => ("tags", Change::Append(words(30 + number % 40))),
    }
}

impl Story {
    fn write(&mut self, site_: u8, user_: u8, kind: ChangeKind, if_version: Option<u8>, at: u8, id: bool) {
        self.ids += 1;
        let write = Write {
            user: user(user_),
            request_id: id.then(|| format!("r{}", self.ids).into()),
            occurred_at: (at > 0).then(|| EventTime(EventTime::MIN.0 + u64::from(at))),
            if_version: if_version.map(u64::from),
            kind,
        };
        assert!(self.node.accept(Entry { site: site(site_), command: Command::Write(write) }));
    }

    fn go(&mut self, step: &Step) {
        match step {
            Step::Write { site, user, what, number, if_version, at, id } => {
                let (name, change) = change(*what, *number);
                let changes = vec![AttributeChange { name: name.into(), change, occurred_at: None }];
                self.write(*site, *user, ChangeKind::Identify(changes), *if_version, *at, id.is_some());
            }
            Step::Delete { site, user } => self.write(*site, *user, ChangeKind::Delete, None, 0, false),
            Step::Attribute { site: site_, what, disabled } => {
                let name = change(*what, 0).0;
                // Only what is known can be decided about.
                let known = self.node.sites.get(&site(*site_));
                if known.is_some_and(|site| site.registry.load().get(name).is_some()) {
                    let name = name.into();
                    let command = Command::SetAttributeState { name, disabled: *disabled, indexed: true };
                    assert!(self.node.accept(Entry { site: site(*site_), command }));
                }
            }
            Step::Discard => {
                // Only what is refused already can be decided about.
                let refused = contents(&self.node.state.store).refused.into_keys().next();
                if let Some((site, position)) = refused {
                    let command = Command::DiscardRefused { position };
                    assert!(self.node.accept(Entry { site: Site::new(site), command }));
                }
            }
            Step::Apply(limit) => self.node.apply(usize::from(*limit), |user| self.held.contains(&user)),
            Step::Hold(n) => {
                for s in 0..2 {
                    let key = crate::model::ProfileKey::new(site(s), user(*n));
                    self.held.insert(key.hash64());
                }
            }
            Step::Release => self.held.clear(),
        }
    }
}

/// What the snapshot and the journal make.
fn rebuilt(node: &Node) -> Replica {
    let reader = node.journal.reader();
    let snapshot = SnapshotReader::open_in(&node.fs, &dir(), &reader.snapshot().unwrap()).unwrap();
    let waiting = snapshot.waiting().unwrap();
    let mut replica = Replica::new(snapshot.items().map(Result::unwrap));
    for stored in reader.scan(0) {
        let stored = stored.unwrap();
        if waiting.counts(stored.position) {
            replica.apply(&Stamped {
                position: Position { node: stored.node, number: stored.position },
                accepted_at: stored.accepted_at,
                batch: stamp(),
                entry: Arc::new(codec::decode_entry(&stored.payload).unwrap()),
            });
        }
    }
    replica
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_and_the_journal_after_it_make_the_same_as_the_whole_journal(
        rounds in vec((vec(step(), 0..60), vec(vec(step(), 0..6), 0..8), 1..4_usize), 1..4),
        rest in vec(step(), 0..40),
    ) {
        let story = Story { node: Node::new(), held: BTreeSet::new(), ids: 0 };
        let story = Arc::new(Mutex::new(story));
        for (before, between, page) in rounds {
            for step in &before {
                story.lock().go(step);
            }
            let mut between = between.into_iter();
            let meanwhile = Arc::clone(&story);
            let source = story.lock().node.source(page, move || {
                for step in between.next().unwrap_or_default() {
                    meanwhile.lock().go(&step);
                }
            });
            take(&source).unwrap();
            // What waited then has found its new place.
            drop(source);
        }
        let mut story = story.lock();
        for step in &rest {
            story.go(step);
        }
        let mut whole = Replica::new([]);
        for stamped in &story.node.log {
            whole.apply(stamped);
        }
        let again = rebuilt(&story.node);
        prop_assert_eq!(&again.contents, &whole.contents);
        // And so does the store itself, once everybody is let go.
        story.held.clear();
        story.node.apply(usize::MAX, |_| false);
        prop_assert_eq!(&contents(&story.node.state.store), &whole.contents);
    }
}
