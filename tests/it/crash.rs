//! Kill it under load, start it again, and look whether it kept its word.
//!
//! Each client owns its users and remembers of every write what it was told. When the server is gone in the
//! middle of a write, the client does not know what became of it: then the profile may show it or not, until
//! the same request id is asked for again.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use steadfast::app::Core;
use steadfast::clock::SystemClock;
use steadfast::config::Config;
use steadfast::model::{Site, Value};
use steadfast::proto::{self, Outcome, Wait, write_result::Result as Told};
use steadfast::store::{IndexScan, Purpose, Store as _, StoreError, StoredItem};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::*;

const CLIENTS: u64 = 6;
const USERS: u64 = 3;
const SITES: u64 = 2;

/// Kept small in `cargo test`; CI asks for a hundred.
fn rounds() -> u64 {
    std::env::var("STEADFAST_CRASH_ROUNDS").map_or(3, |text| text.parse().unwrap())
}

/// What a user's profile must be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Expected {
    exists: bool,
    /// Goes on through deletes.
    version: u64,
    visits: f64,
    last: Option<String>,
}

/// One write, as a client remembers it: so it can ask again.
#[derive(Clone, Debug)]
enum Act {
    /// Unconditional, or with the right or a wrong version.
    Set {
        value: String,
        version: Option<u64>,
    },
    Add,
    /// Of another type than the attribute has.
    Mistake,
    Delete,
    /// Some adds in one call, answered when they are durable.
    Adds(usize),
}

#[derive(Clone, Debug)]
struct Doing {
    user: usize,
    act: Act,
    id: String,
}

struct Writer {
    number: u64,
    numbers: Numbers,
    users: Vec<Expected>,
    count: u64,
    /// What was being done when the server went.
    unknown: Option<Doing>,
}

/// What a client knows of a write that was not answered well.
#[derive(Debug)]
enum Failed {
    /// For this reason it was not kept.
    NotKept(String),
    /// The connection broke, or the server said that it cannot tell.
    Unknown,
}

impl Failed {
    fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        match details.error_info() {
            Some(info) if info.metadata.get("kept").is_some_and(|kept| kept == "no") => {
                Self::NotKept(info.reason.clone())
            }
            _ => Self::Unknown,
        }
    }
}

impl Writer {
    fn new(number: u64) -> Self {
        let users = vec![Expected::default(); USERS as usize];
        Self { number, numbers: Numbers(7000 + number), users, count: 0, unknown: None }
    }

    fn site(&self, user: usize) -> String {
        format!("site-{}", (self.number + user as u64) % SITES)
    }

    fn name(&self, user: usize) -> String {
        format!("client-{}-user-{user}", self.number)
    }

    fn next(&mut self) -> Doing {
        self.count += 1;
        let user = self.numbers.below(USERS) as usize;
        let value = format!("{}-{}", self.number, self.count);
        let current = if self.users[user].exists { self.users[user].version } else { 0 };
        let act = match self.numbers.below(12) {
            0 => Act::Delete,
            1 => Act::Mistake,
            2 => Act::Set { value, version: Some(current) },
            3 => Act::Set { value, version: Some(current + 1) },
            4 | 5 => Act::Set { value, version: None },
            6 => Act::Adds(20),
            _ => Act::Add,
        };
        Doing { user, act, id: format!("{}-{}", self.number, self.count) }
    }

    /// Whether `doing` can only be refused.
    fn must_fail(&self, doing: &Doing) -> bool {
        let user = &self.users[doing.user];
        match &doing.act {
            Act::Mistake => true,
            Act::Set { version: Some(version), .. } => *version != if user.exists { user.version } else { 0 },
            _ => false,
        }
    }

    /// Notes that `doing` was kept.
    fn note(&mut self, doing: &Doing) {
        let user = &mut self.users[doing.user];
        match &doing.act {
            Act::Set { value, .. } => {
                user.last = Some(value.clone());
                user.version += 1;
                user.exists = true;
            }
            Act::Add => {
                user.visits += 1.0;
                user.version += 1;
                user.exists = true;
            }
            Act::Adds(count) => {
                user.visits += *count as f64;
                user.version += *count as u64;
                user.exists = true;
            }
            Act::Delete => {
                if user.exists {
                    *user = Expected { version: user.version + 1, ..Expected::default() };
                }
            }
            Act::Mistake => panic!("a mistake was kept"),
        }
    }

