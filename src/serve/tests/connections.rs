//! Connections: how many, how long, and how they end.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// What the server sends until it closes.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset instead of an orderly end is an end too.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

/// Reads until the server says goodbye.
async fn until_goaway(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    while !contains(&bytes, GOAWAY) {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed without goodbye");
    }
}

/// HTTP/2's preface and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The head of a GOAWAY frame, behind its length.
const GOAWAY: &[u8] = &[7, 0, 0, 0, 0, 0];

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = server(by_name(), |settings| settings.max_connections = 1).await;
    let mut first = server.client().await;
    first.identify(identify("u1")).await.unwrap();
    let mut second = TcpStream::connect(server.data).await.unwrap();
    let told = until_closed(&mut second).await;
    assert!(contains(&told, b"too many connections"), "{told:?}");
    assert!(contains(&told, GOAWAY));
    first.identify(identify("u1")).await.unwrap();
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let server = server(by_name(), |settings| settings.handshake_timeout = millis(20)).await;
    let mut silent = TcpStream::connect(server.data).await.unwrap();
    assert_eq!(until_closed(&mut silent).await, b"");
}

#[tokio::test]
async fn an_idle_connection_is_asked_to_go() {
    let server = server(by_name(), |settings| settings.idle_timeout = millis(20)).await;
    let mut idle = TcpStream::connect(server.data).await.unwrap();
    idle.write_all(HELLO).await.unwrap();
    assert!(contains(&until_closed(&mut idle).await, GOAWAY));
}

#[tokio::test]
async fn an_old_connection_lets_its_calls_finish() {
    let (script, mut gates) = gated();
    let server = server(script, |settings| settings.max_age = millis(50)).await;
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.identify(identify("u1")).await });
    let gate = gates.recv().await.unwrap();
    // Another one that shows when the age has come.
    let mut witness = TcpStream::connect(server.data).await.unwrap();
    witness.write_all(HELLO).await.unwrap();
    until_goaway(&mut witness).await;
    gate.send(()).unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight() {
    let (script, mut gates) = gated();
    let mut server = server(script, |_| {}).await;
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.identify(identify("u1")).await });
    let gate = gates.recv().await.unwrap();
    let mut witness = TcpStream::connect(server.data).await.unwrap();
    witness.write_all(HELLO).await.unwrap();
    let mut first = [0; 9];
    witness.read_exact(&mut first).await.unwrap();
    let drained = server.drain();
    until_goaway(&mut witness).await;
    gate.send(()).unwrap();
    call.await.unwrap().unwrap();
    drained.await.unwrap();
    TcpStream::connect(server.data).await.unwrap_err();
    TcpStream::connect(server.operations).await.unwrap_err();
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let (script, mut gates) = gated();
    let mut server = server(script, |settings| settings.drain_timeout = millis(50)).await;
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.identify(identify("u1")).await });
    let _gate = gates.recv().await.unwrap();
    server.drain().await.unwrap();
    call.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_second_process_is_told_so() {
    let server = server(by_name(), |_| {}).await;
    let mut settings = Config::ephemeral("unused").server;
    settings.listen = server.data;
    let error = Listeners::bind(&settings).unwrap_err().to_string();
    assert!(error.contains("is another steadfast running?"), "{error}");
}

#[test]
fn operations_stay_on_this_machine_unless_said_otherwise() {
    let mut settings = Config::ephemeral("unused").server;
    settings.operations_listen = SocketAddr::from(([0, 0, 0, 0], 0));
    assert!(matches!(Listeners::bind(&settings), Err(ServeError::Insecure(_))));
    settings.insecure_operations = true;
    Listeners::bind(&settings).unwrap();
}
