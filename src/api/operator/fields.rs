//! What the requests of operators have in common: who asks, why, for which site, how long, which page.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic::Request;

use super::Operators;
use crate::api::status::Failure;
use crate::command::operate::Cause;
use crate::model::{ProfileKey, Site};

/// Bytes of an owner, a reason or a ticket.
const TEXT: usize = 1_000;

/// Items of a page.
const PAGE: usize = 1_000;
const DEFAULT_PAGE: usize = 100;

/// The name of the token that a request came with. In the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenName(pub Arc<str>);

/// Who calls: the token's name, if there is authentication.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller(Option<TokenName>);

impl Caller {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        Self(request.extensions().get::<TokenName>().cloned())
    }

    /// The owner of what is asked for.
    pub(super) fn owner(&self, given: &str) -> Result<String, Failure> {
        let given = text("owner", given)?;
        match &self.0 {
            Some(TokenName(name)) => Ok(name.to_string()),
            None if given.is_empty() => {
                Err(Failure::invalid("owner", "must be given: this server knows no tokens"))
            }
            None => Ok(given),
        }
    }

    /// Owner and reason; both are required.
    pub(super) fn cause(&self, owner: &str, reason: &str) -> Result<Cause, Failure> {
        let reason = text("reason", reason)?;
        if reason.is_empty() {
            return Err(Failure::invalid("reason", "must be given"));
        }
        Ok(Cause { owner: self.owner(owner)?, reason })
    }
}

/// A text for people: bounded, trimmed, without control characters.
pub(super) fn text(field: &'static str, given: &str) -> Result<String, Failure> {
    bounded(field, given)?;
    if given.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Failure::invalid(field, "has control characters"));
    }
    Ok(given.trim().to_owned())
}

/// Refuses what is too long to be said back.
pub(super) fn bounded(field: &'static str, given: &str) -> Result<(), Failure> {
    if given.len() > TEXT {
        return Err(Failure::over_limit(field, format!("has {} bytes, more than {TEXT}", given.len())));
    }
    Ok(())
}

/// A duration between two bounds; none if it is absent.
pub(super) fn duration(
    field: &'static str,
    given: Option<prost_types::Duration>,
    least: Duration,
    most: Duration,
) -> Result<Option<Duration>, Failure> {
    let Some(given) = given else { return Ok(None) };
    let duration = Duration::try_from(given).ok().filter(|duration| (least..=most).contains(duration));
    match duration {
        Some(duration) => Ok(Some(duration)),
        None => Err(Failure::invalid(field, format!("must be between {least:?} and {most:?}"))),
    }
}

/// How many items a page may have.
pub(super) fn page_size(field: &'static str, given: i32, default: usize) -> Result<usize, Failure> {
    match usize::try_from(given) {
        Ok(0) => Ok(default),
        Ok(size) if size <= PAGE => Ok(size),
        _ => Err(Failure::invalid(field, format!("must be between 1 and {PAGE}, or 0 for {default}"))),
    }
}

/// The usual page.
pub(super) fn page(given: i32) -> Result<usize, Failure> {
    page_size("page_size", given, DEFAULT_PAGE)
}

/// A directory on the server; none if it is empty.
pub(super) fn directory(field: &'static str, given: String) -> Result<Option<PathBuf>, Failure> {
    if given.is_empty() {
        return Ok(None);
    }
    if given.len() > 4096 || given.contains('\0') {
        return Err(Failure::invalid(field, "is no path"));
    }
    let path = PathBuf::from(given);
    if !path.is_absolute() {
        return Err(Failure::invalid(field, "must be an absolute path on the server"));
    }
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Failure::invalid(field, "must not go up with .."));
    }
    Ok(Some(path))
}

impl Operators {
    /// A required site.
    pub(super) fn site(&self, site: String) -> Result<Site, Failure> {
        self.decoder.site(site)
    }

    /// A site, or none if it is empty.
    pub(super) fn optional_site(&self, site: String) -> Result<Option<Site>, Failure> {
        if site.is_empty() { Ok(None) } else { self.site(site).map(Some) }
    }

    /// A user of a site, by its hash; none if it is empty.
    pub(super) fn user_of(&self, site: Option<&Site>, user: String) -> Result<Option<u64>, Failure> {
        if user.is_empty() {
            return Ok(None);
        }
        let Some(site) = site else { return Err(Failure::invalid("site", "must be given with a user")) };
        let user = self.decoder.user(user)?;
        Ok(Some(ProfileKey::new(site.clone(), user).hash64()))
    }
}