    async fn ask(&self, client: &mut Client, doing: &Doing) -> Result<(), Failed> {
        let (site, user) = (self.site(doing.user), self.name(doing.user));
        let request = |mut request: proto::IdentifyRequest, id: String| {
            request.site.clone_from(&site);
            request.request_id = id;
            request
        };
        let one = match &doing.act {
            Act::Set { value, version } => {
                let mut write = set(&user, [("last", text(value))]);
                write.if_version = *version;
                write
            }
            Act::Add => add(&user, "visits", 1.0),
            Act::Mistake => set(&user, [("last", number(1.0))]),
            Act::Delete => {
                let delete =
                    proto::DeleteProfileRequest { site, request_id: doing.id.clone(), ..delete(&user) };
                return client.delete_profile(delete).await.map(drop).map_err(|status| Failed::of(&status));
            }
            Act::Adds(count) => {
                let adds = (0..*count).map(|at| {
                    let add = add(&user, "visits", 1.0);
                    request(
                        proto::IdentifyRequest { wait: Wait::Journaled.into(), ..add },
                        format!("{}-{at}", doing.id),
                    )
                });
                let requests = adds.collect();
                let answer = client.identify_many(proto::IdentifyManyRequest { requests }).await;
                let results = answer.map_err(|status| Failed::of(&status))?.into_inner().results;
                // Mixed results are for the retry to clear up.
                let kept = |result: &proto::WriteResult| matches!(result.result, Some(Told::Receipt(_)));
                return if results.iter().all(kept) { Ok(()) } else { Err(Failed::Unknown) };
            }
        };
        let receipt =
            identify(client, request(one, doing.id.clone())).await.map_err(|status| Failed::of(&status))?;
        if receipt.outcome() == Outcome::Applied {
            assert_eq!(receipt.version, Some(self.users[doing.user].version + 1), "{doing:?}");
        }
        Ok(())
    }

    /// Writes until the server is gone; `acknowledged` counts for all.
    async fn write(&mut self, mut client: Client, acknowledged: &AtomicU64, gone: &(dyn Fn(u64) + Sync)) {
        loop {
            let doing = self.next();
            match self.ask(&mut client, &doing).await {
                Ok(()) => {
                    assert!(!self.must_fail(&doing), "{doing:?}");
                    self.note(&doing);
                    gone(acknowledged.fetch_add(1, Ordering::SeqCst) + 1);
                }
                Err(Failed::NotKept(reason)) if self.must_fail(&doing) => {
                    let expected = ["VERSION_MISMATCH", "TYPE_MISMATCH", "DRAINING"];
                    assert!(expected.contains(&reason.as_str()), "{doing:?}: {reason}");
                }
                Err(Failed::NotKept(reason)) => {
                    assert_eq!(reason, "DRAINING", "{doing:?}");
                    return;
                }
                Err(Failed::Unknown) => {
                    self.unknown = Some(doing);
                    return;
                }
            }
        }
    }

    /// Looks whether everything is there, asks again for what was unknown, and looks again.
    async fn check(&mut self, client: &mut Client) {
        for at in 0..self.users.len() {
            let found = self.read(client, at).await;
            let without = self.users[at].clone();
            let mut possible = vec![without.clone()];
            if let Some(doing) = self.unknown.clone().filter(|doing| doing.user == at) {
                // Of several adds in a call each may have been kept.
                let parts = if let Act::Adds(count) = doing.act { count } else { 0 };
                possible.extend((1..parts).map(|kept| Expected {
                    exists: true,
                    version: without.version + kept as u64,
                    visits: without.visits + kept as f64,
                    ..without.clone()
                }));
                if !self.must_fail(&doing) {
                    self.note(&doing);
                    possible.push(std::mem::replace(&mut self.users[at], without));
                }
            }
            let same = |expected: &Expected| {
                (expected.exists, expected.visits.to_bits(), &expected.last)
                    == (found.exists, found.visits.to_bits(), &found.last)
                    && (!found.exists || expected.version == found.version)
            };
            assert!(
                possible.iter().any(same),
                "{} of {}: {found:?} is none of {possible:?}",
                self.name(at),
                self.site(at)
            );
        }
        let Some(doing) = self.unknown.take() else { return };
        match self.ask(client, &doing).await {
            Ok(()) => self.note(&doing),
            Err(Failed::NotKept(_)) => assert!(self.must_fail(&doing), "{doing:?}"),
            Err(Failed::Unknown) => panic!("{doing:?} is still unknown"),
        }
        let found = self.read(client, doing.user).await;
        let expected = &self.users[doing.user];
        let version = if expected.exists { expected.version } else { 0 };
        assert_eq!(found, Expected { version, ..expected.clone() }, "after {doing:?}");
    }

    /// The profile when all that waits has been applied.
    async fn read(&self, client: &mut Client, at: usize) -> Expected {
        let (site, user) = (self.site(at), self.name(at));
        // Takes its turn behind them, and changes nothing.
        let mut probe = set(&user, [("last", text("never"))]);
        probe.site.clone_from(&site);
        probe.if_version = Some(u64::MAX);
        probe.request_id = format!("probe-{}-{at}-{}", self.number, PROBES.fetch_add(1, Ordering::SeqCst));
        let refused = identify(client, probe).await.unwrap_err();
        assert_refused(&refused, Code::Aborted, "VERSION_MISMATCH", "");
        let Some(profile) = get(client, &site, &user).await else { return Expected::default() };
        assert_eq!(profile.pending, None);
        let visits = profile.attributes.get("visits").map_or(0.0, |value| match value.kind {
            Some(proto::value::Kind::NumberValue(visits)) => visits,
            _ => panic!("{value:?}"),
        });
        let last = profile.attributes.get("last").map(|value| match &value.kind {
            Some(proto::value::Kind::StringValue(last)) => last.clone(),
            _ => panic!("{value:?}"),
        });
        Expected { exists: true, version: profile.version, visits, last }
    }
}

