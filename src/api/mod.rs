//! The gRPC surface: decode, validate, ask the stack, encode.

pub mod call;
pub mod codec;
pub mod decode;
mod duplex;
pub mod encode;
mod measure;
pub mod operator;
mod read;
pub mod service;
pub mod status;
mod transfer;
mod write;

pub use decode::Decoder;
pub use measure::{Measured, Meters};
pub use service::{Attributes, Reads, Writes};
