//! Alerts and dashboards speak of metrics that a running server exports, and labels stay few.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use steadfast::cli::metrics::{ALERTS, DASHBOARD, named};
use steadfast::metrics::ALL;

use crate::support::*;

fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The labels and values of `{a="b",c="d"}`.
fn labels(line: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = line.split_once('{') else { return Vec::new() };
    let inside = rest.rsplit_once('}').unwrap().0;
    let pairs = inside.split("\",").filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once("=\"").unwrap();
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        })
        .collect()
}

#[tokio::test]
async fn what_alerts_and_dashboard_ask_for_is_exported() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    for n in 0..300 {
        let request = proto_of(&format!("tenant-{n}"), &format!("person-{n}"));
        applied(&mut client, request).await;
        get(&mut client, &format!("tenant-{n}"), &format!("person-{n}")).await.unwrap();
    }
    let wanted: BTreeSet<&str> = [ALERTS, DASHBOARD].into_iter().flat_map(named).collect();
    // What is read off now and then needs a moment.
    let until = Instant::now() + Duration::from_mins(1);
    let text = loop {
        let text = scrape(server.operations);
        let missing: Vec<_> =
            wanted.iter().filter(|name| !text.contains(&format!("# TYPE {name} "))).collect();
        if missing.is_empty() {
            break text;
        }
        assert!(Instant::now() < until, "not exported: {missing:?}");
    };

    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("steadfast_")) {
        let name = line.split(['{', ' ']).next().unwrap();
        let whole = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        assert!(ALL.contains(&name) || whole.is_some_and(|whole| ALL.contains(&whole)), "{name}");
        for (label, value) in labels(line) {
            values.entry(label).or_default().insert(value);
        }
    }
    for (label, values) in values {
        assert!(values.len() <= 64, "{label}: {values:?}");
        let private = values.iter().find(|value| value.contains("tenant-") || value.contains("person-"));
        assert_eq!(private, None, "{label}");
    }
}

fn proto_of(site: &str, user: &str) -> steadfast::proto::IdentifyRequest {
    steadfast::proto::IdentifyRequest { site: site.into(), ..set(user, [("plan", text("pro"))]) }
}
