//! Who may know whom: the layers of `src/`, read off its paths.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Our own modules, and which of them each may name. Those that are not listed may name everything: `app`
/// composes, and `cli` runs what `app` has composed.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &["model"]),
    ("metrics", &[]),
    ("meter", &[]),
    ("proto", &[]),
    ("config", &[]),
    ("breaker", &["metrics"]),
    ("kill_switch", &["model", "metrics", "fs"]),
    ("fs", &[]),
    ("journal", &["model", "clock", "meter", "metrics", "fs"]),
    ("store", &["model", "clock", "metrics", "meter"]),
    // The commands speak of what stores and journals hold.
    ("command", &["model", "store", "kill_switch"]),
    ("ledger", &["model"]),
    // Incidents are told of by all, look at lanes, and are reported in the words of the API.
    ("incident", &["model", "command", "sites", "ledger", "breaker", "fs", "clock", "metrics", "proto"]),
    // A site's lane holds entries on their way, and its registry is what the store knows.
    ("sites", &["model", "command", "store", "accept", "kill_switch"]),
    // Reads look at lanes, and read entries back from the journal.
    ("read", &["model", "command", "sites", "store", "journal", "accept", "metrics"]),
    ("accept", &["model", "command", "sites", "store", "journal", "read", "clock", "metrics", "ledger"]),
    (
        "applier",
        &[
            "model",
            "command",
            "sites",
            "store",
            "journal",
            "read",
            "accept",
            "snapshot",
            "clock",
            "metrics",
            "ledger",
            "breaker",
            "kill_switch",
        ],
    ),
    // A new store is made by the rules of the applier.
    (
        "rebuild",
        &[
            "model", "command", "sites", "store", "journal", "snapshot", "read", "accept", "applier",
            "clock", "metrics", "incident",
        ],
    ),
    (
        "api",
        &[
            "model",
            "command",
            "proto",
            "clock",
            "metrics",
            "meter",
            "kill_switch",
            "store",
            "incident",
            "ledger",
            "breaker",
        ],
    ),
    // What the breaker means to this store, its applier and its operators.
    ("guard", &["model", "command", "breaker", "store", "applier", "clock", "metrics"]),
    ("serve", &["api", "command", "config", "metrics", "proto"]),
    // A snapshot holds records, and the request ids that acceptance knows as done.
    ("snapshot", &["model", "store", "journal", "fs", "accept", "sites", "command", "clock", "metrics"]),
    // A client, and servers to compare with: neither knows how ours works.
    ("bench", &["proto", "metrics", "journal", "clock", "model", "config"]),
];

/// Libraries that only some modules may name: files or folders under `src/`.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("sled", &["store/sled"]),
    // `api` decides on every status; `serve` carries calls and turns what the transport says into ours; `proto`
    // is generated; `app` may fail to build the reflection service; `bench` and `cli` are clients.
    ("tonic", &["api", "serve", "proto.rs", "bench", "cli", "drill"]),
    ("tonic_types", &["api", "serve", "proto.rs", "bench", "cli", "drill"]),
    ("hyper", &["serve", "bench"]),
    ("hyper_util", &["serve", "bench"]),
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The sources by their path under `src/`, without comments, strings that look like paths, and tests.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    let mut sources = BTreeMap::new();
    for path in found {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let is_test = name.contains("/tests")
            || ["conformance.rs", "oracle.rs", "properties.rs"].iter().any(|end| name.ends_with(end));
        if is_test {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().map(|line| line.split("//").next().unwrap());
        sources.insert(name, lines.collect::<Vec<_>>().join("\n"));
    }
    assert!(sources.len() > 50);
    sources
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The names that follow `prefix` in `code`, where `prefix` begins a path; of `prefix{a, b::c}` both.
fn named<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0;
                let mut begins = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        c if begins && !c.is_whitespace() => {
                            names.push(word(&group[at..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
            None => names.push(word(rest)),
        }
    }
    names
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
}

#[test]
fn modules_name_only_the_layers_below() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let own = module(&file);
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == own) else { continue };
        for name in named(&code, "crate::") {
            if name != own && !allowed.contains(&name) {
                wrong.push(format!("src/{file} names crate::{name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_edges_name_the_composition_root() {
    for (file, code) in sources() {
        let edge = ["app", "main", "lib", "cli", "drill"].contains(&module(&file));
        assert!(edge || !named(&code, "crate::").contains(&"app"), "src/{file} names crate::app");
    }
}

#[test]
fn libraries_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        for (library, places) in ONLY_IN {
            let allowed = places.iter().any(|place| file == *place || file.starts_with(&format!("{place}/")));
            if !allowed && !named(&code, &format!("{library}::")).is_empty() {
                wrong.push(format!("src/{file} names {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_path_is_read_as_the_compiler_reads_it() {
    let code = "use crate::model::{Site, User};\nuse crate::{clock, store::{Store, sled}};\nlet x = crate::read::Read; supercrate::no";
    assert_eq!(named(code, "crate::"), ["model", "clock", "store", "read"]);
}
