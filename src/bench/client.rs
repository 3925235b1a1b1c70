//! The client side of a measurement: an HTTP/2 connection with nothing in front of it.
//!
//! tonic's own channel has a queue and a task between the caller and the connection, which pay off for
//! applications but would be measured here.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::body::Body;
use tonic_types::StatusExt as _;

use crate::bench::measure::{Label, OperationName, Outcomes};
use crate::bench::plan::{Answer, Client, Target};
use crate::bench::stream::StreamClient;
use crate::bench::workload::{GET, Shape, Workload};
use crate::bench::{BenchError, MAX_UNANSWERED_PER_STREAM};
use crate::proto::attribute_service_client::AttributeServiceClient;
use crate::proto::{Outcome, Receipt, WriteResult, write_result};

/// One HTTP/2 connection.
#[derive(Clone, Debug)]
pub struct Http2 {
    sender: http2::SendRequest<Body>,
}

impl tower::Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

impl Http2 {
    /// Connects to `host:port`. The connection is driven by the runtime that this is called on.
    pub async fn connect(addr: &str) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Connect { addr: addr.to_owned(), source };
        let tcp = TcpStream::connect(addr).await.map_err(|error| failed(error.into()))?;
        // Without it a call may wait for the acknowledgement of the one before: up to 40 ms each way.
        tcp.set_nodelay(true).map_err(|error| failed(error.into()))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(tcp))
            .await
            .map_err(|error| failed(error.into()))?;
        // Its error reaches every call on it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender })
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// The URI that calls to `addr` begin with.
pub fn origin(addr: &str) -> Result<Uri, BenchError> {
    Uri::builder()
        .scheme("http")
        .authority(addr)
        .path_and_query("/")
        .build()
        .map_err(|error| BenchError::Connect { addr: addr.to_owned(), source: error.into() })
}

/// An attribute service, ours or a yardstick.
#[derive(Clone, Debug)]
pub struct Steadfast {
    addr: String,
    workload: Arc<Workload>,
}

impl Steadfast {
    /// The one at `addr` (`host:port`), called with `workload`.
    pub fn new(addr: &str, workload: Arc<Workload>) -> Self {
        Self { addr: addr.to_owned(), workload }
    }
}

impl Target for Steadfast {
    type Client = Calls;

    async fn connect(&self) -> Result<Calls, BenchError> {
        self.workload.check()?;
        let redial = Redial::new(&self.addr).await?;
        let stream = if self.workload.shape == Shape::Stream {
            Some(StreamClient::open(redial.client(), MAX_UNANSWERED_PER_STREAM))
        } else {
            None
        };
        Ok(Calls { workload: Arc::clone(&self.workload), redial, stream })
    }
}

/// A connection that is made anew when the server has closed it, as it does with old ones.
#[derive(Debug)]
pub struct Redial {
    addr: String,
    origin: Uri,
    current: RefCell<(Http2, AttributeServiceClient<Http2>)>,
    /// One slot dials, the others wait.
    dialing: tokio::sync::Mutex<()>,
}

impl Redial {
    /// Connects to `addr`.
    pub async fn new(addr: &str) -> Result<Self, BenchError> {
        let origin = origin(addr)?;
        let http2 = Http2::connect(addr).await?;
        let client = AttributeServiceClient::with_origin(http2.clone(), origin.clone());
        let current = RefCell::new((http2, client));
        Ok(Self { addr: addr.to_owned(), origin, current, dialing: tokio::sync::Mutex::new(()) })
    }

    /// A client on the present connection.
    pub fn client(&self) -> AttributeServiceClient<Http2> {
        self.current.borrow().1.clone()
    }

    /// Connects again, once, if the connection is gone.
    pub async fn repair(&self) -> Result<(), BenchError> {
        let _only_one = self.dialing.lock().await;
        if !self.current.borrow().0.is_closed() {
            return Ok(());
        }
        let http2 = Http2::connect(&self.addr).await?;
        let client = AttributeServiceClient::with_origin(http2.clone(), self.origin.clone());
        *self.current.borrow_mut() = (http2, client);
        Ok(())
    }

    /// What a failed call counts as; repairs the connection if that was it.
    pub async fn failed(&self, items: u32, status: &Status) -> Answer {
        let closed = self.current.borrow().0.is_closed();
        let label = if closed { Label::Bad("CONNECTION_LOST".into()) } else { status_label(status) };
        let broken = closed && self.repair().await.is_err();
        Answer { items, outcomes: SmallVec::from_elem((label, items), 1), broken }
    }
}

/// The calls of a workload on one connection.
#[derive(Debug)]
pub struct Calls {
    workload: Arc<Workload>,
    redial: Redial,
    stream: Option<StreamClient>,
}

impl Client for Calls {
    fn operation(&self, n: u64) -> OperationName {
        self.workload.operation(n)
    }

    async fn call(&self, n: u64) -> Answer {
        if let Some(stream) = &self.stream {
            return stream.call(n, self.workload.identify(n)).await;
        }
        let mut client = self.redial.client();
        if self.workload.shape == Shape::Many {
            let request = self.workload.many(n);
            let items = request.requests.len() as u32;
            return match client.identify_many(request).await {
                Ok(response) => {
                    Answer { items, outcomes: results(response.into_inner().results), broken: false }
                }
                Err(status) => self.redial.failed(items, &status).await,
            };
        }
        let answer = if self.workload.operation(n) == GET {
            client.get_profile(self.workload.get(n)).await.map(|response| {
                match response.into_inner().profile {
                    Some(_) => Label::Good("FOUND"),
                    None => Label::Bad("NO_PROFILE".into()),
                }
            })
        } else {
            client.identify(self.workload.identify(n)).await.map(|response| {
                response
                    .into_inner()
                    .receipt
                    .map_or(Label::Bad("NO_RECEIPT".into()), |receipt| label(&receipt))
            })
        };
        match answer {
            Ok(label) => Answer::one(label),
            Err(status) => self.redial.failed(1, &status).await,
        }
    }
}

/// What a receipt counts as.
fn label(receipt: &Receipt) -> Label {
    match receipt.outcome() {
        Outcome::Applied => Label::Good("APPLIED"),
        Outcome::Unchanged => Label::Good("UNCHANGED"),
        Outcome::Duplicate => Label::Good("DUPLICATE"),
        Outcome::Deferred => Label::Good("DEFERRED"),
        Outcome::Unspecified => Label::Bad("NO_OUTCOME".into()),
    }
}

/// What an item of a batch or a stream counts as.
pub fn result_label(result: Option<write_result::Result>) -> Label {
    match result {
        Some(write_result::Result::Receipt(receipt)) => label(&receipt),
        Some(write_result::Result::Error(error)) => Label::Bad(error.reason.into()),
        None => Label::Bad("NO_RESULT".into()),
    }
}

/// What the items of a batch count as.
pub fn results(results: Vec<WriteResult>) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for result in results {
        let label = result_label(result.result);
        match outcomes.iter_mut().find(|(known, _)| *known == label) {
            Some((_, items)) => *items += 1,
            None => outcomes.push((label, 1)),
        }
    }
    outcomes
}

/// What an error counts as: its reason, or its code if it has none.
pub fn status_label(status: &Status) -> Label {
    let reason = status.get_details_error_info().map(|info| info.reason);
    Label::Bad(reason.unwrap_or_else(|| format!("{:?}", status.code())).into())
}
