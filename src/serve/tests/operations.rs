//! The operations listener, health and reflection.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

/// Status line and body of a plain HTTP/1 request.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn monitoring_is_answered_in_plain_http() {
    let server = server(by_name(), |_| {}).await;
    server.client().await.identify(identify("u1")).await.unwrap();
    let metrics = get(server.operations, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("steadfast_calls_total{method=\"Identify\",code=\"OK\"}"), "{metrics}");
    assert!(get(server.operations, "/healthz").await.ends_with("{\"status\":\"ok\"}\n"));
    let ready = get(server.operations, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("starting"), "{ready}");
    server.health.accept().await;
    assert!(get(server.operations, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(server.operations, "/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn health_is_told_per_service_on_both_listeners() {
    let server = server(by_name(), |_| {}).await;
    for address in [server.data, server.operations] {
        server.health.refuse("the journal has failed").await;
        let mut client = HealthClient::new(channel(address).await);
        let mut ask = async |service: &str| {
            let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
            client.check(request).await.unwrap().into_inner().status()
        };
        assert_eq!(ask("").await, ServingStatus::Serving);
        assert_eq!(ask("steadfast.v1.AttributeService").await, ServingStatus::NotServing);
        server.health.accept().await;
        assert_eq!(ask("steadfast.v1.AttributeService").await, ServingStatus::Serving);
    }
}

#[tokio::test]
async fn reflection_knows_services_and_error_details() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let server = server(by_name(), |_| {}).await;
    for address in [server.data, server.operations] {
        let mut client = ServerReflectionClient::new(channel(address).await);
        let asked = [
            MessageRequest::ListServices(String::new()),
            MessageRequest::FileContainingSymbol("google.rpc.ErrorInfo".into()),
            MessageRequest::FileContainingSymbol("steadfast.v1.AttributeService".into()),
        ];
        let asked =
            asked.map(|asked| ServerReflectionRequest { host: String::new(), message_request: Some(asked) });
        let mut answers =
            client.server_reflection_info(tokio_stream::iter(asked)).await.unwrap().into_inner();
        let mut answer = async || answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(listed) = answer().await else { panic!("no list") };
        let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&"steadfast.v1.AttributeService"), "{names:?}");
        assert!(matches!(answer().await, MessageResponse::FileDescriptorResponse(_)));
        assert!(matches!(answer().await, MessageResponse::FileDescriptorResponse(_)));
    }
}

#[tokio::test]
async fn a_watcher_of_health_does_not_hold_up_a_drain() {
    let mut server = server(by_name(), |_| {}).await;
    let mut client = HealthClient::new(channel(server.data).await);
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let mut watched = client.watch(request).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    server.drain().await.unwrap();
    watched.message().await.unwrap_err();
}
