//! Tests of the journal.

mod basics;
mod damage;
mod faults;
mod group;
mod refusals;
mod support;
