//! Steadfast: a gRPC store for user attributes that stays up, and loses nothing, while its storage is
//! slow.

pub mod accept;
pub mod api;
pub mod app;
pub mod applier;
pub mod bench;
pub mod breaker;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod drill;
pub mod fs;
pub mod guard;
pub mod incident;
pub mod journal;
pub mod kill_switch;
pub mod ledger;
pub mod meter;
pub mod metrics;
pub mod model;
pub mod proto;
pub mod read;
pub mod rebuild;
pub mod serve;
pub mod sites;
pub mod snapshot;
pub mod store;
