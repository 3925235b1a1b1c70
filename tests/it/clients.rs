//! Clients that remember what they were told, so that it can be held against what a server has later.
//!
//! Each client owns its users and knows of every write what it was answered. When a server is gone in the
//! middle of a write, the client does not know what became of it: then the profile may show it or not, until
//! the same request id is asked for again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use steadfast::proto::attribute_change::Change;
use steadfast::proto::{
    self, Outcome, Position, RefusalReason, Wait, WriteState, write_result::Result as Told,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::*;

const USERS: u64 = 3;
/// The sites of the clients.
pub const SITES: u64 = 2;
/// Items that a list may have.
const LIST_ITEMS: usize = 100;
/// How many of its last writes a client asks for again.
const REMEMBERED: usize = 4;

/// What a user's profile must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    exists: bool,
    /// Goes on through deletes.
    version: u64,
    /// A counter: what is applied twice shows.
    visits: f64,
    last: Option<String>,
    /// A list that is only appended to: order shows.
    log: Vec<String>,
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
    /// Some items for the list, which in time becomes too long: then it is refused, if it was deferred only
    /// when its turn comes.
    Log(usize, Wait),
    Unlog,
}

#[derive(Clone, Debug)]
struct Doing {
    user: usize,
    act: Act,
    id: String,
}

/// What must become of a write.
#[derive(PartialEq)]
enum Verdict {
    Kept,
    /// For this reason.
    Refused(&'static str),
    /// It is refused when its turn comes. Who hears DEFERRED (because it asked for that, or because the store is being
    /// rebuilt) has it kept before.
    RefusedLater,
}

/// How a call was answered: where those of its writes are that were kept. What changes nothing may be nowhere.
struct Heard {
    kept: Vec<Option<Position>>,
    outcome: Outcome,
}

/// What a client knows of a write that was not answered well.
#[derive(Debug)]
enum Failed {
    /// For this reason it was not kept.
    NotKept(String),
    /// The server said that it cannot tell.
    Unknown(Status),
    /// The connection broke.
    Gone,
}

impl Failed {
    fn of(status: Status) -> Self {
        let details = status.get_error_details();
        match details.error_info() {
            Some(info) if info.metadata.get("kept").is_some_and(|kept| kept == "no") => {
                Self::NotKept(info.reason.clone())
            }
            Some(_) => Self::Unknown(status),
            None => Self::Gone,
        }
    }
}

/// One client.
#[derive(Clone)]
pub struct Writer {
    number: u64,
    numbers: Numbers,
    users: Vec<Expected>,
    count: u64,
    /// What was being done when the server went.
    unknown: Option<Doing>,
    /// Its last writes that were kept, and where.
    done: VecDeque<(Doing, Position)>,
    /// Entries that were kept and then refused, with their user.
    refused: Vec<(usize, Position)>,
    /// What its users were after each position, if it remembers that.
    past: Option<Vec<(u64, Vec<Expected>)>>,
    /// Whether it makes conditional writes and others that must hear of the store.
    conditions: bool,
    /// Reasons for which a write may be refused that would be kept otherwise.
    tolerated: &'static [&'static str],
}

impl Writer {
    pub fn new(number: u64) -> Self {
        Self {
            number,
            numbers: Numbers(7000 + number),
            users: vec![Expected::default(); USERS as usize],
            count: 0,
            unknown: None,
            done: VecDeque::new(),
            refused: Vec::new(),
            past: None,
            conditions: true,
            tolerated: &[],
        }
    }

    pub fn some(clients: u64) -> Vec<Self> {
        (0..clients).map(Self::new).collect()
    }

    /// Remembers from now on what its users were at each position.
    pub fn remember_all(&mut self) {
        self.past = Some(Vec::new());
    }

