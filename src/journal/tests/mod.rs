//! Tests of the journal.

mod basics;
mod carry;
mod carry_faults;
mod damage;
mod faults;
mod group;
mod refusals;
mod rolls;
mod support;
