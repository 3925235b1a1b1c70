//! The load: real gRPC clients with deadlines, in open loop. Calls start when they are due, whatever is answered,
//! and latencies count from then.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::book::{Book, Heard, Offered};
use super::operator::Beginning;
use super::samples::{Answer, Kind, Sample};
use crate::bench::BenchError;
use crate::bench::client::Redial;
use crate::bench::population::mix;
use crate::model::EventTime;
use crate::proto::{
    AttributeChange, GetProfileRequest, IdentifyRequest, Outcome, Value, attribute_change::Change, value,
};

/// The counter of a user's writes.
pub const COUNTER: &str = "visits";
/// The number of a user's last write.
pub const LAST: &str = "last";

/// Most calls unanswered at once; a further one counts as not answered.
const MAX_UNANSWERED: usize = 20_000;
/// Connections of writers, and of readers.
const CONNECTIONS: usize = 3;
/// So long beyond its deadline a client still listens.
const PATIENCE: Duration = Duration::from_millis(200);
/// The generator sleeps no longer, so that it hears of changes.
const NAP: Duration = Duration::from_millis(20);

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Writes per second; as many reads.
    pub rate: f64,
    /// Sites.
    pub sites: u32,
    /// Users of each.
    pub users: u32,
    /// The same seed calls the same users in the same order.
    pub seed: u64,
    /// The clients' deadline.
    pub deadline: Duration,
}

impl Offer {
    /// Whom the call of this number is about.
    fn pick(&self, number: u64) -> Offered {
        let random = mix(mix(self.seed).wrapping_add(number));
        let site = random % u64::from(self.sites.max(1));
        let user = (random >> 32) % u64::from(self.users.max(1));
        Offered { number, site: site as u32, user: user as u32 }
    }
}

/// Clients that offer load, and as clients of the control half as much of it at the same moments.
pub struct Load {
    offer: Offer,
    /// Event times begin here too; they rise with the writes' numbers.
    began: Beginning,
    writers: Vec<Redial>,
    readers: Vec<Redial>,
    control: Vec<Redial>,
    factor: Cell<f64>,
    ending: Cell<bool>,
    samples: RefCell<Vec<Sample>>,
    book: RefCell<Book>,
}

