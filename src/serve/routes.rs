//! Which service a request is for.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::service::{Routes, RoutesBuilder};
use tower::Service;

/// The data service, reached by one comparison, and all others behind tonic's router.
#[derive(Clone, Debug)]
pub struct Router<A> {
    attributes: A,
    others: Routes,
}

impl<A> Router<A> {
    /// `attributes` serves `steadfast.v1.AttributeService`.
    pub fn new(attributes: A, others: Routes) -> Self {
        Self { attributes, others: others.prepare() }
    }
}

impl<A> Service<Request<Incoming>> for Router<A>
where
    A: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible>,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Either<A::Future, <Routes as Service<Request<Incoming>>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // tonic's router is always ready.
        self.attributes.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        if request.uri().path().starts_with("/steadfast.v1.AttributeService/") {
            Either::Left(self.attributes.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

/// Adds server reflection, v1 and v1alpha (some clients know only one), with the types of error details, so
/// that clients can print them.
pub fn reflection(routes: &mut RoutesBuilder) -> Result<(), tonic_reflection::server::Error> {
    let sets = [
        crate::proto::DESCRIPTOR_SET,
        tonic_types::pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
    ];
    let builder = || {
        sets.into_iter().fold(
            tonic_reflection::server::Builder::configure(),
            tonic_reflection::server::Builder::register_encoded_file_descriptor_set,
        )
    };
    routes.add_service(builder().build_v1()?);
    routes.add_service(builder().build_v1alpha()?);
    Ok(())
}
