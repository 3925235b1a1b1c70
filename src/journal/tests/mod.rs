//! Tests of the journal.

mod basics;
mod support;
