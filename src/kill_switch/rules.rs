//! The holds in force as requests and entries meet them: one immutable value, grouped by site and operation.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::epoch::{Epoch, GROUPS};
use super::hold::{Hold, HoldId, Mode};
use super::scope::{Operation, Scope};
use crate::model::{EventTime, Site};

/// What a hold has done since the process started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests that it would have stopped.
    pub observed: AtomicU64,
    /// Writes that it deferred.
    pub deferred: AtomicU64,
    /// Requests that it refused.
    pub rejected: AtomicU64,
}

/// A hold in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The hold.
    pub hold: Arc<Hold>,
    /// When it ends by itself, by the clock that nobody sets.
    pub deadline: Option<Instant>,
    /// What it has done.
    pub counts: Arc<Counts>,
}

/// Whether one of a request's users passes a test.
pub type AnyUser<'a> = &'a dyn Fn(&dyn Fn(u64) -> bool) -> bool;

/// What is to become of a request.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// It passes.
    Pass,
    /// It is accepted, and waits.
    Defer(&'a InForce),
    /// It is refused.
    Reject(&'a InForce),
}

/// The holds of one site and operation.
type Group = Vec<InForce>;

/// The holds in force.
#[derive(Debug, Default)]
pub struct Rules {
    /// For sites that have no holds of their own.
    node: [Group; 4],
    /// For the others, the node's included.
    sites: HashMap<Site, [Group; 4]>,
}

impl Rules {
    /// Groups `holds`; none if there are none.
    pub fn new<'a>(holds: impl Iterator<Item = &'a InForce>) -> Option<Self> {
        let mut rules = Self::default();
        let mut none = true;
        let (mut of_sites, mut of_node) = (Vec::new(), Vec::new());
        for hold in holds {
            none = false;
            if hold.hold.scope.site.is_some() { of_sites.push(hold) } else { of_node.push(hold) }
        }
        for hold in of_node {
            add(&mut rules.node, hold);
        }
        for hold in of_sites {
            let Some(site) = &hold.hold.scope.site else { continue };
            let groups = rules.sites.entry(site.clone()).or_insert_with(|| rules.node.clone());
            add(groups, hold);
        }
        (!none).then_some(rules)
    }

    fn group(&self, site: &Site, operation: Operation) -> &[InForce] {
        let [identify, delete, query, get] = self.sites.get(site).unwrap_or(&self.node);
        match operation {
            Operation::Identify => identify,
            Operation::Delete => delete,
            Operation::Query => query,
            Operation::Get => get,
        }
    }

    /// What becomes of a request, and counts it. `any_user` asks for its users; a request that is not about
    /// single users answers `false`.
    pub fn judge(&self, site: &Site, operation: Operation, any_user: AnyUser<'_>) -> Verdict<'_> {
        let group = self.group(site, operation);
        if group.is_empty() {
            return Verdict::Pass;
        }
        let mut reject: Option<&InForce> = None;
        let mut defer: Option<&InForce> = None;
        let concerned = |hold: &&InForce| match hold.hold.scope.share {
            None => true,
            Some(share) => any_user(&|user| share.contains(user)),
        };
        for hold in group.iter().filter(concerned) {
            match hold.hold.mode {
                Mode::Observe => count(&hold.counts.observed),
                Mode::Defer => defer = Some(lasting_longer(defer, hold)),
                Mode::Reject => {
                    count(&hold.counts.rejected);
                    reject = Some(lasting_longer(reject, hold));
                }
            }
        }
        match (reject, defer) {
            (Some(reject), _) => Verdict::Reject(reject),
            (None, Some(defer)) => {
                let defers = |hold: &&InForce| hold.hold.mode == Mode::Defer;
                group.iter().filter(concerned).filter(defers).for_each(|hold| count(&hold.counts.deferred));
                Verdict::Defer(defer)
            }
            (None, None) => Verdict::Pass,
        }
    }
}

fn add(groups: &mut [Group; 4], hold: &InForce) {
    for (group, operation) in groups.iter_mut().zip(Operation::ALL) {
        if hold.hold.scope.operations.has(operation) {
            group.push(hold.clone());
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Which of two a caller is told of: the one that stops more, then the one that lasts longer.
fn lasting_longer<'a>(one: Option<&'a InForce>, other: &'a InForce) -> &'a InForce {
    let Some(one) = one else { return other };
    let rank = |hold: &InForce| (hold.hold.scope.is_whole_node(), hold.deadline.is_none(), hold.deadline);
    if rank(other) > rank(one) { other } else { one }
}

/// One version of the holds.
#[derive(Debug)]
pub struct Snapshot {
    /// Rises with each change.
    pub version: u64,
    /// Where requests that are admitted under it are counted.
    pub epoch: Arc<Epoch>,
    /// The holds; none if there are none, so that the usual case is one look.
    pub rules: Option<Rules>,
}

/// The holds at one moment, as the applier meets them.
#[derive(Clone, Debug)]
pub struct View(pub(super) Arc<Snapshot>);

impl View {
    /// A view in which `scope` is deferred and nothing else.
    pub fn of_scope(scope: &Scope) -> Self {
        let hold = Hold {
            id: HoldId::UNREADABLE,
            scope: scope.clone(),
            mode: Mode::Defer,
            reason: String::new(),
            owner: String::new(),
            ticket: String::new(),
            created_at: EventTime::MIN,
            expiry: None,
            version: 1,
        };
        let hold = InForce { hold: Arc::new(hold), deadline: None, counts: Arc::default() };
        let rules = Rules::new(std::iter::once(&hold));
        Self(Arc::new(Snapshot { version: 0, epoch: Arc::new(Epoch::new(0)), rules }))
    }

    /// Which entries of `site` are to be left alone; none if there are no such holds.
    pub fn deferral(&self, site: &Site) -> Option<Deferral<'_>> {
        let rules = self.0.rules.as_ref()?;
        let (identify, delete) =
            (rules.group(site, Operation::Identify), rules.group(site, Operation::Delete));
        let defers = |group: &[InForce]| group.iter().any(|hold| hold.hold.mode == Mode::Defer);
        (defers(identify) || defers(delete)).then_some(Deferral { identify, delete })
    }
}

/// Which of a site's entries are to be left alone.
#[derive(Clone, Copy, Debug)]
pub struct Deferral<'a> {
    identify: &'a [InForce],
    delete: &'a [InForce],
}

impl Deferral<'_> {
    /// Whether all entries are.
    pub fn is_whole(&self) -> bool {
        let whole = |group: &[InForce]| {
            group.iter().any(|hold| hold.hold.mode == Mode::Defer && hold.hold.scope.share.is_none())
        };
        whole(self.identify) && whole(self.delete)
    }

    /// Whether the entry of this user is. Later entries of the same user wait behind it, whatever they are.
    pub fn holds(&self, user: u64, operation: Operation) -> bool {
        let group = match operation {
            Operation::Identify => self.identify,
            Operation::Delete => self.delete,
            Operation::Query | Operation::Get => &[],
        };
        group.iter().any(|hold| {
            hold.hold.mode == Mode::Defer && hold.hold.scope.share.is_none_or(|share| share.contains(user))
        })
    }
}

/// The group of sites that `site` is counted in.
fn group_of(site: &Site) -> usize {
    (xxhash_rust::xxh3::xxh3_64(site.as_str().as_bytes()) % GROUPS as u64) as usize
}

/// The counter of a site's operation.
pub fn cell(site: &Site, operation: Operation) -> usize {
    operation.index() * GROUPS + group_of(site)
}

/// The counters that a scope's requests are in.
pub fn cells(scope: &Scope) -> impl Iterator<Item = usize> + use<> {
    let (operations, group) = (scope.operations, scope.site.as_ref().map(group_of));
    operations.iter().flat_map(move |operation| {
        let begin = operation.index() * GROUPS;
        let groups = group.map_or(0..GROUPS, |group| group..group + 1);
        groups.map(move |group| begin + group)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::scope::{Operations, UserShare};
    use super::*;

    fn in_force(scope: Scope, mode: Mode) -> InForce {
        let hold = Hold {
            id: HoldId(1),
            scope,
            mode,
            reason: "r".into(),
            owner: "o".into(),
            ticket: String::new(),
            created_at: EventTime::MIN,
            expiry: None,
            version: 1,
        };
        InForce { hold: Arc::new(hold), deadline: None, counts: Arc::default() }
    }

    fn scopes() -> impl Strategy<Value = Scope> {
        let site = prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
        let share = prop_oneof![Just(100.0), Just(30.0), Just(60.0)];
        (site, share, 1_u8..16).prop_map(|(site, share, operations)| Scope {
            site: site.map(Site::new),
            share: UserShare::new(share).unwrap(),
            operations: Operation::ALL
                .into_iter()
                .filter(|operation| operations & (1 << operation.index()) != 0)
                .collect(),
        })
    }

    fn modes() -> impl Strategy<Value = Mode> {
        prop_oneof![Just(Mode::Observe), Just(Mode::Defer), Just(Mode::Reject)]
    }

    proptest! {
        /// Effects add up: whatever holds there are, a request meets what each of them says by itself.
        #[test]
        fn effects_add_up(
            holds in prop::collection::vec((scopes(), modes()), 0..8),
            site in prop_oneof![Just("a"), Just("b"), Just("c")],
            operation in 0_usize..4,
            user in any::<u64>(),
        ) {
            let site = Site::new(site);
            let operation = Operation::ALL[operation];
            let holds: Vec<_> = holds.into_iter().map(|(scope, mode)| in_force(scope, mode)).collect();
            let meets = |hold: &&InForce| {
                let scope = &hold.hold.scope;
                scope.site.as_ref().is_none_or(|own| *own == site)
                    && scope.operations.has(operation)
                    && scope.share.is_none_or(|share| share.contains(user))
            };
            let any = |mode: Mode| holds.iter().filter(meets).any(|hold| hold.hold.mode == mode);
            let rules = Rules::new(holds.iter());
            prop_assert_eq!(rules.is_none(), holds.is_empty());
            let Some(rules) = rules else { return Ok(()) };
            let verdict = rules.judge(&site, operation, &|test| test(user));
            prop_assert_eq!(matches!(verdict, Verdict::Reject(_)), any(Mode::Reject));
            prop_assert_eq!(matches!(verdict, Verdict::Defer(_)), !any(Mode::Reject) && any(Mode::Defer));
            for hold in &holds {
                let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed) == 1;
                let met = meets(&hold);
                prop_assert_eq!(counted(&hold.counts.observed), met && hold.hold.mode == Mode::Observe);
                prop_assert_eq!(counted(&hold.counts.rejected), met && hold.hold.mode == Mode::Reject);
                let deferred = met && hold.hold.mode == Mode::Defer && !any(Mode::Reject);
                prop_assert_eq!(counted(&hold.counts.deferred), deferred);
            }
            if operation.is_write() {
                let view = View(Arc::new(Snapshot { version: 1, epoch: Arc::new(Epoch::new(0)), rules: Some(rules) }));
                let held = view.deferral(&site).is_some_and(|deferral| deferral.holds(user, operation));
                prop_assert_eq!(held, any(Mode::Defer), "a REJECT does not let go what a DEFER holds");
            }
        }
    }

    #[test]
    fn a_request_without_users_is_in_no_share() {
        let share = UserShare::new(99.0).unwrap();
        let scope = Scope { site: None, share, operations: Operations::NONE.with(Operation::Get) };
        let rules = Rules::new([in_force(scope, Mode::Reject)].iter()).unwrap();
        let verdict = rules.judge(&Site::new("a"), Operation::Get, &|_| false);
        assert!(matches!(verdict, Verdict::Pass));
    }

    #[test]
    fn all_counters_of_a_scope_and_no_others() {
        let site = Site::new("a");
        let all: Vec<_> = cells(&Scope::ALL_WRITES).collect();
        assert_eq!(all, (0..2 * GROUPS).collect::<Vec<_>>());
        let one = Scope { site: Some(site.clone()), ..Scope::ALL_WRITES };
        let expected = [Operation::Identify, Operation::Delete].map(|operation| cell(&site, operation));
        assert_eq!(cells(&one).collect::<Vec<_>>(), expected);
    }
}
