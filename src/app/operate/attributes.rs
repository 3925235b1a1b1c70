//! States of attributes, changed through the journal as everything that changes data.

use std::sync::Arc;

use crate::accept::{Shared, Ticket};
use crate::command::operate::{
    AttributeChanged, AttributeRefused, AttributeStateRequest, AttributeStates, Decision,
};
use crate::command::{Outcome, WriteError};
use crate::model::{Command, Entry};
use crate::store::AttributeInfo;

/// Submits changes of attributes' states.
pub struct AttributeDesk {
    /// Acceptance.
    pub shared: Arc<Shared>,
}

/// The user that entries about a site itself belong to: they wait for no other.
pub const NOBODY: u64 = 0;

impl AttributeStates for AttributeDesk {
    fn set_state(&self, request: AttributeStateRequest) -> Decision<AttributeChanged> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let known = shared
                .sites
                .get(&request.site)
                .and_then(|site| site.registry.load().get(&request.name).cloned());
            let Some(known) = known else {
                return Err(AttributeRefused::Unknown { site: request.site, name: request.name });
            };
            let disabled = request.disabled.unwrap_or(known.disabled);
            let indexed = request.indexed.unwrap_or(known.indexed);
            if (disabled, indexed) == (known.disabled, known.indexed) {
                return Ok((known, None));
            }
            if shared.draining.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(WriteError::Draining.into());
            }
            let command = Command::SetAttributeState { name: request.name.clone(), disabled, indexed };
            let entry = Entry { site: request.site.clone(), command };
            let ticket = Arc::new(Ticket::default());
            shared.submit(NOBODY, entry, Arc::clone(&ticket), false)?;
            tracing::info!(
                owner = request.cause.owner,
                reason = request.cause.reason,
                site = %request.site,
                attribute = %request.name,
                disabled,
                indexed,
                "an attribute's state was changed"
            );
            let receipt = shared.answer(ticket, true, request.deadline).await?;
            debug_assert_eq!(receipt.outcome, Outcome::Deferred, "it is durable");
            Ok((AttributeInfo { indexed, disabled, ..known }, receipt.position))
        })
    }
}
