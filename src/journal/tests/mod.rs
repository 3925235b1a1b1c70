//! Tests of the journal.

mod basics;
pub(super) mod carry;
mod carry_faults;
pub(super) mod damage;
mod faults;
mod group;
mod refusals;
mod rolls;
pub(super) mod support;
