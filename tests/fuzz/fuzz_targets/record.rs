//! What the store keeps: any bytes decode or are an error; what decodes is written down and read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast::model::codec;
use steadfast::store::note::Note;
use steadfast::store::{AttributeInfo, RefusedRecord, keys};

/// Compared as bytes: a NaN, which acceptance refuses, is not equal to itself.
fn small<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = keys::decode::<T>(bytes) {
        let written = keys::encode(&value);
        assert_eq!(keys::decode::<T>(&written).map(|again| keys::encode(&again)), Ok(written));
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = codec::decode_record(bytes) {
        let written = codec::encode_record(&record);
        assert_eq!(codec::decode_record(&written).map(|again| codec::encode_record(&again)), Ok(written));
    }
    small::<RefusedRecord>(bytes);
    small::<AttributeInfo>(bytes);
    small::<Note>(bytes);
    let _ = keys::split_profile(bytes);
});
