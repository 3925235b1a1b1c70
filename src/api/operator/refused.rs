//! `ListRefused` and `ResolveRefused`: writes that were accepted and could not be applied.

use super::fields::{Caller, page};
use super::{Operators, given};
use crate::api::call::Call;
use crate::api::decode::position;
use crate::api::encode::{self, event_time};
use crate::api::status::Failure;
use crate::command::operate::{RefusedEntry, RefusedQuery, Resolve, ResolveRequest};
use crate::model::{ChangeKind, Command, Site};
use crate::proto::{self, refused_entry};

/// Entries of one `ResolveRefused`.
const RESOLVED: usize = 1_000;

impl Operators {
    pub(super) fn refused_list(
        &self,
        request: proto::ListRefusedRequest,
    ) -> Result<proto::ListRefusedResponse, Failure> {
        let site = self.optional_site(request.site)?;
        let user = self.user_of(site.as_ref(), request.user)?;
        let limit = page(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(self.place(token)?),
        };
        let query = RefusedQuery { site, user, after, limit: limit + 1 };
        let mut found = given(self.handles.refused.as_ref(), "ListRefused")?.list(&query);
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| more);
        let next_page_token =
            last.map(|last| format!("{}/{}", last.site, last.position.number)).unwrap_or_default();
        let entries = found.iter().map(|entry| refused_entry(entry, request.include_writes)).collect();
        Ok(proto::ListRefusedResponse { entries, next_page_token })
    }

    /// Where a page ended: `site/position`.
    fn place(&self, token: &str) -> Result<(Site, u64), Failure> {
        let parsed = token
            .rsplit_once('/')
            .and_then(|(site, number)| Some((self.site(site.to_owned()).ok()?, number.parse().ok()?)));
        parsed.ok_or_else(|| Failure::page_token_invalid("page_token"))
    }

    pub(super) async fn resolve(
        &self,
        request: proto::ResolveRefusedRequest,
        caller: &Caller,
        call: &Call,
    ) -> Result<proto::ResolveRefusedResponse, Failure> {
        let site = self.site(request.site)?;
        let count = request.positions.len();
        if count == 0 {
            return Err(Failure::invalid("positions", "there must be at least one"));
        }
        if count > RESOLVED {
            return Err(Failure::over_limit("positions", format!("there are {count}, more than {RESOLVED}")));
        }
        let mut positions = Vec::with_capacity(count);
        for (at, given) in request.positions.into_iter().enumerate() {
            let path = format!("positions[{at}]");
            positions.push(position(Some(given)).map_err(|failure| failure.at(&path))?);
        }
        let action = match proto::RefusedAction::try_from(request.action) {
            Ok(proto::RefusedAction::Retry) => Resolve::Retry,
            Ok(proto::RefusedAction::Discard) => Resolve::Discard,
            Ok(proto::RefusedAction::Unspecified) => {
                return Err(Failure::invalid("action", "must be given: retry or discard"));
            }
            Err(_) => {
                return Err(Failure::invalid("action", format!("{} is not a known value", request.action)));
            }
        };
        let cause = caller.cause(&request.owner, &request.reason)?;
        let handle = given(self.handles.refused.as_ref(), "ResolveRefused")?;
        let asked = positions.clone();
        let results =
            handle.resolve(ResolveRequest { site, positions, action, cause, deadline: call.deadline }).await;
        let failed = results.iter().filter(|result| result.is_err()).count() as u32;
        let resolutions = asked
            .into_iter()
            .zip(results)
            .map(|(position, result)| proto::RefusedResolution {
                position: Some(encode::position(position)),
                result: Some(encode::result(result.map_err(Failure::from))),
            })
            .collect();
        Ok(proto::ResolveRefusedResponse { resolutions, failed })
    }
}

fn refused_entry(told: &RefusedEntry, with_write: bool) -> proto::RefusedEntry {
    let (reason, message) = match &told.reason {
        Some(reason) => (encode::refusal_reason(reason), reason.to_string()),
        None => (proto::RefusalReason::Unspecified, told.failure.clone()),
    };
    let user = told.user.as_ref().map(|user| user.as_str().to_owned()).unwrap_or_default();
    let write = told.entry.as_deref().filter(|_| with_write).and_then(|entry| match &entry.command {
        Command::Write(write) => Some(match &write.kind {
            ChangeKind::Identify(changes) => {
                refused_entry::Write::Identify(encode::identify(&told.site, write, changes))
            }
            ChangeKind::Delete => refused_entry::Write::Delete(encode::delete(&told.site, write)),
        }),
        Command::SetAttributeState { .. } | Command::DiscardRefused { .. } => None,
    });
    proto::RefusedEntry {
        site: told.site.as_str().to_owned(),
        user,
        position: Some(encode::position(told.position)),
        reason: reason.into(),
        message,
        accepted_at: Some(event_time(told.accepted_at)),
        refused_at: Some(event_time(told.refused_at)),
        parked: told.reason.is_none(),
        waiting_behind: told.waiting_behind,
        write,
    }
}
