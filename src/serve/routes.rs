//! Which service a request is for.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::Service;

use crate::api::operator::Operators;
use crate::api::{Attributes, Reads, Writes};
use crate::config;
use crate::proto::attribute_service_server::AttributeServiceServer;
use crate::proto::operator_service_server::OperatorServiceServer;

/// The largest request of an operator: a list of positions.
const OPERATORS_MESSAGE: usize = 1 << 20;

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
fn reflection(routes: &mut RoutesBuilder) -> Result<(), tonic_reflection::server::Error> {
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

/// What the data listener serves: the data service, health and reflection.
pub fn data_routes<W: Writes, R: Reads>(
    attributes: Attributes<W, R>,
    settings: &config::Server,
    health: HealthServer<HealthService>,
) -> Result<Router<AttributeServiceServer<Attributes<W, R>>>, tonic_reflection::server::Error> {
    let limit = usize::try_from(settings.max_message.0).unwrap_or(usize::MAX);
    let server = AttributeServiceServer::new(attributes).max_decoding_message_size(limit);
    Ok(Router::new(server, common_routes(health)?))
}

/// What the operations listener serves besides plain HTTP: the operators' service, health and reflection.
pub fn operations_routes(
    operators: Operators,
    health: HealthServer<HealthService>,
) -> Result<Routes, tonic_reflection::server::Error> {
    let mut routes = Routes::builder();
    routes.add_service(OperatorServiceServer::new(operators).max_decoding_message_size(OPERATORS_MESSAGE));
    routes.add_service(health);
    reflection(&mut routes)?;
    Ok(routes.routes().prepare())
}

fn common_routes(health: HealthServer<HealthService>) -> Result<Routes, tonic_reflection::server::Error> {
    let mut routes = Routes::builder();
    routes.add_service(health);
    reflection(&mut routes)?;
    Ok(routes.routes().prepare())
}
