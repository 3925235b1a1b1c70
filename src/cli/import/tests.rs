use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use proptest::prelude::*;
use tempfile::TempDir;

use super::row::{BadRow, Row};
use super::*;
use crate::cli::connect::ServerArgs;
use crate::cli::test_server::TestServer;
use crate::cli::values::tests::{any_time, any_value};
use crate::proto::value::Kind;
use crate::proto::{ImportRecord, Profile, Value};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ImportArgs,
}

fn parse(server: Option<&ServerArgs>, file: &Path, options: &[&str]) -> ImportArgs {
    let addr = server.map_or("http://127.0.0.1:1", |server| server.addr.as_str());
    let mut line = vec!["steadfast", "acme", file.to_str().unwrap(), "--addr", addr, "--yes"];
    line.extend(options);
    Line::try_parse_from(line).unwrap().args
}

/// A file with this content.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    (dir, path)
}

fn surveyed(name: &str, content: impl AsRef<[u8]>, options: &[&str]) -> Result<Survey, CliError> {
    let (_dir, path) = file(name, content);
    let args = parse(None, &path, options);
    survey(&Source::open(&path)?, &args.layout(), &args.wishes()?, None)
}

fn read(name: &str, content: impl AsRef<[u8]>, options: &[&str]) -> Vec<Result<Row, BadRow>> {
    let (_dir, path) = file(name, content);
    let args = parse(None, &path, options);
    let mut rows = Rows::open(&Source::open(&path).unwrap(), &args.layout()).unwrap();
    std::iter::from_fn(|| rows.next_row().unwrap()).collect()
}

fn bad(rows: &[Result<Row, BadRow>]) -> Vec<(u64, &str)> {
    rows.iter().filter_map(|row| row.as_ref().err()).map(|bad| (bad.line, bad.reason.as_str())).collect()
}

const ID: [&str; 2] = ["--user-column", "id"];

#[test]
fn csv_is_read_with_line_numbers() {
    let content =
        b"\xef\xbb\xbfid,note,n\r\nu1,\"two\nlines, \"\"q\"\"\",1\r\n\r\nu2,x\r\nu3,\xff,2\r\n,x,3\nu5,,\n";
    let rows = read("a.csv", content, &ID);
    let good: Vec<_> = rows.iter().flatten().collect();
    assert_eq!(
        good.iter().map(|row| (row.line, row.user.as_str())).collect::<Vec<_>>(),
        [(2, "u1"), (8, "u5")]
    );
    assert_eq!(good[0].cells[0].1, row::Cell::Text("two\nlines, \"q\"".to_owned()));
    assert!(good[1].cells.is_empty());
    assert_eq!(
        bad(&rows),
        [(5, "2 fields, but the header has 3"), (6, "not UTF-8"), (7, "the user is empty")]
    );
}

#[test]
fn headers_that_cannot_be_told_apart_are_refused_unless_left_out() {
    let content = "id,a,a,\nu1,1,2,3\n";
    let error = surveyed("a.csv", content, &ID).err().unwrap();
    assert!(error.to_string().contains("columns 2 and 3 are both called \"a\""), "{error}");
    assert_eq!(error.exit(), Exit::Refused);
    let (_dir, path) = file("b.csv", "id,a,,\nu1,1,2,3\n");
    let args = parse(None, &path, &["--user-column", "id", "--columns", "a"]);
    let source = Source::open(&path).unwrap();
    assert!(survey(&source, &args.layout(), &args.wishes().unwrap(), None).is_ok());
    let error = surveyed("a.csv", content, &[]).err().unwrap();
    assert_eq!((error.exit(), error.to_string().contains("\"id\"")), (Exit::Usage, true));
}

#[test]
fn a_quote_that_is_never_closed_does_not_swallow_the_file() {
    let mut content = "id,a\nu1,\"x\n".to_owned();
    content.push_str(&"u2,y\n".repeat(1_000_000));
    let error = surveyed("a.csv", content, &ID).err().unwrap();
    assert!(error.to_string().contains("line 2: a row longer than"), "{error}");
    let rows = read("a.csv", "id,a\nu1,x\nu2,\"y\nu3,z\n", &ID);
    assert_eq!(bad(&rows), [(3, "a quote is opened and never closed")]);
    assert!(bad(&read("a.csv", "id,a\nu2,5\" disk", &ID)).is_empty());
}

