//! `IdentifyStream` as calls: each waits for the result with its own sequence.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::bench::client::{Http2, result_label, status_label};
use crate::bench::measure::Label;
use crate::bench::plan::Answer;
use crate::proto::attribute_service_client::AttributeServiceClient;
use crate::proto::{IdentifyRequest, IdentifyStreamRequest};

/// Calls that wait for their result. `Err` once the stream has ended, with what it counts as.
type Waiting = Result<HashMap<u64, oneshot::Sender<Label>>, Label>;

/// One stream. When it ends, so do the slots on it: the bench does not open it again.
#[derive(Debug)]
pub struct StreamClient {
    requests: mpsc::Sender<IdentifyStreamRequest>,
    waiting: Rc<RefCell<Waiting>>,
}

impl StreamClient {
    /// Opens a stream for at most `window` unanswered calls. Must be called within a `LocalSet`.
    pub fn open(mut client: AttributeServiceClient<Http2>, window: usize) -> Self {
        let (requests, sent) = mpsc::channel(window.max(1));
        let waiting: Rc<RefCell<Waiting>> = Rc::new(RefCell::new(Ok(HashMap::new())));
        let results = Rc::clone(&waiting);
        tokio::task::spawn_local(async move {
            let end = match client.identify_stream(ReceiverStream::new(sent)).await {
                Ok(response) => deliver(response.into_inner(), &results).await,
                Err(status) => status_label(&status),
            };
            // Those that still wait hear it by their sender being dropped.
            *results.borrow_mut() = Err(end);
        });
        Self { requests, waiting }
    }

    /// Sends a write with the sequence `n` and waits for its result.
    pub async fn call(&self, n: u64, request: IdentifyRequest) -> Answer {
        let (tell, result) = oneshot::channel();
        if let Ok(waiting) = self.waiting.borrow_mut().as_mut() {
            waiting.insert(n, tell);
        }
        let request = IdentifyStreamRequest { sequence: n, request: Some(request) };
        if self.requests.send(request).await.is_ok()
            && let Ok(label) = result.await
        {
            return Answer::one(label);
        }
        let end = self.waiting.borrow().as_ref().err().cloned();
        Answer { broken: true, ..Answer::one(end.unwrap_or(Label::Bad("STREAM_ENDED".into()))) }
    }
}

/// Hands results to those who wait for them, until the stream ends.
async fn deliver(
    mut results: tonic::Streaming<crate::proto::IdentifyStreamResponse>,
    waiting: &RefCell<Waiting>,
) -> Label {
    loop {
        match results.message().await {
            Ok(Some(response)) => {
                let caller =
                    waiting.borrow_mut().as_mut().ok().and_then(|all| all.remove(&response.sequence));
                let label = result_label(response.result.and_then(|result| result.result));
                // A result that nobody waits for is of a slot that was aborted at the end.
                if let Some(caller) = caller {
                    let _ = caller.send(label);
                }
            }
            Ok(None) => return Label::Bad("STREAM_ENDED".into()),
            Err(status) => return ended(&status),
        }
    }
}

fn ended(status: &Status) -> Label {
    match status_label(status) {
        Label::Bad(reason) => Label::Bad(format!("STREAM_ENDED: {reason}").into()),
        good @ Label::Good(_) => good,
    }
}
