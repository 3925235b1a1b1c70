//! The gRPC surface: decode, validate, ask the stack, encode.

pub mod codec;
