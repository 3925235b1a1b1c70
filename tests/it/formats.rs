//! Data directories of every format that was ever released are opened for ever after.
//!
//! `tests/data/v1` was made by [`make`] (`STEADFAST_MAKE_DATA=tests/data/v1 cargo test --test it formats`): files
//! without the zeros at their ends, and `expected.json` with how long each was and what a server must serve from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use steadfast::proto::{self, Wait, WriteState, attribute_change::Change};

use crate::agree::check_index;
use crate::clients::export;
use crate::orders::{Task, operator};
use crate::support::*;

/// What is written beside the files.
#[derive(Serialize, Deserialize)]
struct Manifest {
    /// How long each file was.
    lengths: BTreeMap<PathBuf, u64>,
    /// Of each site, its profiles: user, then version and attributes with their times.
    sites: BTreeMap<String, BTreeMap<String, String>>,
    /// Of each site, positions of entries that were refused.
    refused: BTreeMap<String, Vec<(String, u64)>>,
}

const SITES: [&str; 2] = ["alpha", "beta"];

fn home(dir: &Path) -> Home {
    Home::at(dir).set("journal.segment=1 MiB")
}

async fn sites(client: &mut Client) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut sites = BTreeMap::new();
    for site in SITES {
        let mut shown = BTreeMap::new();
        for user in export(client, site).await.into_keys() {
            // With the times of creation and of each attribute.
            let profile = get(client, site, &user).await.unwrap();
            shown.insert(user, format!("{profile:?}"));
        }
        sites.insert(site.to_owned(), shown);
    }
    sites
}

/// Some of everything that a data directory can hold: types, deletes, refused entries, request ids, in a snapshot and
/// in the journal after it.
async fn write(client: &mut Client, part: usize) -> Vec<(String, String, u64)> {
    let mut refused = Vec::new();
    for site in SITES {
        for n in 0..12 {
            let user = format!("user-{part}-{n}");
            let written = set(
                &user,
                [
                    ("text", text(format!("t\u{e9}xt {n}"))),
                    ("number", number(f64::from(n) / 7.0)),
                    ("truth", truth(n % 2 == 0)),
                    ("time", time(1_600_000_000 + i64::from(n), 5)),
                    ("list", list(&["a", "b", user.as_str()])),
                ],
            );
            let request = proto::IdentifyRequest {
                site: site.into(),
                request_id: format!("{site}-{part}-{n}"),
                occurred_at: Some(timestamp(1_700_000_000, n)),
                ..written
            };
            applied(client, request).await;
            let counted = proto::IdentifyRequest { site: site.into(), ..add(&user, "visits", 1.5) };
            applied(client, counted).await;
        }
        let erased = proto::DeleteProfileRequest { site: site.into(), ..delete(&format!("user-{part}-3")) };
        client.delete_profile(erased).await.unwrap();
        let forgotten = change(&format!("user-{part}-4"), "text", Change::Unset(()));
        applied(client, proto::IdentifyRequest { site: site.into(), ..forgotten }).await;
        // More than a list can have: kept, and refused when its turn comes.
        let items: Vec<String> = (0..60).map(|item| item.to_string()).collect();
        for attempt in 0..2 {
            let append = Change::Append(proto::StringList { values: items.clone() });
            let request = proto::IdentifyRequest {
                site: site.into(),
                wait: Wait::Journaled.into(),
                ..change(&format!("user-{part}-5"), "long", append)
            };
            let position = identify(client, request).await.unwrap().position.unwrap();
            if attempt == 1 {
                refused.push((site.to_owned(), position.node, position.number));
            }
        }
        // Behind it in the order of its user: when this is applied, so is that.
        let last =
            proto::IdentifyRequest { site: site.into(), ..add(&format!("user-{part}-5"), "visits", 1.0) };
        applied(client, last).await;
    }
    refused
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

async fn make(to: &Path) {
    let temporary = tempfile::tempdir().unwrap();
    let home = home(temporary.path());
    let server = home.start();
    let mut client = server.client().await;
    let mut refused = write(&mut client, 0).await;
    // Until one carries along what waits.
    let mut operator = operator(&server).await;
    for attempt in 0.. {
        let add = proto::IdentifyRequest {
            site: SITES[0].into(),
            wait: Wait::Journaled.into(),
            ..add("waiting", "visits", 1.0)
        };
        let requests = vec![add; 1000];
        client.identify_many(proto::IdentifyManyRequest { requests }).await.unwrap();
        Task::Snapshot.complete(&mut operator).await;
        let said = server.said();
        if said.lines().any(|line| line.contains("the snapshot is complete") && !line.contains("carried=0")) {
            break;
        }
        assert!(attempt < 50, "nothing ever waits: {said}");
    }
    crate::clients::applied_all(&mut client, SITES[0], "waiting").await;
    refused.extend(write(&mut client, 1).await);
    let mut manifest =
        Manifest { lengths: BTreeMap::new(), sites: sites(&mut client).await, refused: BTreeMap::new() };
    for (site, node, number) in refused {
        manifest.refused.entry(site).or_default().push((node, number));
    }
    server.stop();
    let mut found = Vec::new();
    files(home.dir(), &mut found);
    for path in found {
        let name = path.strip_prefix(home.dir()).unwrap().to_owned();
        // Segments to be: they hold nothing.
        if name.file_name().unwrap().to_str().unwrap().starts_with("spare-") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let target = to.join("data").join(&name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, &bytes[..used]).unwrap();
        manifest.lengths.insert(name, bytes.len() as u64);
    }
    fs::write(to.join("expected.json"), serde_json::to_string_pretty(&manifest).unwrap() + "\n").unwrap();
}

/// The directory as it was, but for `without`.
fn take_out(from: &Path, manifest: &Manifest, without: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, length) in &manifest.lengths {
        if name.starts_with(without) {
            continue;
        }
        let target = dir.path().join(name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join("data").join(name), &target).unwrap();
        fs::OpenOptions::new().write(true).open(&target).unwrap().set_len(*length).unwrap();
    }
    dir
}

