//! Snapshots: any bytes are read or are an error, also where their checksums are right; what is read is what was
//! written.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use steadfast::fs::{FaultyFs, Fs, OpenMode};
use steadfast::model::{EventTime, NodeId};
use steadfast::snapshot::{Header, SnapshotReader, SnapshotWriter, Waiting};

const DIR: &str = "/snapshots";
const HEADER: usize = 80;
const BLOCK_HEADER: usize = 36;
const FOOTER: usize = 232;

fn read(bytes: &[u8]) {
    let fs = FaultyFs::new();
    let path = Path::new(DIR).join("snapshot");
    fs.set_content(&path, bytes.to_vec());
    let Ok(reader) = SnapshotReader::open_file(&fs, &path) else { return };
    let _ = reader.items().map(drop).count();
    let _ = (reader.request_ids(), reader.waiting(), reader.registry(), reader.refused());
    if reader.verify(&mut |_| Ok(())).is_ok() {
        // Sound: what is in it can be written again.
        let header = Header { number: 1, ..*reader.header() };
        fs.create_dir_all(Path::new(DIR)).unwrap();
        let mut writer = SnapshotWriter::create(Arc::new(fs.clone()), Path::new(DIR), header).unwrap();
        let mut items = 0;
        for item in reader.items() {
            writer.push(&item.unwrap()).unwrap();
            items += 1;
        }
        for id in reader.request_ids().unwrap() {
            writer.push_id(&id).unwrap();
        }
        let again = writer.finish(&reader.waiting().unwrap()).unwrap();
        let copy = SnapshotReader::open_file(&fs, again.path()).unwrap();
        assert_eq!(copy.items().map(Result::unwrap).count(), items);
        copy.verify(&mut |_| Ok(())).unwrap();
    }
}

/// Makes the checksums of header, blocks and footer right, so that what they guard is looked at.
fn reseal(bytes: &mut [u8]) {
    if bytes.len() < HEADER + FOOTER {
        return;
    }
    let seal = |bytes: &mut [u8], seed: u32| {
        let (body, sum) = bytes.split_at_mut(bytes.len() - 4);
        sum.copy_from_slice(&crc32c::crc32c_append(seed, body).to_le_bytes());
    };
    bytes[..8].copy_from_slice(b"STDFSNAP");
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    seal(&mut bytes[..HEADER], 0);
    let seed = crc32c::crc32c_append(crc32c::crc32c(&bytes[16..24]), &bytes[24..32]);
    let footer = bytes.len() - FOOTER;
    let mut at = HEADER;
    while at + BLOCK_HEADER <= footer {
        bytes[at..at + 4].copy_from_slice(b"SnBk");
        bytes[at + 5] = 1;
        let length = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap()) as usize;
        let end = at.saturating_add(BLOCK_HEADER).saturating_add(length).min(footer);
        let sum = crc32c::crc32c_append(seed, &bytes[at + BLOCK_HEADER..end]);
        bytes[at + 28..at + 32].copy_from_slice(&sum.to_le_bytes());
        seal(&mut bytes[at..at + BLOCK_HEADER], seed);
        at = end;
    }
    let sum = crc32c::crc32c(&bytes[..footer]);
    let tail = &mut bytes[footer..];
    tail[..4].copy_from_slice(b"SnFt");
    tail[4..8].copy_from_slice(&1_u32.to_le_bytes());
    tail[208..216].copy_from_slice(&(footer as u64).to_le_bytes());
    tail[216..220].copy_from_slice(&sum.to_le_bytes());
    seal(&mut tail[..FOOTER - 8], seed);
    tail[FOOTER - 8..].copy_from_slice(b"STDFSEND");
}

/// A small snapshot, to be damaged.
fn seed() -> Vec<u8> {
    let fs = FaultyFs::new();
    fs.create_dir_all(Path::new(DIR)).unwrap();
    let header = Header {
        node: NodeId(1),
        number: 1,
        start: 100,
        commit_number: 1,
        created_at: EventTime::MIN,
    };
    let writer = SnapshotWriter::create(Arc::new(fs.clone()), Path::new(DIR), header).unwrap();
    let written = writer.finish(&Waiting::new(100, [3, 4, 9])).unwrap();
    let file = fs.open(written.path(), OpenMode::Read).unwrap();
    file.read_up_to(file.len().unwrap() as usize, 0).unwrap()
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let mut sealed = bytes.to_vec();
    reseal(&mut sealed);
    read(&sealed);
    // Changes to a real one: place and value, three bytes each.
    let mut changed = seed();
    for change in bytes.chunks_exact(3).take(16) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[at] ^= change[2];
    }
    reseal(&mut changed);
    read(&changed);
});