    /// For a server in trouble: makes no conditional writes, and bears to be refused for `tolerated`.
    pub fn in_trouble(&mut self, tolerated: &'static [&'static str]) {
        (self.conditions, self.tolerated) = (false, tolerated);
    }

    /// For a server whose store is built anew: then it decides no conditions.
    pub fn beside_rebuilds(&mut self) {
        self.tolerated = &["CONDITION_NEEDS_STORE"];
    }

    /// For a server that is well, but for `tolerated`.
    pub fn at_ease(&mut self, tolerated: &'static [&'static str]) {
        (self.conditions, self.tolerated) = (true, tolerated);
    }

    /// Where its last write that was kept is.
    pub fn last_position(&self) -> u64 {
        self.done.back().map_or(0, |(_, position)| position.number)
    }

    /// Site and user of all its users.
    pub fn keys(&self) -> Vec<(String, String)> {
        (0..self.users.len()).map(|user| (self.site(user), self.name(user))).collect()
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
        let act = match self.numbers.below(16) {
            0 => Act::Delete,
            // Whoever uses a name first gives it its type.
            1 if self.users[user].last.is_some() => Act::Mistake,
            2 if self.conditions => Act::Set { value, version: Some(current) },
            3 if self.conditions => Act::Set { value, version: Some(current + 1) },
            4 | 5 => Act::Set { value, version: None },
            6 => Act::Adds(20),
            7 => Act::Log(30, if self.conditions { Wait::Applied } else { Wait::Journaled }),
            8 | 9 => Act::Log(20, Wait::Journaled),
            10 if !self.users[user].log.is_empty() => Act::Unlog,
            _ => Act::Add,
        };
        Doing { user, act, id: format!("{}-{}", self.number, self.count) }
    }

    fn verdict(&self, doing: &Doing) -> Verdict {
        let user = &self.users[doing.user];
        match &doing.act {
            Act::Mistake => Verdict::Refused("TYPE_MISMATCH"),
            Act::Set { version: Some(version), .. }
                if *version != if user.exists { user.version } else { 0 } =>
            {
                Verdict::Refused("VERSION_MISMATCH")
            }
            Act::Log(items, _) if user.log.len() + items > LIST_ITEMS => Verdict::RefusedLater,
            _ => Verdict::Kept,
        }
    }

    /// Notes that `kept` writes of `doing` were kept.
    fn note(&mut self, doing: &Doing, kept: usize) {
        let items = Self::items(doing);
        let user = &mut self.users[doing.user];
        let existed = user.exists;
        user.version += kept as u64;
        user.exists = true;
        match &doing.act {
            Act::Set { value, .. } => user.last = Some(value.clone()),
            Act::Add | Act::Adds(_) => user.visits += kept as f64,
            Act::Log(..) => user.log.extend(items),
            Act::Delete if !existed => {
                // Nothing there: nothing changes.
                user.version -= kept as u64;
                user.exists = false;
            }
            Act::Delete => {
                *user = Expected { version: user.version, ..Expected::default() };
                // What was refused of a user goes with it.
                self.refused.retain(|(refused, _)| *refused != doing.user);
            }
            Act::Unlog => user.log.clear(),
            Act::Mistake => panic!("a mistake was kept"),
        }
    }

    /// Notes writes of `doing` that were kept, and where each is.
    fn note_all(&mut self, doing: &Doing, kept: Vec<Option<Position>>) {
        let last = kept.last().cloned().flatten();
        for position in kept {
            self.note(doing, 1);
            if let (Some(past), Some(position)) = (&mut self.past, position) {
                past.push((position.number, self.users.clone()));
            }
        }
        self.done.extend(last.map(|position| (doing.clone(), position)));
        if self.done.len() > REMEMBERED {
            self.done.pop_front();
        }
    }

    fn items(doing: &Doing) -> Vec<String> {
        let Act::Log(items, _) = doing.act else { return Vec::new() };
        (0..items).map(|item| format!("{}-{item}", doing.id)).collect()
    }

    async fn ask(&self, client: &mut Client, doing: &Doing) -> Result<Heard, Failed> {
        let (site, user) = (self.site(doing.user), self.name(doing.user));
        let one = match &doing.act {
            Act::Set { value, version } => {
                proto::IdentifyRequest { if_version: *version, ..set(&user, [("last", text(value))]) }
            }
            Act::Add => add(&user, "visits", 1.0),
            Act::Mistake => set(&user, [("last", number(1.0))]),
            Act::Log(_, wait) => {
                let items = proto::StringList { values: Self::items(doing) };
                proto::IdentifyRequest { wait: (*wait).into(), ..change(&user, "log", Change::Append(items)) }
            }
            Act::Unlog => change(&user, "log", Change::Unset(())),
            Act::Delete => {
                let delete =
                    proto::DeleteProfileRequest { site, request_id: doing.id.clone(), ..delete(&user) };
                let receipt = client.delete_profile(delete).await.map_err(Failed::of)?.into_inner().receipt;
                return Ok(Heard::one(receipt.unwrap()));
            }
            Act::Adds(count) => return self.ask_many(client, doing, *count).await,
        };
        let request = proto::IdentifyRequest { site, request_id: doing.id.clone(), ..one };
        let receipt = identify(client, request).await.map_err(Failed::of)?;
        let version = Some(self.users[doing.user].version + 1);
        assert!(
            receipt.outcome() != Outcome::Applied || receipt.version == version,
            "{doing:?}: {receipt:?}"
        );
        Ok(Heard::one(receipt))
    }

    async fn ask_many(&self, client: &mut Client, doing: &Doing, count: usize) -> Result<Heard, Failed> {
        let request = |at| proto::IdentifyRequest {
            site: self.site(doing.user),
            request_id: format!("{}-{at}", doing.id),
            wait: Wait::Journaled.into(),
            ..add(&self.name(doing.user), "visits", 1.0)
        };
        let requests = (0..count).map(request).collect();
        let answer = client.identify_many(proto::IdentifyManyRequest { requests }).await;
        let results = answer.map_err(Failed::of)?.into_inner().results;
        assert_eq!(results.len(), count);
        let mut heard = Heard { kept: Vec::new(), outcome: Outcome::Deferred };
        for result in results {
            match result.result.unwrap() {
                Told::Receipt(receipt) => heard.kept.push(receipt.position),
                Told::Error(error) if error.metadata["kept"] == "no" => {
                    let tolerated = self.tolerated.contains(&error.reason.as_str());
                    assert!(tolerated || error.reason == "DRAINING", "{error:?}");
                }
                Told::Error(error) => return Err(Failed::Unknown(Status::unknown(format!("{error:?}")))),
            }
        }
        Ok(heard)
    }

    /// Writes until the server is gone, refuses because it drains, or `acknowledged` says that it was enough.
    /// `acknowledged` is told of each write that was acknowledged, and answers whether to go on.
    pub async fn write(&mut self, mut client: Client, acknowledged: &(dyn Fn() -> bool + Sync)) {
        loop {
            let doing = self.next();
            match self.settle(&mut client, &doing).await {
                Ok(()) if acknowledged() => {}
                Ok(()) => return,
                Err(Failed::NotKept(reason)) => {
                    assert_eq!(reason, "DRAINING", "{doing:?}");
                    return;
                }
                Err(Failed::Unknown(_) | Failed::Gone) => {
                    self.unknown = Some(doing);
                    return;
                }
            }
        }
    }

    /// Asks for `doing` until it is known what became of it, and notes it. A refusal that had to come, or is
    /// tolerated, is fine.
    async fn settle(&mut self, client: &mut Client, doing: &Doing) -> Result<(), Failed> {
        loop {
            let verdict = self.verdict(doing);
            match self.ask(client, doing).await {
                Ok(heard) => {
                    match verdict {
                        Verdict::Kept => self.note_all(doing, heard.kept),
                        Verdict::RefusedLater => {
                            assert_eq!(heard.outcome, Outcome::Deferred, "{doing:?}");
                            self.refused.extend(heard.kept.into_iter().flatten().map(|at| (doing.user, at)));
                        }
                        Verdict::Refused(reason) => panic!("not refused for {reason}: {doing:?}"),
                    }
                    return Ok(());
                }
                Err(Failed::NotKept(reason)) => {
                    let expected = match verdict {
                        Verdict::Kept => "",
                        Verdict::Refused(reason) => reason,
                        Verdict::RefusedLater => "LIMIT_EXCEEDED",
                    };
                    if reason == expected || self.tolerated.contains(&reason.as_str()) {
                        return Ok(());
                    }
                    assert_eq!(reason, "DRAINING", "{doing:?}");
                    return Err(Failed::NotKept(reason));
                }
                // The condition waits for the store: asked again, it is told as soon as it is decided.
                Err(Failed::Unknown(status)) if reason(&status) == "CONDITION_PENDING" => {}
                Err(failed) => return Err(failed),
            }
        }
    }

    /// That its profiles are shown as they must be, with what waits on top, without the store's help: they were
    /// read before. What cannot be shown so says that it is not whole.
    pub async fn shown(&self, client: &mut Client) {
        for at in 0..self.users.len() {
            let possible = self.possible(at);
            if let Some(found) = self.show(client, at).await {
                assert!(possible.iter().any(|expected| same(expected, &found)), "{found:?}: {possible:?}");
            }
        }
    }

    /// Looks whether everything is there, asks again for what was unknown, and looks again.
    pub async fn check(&mut self, client: &mut Client) {
        for at in 0..self.users.len() {
            let possible = self.possible(at);
            // What waits is laid on top of what is stored, unless it is too much.
            let shown = self.show(client, at).await;
            let found = self.read(client, at).await;
            for found in shown.iter().chain([&found]) {
                assert!(
                    possible.iter().any(|expected| same(expected, found)),
                    "{} of {}: {found:?} is none of {possible:?}",
                    self.name(at),
                    self.site(at)
                );
            }
        }
        if let Some(doing) = self.unknown.take() {
            if let Err(failed) = self.settle(client, &doing).await {
                panic!("{doing:?} is still unknown: {failed:?}");
            }
            let found = self.read(client, doing.user).await;
            let expected = &self.users[doing.user];
            assert!(same(expected, &found), "{found:?} is not {expected:?} after {doing:?}");
        }
        for (doing, position) in self.done.clone() {
            let heard =
                self.ask(client, &doing).await.unwrap_or_else(|failed| panic!("{doing:?}: {failed:?}"));
            let single = !matches!(doing.act, Act::Adds(_));
            assert!(!single || heard.outcome == Outcome::Duplicate, "{doing:?} was forgotten");
            assert_eq!(heard.kept.last(), Some(&Some(position.clone())), "{doing:?}");
            let state = self.state(client, doing.user, &position).await;
            assert_eq!(state.state(), WriteState::Applied, "{doing:?} at {position:?}");
        }
        for (user, position) in &self.refused {
            let state = self.state(client, *user, position).await;
            let told = (state.state(), state.refusal());
            assert_eq!(told, (WriteState::Refused, RefusalReason::ListTooLong), "{position:?}");
        }
    }

    /// That all is as it was after everything up to `position`, of what it remembers.
    pub async fn check_as_of(&self, client: &mut Client, position: u64) {
        let past = self.past.as_ref().unwrap();
        let until = past.partition_point(|(at, _)| *at <= position);
        let users = until
            .checked_sub(1)
            .map_or_else(|| vec![Expected::default(); self.users.len()], |at| past[at].1.clone());
        for (at, expected) in users.iter().enumerate() {
            let found = self.read(client, at).await;
            assert!(same(expected, &found), "{} at {position}: {found:?} is not {expected:?}", self.name(at));
        }
    }

    /// What `at` may be, given that the server was gone in the middle of a write.
    fn possible(&self, at: usize) -> Vec<Expected> {
        let mut possible = vec![self.users[at].clone()];
        if let Some(doing) = self.unknown.as_ref().filter(|doing| doing.user == at)
            && self.verdict(doing) == Verdict::Kept
        {
            // Of several adds in a call each may have been kept.
            let parts = if let Act::Adds(count) = doing.act { count } else { 1 };
            possible.extend((1..=parts).map(|kept| {
                let mut after = self.clone();
                after.note(doing, kept);
                after.users[at].clone()
            }));
        }
        possible
    }

    async fn state(&self, client: &mut Client, at: usize, position: &Position) -> proto::GetWriteResponse {
        let request = proto::GetWriteRequest { site: self.site(at), position: Some(position.clone()) };
        client.get_write(request).await.unwrap().into_inner()
    }

    /// The profile with what waits, if it can be told now.
    async fn show(&self, client: &mut Client, at: usize) -> Option<Expected> {
        let (site, user) = (self.site(at), self.name(at));
        let request = proto::GetProfileRequest { site, user, ..Default::default() };
        match client.get_profile(request).await {
            Ok(response) => {
                let profile = response.into_inner().profile.unwrap();
                let whole = profile.pending.is_none_or(|pending| pending.overlaid);
                whole.then(|| Expected::of(&profile))
            }
            Err(status) => match reason(&status).as_str() {
                "PROFILE_NOT_FOUND" => Some(Expected::default()),
                "STORE_REBUILDING" => None,
                _ => panic!("{status:?}"),
            },
        }
    }

    /// The profile when all that waits has been applied.
    async fn read(&self, client: &mut Client, at: usize) -> Expected {
        let (site, user) = (self.site(at), self.name(at));
        applied_all(client, &site, &user).await;
        let Some(profile) = get(client, &site, &user).await else { return Expected::default() };
        assert_eq!(profile.pending, None);
        Expected::of(&profile)
    }
}