#[test]
fn json_lines_are_read_with_line_numbers() {
    let content = "\u{feff}{\"id\":\"u1\",\"n\":1,\"x\":null}\n\n{\"id\":7,\"n\":1.5}\n{\"id\":\"u3\",\"n\":1,\"n\":2}\n[]\n\
                   {\"n\":1}\n{\"id\":\"u5\"";
    let rows = read("a.jsonl", content, &ID);
    let users: Vec<_> = rows.iter().flatten().map(|row| (row.line, row.user.as_str())).collect();
    assert_eq!(users, [(1, "u1"), (3, "7")]);
    let lines: Vec<_> = bad(&rows).iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [4, 5, 6, 7]);
    assert!(bad(&rows)[0].1.contains("\"n\" is given twice"));
    let rows = read("a.jsonl", b"{\"id\":\"\xff\"}\n{\"user\":\"u\",\"attributes\":{},\"plan\":1}\n", &[]);
    assert_eq!(bad(&rows)[0], (1, "not UTF-8"));
    assert!(bad(&rows)[1].1.contains("--user-column"), "{rows:?}");
}

#[test]
fn the_plan_shows_columns_types_and_examples() {
    let content = "id,plan,seats,zip,up,none\nu1,pro,12,02139,2020-04-10,\nu2,,3,10001,2020-04-11,\n";
    let survey = surveyed("a.csv", content, &["--user-column", "id", "--rename", "plan=tier"]).unwrap();
    assert_eq!(
        survey.plan.json().to_string(),
        r#"[{"column":"plan","attribute":"tier","type":"string","empty":1,"examples":["pro"]},"#.to_owned()
            + r#"{"column":"seats","attribute":"seats","type":"number","empty":0,"examples":["12","3"]},"#
            + r#"{"column":"zip","attribute":"zip","type":"string","empty":0,"examples":["02139","10001"]},"#
            + r#"{"column":"up","attribute":"up","type":"time","empty":0,"examples":["2020-04-10","2020-04-11"]},"#
            + r#"{"column":"none","attribute":"none","type":null,"empty":2,"examples":[]}]"#
    );
}

#[test]
fn what_cannot_work_is_said_before_anything_is_written() {
    let say = |content: &str, options: &[&str]| {
        let mut all = ID.to_vec();
        all.extend(options);
        surveyed("a.csv", content, &all).map(|survey| survey.bad).map_err(|error| error.to_string())
    };
    let long = "x".repeat(51);
    let error = say(&format!("id,{long}\nu1,1\n"), &[]).unwrap_err();
    assert!(error.contains("--rename") && error.contains("51"), "{error}");
    assert_eq!(say(&format!("id,{long}\nu1,1\n"), &["--rename", &format!("{long}=x")]), Ok(0));
    let wide: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
    let error = say(&format!("id,{}\nu1{}\n", wide.join(","), ",1".repeat(101)), &[]).unwrap_err();
    assert!(error.contains("101 columns"), "{error}");
    assert!(say("id,a\nu1,1\n", &["--type", "b=string"]).unwrap_err().contains("no column \"b\""));
    assert!(say("id,a,b\nu1,1,1\n", &["--rename", "b=a"]).unwrap_err().contains("both be attribute"));
    assert_eq!(say("id,a\nu1,x\nu2,1\n", &["--type", "a=number"]), Ok(1));
    let mixed =
        surveyed("a.jsonl", "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":\"x\"}\n", &ID).err().unwrap();
    assert!(mixed.to_string().contains("--type"), "{mixed}");
}

#[test]
fn the_sites_types_decide_and_are_never_forced() {
    let (_dir, path) = file("a.csv", "id,zip,n\nu1,10001,x\n");
    let args = parse(None, &path, &ID);
    let source = Source::open(&path).unwrap();
    let known = |kinds: &[(&str, ValueType)]| {
        let site = kinds.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        survey(&source, &args.layout(), &args.wishes().unwrap(), Some(&site)).map(|survey| survey.plan.json())
    };
    let plan = known(&[("zip", ValueType::String)]).unwrap();
    assert_eq!(plan[0]["type"], "string");
    let error = known(&[("n", ValueType::Number)]).unwrap_err().to_string();
    assert!(error.contains("line 2: x") && error.contains("--type"), "{error}");
}