#[tokio::test]
async fn every_released_format_is_opened() {
    if let Some(to) = std::env::var_os("STEADFAST_MAKE_DATA") {
        make(Path::new(&to)).await;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for version in ["v1"] {
        let from = root.join(version);
        let expected = fs::read_to_string(from.join("expected.json")).unwrap();
        let expected: Manifest = serde_json::from_str(&expected).unwrap();
        // With its store, and from snapshot and journal alone.
        for without in ["none", "store"] {
            let dir = take_out(&from, &expected, without);
            let home = home(dir.path());
            let server = home.start();
            let mut client = server.client().await;
            for site in SITES {
                // Takes its turn behind all that waits.
                crate::clients::applied_all(&mut client, site, "user-1-5").await;
            }
            assert_eq!(sites(&mut client).await, expected.sites, "{version} without {without}");
            for (site, positions) in &expected.refused {
                for (node, number) in positions {
                    let position = proto::Position { node: node.clone(), number: *number };
                    let request = proto::GetWriteRequest { site: site.clone(), position: Some(position) };
                    let told = client.get_write(request).await.unwrap().into_inner();
                    assert_eq!(told.state(), WriteState::Refused, "{site} {number}");
                }
            }
            // It goes on, and is a directory of today afterwards.
            for site in SITES {
                let request = proto::IdentifyRequest { site: site.into(), ..add("user-0-1", "visits", 1.0) };
                assert_eq!(applied(&mut client, request).await.version, Some(3));
            }
            server.stop();
            check_index(&home).await;
            let server = home.start();
            let visits = get(&mut server.client().await, SITES[0], "user-0-1").await.unwrap();
            assert_eq!(visits.attributes["visits"], number(2.5));
            server.stop();
        }
    }
}