impl Heard {
    fn one(receipt: proto::Receipt) -> Self {
        Self { outcome: receipt.outcome(), kept: vec![receipt.position] }
    }
}

impl Expected {
    fn of(profile: &proto::Profile) -> Self {
        use proto::value::Kind;
        let mut found = Self { exists: true, version: profile.version, ..Self::default() };
        for (name, value) in &profile.attributes {
            match (name.as_str(), value.kind.clone().unwrap()) {
                ("visits", Kind::NumberValue(visits)) => found.visits = visits,
                ("last", Kind::StringValue(last)) => found.last = Some(last),
                ("log", Kind::ListValue(log)) => found.log = log.values,
                _ => panic!("{name}: {value:?}"),
            }
        }
        found
    }
}

/// Of what is not there, no version can be seen.
fn same(expected: &Expected, found: &Expected) -> bool {
    let version = if found.exists { expected.version } else { 0 };
    *found == Expected { version, ..expected.clone() }
}

static PROBES: AtomicU64 = AtomicU64::new(0);

/// Waits until every entry of the user has been applied: a write that takes its turn behind them, and changes
/// nothing.
pub async fn applied_all(client: &mut Client, site: &str, user: &str) {
    loop {
        let probe = proto::IdentifyRequest {
            site: site.into(),
            if_version: Some(u64::MAX),
            request_id: format!("probe-{}-{}", std::process::id(), PROBES.fetch_add(1, Ordering::SeqCst)),
            ..set(user, [("last", text("never"))])
        };
        let refused = identify(client, probe).await.unwrap_err();
        match reason(&refused).as_str() {
            // The store is on its way.
            "CONDITION_PENDING" | "CONDITION_NEEDS_STORE" | "STORE_REBUILDING" => {
                tokio::task::yield_now().await;
            }
            _ => return assert_refused(&refused, Code::Aborted, "VERSION_MISMATCH", ""),
        }
    }
}

