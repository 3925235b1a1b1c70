//! `InjectFault`, `ClearFaults`, and the faults of a status.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::fields::{duration, text};
use super::{Operators, given};
use crate::api::encode::span;
use crate::api::status::Failure;
use crate::command::faults::{FaultDesk, FaultOrder, FaultRefused, InjectedFault, Injection};
use crate::proto::{self, fault::Effect};
use crate::store::faulty::{Fault, FaultKind, FaultLevel};
use crate::store::{Operation, Purpose, StoreError};

const USUAL: Duration = Duration::from_mins(10);
const LONGEST: Duration = Duration::from_hours(24);
const LONGEST_DELAY: Duration = Duration::from_mins(10);

impl Operators {
    pub(super) fn inject(
        &self,
        request: proto::InjectFaultRequest,
    ) -> Result<proto::InjectFaultResponse, Failure> {
        let desk = given(self.handles.faults.as_ref(), "InjectFault")?;
        let asked = request.fault.ok_or_else(|| Failure::invalid("fault", "must be given"))?;
        let order = self.fault_order(asked).map_err(|failure| failure.within("fault."))?;
        let injected = desk.inject(order)?;
        Ok(proto::InjectFaultResponse { fault: Some(told(&injected)) })
    }

    pub(super) fn clear(
        &self,
        request: &proto::ClearFaultsRequest,
    ) -> Result<proto::ClearFaultsResponse, Failure> {
        let desk = given(self.handles.faults.as_ref(), "ClearFaults")?;
        Ok(proto::ClearFaultsResponse { faults: desk.clear(&request.fault_ids).iter().map(told).collect() })
    }

    fn fault_order(&self, asked: proto::Fault) -> Result<FaultOrder, Failure> {
        let lasts = duration("lasts", asked.lasts, Duration::from_millis(1), LONGEST)?.unwrap_or(USUAL);
        let what = match asked.place() {
            proto::FaultPlace::Await => self.of_store(asked, FaultLevel::Call)?,
            proto::FaultPlace::Thread => self.of_store(asked, FaultLevel::Thread)?,
            proto::FaultPlace::JournalSync => of_journal(&asked)?,
            proto::FaultPlace::Unspecified => {
                return Err(Failure::invalid("place", "must be await, thread or journal sync"));
            }
        };
        Ok(FaultOrder { what, lasts })
    }

    fn of_store(&self, asked: proto::Fault, level: FaultLevel) -> Result<Injection, Failure> {
        let mut operations = Vec::new();
        for &call in &asked.calls {
            operations.extend_from_slice(match proto::StoreCall::try_from(call) {
                Ok(proto::StoreCall::Load) => &[
                    Operation::Load(Purpose::Get),
                    Operation::Load(Purpose::Query),
                    Operation::Load(Purpose::Apply),
                ][..],
                Ok(proto::StoreCall::Commit) => &[Operation::Commit],
                Ok(proto::StoreCall::ScanIndex) => &[Operation::ScanIndex],
                Ok(proto::StoreCall::ScanRecords) => &[Operation::ScanRecords],
                Ok(proto::StoreCall::Flush) => &[Operation::Flush],
                Ok(proto::StoreCall::Unspecified) | Err(_) => {
                    return Err(Failure::invalid("calls", "holds a call that there is not"));
                }
            });
        }
        let site = self.optional_site(asked.site)?;
        let user = if asked.user.is_empty() { None } else { Some(self.decoder.user(asked.user)?) };
        if user.is_some() && (site.is_none() || level == FaultLevel::Thread) {
            return Err(Failure::invalid("user", "needs a site, and a fault at the await"));
        }
        let percentage = asked.percentage.unwrap_or(100.0);
        if !(percentage > 0.0 && percentage <= 100.0) {
            return Err(Failure::invalid("percentage", "must be above 0 and at most 100"));
        }
        let kind = match asked.effect {
            None => return Err(Failure::invalid("effect", "must be given: hang, delay, error or panic")),
            Some(Effect::Hang(())) => FaultKind::Hang,
            Some(Effect::Panic(())) => FaultKind::Panic,
            Some(Effect::Error(message)) => FaultKind::Error(StoreError::Io(text("error", &message)?)),
            Some(Effect::Delay(by)) => FaultKind::Delay(delay(by)?),
        };
        let per_mille = ((percentage * 10.0).round() as u16).max(1);
        let fault = Fault { kind, level, operations, site, user, per_mille, generation: None };
        Ok(Injection::Store { fault, every_generation: asked.every_generation })
    }
}

