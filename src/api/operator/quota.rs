//! `SetQuota`.

use super::fields::Caller;
use super::{Operators, given, status};
use crate::api::status::Failure;
use crate::proto::{self, set_quota_request::Quota};

/// The least quota that can be asked for.
const LEAST: u64 = 64 << 20;

impl Operators {
    pub(super) fn quota(
        &self,
        request: proto::SetQuotaRequest,
        caller: &Caller,
    ) -> Result<proto::SetQuotaResponse, Failure> {
        let site = self.optional_site(request.site)?;
        let limit = match request.quota {
            None => return Err(Failure::invalid("quota", "must be given: limit_bytes or configured")),
            Some(Quota::LimitBytes(bytes)) if bytes < LEAST => {
                return Err(Failure::invalid("limit_bytes", format!("must be at least {LEAST}")));
            }
            Some(Quota::LimitBytes(bytes)) => Some(bytes),
            Some(Quota::Configured(())) => None,
        };
        let cause = caller.cause(&request.owner, &request.reason)?;
        let set = given(self.handles.quotas.as_ref(), "SetQuota")?.set_quota(site, limit, cause)?;
        Ok(proto::SetQuotaResponse { quota: Some(status::quota(&set)) })
    }
}
