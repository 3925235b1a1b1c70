//! `SetAttributeState`.

use super::fields::{Caller, bounded};
use super::{Operators, given};
use crate::api::call::Call;
use crate::api::encode;
use crate::api::status::Failure;
use crate::command::operate::AttributeStateRequest;
use crate::proto;

impl Operators {
    pub(super) async fn attribute_state(
        &self,
        request: proto::SetAttributeStateRequest,
        caller: &Caller,
        call: &Call,
    ) -> Result<proto::SetAttributeStateResponse, Failure> {
        let site = self.site(request.site)?;
        if request.name.is_empty() {
            return Err(Failure::invalid("name", "must be given"));
        }
        // It comes back in the answer; the limit of the configuration may be below that of names that exist.
        bounded("name", &request.name)?;
        let disabled = match proto::AttributeState::try_from(request.state) {
            Ok(proto::AttributeState::Unspecified) => None,
            Ok(proto::AttributeState::Enabled) => Some(false),
            Ok(proto::AttributeState::Disabled) => Some(true),
            Err(_) => {
                return Err(Failure::invalid("state", format!("{} is not a known value", request.state)));
            }
        };
        let request = AttributeStateRequest {
            site,
            name: request.name.into_boxed_str(),
            disabled,
            indexed: request.indexed,
            cause: caller.cause(&request.owner, &request.reason)?,
            deadline: call.deadline,
        };
        let handle = given(self.handles.attributes.as_ref(), "SetAttributeState")?;
        let (info, position) = handle.set_state(request).await?;
        Ok(proto::SetAttributeStateResponse {
            attribute: Some(encode::attribute(&info)),
            position: position.map(encode::position),
        })
    }
}
