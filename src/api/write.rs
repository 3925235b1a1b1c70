//! Several writes in one call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use tonic::Streaming;

use super::call::Call;
use super::decode::{Answering, Decoder, decode_wait};
use super::duplex::{self, Answers};
use super::encode;
use super::service::Writes;
use super::status::{Failure, Paths};
use crate::command::{Kept, Receipt, WriteError, WriteRequest};
use crate::proto;

/// Writes of one `IdentifyMany`.
const MANY: usize = 1_000;
/// Writes of a stream that may be unanswered.
const UNANSWERED: usize = 1_000;
/// The deadline of one write of a stream, when the stream has none.
const ITEM_DEADLINE: Duration = Duration::from_mins(1);

/// A write that has been handed over, or why not. Its answer is there in its own time, whoever waits.
async fn settled<F>(submitted: Result<(F, Paths), Failure>) -> Result<Receipt, Failure>
where
    F: Future<Output = Result<Receipt, WriteError>>,
{
    let (answer, paths) = submitted?;
    answer.await.map_err(|error| Failure::of_write(&error, &paths))
}

/// `IdentifyMany`: all are handed over, in order, before the first is waited for.
pub(super) async fn many<W: Writes>(
    writes: &W,
    decoder: &Decoder,
    request: proto::IdentifyManyRequest,
    call: &Call,
) -> Result<proto::IdentifyManyResponse, Failure> {
    let refused = |failure: Failure| failure.kept(Kept::No);
    let count = request.requests.len();
    if count == 0 {
        return Err(refused(Failure::invalid("requests", "there must be at least one")));
    }
    if count > MANY {
        let message = format!("there are {count}, more than {MANY}");
        return Err(refused(Failure::over_limit("requests", message)));
    }
    check_waits(&request.requests).map_err(refused)?;

    let answering = Answering { deadline: call.deadline, may_load: false };
    let mut writes = writes.clone();
    let mut answers = Vec::with_capacity(count);
    for item in request.requests {
        let submitted = match decoder.identify(item, answering) {
            Ok((request, paths)) => Ok((hand_over(&mut writes, request), paths)),
            Err(failure) => Err(refused(failure)),
        };
        answers.push(submitted);
    }

    let mut results = Vec::with_capacity(count);
    let mut failed = 0;
    let mut shared: Option<Failure> = None;
    let mut same = true;
    for (at, answer) in answers.into_iter().enumerate() {
        let result = settled(answer).await;
        if let Err(failure) = &result {
            failed += 1;
            match &shared {
                None => shared = Some(failure.clone().within(&format!("requests[{at}]."))),
                Some(first) => same &= first.same_cause(failure),
            }
        }
        results.push(encode::result(result));
    }
    match shared {
        Some(failure) if same && failed as usize == count => Err(failure),
        _ => Ok(proto::IdentifyManyResponse { results, failed }),
    }
}

/// Their `wait` must agree, or one slow item would hold back the answers of those that do not wait.
fn check_waits(requests: &[proto::IdentifyRequest]) -> Result<(), Failure> {
    let mut first = None;
    for (at, request) in requests.iter().enumerate() {
        let path = || format!("requests[{at}].");
        let wait = decode_wait(request.wait).map_err(|failure| failure.within(&path()))?;
        if *first.get_or_insert(wait) != wait {
            let message = "must be the same for all requests of a call";
            return Err(Failure::invalid("wait", message).within(&path()));
        }
    }
    Ok(())
}

/// `IdentifyStream`: results come as they are there; a user's writes are applied in the order sent, because
/// each is handed over when it is read.
pub(super) fn stream<W: Writes>(
    mut writes: W,
    decoder: Decoder,
    requests: Streaming<proto::IdentifyStreamRequest>,
    call: &Arc<Call>,
) -> Answers<proto::IdentifyStreamResponse> {
    let until = call.given.then_some(call.deadline);
    let take_up = move |request: proto::IdentifyStreamRequest| {
        let sequence = request.sequence;
        let deadline = until.unwrap_or_else(|| Instant::now() + ITEM_DEADLINE);
        let submitted = request
            .request
            .ok_or_else(|| Failure::invalid("request", "must be given"))
            .and_then(|item| decoder.identify(item, Answering { deadline, may_load: false }))
            .map(|(request, paths)| (hand_over(&mut writes, request), paths))
            .map_err(|failure| failure.kept(Kept::No));
        Ok(async move {
            let result = Some(encode::result(settled(submitted).await));
            proto::IdentifyStreamResponse { sequence, result }
        })
    };
    duplex::run(requests, call, UNANSWERED, FuturesUnordered::new(), take_up)
}

/// Hands a write over now, whoever waits for its answer when: this is what keeps the order of a stream.
pub(super) fn hand_over<W: Writes>(writes: &mut W, request: WriteRequest) -> W::Future {
    // Always ready, see `Writes`; asked all the same, because services may count on it.
    let waker = std::task::Waker::noop();
    let _ = writes.poll_ready(&mut std::task::Context::from_waker(waker));
    writes.call(request)
}
