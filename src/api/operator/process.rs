//! `HandOver`: the process gives its journal and its listeners to another.

use std::time::Duration;

use super::fields::{Caller, duration};
use super::{Operators, given};
use crate::api::status::Failure;
use crate::command::operate::HandOverRequest;
use crate::model::NodeId;
use crate::proto;

/// How long requests under way may take, unless said otherwise, and at most.
const DRAIN: Duration = Duration::from_secs(10);
const LONGEST_DRAIN: Duration = Duration::from_mins(1);

impl Operators {
    pub(super) async fn give_away(
        &self,
        request: proto::HandOverRequest,
        caller: &Caller,
    ) -> Result<proto::HandOverResponse, Failure> {
        let node: NodeId = match request.node.parse() {
            Ok(node) => node,
            Err(_) => return Err(Failure::invalid("node", "is no node id: GetStatus tells it")),
        };
        let drain = duration("drain_timeout", request.drain_timeout, Duration::ZERO, LONGEST_DRAIN)?;
        let request = HandOverRequest {
            node,
            drain_timeout: drain.unwrap_or(DRAIN),
            cause: caller.cause(&request.owner, &request.reason)?,
        };
        let done = given(self.handles.hand_over.as_ref(), "HandOver")?.hand_over(request).await?;
        Ok(proto::HandOverResponse {
            last_position: done.last_position,
            pending: done.pending,
            store_closed: done.store_closed,
            hung_threads: done.hung_threads,
            cut_off: done.cut_off,
        })
    }
}
