//! A server in a process of its own, and short ways to talk to it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use steadfast::proto::attribute_service_client::AttributeServiceClient;
use steadfast::proto::{self, value::Kind};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

pub type Client = AttributeServiceClient<Channel>;

/// A directory, and the settings of the servers that run on it one after the other.
pub struct Home {
    dir: PathBuf,
    settings: Vec<String>,
    #[allow(dead_code, reason = "held for its drop, which removes the directory")]
    temporary: Option<tempfile::TempDir>,
}

/// A running server; killed when dropped.
pub struct Server {
    pub data: SocketAddr,
    pub operations: SocketAddr,
    child: Process,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it said, line by line, and the news of more.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

/// A server that did not start.
#[derive(Debug)]
pub struct NotStarted {
    pub status: ExitStatus,
    pub said: String,
}

impl Home {
    /// Answers come when a write is applied, however busy the machine is; memory and disk are spared.
    pub fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut home = Self::at(temporary.path());
        home.temporary = Some(temporary);
        home
    }

    /// In a directory that is there.
    pub fn at(dir: &Path) -> Self {
        let settings = [
            "writes.reply_after=30s",
            "journal.segment=4 MiB",
            "store.cache_capacity=16 MiB",
            "cache.profile_capacity=16 MiB",
            "server.runtimes=2",
        ];
        Self {
            dir: dir.to_owned(),
            settings: settings.iter().map(ToString::to_string).collect(),
            temporary: None,
        }
    }

    /// With another setting, such as `journal.segment=1 MiB`.
    pub fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts a server and waits until it can be called.
    pub fn start(&self) -> Server {
        self.try_start().unwrap_or_else(|failed| panic!("{failed:?}"))
    }

    pub fn try_start(&self) -> Result<Server, NotStarted> {
        Self::run(self.command(&self.dir))
    }

    /// Starts one in the place of one that runs; blocks.
    pub fn take_over(&self, from: &Server) -> impl FnOnce() -> Server + Send + 'static {
        let mut command = self.command_at(&self.dir, from.data, from.operations);
        command.arg("--take-over");
        || Self::run(command).unwrap_or_else(|failed| panic!("{failed:?}"))
    }

    /// Starts what `command` says, and waits until it can be called.
    pub fn run(mut command: Command) -> Result<Server, NotStarted> {
        let mut child = Process(command.spawn().unwrap());
        let mut lines = BufReader::new(child.0.stderr.take().unwrap());
        let mut said = Vec::new();
        let (mut data, mut operations) = (None, None);
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                return Err(NotStarted { status: child.0.wait().unwrap(), said: said.concat() });
            }
            let mut words = line.split_whitespace();
            match (words.next(), words.next().map(str::parse)) {
                (Some("data"), Some(Ok(address))) => data = Some(address),
                (Some("operations"), Some(Ok(address))) => operations = Some(address),
                _ => {}
            }
            said.push(line);
            if let (Some(data), Some(operations)) = (data, operations) {
                let log = Arc::new(Log { lines: Mutex::new(said), more: Condvar::new() });
                let reader = Some(follow(lines, Arc::clone(&log)));
                return Ok(Server { data, operations, child, log, reader });
            }
        }
    }

    /// The command that starts it on `dir`.
    pub fn command(&self, dir: &Path) -> Command {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        self.command_at(dir, any, any)
    }

    /// The command that starts it on `dir` with these addresses.
    pub fn command_at(&self, dir: &Path, data: SocketAddr, operations: SocketAddr) -> Command {
        let mut command = program();
        command.arg("serve").arg("--listen").arg(data.to_string());
        command.arg("--operations-listen").arg(operations.to_string());
        command.arg("--data-dir").arg(dir);
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// The program, without the settings that the machine or the test run has for itself.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STEADFAST_"))
    {
        command.env_remove(name);
    }
    command
}

fn follow(lines: BufReader<ChildStderr>, log: Arc<Log>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in lines.lines() {
            log.lines.lock().unwrap().push(line.unwrap() + "\n");
            log.more.notify_all();
        }
    })
}

impl Server {
    pub async fn client(&self) -> Client {
        AttributeServiceClient::new(channel(self.data).await)
            .max_encoding_message_size(usize::MAX)
            .max_decoding_message_size(usize::MAX)
    }

    /// SIGKILL; returns when the process is gone. Answers all it said.
    pub fn kill(mut self) -> String {
        self.child.0.kill().unwrap();
        self.wait().1
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Sends a signal, from any thread while others are calling.
    pub fn signaller(&self, signal: Signal) -> impl FnOnce() + Send + 'static {
        let pid = Pid::from_child(&self.child.0);
        move || kill_process(pid, signal).unwrap()
    }

    /// SIGTERM; returns when the process is gone.
    pub fn stop(self) {
        kill_process(Pid::from_child(&self.child.0), Signal::TERM).unwrap();
        let (status, said) = self.ended();
        assert_eq!(status.code(), Some(0), "{said}");
    }

    /// By SIGKILL or by SIGTERM.
    pub fn end(self, kill: bool) {
        if kill {
            self.kill();
        } else {
            self.stop();
        }
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.log.lines.lock().unwrap().concat()
    }

