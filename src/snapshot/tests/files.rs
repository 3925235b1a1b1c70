//! The file: what is written is read; what is not as it was written is told.

use std::sync::Arc;

use super::support::*;
use crate::fs::FaultyFs;
use crate::model::codec;
use crate::snapshot::format::{BLOCK_HEADER, FOOTER, HEADER};
use crate::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, Waiting};

#[test]
fn it_reads_back_as_written() {
    let fs = FaultyFs::default();
    let snapshot = write(&fs, header(1, 100), &small(), &[4, 5, 99]);
    let reader = SnapshotReader::open_in(&fs, &dir(), &snapshot).unwrap();
    assert_eq!(*reader.header(), header(1, 100));
    let counts = reader.counts();
    assert_eq!((counts.profiles, counts.graves, counts.refused, counts.attributes), (3, 1, 1, 2));
    assert_eq!((counts.request_ids, counts.waiting), (3, 3));
    assert_eq!(reader.items().collect::<Result<Vec<_>, _>>().unwrap(), small());
    assert_eq!(reader.request_ids().unwrap(), [done(0), done(1), done(2)]);
    assert_eq!(reader.waiting().unwrap(), Waiting::new(100, [4, 5, 99]));
    reader.verify(&mut |_| Ok(())).unwrap();
    let stopped = reader.verify(&mut |_| Err(SnapshotError::Stopped));
    assert!(matches!(stopped, Err(SnapshotError::Stopped)));
}

#[test]
fn an_empty_one_and_one_of_many_blocks_read_back() {
    let fs = FaultyFs::default();
    let empty = write(&fs, header(1, 1), &[], &[]);
    let reader = SnapshotReader::open_in(&fs, &dir(), &empty).unwrap();
    assert_eq!(reader.items().count(), 0);
    reader.verify(&mut |_| Ok(())).unwrap();

    let long = "x".repeat(200);
    let mut items: Vec<_> =
        (0..5000).map(|n| profile("s", &format!("{n:05}"), &format!("{n}{long}"))).collect();
    // One record larger than a block.
    items.push(profile("s", "zzz", &"y".repeat(1 << 20)));
    items.push(grave("s", 1));
    let many = write(&fs, header(2, 9), &items, &[1, 3]);
    let reader = SnapshotReader::open_in(&fs, &dir(), &many).unwrap();
    assert!(reader.items().map(Result::unwrap).eq(items));
    assert!(reader.counts().raw_bytes > many.bytes);
    reader.verify(&mut |_| Ok(())).unwrap();
}

#[test]
fn every_flipped_byte_and_every_truncation_is_seen() {
    let fs = FaultyFs::default();
    let snapshot = write(&fs, header(1, 100), &small(), &[4, 5, 99]);
    let whole = bytes_of(&fs, &dir().join(&snapshot.name));
    assert_eq!(read_all(&whole, &snapshot).unwrap(), small());
    for at in 0..whole.len() {
        for flip in [1, 0x80] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            assert!(read_all(&damaged, &snapshot).is_err(), "byte {at}");
        }
        assert!(read_all(&whole[..at], &snapshot).is_err(), "cut at {at}");
    }
    let longer = [whole.as_slice(), &[0]].concat();
    assert!(read_all(&longer, &snapshot).is_err());
}

#[test]
fn another_snapshot_is_not_taken_for_the_one_that_is_meant() {
    let fs = FaultyFs::default();
    let snapshot = write(&fs, header(3, 100), &small(), &[]);
    let bytes = bytes_of(&fs, &dir().join(&snapshot.name));
    for other in [
        crate::journal::SnapshotRef { start: 99, ..snapshot.clone() },
        crate::journal::SnapshotRef { bytes: snapshot.bytes + 1, ..snapshot.clone() },
        crate::journal::SnapshotRef { name: "snapshot-0000000004".to_owned(), ..snapshot.clone() },
    ] {
        assert!(matches!(read_all(&bytes, &other), Err(SnapshotError::Foreign { .. })), "{other:?}");
    }
    let away = crate::journal::SnapshotRef { name: "../snapshots".to_owned(), ..snapshot };
    assert!(SnapshotReader::open_in(&fs, &dir(), &away).is_err());
}

/// A file whose checksums have been made right again after `change`.
fn resealed(whole: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    change(&mut bytes);
    let sum = crc32c::crc32c(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn another_format_is_refused_with_advice() {
    let fs = FaultyFs::default();
    let snapshot = write(&fs, header(1, 100), &small(), &[]);
    let whole = bytes_of(&fs, &dir().join(&snapshot.name));
    let newer = resealed(&whole, |bytes| bytes[8] = 2);
    let error = read_all(&newer, &snapshot).unwrap_err();
    assert!(matches!(error, SnapshotError::Version { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("start the version that wrote it"));

    // A newer record in a block that is right otherwise.
    let mut writer = SnapshotWriter::create(Arc::new(fs.clone()), &dir(), header(2, 1)).unwrap();
    writer.push_encoded_for_test(&[0, 0, codec::RECORD_FORMAT + 1, 1]);
    let written = writer.finish(&Waiting::new(1, [])).unwrap();
    let reader = SnapshotReader::open_file(&fs, written.path()).unwrap();
    let error = reader.items().next().unwrap().unwrap_err();
    assert!(matches!(error, SnapshotError::Version { found: 2, .. }), "{error}");
}

#[test]
fn the_sizes_are_those_that_files_have() {
    let header = header(1, 100);
    assert_eq!(header.encode().len(), HEADER);
    let block = crate::snapshot::format::BlockHeader {
        kind: crate::snapshot::format::Kind::Waiting,
        records: 1,
        raw: 2,
        compressed: 3,
        index: 4,
        checksum: 5,
    };
    assert_eq!(block.encode(header.seed()).len(), BLOCK_HEADER);
    assert_eq!(crate::snapshot::format::Footer::default().encode(1).len(), FOOTER);
}

#[test]
fn what_is_out_of_order_is_not_written() {
    let fs = FaultyFs::default();
    fs_dir(&fs);
    let mut writer = SnapshotWriter::create(Arc::new(fs.clone()), &dir(), header(1, 1)).unwrap();
    writer.push(&grave("s", 1)).unwrap();
    assert!(matches!(writer.push(&profile("s", "u", "x")), Err(SnapshotError::Invalid(_))));
}

fn fs_dir(fs: &FaultyFs) {
    crate::fs::Fs::create_dir_all(fs, &dir()).unwrap();
}
