//! The generated messages, clients and servers of package `steadfast.v1`; the comments are those of `proto/`.

#![allow(missing_docs, reason = "generated: helpers of enums and services carry no comments")]
#![allow(rust_2018_idioms, clippy::pedantic, clippy::unwrap_used, reason = "generated code")]
#![allow(clippy::large_enum_variant, reason = "generated code: oneofs are read at once and not kept")]

tonic::include_proto!("steadfast.v1");

/// The encoded `google.protobuf.FileDescriptorSet` of all files in `proto/` and of what they import, for server
/// reflection. The types of error details are not in it: register `tonic_types::pb::FILE_DESCRIPTOR_SET` as well.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::DESCRIPTOR_SET;

    fn messages(descriptors: &[u8]) -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(descriptors).unwrap();
        let full_names = |file: &prost_types::FileDescriptorProto| {
            let package = file.package().to_owned();
            file.message_type.iter().map(move |m| format!("{package}.{}", m.name())).collect::<Vec<_>>()
        };
        set.file.iter().flat_map(full_names).collect()
    }

    #[test]
    fn descriptors_hold_both_services_and_what_they_import() {
        let set = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap();
        let services: Vec<_> = set.file.iter().flat_map(|file| &file.service).collect();
        let methods = |name: &str| services.iter().find(|s| s.name() == name).unwrap().method.len();
        assert_eq!((methods("AttributeService"), methods("OperatorService")), (14, 20));
        let messages = messages(DESCRIPTOR_SET);
        assert!(messages.contains("google.protobuf.Timestamp"));
        assert!(messages.contains("google.protobuf.Duration"));
    }

    #[test]
    fn reflection_takes_them_together_with_the_error_details() {
        let details = tonic_types::pb::FILE_DESCRIPTOR_SET;
        let known = messages(details);
        for name in ["ErrorInfo", "BadRequest", "RetryInfo", "QuotaFailure", "Status"] {
            assert!(known.contains(&format!("google.rpc.{name}")), "{name}");
        }
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(details)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        assert!(builder().build_v1().is_ok());
        assert!(builder().build_v1alpha().is_ok());
    }
}
