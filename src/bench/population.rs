//! The users that the load is about: names, profiles and a repeatable choice among them.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::Timestamp;

use crate::proto::{Profile, StringList, Value, value::Kind};

/// The attribute that changing writes change.
pub const CHANGING: &str = "visits";
/// Attributes, beside the changing one, that every profile has whatever its size.
pub const STEADY: usize = 8;

const PLANS: [&str; 4] = ["free", "basic", "pro", "enterprise"];
const COUNTRIES: [&str; 8] = ["DE", "FR", "GB", "IN", "JP", "MT", "NO", "US"];
/// Longest string that is accepted by default, less a margin.
const FILLER_CHARS: usize = 150;
/// 2020-01-01, as seconds since 1970.
const FIRST_SIGN_UP: i64 = 1_577_836_800;

/// A repeatable set of users, spread evenly over sites.
#[derive(Clone, Debug)]
pub struct Population {
    /// How many users there are over all sites; at least 1.
    pub users: u64,
    /// How many sites; at least 1.
    pub sites: u64,
    /// The same seed makes the same choices.
    pub seed: u64,
    /// What the names of sites begin with.
    pub site_prefix: String,
    /// About how many bytes the attributes of a profile take on the wire.
    pub profile_bytes: usize,
}

/// Spreads a counter evenly over all numbers: the finalizer of `SplitMix64` (Steele, Lea and Flood, 2014).
pub fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The one of `all` that `hash` falls on.
fn choose<'a>(all: &[&'a str], hash: u64) -> &'a str {
    all.get(hash as usize % all.len().max(1)).copied().unwrap_or_default()
}

fn string(text: impl Into<String>) -> Kind {
    Kind::StringValue(text.into())
}

impl Population {
    /// The user of the `n`-th call.
    pub fn pick(&self, n: u64) -> u64 {
        mix(self.seed ^ mix(n)) % self.users.max(1)
    }

    /// The site of a user.
    pub fn site(&self, user: u64) -> String {
        let site = user % self.sites.max(1);
        if self.sites <= 1 { self.site_prefix.clone() } else { format!("{}-{site}", self.site_prefix) }
    }

    /// The id of a user.
    pub fn user(user: u64) -> String {
        format!("user-{user:010}")
    }

    /// A user's `index`-th steady attribute: those that no measurement changes.
    pub fn steady(user: u64, index: usize) -> (String, Value) {
        let hash = mix(user.wrapping_mul(31).wrapping_add(index as u64));
        let (name, kind) = match index {
            0 => ("plan", string(choose(&PLANS, hash))),
            1 => ("country", string(choose(&COUNTRIES, hash))),
            2 => ("seats", Kind::NumberValue((hash % 500) as f64)),
            3 => ("trial", Kind::BoolValue(hash.is_multiple_of(2))),
            4 => {
                let day = i64::try_from(hash % 2000).unwrap_or_default();
                ("signed_up", Kind::TimeValue(Timestamp { seconds: FIRST_SIGN_UP + day * 86_400, nanos: 0 }))
            }
            5 => ("email", string(format!("user-{user:010}@example.com"))),
            6 => {
                let tags = vec![format!("team-{}", hash % 20), format!("role-{}", hash % 7)];
                ("tags", Kind::ListValue(StringList { values: tags }))
            }
            7 => ("company", string(format!("Company {}", hash % 5000))),
            _ => return (format!("note_{index}"), Value { kind: Some(string(filler(user, FILLER_CHARS))) }),
        };
        (name.to_owned(), Value { kind: Some(kind) })
    }

    /// All attributes of a user as they are first loaded, about [`Population::profile_bytes`] of them.
    pub fn attributes(&self, user: u64) -> BTreeMap<String, Value> {
        let mut profile = Profile::default();
        let zero = Value { kind: Some(Kind::NumberValue(0.0)) };
        profile.attributes.insert(CHANGING.to_owned(), zero);
        profile.attributes.extend((0..STEADY).map(|index| Self::steady(user, index)));
        let mut index = STEADY;
        loop {
            // A map entry costs about 20 bytes beside the text.
            let missing = self.profile_bytes.saturating_sub(profile.encoded_len()).saturating_sub(20);
            if missing == 0 || index >= 100 {
                return profile.attributes;
            }
            let text = filler(user, missing.min(FILLER_CHARS));
            profile.attributes.insert(format!("note_{index}"), Value { kind: Some(string(text)) });
            index += 1;
        }
    }
}

/// `length` characters that do not compress to nothing.
fn filler(user: u64, length: usize) -> String {
    let words = (0..length.div_ceil(16)).map(|i| format!("{:016x}", mix(user ^ ((i as u64) << 40))));
    let mut text: String = words.collect();
    text.truncate(length);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn population(users: u64, sites: u64) -> Population {
        Population { users, sites, seed: 1, site_prefix: "bench".into(), profile_bytes: 400 }
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let picks = |p: &Population| (0..100).map(|n| p.pick(n)).collect::<Vec<_>>();
        assert_eq!(picks(&population(1000, 1)), picks(&population(1000, 1)));
        assert_ne!(picks(&population(1000, 1)), picks(&Population { seed: 2, ..population(1000, 1) }));
    }

    #[test]
    fn choices_cover_all_users_evenly() {
        let population = population(10, 1);
        let mut seen = [0_u32; 10];
        (0..10_000).for_each(|n| seen[population.pick(n) as usize] += 1);
        assert!(seen.iter().all(|&n| (900..1100).contains(&n)), "{seen:?}");
    }

    #[test]
    fn profiles_have_about_the_size_asked_for() {
        for bytes in [400, 1000, 4000] {
            let population = Population { profile_bytes: bytes, ..population(10, 1) };
            let profile = Profile { attributes: population.attributes(7), ..Profile::default() };
            let length = profile.encoded_len();
            assert!(length.abs_diff(bytes) <= 30, "{length} instead of {bytes}");
        }
    }

    #[test]
    fn a_profile_holds_every_steady_attribute() {
        let attributes = population(10, 1).attributes(3);
        for index in 0..STEADY {
            let (name, value) = Population::steady(3, index);
            assert_eq!(attributes.get(&name), Some(&value));
        }
    }

    #[test]
    fn one_site_has_the_plain_name() {
        assert_eq!(population(10, 1).site(7), "bench");
        assert_eq!(population(10, 4).site(7), "bench-3");
    }
}
