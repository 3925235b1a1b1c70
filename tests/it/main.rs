//! Tests of the whole program: the real binary as a child process, called over real gRPC.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends the test"
)]

mod agree;
mod breaker;
mod catch_up;
#[allow(dead_code, reason = "shared with the trials on disks, which use the rest")]
mod clients;
mod crash;
mod damage;
mod drill;
mod faults;
mod formats;
mod game_day;
mod held_order;
mod holds;
mod hostile;
mod incidents;
mod layering;
mod listeners;
mod many;
mod metrics;
mod operator;
mod orders;
mod overrides;
mod protection;
mod reads;
mod rebuild;
mod restart;
mod resume;
mod simulation;
#[allow(dead_code, reason = "as above")]
mod support;
mod tasks;
mod transfer;
mod writes;
