//! Kill it under load, start it again, and look whether it kept its word.

use std::sync::Mutex;

use crate::agree::check_index;
use crate::clients::{Population, Writer, check_all, write_all};
use crate::support::*;

const CLIENTS: u64 = 6;

/// Kept small in `cargo test`; CI asks for a hundred.
fn rounds() -> u64 {
    std::env::var("STEADFAST_CRASH_ROUNDS").map_or(3, |text| text.parse().unwrap())
}

/// How a round ends.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Kill,
    Terminate,
}

async fn round(home: &Home, mut writers: Vec<Writer>, after: u64, ending: Ending) -> Vec<Writer> {
    let server = home.start();
    check_all(&mut server.client().await, &mut writers).await;
    let kill: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(Some(match ending {
        Ending::Kill => Box::new(server.signaller(rustix::process::Signal::KILL)),
        Ending::Terminate => Box::new(server.signaller(rustix::process::Signal::TERM)),
    }));
    let acknowledged = move |count| {
        if count >= after
            && let Some(kill) = kill.lock().unwrap().take()
        {
            kill();
        }
        true
    };
    let writers = write_all(&server, writers, acknowledged).await;
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
    let mut writers = Writer::some(CLIENTS);
    let population = Population(300);
    let server = home.start();
    population.write(&mut server.client().await).await;
    server.kill();
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
    check_all(&mut client, &mut writers).await;
    population.check(&mut client).await;
}