/// Users that are written once: what snapshots, rebuilds and backups carry along.
pub struct Population(pub usize);

impl Population {
    const SITE: &str = "population";

    fn user(n: usize) -> proto::IdentifyRequest {
        let request =
            set(&format!("user-{n:06}"), [("n", number(n as f64)), ("name", text(format!("name {n}")))]);
        proto::IdentifyRequest { site: Self::SITE.into(), wait: Wait::Journaled.into(), ..request }
    }

    /// Site and user of all.
    pub fn keys(&self) -> Vec<(String, String)> {
        (0..self.0).map(|n| (Self::SITE.to_owned(), Self::user(n).user)).collect()
    }

    /// Writes them all.
    pub async fn write(&self, client: &mut Client) {
        let all: Vec<_> = (0..self.0).map(Self::user).collect();
        for requests in all.chunks(500) {
            let requests = requests.to_vec();
            let answer = client.identify_many(proto::IdentifyManyRequest { requests }).await.unwrap();
            assert_eq!(answer.get_ref().failed, 0);
        }
    }

    /// That all are there, and no other.
    pub async fn check(&self, client: &mut Client) {
        if let Some(last) = self.0.checked_sub(1) {
            applied_all(client, Self::SITE, &Self::user(last).user).await;
        }
        let found = export(client, Self::SITE).await;
        assert_eq!(found.len(), self.0);
        for n in 0..self.0 {
            let expected = Self::user(n);
            let profile = &found[&expected.user];
            assert_eq!(
                (profile.version, &profile.attributes),
                (1, &expected.attributes),
                "{}",
                expected.user
            );
        }
    }
}

