//! Journal entries: any bytes decode or are an error; what decodes is written down and read back the same, and a
//! write that acceptance would let in can be evaluated.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use steadfast::model::evaluate::{Evaluation, Stamp, evaluate};
use steadfast::model::limits::Limits;
use steadfast::model::validate::validate_write;
use steadfast::model::{Command, EventTime, NodeId, Position, codec};

/// 2026-01-01, in nanoseconds.
const NOW: EventTime = EventTime(1_767_225_600_000_000_000);

fuzz_target!(|bytes: &[u8]| {
    let Ok(entry) = codec::decode_entry(bytes) else { return };
    // Compared as bytes: a NaN, which acceptance refuses, is not equal to itself.
    let written = codec::encode_entry(&entry);
    assert_eq!(codec::decode_entry(&written).map(|again| codec::encode_entry(&again)), Ok(written));
    let head = codec::peek_entry(bytes).expect("what decodes has a head");
    assert_eq!(head.site, entry.site.as_str());
    let Command::Write(write) = entry.command else { return };
    assert_eq!(head.request_id, write.request_id.as_deref());
    if validate_write(&write, &Limits::default(), NOW).is_err() {
        return;
    }
    let mut record = None;
    for number in 1..=2 {
        let stamp = Stamp {
            position: Position { node: NodeId(1), number },
            accepted_at: EventTime(NOW.0 + number),
            refresh_after: Duration::ZERO,
            semantics: 1,
        };
        if let Evaluation::Applied { record: new, .. } = evaluate(record.as_ref(), &write, &stamp) {
            assert_eq!(codec::decode_record(&codec::encode_record(&new)).as_ref(), Ok(&new));
            record = Some(new);
        }
    }
});
