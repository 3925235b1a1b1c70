use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use tower::{Layer as _, Service, ServiceExt as _};

use super::super::*;
use super::support::*;
use crate::fs::FaultyFs;
use crate::model::Site;

#[derive(Debug, PartialEq)]
enum Error {
    Held(Box<Held>),
    CannotWait,
}

impl From<Box<Held>> for Error {
    fn from(held: Box<Held>) -> Self {
        Self::Held(held)
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[derive(Clone)]
struct Request {
    site: Site,
    conditional: bool,
    waits: bool,
}

impl Subject for Request {
    type Error = Error;

    fn site(&self) -> Option<&Site> {
        Some(&self.site)
    }

    fn operation(&self) -> Operation {
        Operation::Identify
    }

    fn any_user(&self, test: &dyn Fn(u64) -> bool) -> bool {
        test(1)
    }

    fn defer(&mut self, left: Option<Duration>) -> Result<(), Error> {
        assert!(left.is_some_and(|left| left <= Duration::from_hours(1)));
        self.waits = true;
        if self.conditional { Err(Error::CannotWait) } else { Ok(()) }
    }
}

/// Answers whether the request was told to wait.
#[derive(Clone)]
struct Inner;

impl Service<Request> for Inner {
    type Response = bool;
    type Error = Error;
    type Future = Ready<Result<bool, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ready(Ok(request.waits))
    }
}

#[tokio::test]
async fn requests_pass_wait_or_are_refused_in_call() {
    let (fs, clocks) = (FaultyFs::new(), Clocks::new());
    let (switch, _scribe) = open(&fs, clocks.0);
    let service = SwitchLayer::new(std::sync::Arc::clone(&switch)).layer(Inner);
    let request = |site: &str| Request { site: Site::new(site), conditional: false, waits: false };
    let ask = |request| service.clone().oneshot(request);
    assert_eq!(ask(request("a")).await, Ok(false));

    // A call that has been made counts as under way until it is answered or dropped.
    let mut called = service.clone();
    let (answered, dropped) = (called.call(request("a")), called.call(request("a")));
    let (status, _persisting) = switch.place(new_hold(Some("a"), Mode::Defer), clocks.0).unwrap();
    assert_eq!(status.in_flight, 2);
    drop(dropped);
    assert_eq!(answered.await, Ok(false), "it was admitted before");
    assert_eq!(switch.status(status.hold.id, clocks.0).unwrap().in_flight, 0);

    assert_eq!(ask(request("a")).await, Ok(true));
    assert_eq!(ask(Request { conditional: true, ..request("a") }).await, Err(Error::CannotWait));
    assert_eq!(ask(request("b")).await, Ok(false));
    drop(switch.place(new_hold(None, Mode::Reject), clocks.0).unwrap());
    drop(switch.place(new_hold(Some("a"), Mode::Reject), clocks.0).unwrap());
    let Err(Error::Held(held)) = ask(request("a")).await else { panic!() };
    assert_eq!((held.id, held.whole_node), (HoldId(2), true), "the one that stops more");
    assert_eq!(held.to_string(), "an operator holds IDENTIFY back (hold-2: whole node, IDENTIFY+DELETE)");
    assert!(held.expires_at.is_some() && held.expires_in.is_some());
}