/// All profiles of a site.
pub async fn export(client: &mut Client, site: &str) -> BTreeMap<String, proto::Profile> {
    let request = proto::ExportProfilesRequest { site: site.into(), ..Default::default() };
    let mut pages = client.export_profiles(request).await.unwrap().into_inner();
    let mut found = BTreeMap::new();
    while let Some(page) = pages.message().await.unwrap() {
        for profile in page.profiles {
            let again = found.insert(profile.user.clone(), profile);
            assert!(again.is_none(), "given twice: {again:?}");
        }
    }
    found
}

/// That everything acknowledged is there exactly once, and nothing else; afterwards nothing is unknown.
pub async fn check_all(client: &mut Client, writers: &mut [Writer]) {
    for writer in writers.iter_mut() {
        writer.check(client).await;
    }
    let mut exported = 0;
    for site in 0..SITES {
        exported += export(client, &format!("site-{site}")).await.len();
    }
    let known = writers.iter().flat_map(|writer| &writer.users).filter(|user| user.exists).count();
    assert_eq!(exported, known);
}

/// Lets all write at once until each has ended; `acknowledged` hears of every acknowledged write how many
/// there were, and answers whether to go on.
pub async fn write_all(
    server: &Server,
    writers: Vec<Writer>,
    acknowledged: impl Fn(u64) -> bool + Send + Sync + 'static,
) -> Vec<Writer> {
    let acknowledged = Arc::new(acknowledged);
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for mut writer in writers {
        let client = server.client().await;
        let (acknowledged, count) = (Arc::clone(&acknowledged), Arc::clone(&count));
        tasks.push(tokio::spawn(async move {
            writer.write(client, &|| acknowledged(count.fetch_add(1, Ordering::SeqCst) + 1)).await;
            writer
        }));
    }
    let mut writers = Vec::new();
    for task in tasks {
        writers.push(task.await.unwrap());
    }
    writers
}
