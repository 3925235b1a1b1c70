//! The commands against a server.

use clap::Parser;

use super::client::ClientCommand;
use super::connect::ServerArgs;
use super::exit::Exit;
use super::test_server::TestServer;
use super::{delete, export, get, get_write, identify};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: ClientCommand,
}

async fn run(server: &ServerArgs, line: &[&str]) -> Exit {
    let line = [&["steadfast"], line, &["--addr", server.addr.as_str()]].concat();
    let result = match Line::try_parse_from(line).unwrap().command {
        ClientCommand::Identify(args) => identify::run(&args).await,
        ClientCommand::Get(args) => get::run(&args).await,
        ClientCommand::Delete(args) => delete::run(&args).await,
        ClientCommand::Write(args) => get_write::run(&args).await,
        ClientCommand::Export(args) => export::run(&args).await,
        other => panic!("{other:?}"),
    };
    result.unwrap_or_else(|error| error.exit())
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_counts_once() {
    let server = TestServer::default();
    server.0.lock().unwrap().fail_writes = 2;
    let addr = server.clone().start().await;
    assert_eq!(run(&addr, &["identify", "acme", "u1", "plan=pro"]).await, Exit::Ok);
    {
        let state = server.0.lock().unwrap();
        assert_eq!(state.request_ids.len(), 3);
        assert!(state.request_ids.iter().all(|id| *id == state.request_ids[0] && id.len() == 32));
        assert_eq!(state.profiles[&("acme".to_owned(), "u1".to_owned())].version, 1);
    }
    server.0.lock().unwrap().fail_writes = 1;
    assert_eq!(run(&addr, &["identify", "acme", "u1", "plan=pro", "--no-retry"]).await, Exit::Unknown);
}

#[tokio::test]
async fn exit_codes_tell_what_happened() {
    let server = TestServer::default();
    let addr = server.clone().start().await;
    assert_eq!(run(&addr, &["get", "acme", "u1"]).await, Exit::NotFound);
    assert_eq!(run(&addr, &["identify", "acme", "u1", "plan=pro", "--json"]).await, Exit::Ok);
    assert_eq!(run(&addr, &["get", "acme", "u1", "--json", "--times"]).await, Exit::Ok);
    assert_eq!(run(&addr, &["delete", "acme", "u1"]).await, Exit::Ok);
    assert_eq!(run(&addr, &["write", "acme", "ab/7"]).await, Exit::TryAgain);
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = ServerArgs { addr: format!("http://{free}"), ..addr };
    assert_eq!(run(&nobody, &["identify", "acme", "u1", "plan=pro"]).await, Exit::TryAgain);
}

#[tokio::test]
async fn a_broken_export_goes_on_and_gets_its_name_when_it_is_whole() {
    let server = TestServer::default();
    let addr = server.clone().start().await;
    for user in ["u1", "u2", "u3", "u4"] {
        assert_eq!(run(&addr, &["identify", "acme", user, "n:=1"]).await, Exit::Ok);
    }
    server.0.lock().unwrap().break_after = vec![1, 0, 2];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    assert_eq!(run(&addr, &["export", "acme", path.to_str().unwrap()]).await, Exit::Ok);
    let text = std::fs::read_to_string(&path).unwrap();
    let users: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["user"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(users, ["u1", "u2", "u3", "u4"]);

    server.0.lock().unwrap().break_after = vec![1, 0, 0, 0, 0, 0];
    let path = dir.path().join("b.jsonl");
    assert_eq!(run(&addr, &["export", "acme", path.to_str().unwrap()]).await, Exit::TryAgain);
    assert!(!path.exists());
}