fn of_journal(asked: &proto::Fault) -> Result<Injection, Failure> {
    let partial = asked.percentage.is_some_and(|share| share < 100.0);
    if partial || asked.every_generation || !(asked.calls.is_empty() && asked.site.is_empty()) {
        return Err(Failure::invalid("place", "a fault of the journal strikes each of its syncs"));
    }
    match asked.effect {
        Some(Effect::Delay(by)) => Ok(Injection::Journal(delay(by)?)),
        _ => Err(Failure::invalid("effect", "of the journal must be a delay")),
    }
}

fn delay(by: prost_types::Duration) -> Result<Duration, Failure> {
    Ok(duration("delay", Some(by), Duration::from_nanos(1), LONGEST_DELAY)?.unwrap_or_default())
}

/// The faults in force, for a status.
pub(super) fn in_force(desk: Option<&Arc<dyn FaultDesk>>) -> Vec<proto::Fault> {
    desk.map_or_else(Vec::new, |desk| desk.faults().iter().map(told).collect())
}

impl From<FaultRefused> for Failure {
    fn from(error: FaultRefused) -> Self {
        match error {
            FaultRefused::TooMany => Self::new(Code::ResourceExhausted, "LIMIT_EXCEEDED", error.to_string()),
        }
    }
}

fn told(injected: &InjectedFault) -> proto::Fault {
    let common = proto::Fault {
        id: injected.id.clone(),
        lasts: Some(span(injected.left)),
        struck: injected.struck,
        percentage: Some(100.0),
        ..proto::Fault::default()
    };
    let (fault, every_generation) = match &injected.what {
        Injection::Store { fault, every_generation } => (fault, *every_generation),
        Injection::Journal(delay) => {
            return proto::Fault {
                place: proto::FaultPlace::JournalSync.into(),
                effect: Some(Effect::Delay(span(*delay))),
                ..common
            };
        }
    };
    let place = match fault.level {
        FaultLevel::Call | FaultLevel::Answer => proto::FaultPlace::Await,
        FaultLevel::Thread => proto::FaultPlace::Thread,
    };
    let mut calls: Vec<i32> = fault.operations.iter().filter_map(|operation| call(*operation)).collect();
    calls.dedup();
    let effect = match &fault.kind {
        FaultKind::Hang => Effect::Hang(()),
        FaultKind::Panic => Effect::Panic(()),
        FaultKind::Delay(delay) => Effect::Delay(span(*delay)),
        FaultKind::Error(error) => Effect::Error(error.to_string()),
    };
    proto::Fault {
        place: place.into(),
        calls,
        site: fault.site.as_ref().map(|site| site.as_str().to_owned()).unwrap_or_default(),
        user: fault.user.as_ref().map(|user| user.as_str().to_owned()).unwrap_or_default(),
        percentage: Some(f64::from(fault.per_mille) / 10.0),
        effect: Some(effect),
        every_generation,
        ..common
    }
}

fn call(operation: Operation) -> Option<i32> {
    let call = match operation {
        Operation::Load(_) => proto::StoreCall::Load,
        Operation::Commit => proto::StoreCall::Commit,
        Operation::ScanIndex => proto::StoreCall::ScanIndex,
        Operation::ScanRecords => proto::StoreCall::ScanRecords,
        Operation::Flush => proto::StoreCall::Flush,
        _ => return None,
    };
    Some(call.into())
}