impl Load {
    /// Connects to the server at `addr`, and to the control if there is one.
    pub async fn connect(
        addr: &str,
        control_addr: Option<&str>,
        offer: Offer,
    ) -> Result<Rc<Self>, BenchError> {
        let (mut writers, mut readers, mut control) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            writers.push(Redial::new(addr).await?);
            readers.push(Redial::new(addr).await?);
            if let Some(addr) = control_addr {
                control.push(Redial::new(addr).await?);
            }
        }
        Ok(Rc::new(Self {
            offer,
            began: Beginning::now(),
            writers,
            readers,
            control,
            factor: Cell::new(1.0),
            ending: Cell::new(false),
            samples: RefCell::default(),
            book: RefCell::default(),
        }))
    }

    /// When it began: what samples count from.
    pub fn began(&self) -> Beginning {
        self.began
    }

    /// So many times the usual writes from now on.
    pub fn set_factor(&self, factor: f64) {
        self.factor.set(factor);
    }

    /// No more calls from now on.
    pub fn end(&self) {
        self.ending.set(true);
    }

    /// What was heard so far.
    pub fn take_samples(&self) -> Vec<Sample> {
        self.samples.take()
    }

    /// What was acknowledged.
    pub fn take_book(&self) -> Book {
        self.book.take()
    }

    /// Writes and reads until it is to end and everything has been answered.
    pub async fn run(self: Rc<Self>) {
        let mut calls = JoinSet::new();
        let (mut write_at, mut read_at) = (Duration::ZERO, Duration::ZERO);
        let (mut writes, mut reads) = (0_u64, 0_u64);
        while !self.ending.get() {
            let now = self.began.passed();
            while write_at <= now {
                writes += 1;
                let offered = self.offer.pick(writes);
                self.spawn(&mut calls, Kind::Write, offered, write_at);
                if writes.is_multiple_of(2) {
                    self.spawn(&mut calls, Kind::ControlWrite, offered, write_at);
                }
                write_at += Duration::from_secs_f64(1.0 / (self.offer.rate * self.factor.get()).max(0.001));
            }
            while read_at <= now {
                reads += 1;
                // Other users than the writers' at that moment.
                let offered = self.offer.pick(reads.wrapping_add(1 << 40));
                self.spawn(&mut calls, Kind::Read, offered, read_at);
                if reads.is_multiple_of(2) {
                    self.spawn(&mut calls, Kind::ControlRead, offered, read_at);
                }
                read_at += Duration::from_secs_f64(1.0 / self.offer.rate.max(0.001));
            }
            while calls.try_join_next().is_some() {}
            let next = write_at.min(read_at).saturating_sub(now);
            tokio::time::sleep(next.min(NAP)).await;
        }
        while calls.join_next().await.is_some() {}
    }

    fn spawn(self: &Rc<Self>, calls: &mut JoinSet<()>, kind: Kind, offered: Offered, due: Duration) {
        if kind.is_control() && self.control.is_empty() {
            return;
        }
        if calls.len() >= MAX_UNANSWERED {
            return self.sample(kind, offered, due, Answer::Unanswered);
        }
        let load = Rc::clone(self);
        calls.spawn_local(async move {
            let answer = match kind {
                Kind::Write => {
                    let (answer, heard) = load.write(offered, load.offer.deadline).await;
                    load.book.borrow_mut().note(offered, heard);
                    answer
                }
                Kind::Read => load.read(offered).await,
                Kind::ControlWrite | Kind::ControlRead => load.ask_control(kind, offered).await,
            };
            load.sample(kind, offered, due, answer);
        });
    }

    fn sample(&self, kind: Kind, offered: Offered, due: Duration, answer: Answer) {
        let took = self.began.passed().saturating_sub(due);
        let sample = Sample { at: due, took, kind, site: offered.site, user: offered.user, answer };
        self.samples.borrow_mut().push(sample);
    }

    async fn ask_control(&self, kind: Kind, offered: Offered) -> Answer {
        let Some(redial) = self.control.get(offered.number as usize % self.control.len().max(1)) else {
            return Answer::Unanswered;
        };
        let mut client = redial.client();
        let deadline = self.offer.deadline;
        let call = async {
            if kind == Kind::ControlWrite {
                client.identify(timed(self.identify(offered), deadline)).await.map(drop)
            } else {
                let (site, user) = (site(offered.site), user(offered.user));
                let message = GetProfileRequest { site, user, include_occurred_at: false };
                client.get_profile(timed(message, deadline)).await.map(drop)
            }
        };
        match tokio::time::timeout(deadline + PATIENCE, call).await {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(_)) | Err(_) => Answer::Unanswered,
        }
    }

    fn identify(&self, offered: Offered) -> IdentifyRequest {
        let change = |name: &str, change| AttributeChange { name: name.to_owned(), change: Some(change) };
        let number = Value { kind: Some(value::Kind::NumberValue(offered.number as f64)) };
        let at = self.began.wall.plus(Duration::from_micros(offered.number));
        IdentifyRequest {
            site: site(offered.site),
            user: user(offered.user),
            changes: vec![change(COUNTER, Change::Add(1.0)), change(LAST, Change::Set(number))],
            request_id: format!("drill-{}-{}", self.offer.seed, offered.number),
            occurred_at: Some(timestamp(at)),
            ..IdentifyRequest::default()
        }
    }

    /// Asks for one write. The same offer is the same write, whenever it is asked for.
    async fn write(&self, offered: Offered, deadline: Duration) -> (Answer, Heard) {
        let Some(redial) = self.writers.get(offered.number as usize % self.writers.len().max(1)) else {
            return (Answer::Unanswered, Heard::NotKept);
        };
        let mut client = redial.client();
        let call = client.identify(timed(self.identify(offered), deadline));
        match tokio::time::timeout(deadline + PATIENCE, call).await {
            Ok(Ok(response)) => match response.into_inner().receipt.map(|receipt| receipt.outcome()) {
                Some(Outcome::Deferred) => (Answer::Deferred, Heard::Kept),
                Some(Outcome::Applied | Outcome::Unchanged | Outcome::Duplicate) => {
                    (Answer::Done, Heard::Kept)
                }
                Some(Outcome::Unspecified) | None => (Answer::Unanswered, Heard::Unknown),
            },
            Ok(Err(status)) => {
                // A connection that is gone is made anew; if that fails, the next call tells.
                let _ = redial.repair().await;
                refused(&status)
            }
            Err(_) => (Answer::Unanswered, Heard::Unknown),
        }
    }

    async fn read(&self, offered: Offered) -> Answer {
        match self.profile(offered.site, offered.user, self.offer.deadline).await {
            Ok(_) => Answer::Done,
            Err(ReadFailure::Refused(reason)) => Answer::Refused(reason),
            Err(ReadFailure::Unanswered) => Answer::Unanswered,
        }
    }

    /// Counter and last number of a user; zeros if there is no such profile.
    pub async fn profile(&self, s: u32, u: u32, deadline: Duration) -> Result<(u64, u64), ReadFailure> {
        let message = GetProfileRequest { site: site(s), user: user(u), include_occurred_at: false };
        let Some(redial) = self.readers.get(u as usize % self.readers.len().max(1)) else {
            return Err(ReadFailure::Unanswered);
        };
        let mut client = redial.client();
        let call = client.get_profile(timed(message, deadline));
        match tokio::time::timeout(deadline + PATIENCE, call).await {
            Ok(Ok(response)) => {
                let attributes = response.into_inner().profile.map(|profile| profile.attributes);
                let attributes = attributes.unwrap_or_default();
                let number = |name: &str| match attributes.get(name).and_then(|value| value.kind.as_ref()) {
                    Some(value::Kind::NumberValue(number)) => *number as u64,
                    _ => 0,
                };
                Ok((number(COUNTER), number(LAST)))
            }
            Ok(Err(status)) => match reason(&status) {
                "PROFILE_NOT_FOUND" => Ok((0, 0)),
                reason => {
                    let _ = redial.repair().await;
                    Err(ReadFailure::Refused(reason))
                }
            },
            Err(_) => Err(ReadFailure::Unanswered),
        }
    }

    /// Asks again for writes whose answer left open whether they are kept, until it is known of all.
    pub async fn settle(&self, book: &mut Book, patience: Duration) -> u64 {
        let until = Instant::now() + patience;
        let mut asked = 0;
        loop {
            let unknown = book.take_unknown();
            if unknown.is_empty() || Instant::now() >= until {
                return asked;
            }
            for offered in unknown {
                asked += 1;
                let (_, heard) = self.write(offered, Duration::from_secs(5)).await;
                // Refused now says nothing about the first time.
                book.note(offered, if heard == Heard::Kept { heard } else { Heard::Unknown });
            }
        }
    }
}

