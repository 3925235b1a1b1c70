//! Whatever is held back, and whenever that changes: each user's writes happen in the order of their acceptance,
//! and reads show them so all the time. `STEADFAST_HOLD_ROUNDS` (default 2) says how often that is tried.

use std::collections::BTreeMap;

use steadfast::proto::attribute_change::Change;
use steadfast::proto::{
    self, BreakerOperation, BreakerOverrideMode, BreakerScope, HoldMode, HoldScope, Operation,
    OverrideBreakerRequest,
};

use crate::game_day::Day;
use crate::protection::{place, release};
use crate::support::{Home, Numbers, change, delete, get, identify, list, reason, strings};

const SITES: [&str; 2] = ["a", "b"];
const USERS: u64 = 3;

/// What is appended to a user's list shows the order; nobody has it without a list.
type Model = BTreeMap<(&'static str, String), Vec<String>>;

struct Round {
    day: Day,
    numbers: Numbers,
    holds: Vec<String>,
    model: Model,
    /// Of the writes.
    kept: u64,
    refused: u64,
}

impl Round {
    fn somebody(&mut self) -> (&'static str, String) {
        let site = SITES[self.numbers.below(SITES.len() as u64) as usize];
        (site, format!("u{}", self.numbers.below(USERS)))
    }

    async fn append(&mut self) {
        let (site, user) = self.somebody();
        let item = self.kept.to_string();
        let request = change(&user, "seen", Change::Append(strings(&[&item])));
        let request = proto::IdentifyRequest { site: site.into(), ..request };
        match identify(&mut self.day.client, request).await {
            Ok(_) => {
                self.kept += 1;
                self.model.entry((site, user)).or_default().push(item);
            }
            Err(status) => self.refuse(&status),
        }
    }

    async fn delete(&mut self) {
        let (site, user) = self.somebody();
        let request = proto::DeleteProfileRequest { site: site.into(), ..delete(&user) };
        match self.day.client.delete_profile(request).await {
            Ok(_) => {
                self.kept += 1;
                self.model.remove(&(site, user));
            }
            Err(status) => self.refuse(&status),
        }
    }

    fn refuse(&mut self, status: &tonic::Status) {
        assert_eq!(reason(status), "WRITES_HELD", "{status:?}");
        self.refused += 1;
    }

    async fn hold(&mut self) {
        let site = ["", "a", "b"][self.numbers.below(3) as usize];
        let operations: &[Operation] =
            [&[Operation::Writes][..], &[Operation::Identify], &[Operation::Delete]]
                [self.numbers.below(3) as usize];
        let scope = HoldScope {
            site: site.into(),
            user_percentage: (self.numbers.below(3) == 0).then_some(50.0),
            operations: operations.iter().map(|operation| (*operation).into()).collect(),
        };
        // Mostly what waits: a refusal leaves nothing to be put in order.
        let mode = if self.numbers.below(5) == 0 { HoldMode::Reject } else { HoldMode::Defer };
        let id = place(&mut self.day, scope, mode).await;
        self.holds.push(id);
    }

    async fn release(&mut self) {
        if !self.holds.is_empty() {
            let which = self.numbers.below(self.holds.len() as u64) as usize;
            let id = self.holds.swap_remove(which);
            release(&mut self.day, &id).await;
        }
    }

    async fn order(&mut self, mode: BreakerOverrideMode) {
        let request = OverrideBreakerRequest {
            scope: Some(BreakerScope { operation: BreakerOperation::Apply.into(), site: String::new() }),
            mode: mode.into(),
            reason: "a test".into(),
            owner: "ann".into(),
            ..OverrideBreakerRequest::default()
        };
        self.day.operator.override_breaker(request).await.unwrap();
    }

    async fn check(&mut self, (site, user): (&'static str, String)) -> Option<proto::Profile> {
        let found = get(&mut self.day.client, site, &user).await;
        let seen = found.as_ref().map(|profile| profile.attributes["seen"].clone());
        let expected = self.model.get(&(site, user.clone()));
        let expected = expected.map(|items| list(&items.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(seen, expected, "{user} of {site}, after {} writes", self.kept);
        found
    }
}

#[tokio::test]
async fn each_users_writes_happen_in_order_whatever_is_held_back() {
    let rounds = std::env::var("STEADFAST_HOLD_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap());
    let mut refused = 0;
    for seed in 0..rounds {
        let home = Home::new().set("writes.reply_after=20ms");
        let day = Day::on(&home).await;
        let (holds, model) = (Vec::new(), Model::new());
        let mut round = Round { day, numbers: Numbers(seed), holds, model, kept: 0, refused: 0 };
        for step in 0..250 {
            match round.numbers.below(40) {
                0..=2 => round.hold().await,
                3..=5 => round.release().await,
                6 => round.order(BreakerOverrideMode::ForceOpen).await,
                7 => round.order(BreakerOverrideMode::Auto).await,
                8..=11 => round.delete().await,
                _ => round.append().await,
            }
            let one = round.somebody();
            round.check(one).await;
            if step % 100 == 99 {
                round.day.server.kill();
                round.day = Day::on(&home).await;
            }
        }
        assert!(round.kept > 50, "{}", round.kept);
        refused += round.refused;
        while !round.holds.is_empty() {
            round.release().await;
        }
        round.order(BreakerOverrideMode::Auto).await;
        round.day.until_nothing_waits().await;
        for site in SITES {
            for user in 0..USERS {
                let profile = round.check((site, format!("u{user}"))).await;
                assert_eq!(profile.and_then(|profile| profile.pending), None);
            }
        }
        round.day.server.stop();
    }
    assert!(refused > 0, "no round refused anything");
}
