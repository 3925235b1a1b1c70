//! Requests to hand over, on their way from the operations listener to whoever runs the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::command::operate::{Decision, HandOverRefused, HandOverRequest, HandOvers, HandedOver};
use crate::model::NodeId;

/// A request and where its answer goes.
#[derive(Debug)]
pub struct HandOverCall {
    /// What is asked for.
    pub request: HandOverRequest,
    answer: oneshot::Sender<Result<HandedOver, HandOverRefused>>,
}

impl HandOverCall {
    /// Answers it. Nobody may be there to hear.
    pub fn answer(self, answer: Result<HandedOver, HandOverRefused>) {
        drop(self.answer.send(answer));
    }
}

/// Takes requests of the right node, one in the life of a process.
pub struct Desk {
    node: NodeId,
    taken: Arc<AtomicBool>,
    calls: mpsc::Sender<HandOverCall>,
}

impl Desk {
    /// A desk for `node`, and where its requests come out.
    pub fn new(node: NodeId) -> (Self, mpsc::Receiver<HandOverCall>) {
        let (calls, receiver) = mpsc::channel(1);
        (Self { node, taken: Arc::default(), calls }, receiver)
    }
}

impl HandOvers for Desk {
    fn hand_over(&self, request: HandOverRequest) -> Decision<Result<HandedOver, HandOverRefused>> {
        if request.node != self.node {
            let (node, asked) = (self.node, request.node);
            return Box::pin(std::future::ready(Err(HandOverRefused::OtherNode { node, asked })));
        }
        let (answer, answered) = oneshot::channel();
        let first = !self.taken.swap(true, Ordering::AcqRel);
        let sent = first && self.calls.try_send(HandOverCall { request, answer }).is_ok();
        Box::pin(async move {
            if !sent {
                return Err(HandOverRefused::GoingDown);
            }
            answered.await.unwrap_or(Err(HandOverRefused::GoingDown))
        })
    }
}