/// Why a profile could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// For this reason.
    Refused(&'static str),
    /// No answer within the deadline.
    Unanswered,
}

/// The name of a site.
pub fn site(site: u32) -> String {
    format!("site-{site}")
}

/// The name of a user.
pub fn user(user: u32) -> String {
    format!("user-{user}")
}

fn timed<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn timestamp(time: EventTime) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.0 % 1_000_000_000).unwrap_or_default();
    prost_types::Timestamp { seconds: i64::try_from(time.0 / 1_000_000_000).unwrap_or_default(), nanos }
}

fn refused(status: &Status) -> (Answer, Heard) {
    let info = status.get_details_error_info();
    let kept = info.as_ref().and_then(|info| info.metadata.get("kept")).map(String::as_str);
    let heard = if kept == Some("no") { Heard::NotKept } else { Heard::Unknown };
    match reason(status) {
        "ACCEPTANCE_UNKNOWN" | "NOT_ACCEPTED" => (Answer::Unanswered, heard),
        reason => (Answer::Refused(reason), heard),
    }
}

/// The reason that a status gives, of those that are known: samples are many.
fn reason(status: &Status) -> &'static str {
    const KNOWN: &[&str] = &[
        "ACCEPTANCE_UNKNOWN",
        "BREAKER_OPEN",
        "CONDITION_NEEDS_STORE",
        "DEADLINE",
        "DRAINING",
        "INTERNAL",
        "JOURNAL_FAILED",
        "JOURNAL_FULL",
        "JOURNAL_STALLED",
        "NOT_ACCEPTED",
        "OVERLOADED",
        "PROFILE_NOT_FOUND",
        "READS_HELD",
        "STORE_REBUILDING",
        "STORE_UNAVAILABLE",
        "WRITES_HELD",
    ];
    let given = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    KNOWN.iter().find(|known| **known == given).copied().unwrap_or("another reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_calls_the_same_users_in_the_same_order() {
        let called = |seed| -> Vec<(u32, u32)> {
            let deadline = Duration::from_secs(1);
            let offer = Offer { rate: 1.0, sites: 10, users: 200, seed, deadline };
            (1..=1000).map(|number| offer.pick(number)).map(|call| (call.site, call.user)).collect()
        };
        assert_eq!(called(1), called(1));
        assert_ne!(called(1), called(2));
        let sites: std::collections::BTreeSet<u32> = called(1).iter().map(|(site, _)| *site).collect();
        assert_eq!(sites.len(), 10);
    }
}
