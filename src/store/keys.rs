//! Keys of a key-value backend, and the format byte of its own small records.
//!
//! Sites never contain a zero byte, so the first one ends the site and all keys of a site are neighbours.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use crate::model::{ProfileKey, Site, User, codec, hash};

/// The format of the records that [`encode`] writes.
const FORMAT: u8 = 1;

/// `site \0 rest`.
pub fn in_site(site: &str, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(site.len() + 1 + rest.len());
    key.extend_from_slice(site.as_bytes());
    key.push(0);
    key.extend_from_slice(rest);
    key
}

/// The key of a profile: `site \0 user`.
pub fn profile(site: &Site, user: &User) -> Vec<u8> {
    in_site(site.as_str(), user.as_str().as_bytes())
}

/// The key of a grave: `site \0` and a 128-bit hash of the user, so that a deleted user's id is gone.
pub fn grave(site: &Site, user: &User) -> Vec<u8> {
    grave_of(site, &hash::grave_hash(site, user))
}

/// The same, when only the hash is known.
pub fn grave_of(site: &Site, user_hash: &[u8; 16]) -> Vec<u8> {
    in_site(site.as_str(), user_hash)
}

/// The key of a refused record: `site \0 position`, big-endian, so that they lie in journal order.
pub fn refused(site: &Site, position: u64) -> Vec<u8> {
    in_site(site.as_str(), &position.to_be_bytes())
}

/// The site, and what follows it.
pub fn split(key: &[u8]) -> Result<(Site, &[u8]), StoreError> {
    let end = key.iter().position(|b| *b == 0).ok_or_else(|| corrupt("a key without a site"))?;
    let (site, rest) = key.split_at(end);
    let site = std::str::from_utf8(site).map_err(|_| corrupt("a site that is not text"))?;
    Ok((Site::new(site), rest.get(1..).unwrap_or_default()))
}

/// The profile that a key of [`profile`] names.
pub fn split_profile(key: &[u8]) -> Result<ProfileKey, StoreError> {
    let (site, user) = split(key)?;
    let user = std::str::from_utf8(user).map_err(|_| corrupt("a user that is not text"))?;
    Ok(ProfileKey::new(site, User::new(user)))
}

/// A record of the backend's own: a format byte, then postcard.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(FORMAT, value)
}

/// The value that [`encode`] wrote. Anything else, trailing bytes included, is damage.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    codec::decode(FORMAT, bytes).map_err(|e| corrupt(&e.to_string()))
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}
