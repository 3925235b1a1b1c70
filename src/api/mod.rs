//! The gRPC surface: decode, validate, ask the stack, encode.

pub mod call;
pub mod codec;
pub mod status;