static PROBES: AtomicU64 = AtomicU64::new(0);

/// That every index entry leads to a profile with this value, and every value is in the index.
pub async fn check_index(home: &Home) {
    let mut config = Config::ephemeral(home.dir.path());
    config.journal.segment.0 = 4 << 20;
    let mut core = Core::open(&config, Arc::new(SystemClock)).unwrap();
    // What the kill left waiting is being applied; meanwhile the two cannot be compared.
    while core.switch.check().is_err()
        || core.shared.sites.all().iter().any(|site| site.lane.lock().waiting() > 0)
    {
        tokio::task::yield_now().await;
    }
    let mut expected = Vec::new();
    let mut after = None;
    loop {
        let page = core.switch.scan_records(after, 100).await.unwrap();
        for item in page.items {
            let StoredItem::Profile { key, record } = item else { continue };
            for attribute in &record.live().unwrap().attributes {
                expected.push((key.clone(), attribute.name.to_string(), format!("{:?}", attribute.value)));
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut found = Vec::new();
    for site in (0..SITES).map(|n| Site::new(format!("site-{n}"))) {
        for attribute in ["last", "visits"] {
            let scan = IndexScan {
                site: site.clone(),
                attribute: attribute.into(),
                from: std::ops::Bound::Unbounded,
                to: std::ops::Bound::Unbounded,
                prefix: None,
                after: None,
                limit: 10_000,
            };
            let page = loop {
                match core.switch.scan_index(scan.clone()).await {
                    // It is built in the background; each call waits its turn behind a part of that.
                    Err(StoreError::IndexBuilding { .. }) => tokio::task::yield_now().await,
                    page => break page.unwrap(),
                }
            };
            assert!(!page.more);
            for (_, key) in page.entries {
                let record =
                    core.switch.load(Purpose::Query, vec![key.clone()]).await.unwrap().remove(0).unwrap();
                let value: &Value = &record.live().unwrap().attribute(attribute).unwrap().value;
                found.push((key, attribute.to_owned(), format!("{value:?}")));
            }
        }
    }
    let order = |list: &mut Vec<(steadfast::model::ProfileKey, String, String)>| {
        list.sort_by_key(|entry| format!("{entry:?}"));
    };
    order(&mut expected);
    order(&mut found);
    assert_eq!(found, expected);
    core.close(std::time::Duration::from_secs(20)).unwrap();
}

/// How a round ends.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Kill,
    Terminate,
}

async fn round(home: &Home, writers: Vec<Writer>, after: u64, ending: Ending) -> Vec<Writer> {
    let server = home.start();
    let mut client = server.client().await;
    let mut writers = writers;
    for writer in &mut writers {
        writer.check(&mut client).await;
    }
    let known = writers.iter().flat_map(|writer| writer.users.iter()).filter(|user| user.exists).count();
    let mut exported = 0;
    for site in 0..SITES {
        let request = proto::ExportProfilesRequest { site: format!("site-{site}"), ..Default::default() };
        let mut pages = client.export_profiles(request).await.unwrap().into_inner();
        while let Some(page) = pages.message().await.unwrap() {
            exported += page.profiles.len();
        }
    }
    assert_eq!(exported, known);

    let acknowledged = Arc::new(AtomicU64::new(0));
    let kill: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(Some(match ending {
        Ending::Kill => Box::new(server.signaller(rustix::process::Signal::KILL)),
        Ending::Terminate => Box::new(server.signaller(rustix::process::Signal::TERM)),
    }));
    let gone = Arc::new(move |count: u64| {
        if count >= after
            && let Some(kill) = kill.lock().unwrap().take()
        {
            kill();
        }
    });
    let mut tasks = Vec::new();
    for mut writer in writers {
        let client = server.client().await;
        let (acknowledged, gone) = (Arc::clone(&acknowledged), Arc::clone(&gone));
        tasks.push(tokio::spawn(async move {
            writer.write(client, &acknowledged, &*gone).await;
            writer
        }));
    }
    let mut writers = Vec::new();
    for task in tasks {
        writers.push(task.await.unwrap());
    }
    let (status, said) = server.ended();
    if ending == Ending::Terminate {
        assert_eq!(status.code(), Some(0), "{said}");
    }
    writers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_there_exactly_once() {
    let home = Home::new();
    let mut numbers = Numbers(42);
    let mut writers: Vec<Writer> = (0..CLIENTS).map(Writer::new).collect();
    for round_number in 0..rounds() {
        let ending = if round_number % 3 == 1 { Ending::Terminate } else { Ending::Kill };
        let after = 20 + numbers.below(400);
        writers = round(&home, writers, after, ending).await;
        if round_number % 5 == 0 {
            check_index(&home).await;
        }
    }
    let server = home.start();
    let mut client = server.client().await;
    for writer in &mut writers {
        writer.check(&mut client).await;
    }
}
