//! Several reads in one call.

use std::collections::HashSet;

use prost::Message as _;

use super::call::Call;
use super::encode;
use super::service::{Attributes, Reads, Writes};
use super::status::Failure;
use crate::model::ProfileKey;
use crate::proto;

/// Users of one `BatchGetProfiles`.
const BATCH: usize = 100;
/// Bytes of its answer: below the 4 MiB that clients take by default.
const ANSWER: usize = 3 << 20;

impl<W: Writes, R: Reads> Attributes<W, R> {
    /// `BatchGetProfiles`: what does not fit is named, and asked for again.
    pub(super) async fn batch_get(
        &self,
        request: proto::BatchGetProfilesRequest,
        call: &Call,
    ) -> Result<proto::BatchGetProfilesResponse, Failure> {
        let site = self.decoder.site(request.site)?;
        let count = request.users.len();
        if count == 0 {
            return Err(Failure::invalid("users", "there must be at least one"));
        }
        if count > BATCH {
            return Err(Failure::over_limit("users", format!("there are {count}, more than {BATCH}")));
        }
        let mut seen = HashSet::with_capacity(count);
        let mut keys = Vec::with_capacity(count);
        for (at, user) in request.users.into_iter().enumerate() {
            let user = self.decoder.user(user).map_err(|failure| failure.field(format!("users[{at}]")))?;
            if seen.insert(user.clone()) {
                keys.push(ProfileKey::new(site.clone(), user));
            }
        }

        let views = self.read(keys.clone(), call).await?;
        let mut response = proto::BatchGetProfilesResponse::default();
        let mut bytes = 0;
        for (key, view) in keys.iter().zip(&views) {
            match encode::profile(&site, &key.user, view, request.include_occurred_at) {
                None => response.missing.push(key.user.as_str().to_owned()),
                Some(profile) => {
                    bytes += profile.encoded_len();
                    if bytes <= ANSWER {
                        response.profiles.push(profile);
                    } else {
                        response.unprocessed.push(key.user.as_str().to_owned());
                    }
                }
            }
        }
        Ok(response)
    }
}
