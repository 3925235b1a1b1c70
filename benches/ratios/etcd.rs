//! etcd's Put, called like ours. The two messages of its API that are needed are written out by hand.

use http::Uri;
use http::uri::PathAndQuery;
use prost::Message as _;
use steadfast::bench::client::{Http2, origin, status_label};
use steadfast::bench::measure::{Label, OperationName};
use steadfast::bench::plan::{Answer, Client, Target};
use steadfast::bench::{BenchError, Population};
use steadfast::proto::Profile;
use tonic::Request;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

/// `etcdserverpb.PutRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`, of which nothing is read.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// An etcd.
#[derive(Clone, Debug)]
pub struct Etcd {
    addr: String,
    population: Population,
    value: Vec<u8>,
}

/// A connection to it.
pub struct Puts {
    etcd: Etcd,
    http2: Http2,
    origin: Uri,
}

impl Etcd {
    /// The one at `addr`, for values as large as a profile.
    pub fn new(addr: &str, population: &Population) -> Self {
        let profile = Profile { attributes: population.attributes(0), ..Profile::default() };
        Self { addr: addr.to_owned(), population: population.clone(), value: profile.encode_to_vec() }
    }
}

impl Target for Etcd {
    type Client = Puts;

    async fn connect(&self) -> Result<Puts, BenchError> {
        let http2 = Http2::connect(&self.addr).await?;
        Ok(Puts { etcd: self.clone(), http2, origin: origin(&self.addr)? })
    }
}

impl Client for Puts {
    fn operation(&self, _: u64) -> OperationName {
        "Put"
    }

    async fn call(&self, n: u64) -> Answer {
        let key = Population::user(self.etcd.population.pick(n)).into_bytes();
        let request = PutRequest { key, value: self.etcd.value.clone() };
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let mut grpc = Grpc::with_origin(self.http2.clone(), self.origin.clone());
        if let Err(error) = grpc.ready().await {
            return Answer { broken: true, ..Answer::one(Label::Bad(error.to_string().into())) };
        }
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        match grpc.unary(Request::new(request), path, codec).await {
            Ok(_) => Answer::one(Label::Good("PUT")),
            Err(status) => Answer::one(status_label(&status)),
        }
    }
}
