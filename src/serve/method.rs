//! What the transport must know of a method.

use metrics::{Counter, Histogram, counter, histogram};

use crate::metrics as names;

/// One method, or all that are not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// Its place in [`METHODS`].
    pub id: usize,
    /// `Service/Method`, or `other`.
    pub name: &'static str,
    /// Whether an error of it says if something was kept.
    pub write: bool,
    /// Whether its answer may be a stream.
    pub streaming: bool,
}

impl Method {
    /// Whether it is one of the data service, whose streams end by themselves when their connection is to end.
    pub(super) fn is_ours(self) -> bool {
        self.id < METHODS.len() - 1
    }
}

const DATA: &str = "/steadfast.v1.AttributeService/";

/// Name, whether it writes, whether it streams. The most frequent ones first.
const METHODS: [(&str, bool, bool); 15] = [
    ("Identify", true, false),
    ("GetProfile", false, false),
    ("IdentifyMany", true, false),
    ("IdentifyStream", true, true),
    ("BatchGetProfiles", false, false),
    ("DeleteProfile", true, false),
    ("GetWrite", false, false),
    ("QueryProfiles", false, false),
    ("CountProfiles", false, false),
    ("ExplainQuery", false, false),
    ("MatchProfile", false, false),
    ("ListAttributes", false, false),
    ("ExportProfiles", false, true),
    ("ImportProfiles", true, true),
    // Everything else: health, reflection, the operators' service, and what does not exist.
    ("other", false, true),
];

/// The method behind a path.
pub(super) fn method(path: &str) -> Method {
    let known =
        path.strip_prefix(DATA).and_then(|name| METHODS.iter().position(|(known, ..)| *known == name));
    let id = known.unwrap_or(METHODS.len() - 1);
    let (name, write, streaming) = METHODS.get(id).copied().unwrap_or(("other", false, true));
    Method { id, name, write, streaming }
}

/// Handles of each method's metrics, looked up once.
pub(super) struct MethodMetrics(Vec<(Counter, Histogram)>);

impl MethodMetrics {
    pub(super) fn new() -> Self {
        let each = METHODS.iter().map(|(name, ..)| {
            let ok = counter!(names::CALLS, "method" => *name, "code" => code_name(tonic::Code::Ok));
            (ok, histogram!(names::CALL_SECONDS, "method" => *name))
        });
        Self(each.collect())
    }

    /// Counts an answer.
    pub(super) fn answered(&self, method: Method, code: tonic::Code) {
        match self.0.get(method.id) {
            Some((ok, _)) if code == tonic::Code::Ok => ok.increment(1),
            _ => counter!(names::CALLS, "method" => method.name, "code" => code_name(code)).increment(1),
        }
    }

    /// Notes how long it took.
    pub(super) fn took(&self, method: Method, seconds: f64) {
        if let Some((_, histogram)) = self.0.get(method.id) {
            histogram.record(seconds);
        }
    }
}

/// The code as it is written in the gRPC specification.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_service_is_known() {
        use prost::Message as _;
        let files = prost_types::FileDescriptorSet::decode(crate::proto::DESCRIPTOR_SET).unwrap();
        let services: Vec<_> = files.file.iter().flat_map(|file| &file.service).collect();
        let service = services.iter().find(|service| service.name() == "AttributeService").unwrap();
        for declared in &service.method {
            let found = method(&format!("{DATA}{}", declared.name()));
            assert_eq!(found.name, declared.name());
            assert_eq!(found.streaming, declared.server_streaming(), "{}", declared.name());
        }
        assert_eq!(method("/grpc.health.v1.Health/Check").name, "other");
        assert_eq!(method("").name, "other");
    }
}
