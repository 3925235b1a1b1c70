//! Tests of the whole program: the real binary as a child process, called over real gRPC.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends the test"
)]

mod crash;
mod faults;
mod hostile;
mod layering;
mod listeners;
mod many;
mod metrics;
mod operator;
mod reads;
mod rebuild;
mod restart;
mod support;
mod transfer;
mod writes;