/// The records that a file becomes.
fn records(path: &Path, options: &[&str]) -> Vec<ImportRecord> {
    let args = parse(None, path, options);
    let source = Source::open(path).unwrap();
    let survey = survey(&source, &args.layout(), &args.wishes().unwrap(), None).unwrap();
    let mut rows = Rows::open(&source, &args.layout()).unwrap();
    let rows = std::iter::from_fn(|| rows.next_row().unwrap());
    rows.map(|row| survey.plan.record(row.unwrap(), Timestamp::default()).unwrap()).collect()
}

fn imported(profile: &Profile) -> ImportRecord {
    let (_dir, path) = file("a.jsonl", format!("{}\n", output::profile_json(profile).unwrap()));
    records(&path, &[]).remove(0)
}

proptest! {
    #[test]
    fn what_is_exported_is_imported(
        user in "[^\\x00]{1,20}",
        attributes in proptest::collection::btree_map(".{1,20}", (any_value(), any_time()), 0..6),
    ) {
        let profile = Profile {
            site: "acme".into(),
            user,
            occurred_at: attributes.iter().map(|(name, (_, time))| (name.clone(), *time)).collect(),
            attributes: attributes.into_iter().map(|(name, (value, _))| (name, value)).collect(),
            version: 7,
            created_at: Some(Timestamp::default()),
            ..Profile::default()
        };
        let record = imported(&profile);
        prop_assert_eq!(record.user, profile.user);
        prop_assert_eq!(record.attributes, profile.attributes);
        prop_assert_eq!(record.attribute_occurred_at, profile.occurred_at);
    }

    #[test]
    fn no_bytes_make_it_panic(content in proptest::collection::vec(any::<u8>(), 0..200), near in "[\",\\n{}:a1\\[\\]]{0,60}") {
        for content in [content, near.into_bytes()] {
            let csv = [b"id,a\n".as_slice(), &content].concat();
            let _ = (surveyed("a.csv", &csv, &ID), surveyed("a.jsonl", &content, &ID), surveyed("a.jsonl", &content, &[]));
        }
    }
}

fn text(profile: &Profile, name: &str) -> Option<String> {
    match profile.attributes.get(name)? {
        Value { kind: Some(Kind::StringValue(text)) } => Some(text.clone()),
        _ => None,
    }
}

