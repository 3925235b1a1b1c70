//! How much of the journal may be used, changed while the server runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::accept::Shared;
use crate::command::QuotaStatus;
use crate::command::operate::{Cause, QuotaRefused, Quotas};
use crate::incident::{self, Incidents};
use crate::model::Site;

/// Sets quotas; what is configured counts again after a restart.
pub struct QuotaDesk {
    /// What acceptance looks at.
    pub shared: Arc<Shared>,
    /// The journal's quota as configured.
    pub total: u64,
    /// The length of a segment: the journal needs some of them.
    pub segment: u64,
    /// Hears of what is set.
    pub incidents: Incidents,
}

/// The most that can be asked for: what the configuration may say too.
const MOST: u64 = 64 << 40;

impl Quotas for QuotaDesk {
    fn set_quota(
        &self,
        site: Option<Site>,
        limit: Option<u64>,
        cause: Cause,
    ) -> Result<QuotaStatus, QuotaRefused> {
        let shared = &self.shared;
        let Cause { owner, reason } = cause;
        let told = match &site {
            None => {
                let least = 4 * self.segment;
                let bytes = limit.unwrap_or(self.total);
                if !(least..=MOST).contains(&bytes) {
                    return Err(QuotaRefused::OutOfRange { given: bytes, least, most: MOST });
                }
                shared.journal.set_total_quota(bytes);
                let usage = shared.journal.usage();
                QuotaStatus {
                    site: None,
                    used_bytes: usage.used,
                    limit_bytes: bytes,
                    overridden: limit.is_some(),
                    time_to_full: None,
                }
            }
            Some(name) => {
                let state = shared.sites.get(name).ok_or_else(|| QuotaRefused::UnknownSite(name.clone()))?;
                let most = shared.journal.usage().limit;
                if let Some(given) = limit.filter(|given| *given > most) {
                    return Err(QuotaRefused::OutOfRange { given, least: 0, most });
                }
                state.quota.store(limit.unwrap_or(0), Ordering::Relaxed);
                let waiting = state.lane.lock().bytes();
                QuotaStatus {
                    site: site.clone(),
                    used_bytes: waiting + state.refused_bytes.load(Ordering::Relaxed),
                    limit_bytes: shared.site_quota(&state),
                    overridden: limit.is_some(),
                    time_to_full: None,
                }
            }
        };
        let of = site.as_ref().map_or("all sites", Site::as_str);
        tracing::info!(owner, reason, of, limit = told.limit_bytes, "a quota was set");
        let message = format!(
            "The journal's quota of {of} was set to {} MiB by {owner}: {reason}",
            told.limit_bytes >> 20
        );
        // It is about the journal: no operation of the store.
        self.incidents.hold(incident::Scope { operation: None, site }, message);
        Ok(told)
    }
}
