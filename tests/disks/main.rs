//! Trials on disks of their own, which can lose power, freeze and fill up: ext4 on loop devices. They need root,
//! or sudo without a password, so `cargo test` leaves them out unless it is told:
//!
//! `cargo test --test disks -- [--rounds N] [TRIAL...]`
//!
//! What is missing for a trial makes it fail; none is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends the test"
)]

mod disk;
mod freeze;
mod full;
mod power;

#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
#[path = "../it/agree.rs"]
mod agree;
#[allow(dead_code, reason = "as above")]
#[path = "../it/clients.rs"]
mod clients;
#[allow(dead_code, reason = "as above")]
#[path = "../it/orders.rs"]
mod orders;
#[allow(dead_code, reason = "as above")]
#[path = "../it/support.rs"]
mod support;

const TRIALS: [&str; 3] = ["power", "freeze", "full"];

struct Wanted {
    /// How often the power is cut.
    rounds: u64,
    trials: Vec<String>,
}

fn wanted() -> Result<Wanted, String> {
    let mut wanted = Wanted { rounds: 10, trials: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => {
                let rounds = words.next().and_then(|rounds| rounds.parse().ok());
                wanted.rounds = rounds.ok_or("--rounds needs a number")?;
            }
            trial if TRIALS.contains(&trial) => wanted.trials.push(word),
            _ => return Err(format!("{word}: not one of --rounds, {}", TRIALS.join(", "))),
        }
    }
    if wanted.trials.is_empty() {
        wanted.trials = TRIALS.map(str::to_owned).to_vec();
    }
    Ok(wanted)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), String> {
    let wanted = wanted()?;
    for trial in &wanted.trials {
        match trial.as_str() {
            "power" => power::cuts(wanted.rounds).await,
            "freeze" => freeze::all().await,
            _ => full::all().await,
        }
        println!("{trial}: ok");
    }
    Ok(())
}