/// Three batches of rows: users 0 to 1199, row number as `n`.
fn three_batches() -> String {
    let mut content = "id,n\n".to_owned();
    for row in 0..1200 {
        writeln!(content, "u{row},x{row}").unwrap();
    }
    content
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_was() {
    let server = TestServer::default();
    server.0.lock().unwrap().break_after = vec![1, 0, 1];
    let args = server.clone().start().await;
    let (_dir, path) = file("a.csv", three_batches());
    let args = parse(Some(&args), &path, &ID);
    assert_eq!(run(&args).await.unwrap(), Exit::Ok);
    let state = server.0.lock().unwrap();
    assert_eq!(state.profiles.len(), 1200);
    assert!(state.received.len() > 1200, "some were sent again");
    for profile in state.profiles.values() {
        let expected = profile.user.replace('u', "x");
        assert_eq!((text(profile, "n"), profile.version), (Some(expected), 1));
    }
    assert!(!ResumeFile::beside(&path).path().exists());
}

#[tokio::test]
async fn an_interrupted_import_is_resumed_with_the_same_times() {
    let server = TestServer::default();
    server.0.lock().unwrap().break_after = vec![1, 0, 0, 0, 0, 0];
    let addr = server.clone().start().await;
    let (_dir, path) = file("a.csv", three_batches());
    assert_eq!(run(&parse(Some(&addr), &path, &ID)).await.unwrap_err().exit(), Exit::TryAgain);
    let left = ResumeFile::beside(&path).read().unwrap().unwrap();
    assert_eq!((left.rows, left.kept), (500, 500));
    server.0.lock().unwrap().break_after.clear();

    let again = run(&parse(Some(&addr), &path, &ID)).await.unwrap_err();
    assert!(again.to_string().contains("--resume"), "{again}");
    let before = server.0.lock().unwrap().received.len();
    assert_eq!(
        run(&parse(Some(&addr), &path, &["--user-column", "id", "--resume"])).await.unwrap(),
        Exit::Ok
    );
    let state = server.0.lock().unwrap();
    assert_eq!(state.received.len() - before, 700);
    // A row sent twice carries the same time both times.
    let mut times = BTreeMap::new();
    for record in &state.received {
        let time = *times.entry(record.number).or_insert(record.occurred_at);
        assert_eq!(time, record.occurred_at, "line {}", record.number);
    }
    assert_eq!(state.profiles.len(), 1200);
}

#[tokio::test]
async fn another_file_is_not_resumed() {
    let server = TestServer::default();
    server.0.lock().unwrap().break_after = vec![0; 5];
    let addr = server.clone().start().await;
    let (_dir, path) = file("a.csv", "id,n\nu1,x\n");
    assert!(run(&parse(Some(&addr), &path, &ID)).await.is_err());
    fs::write(&path, "id,n\nu1,y\n").unwrap();
    let resumed = run(&parse(Some(&addr), &path, &["--user-column", "id", "--resume"])).await.unwrap_err();
    assert!(resumed.to_string().contains("--restart"), "{resumed}");
    assert_eq!(
        run(&parse(Some(&addr), &path, &["--user-column", "id", "--restart"])).await.unwrap(),
        Exit::Ok
    );
}

#[tokio::test]
async fn records_not_kept_for_now_are_sent_again_and_the_later_row_wins() {
    let server = TestServer::default();
    server.0.lock().unwrap().busy = [("u1".to_owned(), 1)].into();
    let addr = server.clone().start().await;
    let (_dir, path) = file("a.csv", "id,n\nu1,old\nu2,x\nu1,new\n");
    assert_eq!(run(&parse(Some(&addr), &path, &ID)).await.unwrap(), Exit::Ok);
    let state = server.0.lock().unwrap();
    assert_eq!(state.received.len(), 4);
    let profile = &state.profiles[&("acme".to_owned(), "u1".to_owned())];
    assert_eq!(text(profile, "n").as_deref(), Some("new"));
}

#[tokio::test]
async fn bad_rows_are_listed_and_the_others_imported() {
    let server = TestServer::default();
    let addr = server.clone().start().await;
    let (dir, path) = file("a.csv", "id,n,m\nu1,1,a\nu2,x,b\nu3\nu4,2,c\n");
    let listed = dir.path().join("bad.jsonl");
    let options = ["--user-column", "id", "--type", "n=number", "--bad-rows", listed.to_str().unwrap()];
    assert_eq!(run(&parse(Some(&addr), &path, &options)).await.unwrap(), Exit::Refused);
    assert_eq!(
        fs::read_to_string(&listed).unwrap(),
        "{\"line\":3,\"column\":\"n\",\"user\":\"u2\",\"reason\":\"not a number: x\"}\n\
         {\"line\":4,\"column\":null,\"user\":null,\"reason\":\"1 fields, but the header has 3\"}\n"
    );
    assert_eq!(server.0.lock().unwrap().profiles.len(), 2);

    let strict = ["--user-column", "id", "--type", "n=number", "--max-bad", "1"];
    assert_eq!(run(&parse(Some(&addr), &path, &strict)).await.unwrap_err().exit(), Exit::Refused);
    assert_eq!(server.0.lock().unwrap().received.len(), 2, "nothing more was sent");
}

#[tokio::test]
async fn what_the_server_refuses_is_a_bad_row_with_its_column() {
    let server = TestServer::default();
    let addr = server.clone().start().await;
    let (dir, path) = file("a.jsonl", "{\"user\":\"u1\",\"attributes\":{\"a\":\"x\"}}\n");
    let listed = dir.path().join("bad.jsonl");
    let args = parse(Some(&addr), &path, &["--rename", "a=b", "--bad-rows", listed.to_str().unwrap()]);
    // The type is fixed by somebody else between the two passes.
    let source = Source::open(&path).unwrap();
    let survey = survey(&source, &args.layout(), &args.wishes().unwrap(), None).unwrap();
    server.0.lock().unwrap().types.insert("b".into(), ValueType::Number);
    let settled = beginning(&args, &survey, None).unwrap();
    assert_eq!(write(&args, &source, &args.layout(), &survey, settled, None).await.unwrap(), Exit::Refused);
    let listed = fs::read_to_string(&listed).unwrap();
    assert!(
        listed.contains("\"line\":1,\"column\":\"a\",\"user\":\"u1\"") && listed.contains("TYPE_MISMATCH"),
        "{listed}"
    );
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let (_dir, path) = file("a.csv", "id,n\nu1,x\n");
    assert_eq!(run(&parse(None, &path, &["--user-column", "id", "--dry-run"])).await.unwrap(), Exit::Ok);
    assert!(!ResumeFile::beside(&path).path().exists());
}
