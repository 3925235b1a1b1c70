//! Input that no client of ours would send.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use steadfast::proto;
use tonic::{Code, Status};

use crate::support::*;

const METHODS: [&str; 14] = [
    "Identify",
    "IdentifyMany",
    "IdentifyStream",
    "GetProfile",
    "BatchGetProfiles",
    "DeleteProfile",
    "GetWrite",
    "QueryProfiles",
    "CountProfiles",
    "ExplainQuery",
    "MatchProfile",
    "ListAttributes",
    "ExportProfiles",
    "ImportProfiles",
];

/// A connection below gRPC.
struct Raw(SendRequest<Full<Bytes>>);

impl Raw {
    async fn connect(server: &Server) -> Self {
        let stream = tokio::net::TcpStream::connect(server.data).await.unwrap();
        let (send, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    /// The status of a call with this body, whatever that is; or why there was none.
    async fn call(&mut self, path: &str, body: Vec<u8>, more: &[(&str, &str)]) -> Result<Status, String> {
        let mut request = Request::post(format!("http://steadfast{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        self.0.ready().await.map_err(|error| error.to_string())?;
        let response = self.0.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(head.status.to_string());
        }
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_else(HeaderMap::new);
        Status::from_header_map(&head.headers)
            .or_else(|| Status::from_header_map(&trailers))
            .ok_or_else(|| "no status".to_owned())
    }
}

/// A message as gRPC sends it.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

fn path(method: &str) -> String {
    format!("/steadfast.v1.AttributeService/{method}")
}

#[tokio::test]
async fn random_bytes_are_refused_and_harm_nothing() {
    let home = Home::new();
    let server = home.start();
    let mut raw = Raw::connect(&server).await;
    let mut numbers = Numbers(2020);
    let sound = set("u", [("plan", text("pro")), ("tags", list(&["a"]))]).encode_to_vec();
    for round in 0..80 {
        for method in METHODS {
            // Noise, and a message of ours with some bytes changed.
            let message: Vec<u8> = if round % 2 == 0 {
                (0..numbers.below(60)).map(|_| numbers.next() as u8).collect()
            } else {
                let mut message = sound.clone();
                for _ in 0..=numbers.below(3) {
                    let at = numbers.below(message.len() as u64) as usize;
                    message[at] = numbers.next() as u8;
                }
                message
            };
            let status = raw.call(&path(method), framed(&message), &[]).await.unwrap();
            let expected = match status.code() {
                Code::Ok | Code::NotFound => true,
                Code::InvalidArgument | Code::Unimplemented => !reason(&status).is_empty(),
                _ => false,
            };
            assert!(expected, "{method} {message:?}: {status:?}");
        }
    }
    let mut client = server.client().await;
    applied(&mut client, set("sound", [("other", text("pro"))])).await;
}

#[tokio::test]
async fn broken_frames_and_text_are_malformed() {
    let home = Home::new();
    let server = home.start();
    let mut raw = Raw::connect(&server).await;
    let message = set("user", [("plan", text("pro"))]).encode_to_vec();
    let at = message.windows(4).position(|bytes| bytes == b"user").unwrap();
    let mut not_utf8 = message.clone();
    not_utf8[at] = 0xff;
    let mut too_short = framed(&message);
    too_short.truncate(20);
    let mut compressed = framed(&message);
    compressed[0] = 1;
    let mut odd_flag = framed(&message);
    odd_flag[0] = 9;
    for body in [framed(&not_utf8), too_short, compressed, odd_flag, vec![0; 3], Vec::new()] {
        let status = raw.call(&path("Identify"), body.clone(), &[]).await.unwrap();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "MALFORMED"),
            "{body:?}"
        );
        assert_eq!(info(&status).1["kept"], "no");
    }
    for path in ["/steadfast.v1.AttributeService/Guess", "/other.Service/Method", "/", "/x"] {
        let status = raw.call(path, framed(&message), &[]).await.unwrap();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unimplemented, "NOT_SUPPORTED"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn messages_and_headers_are_bounded() {
    const MESSAGE: usize = 4 << 20;
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let mut request = proto::IdentifyManyRequest { requests: vec![set("u", [("plan", text("x"))])] };
    request.requests[0].user = "u".repeat(MESSAGE - request.encoded_len() - 100);
    let within = client.identify_many(request.clone()).await.unwrap_err();
    assert_refused(&within, Code::InvalidArgument, "LIMIT_EXCEEDED", "requests[0].user");
    request.requests[0].user = "u".repeat(MESSAGE);
    let over = client.identify_many(request).await.unwrap_err();
    assert_refused(&over, Code::ResourceExhausted, "MESSAGE_TOO_LARGE", "");

    let mut raw = Raw::connect(&server).await;
    let mut huge = framed(b"x");
    huge[1] = 0xff;
    let status = raw.call(&path("Identify"), huge, &[]).await.unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));

    let value = "v".repeat(40_000);
    let message = set("u", [("plan", text("pro"))]).encode_to_vec();
    raw.call(&path("Identify"), framed(&message), &[("x-big", &value)]).await.unwrap_err();
    assert_eq!(get(&mut client, SITE, "u").await, None);
    let mut raw = Raw::connect(&server).await;
    let status = raw.call(&path("Identify"), framed(&message), &[("x-small", &value[..1000])]).await.unwrap();
    assert_eq!(status.code(), Code::Ok);
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_told_as_such() {
    let home = Home::new();
    let server = home.start();
    // Below gRPC: a client of gRPC would keep the time itself, and not hear the server.
    let mut raw = Raw::connect(&server).await;
    let message = framed(&set("u", [("plan", text("pro"))]).encode_to_vec());
    for timeout in ["0n", "1n", "1u"] {
        let status =
            raw.call(&path("Identify"), message.clone(), &[("grpc-timeout", timeout)]).await.unwrap();
        assert_refused(&status, Code::DeadlineExceeded, "NOT_ACCEPTED", "");
    }
    for timeout in ["soon", "", "1", "-1S", "123456789S"] {
        let status =
            raw.call(&path("Identify"), message.clone(), &[("grpc-timeout", timeout)]).await.unwrap();
        assert_refused(&status, Code::InvalidArgument, "INVALID_FIELD", "grpc-timeout");
    }
    let mut client = server.client().await;
    assert_eq!(get(&mut client, SITE, "u").await, None);
    let status = raw.call(&path("Identify"), message, &[("grpc-timeout", "99999999H")]).await.unwrap();
    assert_eq!(status.code(), Code::Ok);
}