    /// Waits until it says a line with `text`.
    pub fn wait_for(&self, text: &str) {
        let said = self.log.lines.lock().unwrap();
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        drop(self.log.more.wait_while(said, missing).unwrap());
    }

    /// Waits for its end.
    pub fn ended(mut self) -> (ExitStatus, String) {
        self.wait()
    }

    fn wait(&mut self) -> (ExitStatus, String) {
        let status = self.child.0.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let said = self.log.lines.lock().unwrap().concat();
        assert!(!said.contains("panicked"), "{said}");
        (status, said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server said:\n{}", self.log.lines.lock().unwrap().concat());
        }
    }
}

/// One that connects when it is used, and again when it has to.
pub fn lazy_channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

pub async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

// Values.

pub fn kind(kind: Kind) -> proto::Value {
    proto::Value { kind: Some(kind) }
}

pub fn text(text: impl Into<String>) -> proto::Value {
    kind(Kind::StringValue(text.into()))
}

pub fn number(number: f64) -> proto::Value {
    kind(Kind::NumberValue(number))
}

pub fn truth(truth: bool) -> proto::Value {
    kind(Kind::BoolValue(truth))
}

pub fn time(seconds: i64, nanos: i32) -> proto::Value {
    kind(Kind::TimeValue(timestamp(seconds, nanos)))
}

pub fn list(items: &[&str]) -> proto::Value {
    kind(Kind::ListValue(strings(items)))
}

pub fn strings(items: &[&str]) -> proto::StringList {
    proto::StringList { values: items.iter().map(ToString::to_string).collect() }
}

pub fn timestamp(seconds: i64, nanos: i32) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos }
}

// Requests.

pub const SITE: &str = "acme";

/// A write of some sets.
pub fn set<const N: usize>(user: &str, values: [(&str, proto::Value); N]) -> proto::IdentifyRequest {
    let attributes = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    proto::IdentifyRequest { site: SITE.into(), user: user.into(), attributes, ..Default::default() }
}

/// A write of one other change.
pub fn change(user: &str, name: &str, change: proto::attribute_change::Change) -> proto::IdentifyRequest {
    let change = proto::AttributeChange { name: name.into(), change: Some(change) };
    proto::IdentifyRequest {
        site: SITE.into(),
        user: user.into(),
        changes: vec![change],
        ..Default::default()
    }
}

pub fn add(user: &str, name: &str, by: f64) -> proto::IdentifyRequest {
    change(user, name, proto::attribute_change::Change::Add(by))
}

pub fn delete(user: &str) -> proto::DeleteProfileRequest {
    proto::DeleteProfileRequest { site: SITE.into(), user: user.into(), ..Default::default() }
}

// Calls.

pub async fn identify(
    client: &mut Client,
    request: proto::IdentifyRequest,
) -> Result<proto::Receipt, Status> {
    Ok(client.identify(request).await?.into_inner().receipt.unwrap())
}

/// A write that must become a new version.
pub async fn applied(client: &mut Client, request: proto::IdentifyRequest) -> proto::Receipt {
    let receipt = identify(client, request).await.unwrap();
    assert_eq!(receipt.outcome(), proto::Outcome::Applied, "{receipt:?}");
    receipt
}

pub async fn get(client: &mut Client, site: &str, user: &str) -> Option<proto::Profile> {
    let request =
        proto::GetProfileRequest { site: site.into(), user: user.into(), include_occurred_at: true };
    let give_up = std::time::Instant::now() + std::time::Duration::from_mins(1);
    let answer = loop {
        match client.get_profile(request.clone()).await {
            // It is, right after a start without a store.
            Err(status) if reason(&status) == "STORE_REBUILDING" && std::time::Instant::now() < give_up => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            answer => break answer,
        }
    };
    match answer {
        Ok(response) => Some(response.into_inner().profile.unwrap()),
        Err(status) => {
            assert_eq!(reason(&status), "PROFILE_NOT_FOUND", "{status:?}");
            assert_eq!(status.code(), Code::NotFound);
            None
        }
    }
}

pub async fn write_state(client: &mut Client, receipt: &proto::Receipt) -> proto::GetWriteResponse {
    let request = proto::GetWriteRequest { site: SITE.into(), position: receipt.position.clone() };
    client.get_write(request).await.unwrap().into_inner()
}

// Errors.

/// Reason and metadata.
pub fn info(status: &Status) -> (String, HashMap<String, String>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "steadfast");
    (info.reason.clone(), info.metadata.clone())
}

pub fn reason(status: &Status) -> String {
    info(status).0
}

/// That a write was refused so, was not kept, and for which field.
pub fn assert_refused(status: &Status, code: Code, reason: &str, field: &str) {
    let (given, metadata) = info(status);
    let details = status.get_error_details();
    let fields: Vec<String> = details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|violation| violation.field.clone()).collect())
        .unwrap_or_default();
    let expected: Vec<String> = if field.is_empty() { Vec::new() } else { vec![field.to_owned()] };
    assert_eq!((status.code(), given.as_str(), fields), (code, reason, expected), "{status:?}");
    assert_eq!(metadata.get("kept").map(String::as_str), Some("no"), "{status:?}");
}

/// A small generator of numbers that only look random: the same ones in every run.
#[derive(Clone)]
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
