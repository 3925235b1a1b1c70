//! A small snapshot with something of everything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::accept::{DoneId, End, RequestKey, Verdict};
use crate::fs::{FaultyFs, Fs, OpenMode};
use crate::journal::SnapshotRef;
use crate::model::{
    Applied, Attribute, ChangeKind, Command, Entry, EventTime, Grave, NodeId, Notes, Profile, ProfileKey,
    Record, Refusal, Site, User, Value, ValueType, Write,
};
use crate::snapshot::{Header, SnapshotError, SnapshotReader, SnapshotWriter, Waiting};
use crate::store::{AttributeInfo, RefusedRecord, StoredItem};

pub fn dir() -> PathBuf {
    PathBuf::from("/snapshots")
}

pub fn header(number: u64, start: u64) -> Header {
    Header { node: NodeId(7), number, start, commit_number: 12, created_at: EventTime::MIN }
}

pub fn profile(site: &str, user: &str, text: &str) -> StoredItem {
    let attributes = vec![Attribute {
        name: "plan".into(),
        value: Value::String(text.into()),
        occurred_at: EventTime::MIN,
    }];
    let profile = Profile {
        number: 3,
        version: 2,
        created_at: EventTime::MIN,
        updated_at: EventTime::MIN,
        attributes,
        unset: Vec::new(),
        erased: None,
        applied: Applied::default(),
        recent: Vec::new(),
    };
    StoredItem::Profile {
        key: ProfileKey::new(Site::new(site), User::new(user)),
        record: Arc::new(Record::Live(profile)),
    }
}

pub fn grave(site: &str, hash: u8) -> StoredItem {
    let grave = Grave {
        version: 9,
        occurred_at: EventTime::MIN,
        accepted_at: EventTime::MIN,
        applied: Applied::default(),
        recent: Vec::new(),
    };
    StoredItem::Grave {
        site: Site::new(site),
        user_hash: [hash; 16],
        record: Arc::new(Record::Deleted(grave)),
    }
}

pub fn refused(site: &str, position: u64) -> StoredItem {
    let write = Write {
        user: User::new("u"),
        request_id: Some("r".into()),
        occurred_at: None,
        if_version: Some(3),
        kind: ChangeKind::Delete,
    };
    StoredItem::Refused(RefusedRecord {
        position,
        accepted_at: EventTime::MIN,
        entry: Entry { site: Site::new(site), command: Command::Write(write) },
        reason: Refusal::ProfileTooLarge,
        listed: true,
    })
}

pub fn attribute(site: &str, name: &str) -> StoredItem {
    let info = AttributeInfo {
        name: name.into(),
        value_type: ValueType::String,
        first_seen: EventTime::MIN,
        indexed: true,
        disabled: false,
    };
    StoredItem::Attribute { site: Site::new(site), info }
}

pub fn done(n: u64) -> DoneId {
    DoneId {
        key: RequestKey::new(&Site::new("s"), &n.to_string()),
        payload: n,
        done_at: EventTime(n),
        verdict: Verdict { position: n, end: End::Applied { version: 1, notes: Notes::default() } },
    }
}

/// Something of everything, in order.
pub fn small() -> Vec<StoredItem> {
    vec![
        profile("acme", "ann", "pro"),
        profile("acme", "bob", "free"),
        profile("shop", "ann", "\u{e4}"),
        grave("acme", 4),
        refused("acme", 17),
        attribute("acme", "plan"),
        attribute("shop", "plan"),
    ]
}

pub fn write(fs: &FaultyFs, header: Header, items: &[StoredItem], waiting: &[u64]) -> SnapshotRef {
    fs.create_dir_all(&dir()).unwrap();
    let mut writer = SnapshotWriter::create(Arc::new(fs.clone()), &dir(), header).unwrap();
    for item in items {
        writer.push(item).unwrap();
    }
    for n in 0..3 {
        writer.push_id(&done(n)).unwrap();
    }
    let written = writer.finish(&Waiting::new(header.start, waiting.iter().copied())).unwrap();
    assert_eq!(written.counts.items(), items.len() as u64);
    let bytes = written.bytes;
    let name = written.publish().unwrap();
    SnapshotRef { name, start: header.start, bytes, taken_at: header.created_at }
}

pub fn bytes_of(fs: &dyn Fs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, OpenMode::Read).unwrap();
    file.read_up_to(file.len().unwrap() as usize, 0).unwrap()
}

/// Reads everything from a file with these bytes.
pub fn read_all(bytes: &[u8], snapshot: &SnapshotRef) -> Result<Vec<StoredItem>, SnapshotError> {
    let fs = FaultyFs::default();
    fs.create_dir_all(&dir()).unwrap();
    let file = fs.open(&dir().join(&snapshot.name), OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let reader = SnapshotReader::open_in(&fs, &dir(), snapshot)?;
    let items = reader.items().collect::<Result<Vec<_>, _>>()?;
    reader.request_ids()?;
    reader.waiting()?;
    reader.verify(&mut |_| Ok(()))?;
    Ok(items)
}
