//! What both listeners offer besides the service.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::*;

fn http(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

async fn ask(address: SocketAddr, request: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(channel(address).await);
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
}

#[tokio::test]
async fn health_and_reflection_on_both() {
    let home = Home::new();
    let server = home.start();
    for address in [server.data, server.operations] {
        let mut health = HealthClient::new(channel(address).await);
        for service in ["", "steadfast.v1.AttributeService"] {
            let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
        }
        let listed = ask(address, MessageRequest::ListServices(String::new())).await;
        let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
        let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
        for symbol in ["steadfast.v1.AttributeService", "google.rpc.ErrorInfo", "google.rpc.BadRequest"] {
            let found = ask(address, MessageRequest::FileContainingSymbol(symbol.into())).await;
            assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {found:?}");
        }
    }
}

#[tokio::test]
async fn monitoring_is_answered() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    applied(&mut client, set("u", [("plan", text("pro"))])).await;
    for path in ["/healthz", "/readyz"] {
        let answer = http(server.operations, path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let metrics = http(server.operations, "/metrics");
    for part in [
        "# HELP steadfast_calls_total",
        "steadfast_journal_entries_total 1",
        "steadfast_entries_applied_total{end=\"applied\"} 1",
    ] {
        assert!(metrics.contains(part), "{part} is not in {metrics}");
    }
    assert!(http(server.operations, "/guess").starts_with("HTTP/1.1 404"));
}
