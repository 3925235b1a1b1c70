//! Requests as they come from the wire: bytes, message, domain. What is let in obeys the limits, and is written down
//! and read back the same.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use prost::Message;
use steadfast::api::Decoder;
use steadfast::api::decode::{Answering, position};
use steadfast::clock::ManualClock;
use steadfast::command::WriteRequest;
use steadfast::model::limits::Limits;
use steadfast::model::{Command, Entry, EventTime, Site, codec};
use steadfast::proto;

/// 2026-01-01, in nanoseconds.
const NOW: EventTime = EventTime(1_767_225_600_000_000_000);

fn judge(request: WriteRequest) {
    assert!((1..=64).contains(&request.site.as_str().len()));
    assert!((1..=256).contains(&request.write.user.as_str().len()));
    let entry = Entry { site: request.site, command: Command::Write(request.write) };
    assert_eq!(codec::decode_entry(&codec::encode_entry(&entry)).as_ref(), Ok(&entry));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let decoder = Decoder { limits: Limits::default(), clock: Arc::new(ManualClock::new(NOW)) };
    let answering = Answering { deadline: Instant::now() + Duration::from_secs(1), may_load: true };
    let site = Site::new("shop");
    // Every refusal is turned into the answer that the caller would get.
    match kind % 6 {
        0 => {
            let Ok(request) = proto::IdentifyRequest::decode(bytes) else { return };
            match decoder.identify(request, answering) {
                Ok((request, _)) => judge(request),
                Err(failure) => drop(failure.into_status()),
            }
        }
        1 => {
            let Ok(request) = proto::DeleteProfileRequest::decode(bytes) else { return };
            match decoder.delete(request, answering) {
                Ok(request) => judge(request),
                Err(failure) => drop(failure.into_status()),
            }
        }
        2 => {
            let Ok(record) = proto::ImportRecord::decode(bytes) else { return };
            match decoder.record(&site, record, answering) {
                Ok(request) => judge(request),
                Err(failure) => drop(failure.into_item()),
            }
        }
        3 => {
            let Ok(request) = proto::GetWriteRequest::decode(bytes) else { return };
            let _ = decoder.site(request.site).map_err(|failure| failure.into_status());
            let _ = position(request.position).map_err(|failure| failure.into_status());
        }
        4 => {
            let Ok(request) = proto::IdentifyManyRequest::decode(bytes) else { return };
            for request in request.requests {
                match decoder.identify(request, answering) {
                    Ok((request, _)) => judge(request),
                    Err(failure) => drop(failure.within("requests[0]").into_item()),
                }
            }
        }
        _ => {
            let _ = proto::ImportProfilesRequest::decode(bytes);
            let _ = proto::QueryProfilesRequest::decode(bytes);
        }
    }
});
