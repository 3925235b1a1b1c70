//! The generated messages, clients and servers of package `steadfast.v1`; the comments are those of `proto/`.

#![allow(missing_docs, reason = "generated: helpers of enums and services carry no comments")]
#![allow(rust_2018_idioms, clippy::pedantic, clippy::unwrap_used, reason = "generated code")]
#![allow(clippy::large_enum_variant, reason = "generated code: oneofs are read at once and not kept")]

tonic::include_proto!("steadfast.v1");

/// The encoded `google.protobuf.FileDescriptorSet` of all files in `proto/` and of what they import, for server
/// reflection. The types of error details are not in it: register `tonic_types::pb::FILE_DESCRIPTOR_SET` as well.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
