//! The file of incidents: `incidents.log` in the control directory. Append-only and checksummed; what a process
//! knows is the fold of its records.
//!
//! Format: an 8-byte mark with the version, then records: `length u32 | crc32c of the content u32 | content`, numbers
//! little-endian, content in postcard. The process that opens it writes it anew, without what the fold no longer
//! holds; so does whoever finds it grown beyond its bound. A record that a stop cut short at the end is dropped. Any
//! other damage: the file is set aside under another name, what was readable before the damage goes on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::recorder::{Record, Recorder};
use crate::fs::{Fs, FsFile, OpenMode, read_small, remove_if_there};
use crate::model::EventTime;

/// The file's name.
pub const NAME: &str = "incidents.log";
/// The file is written anew when it is longer than this.
pub const MAX_FILE: u64 = 8 << 20;
/// A longer file is none of ours.
const READ_BOUND: u64 = 64 << 20;
/// The longest record.
const MAX_RECORD: usize = 1 << 20;
const MARK: &[u8; 8] = b"SFINC\0\0\x01";
const FRAME: usize = 8;

/// What was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes of a record that a stop cut short.
    pub cut: usize,
    /// The file that could not be read on, and where it was set aside.
    pub set_aside: Option<(String, PathBuf)>,
}

/// The open file.
#[derive(Debug)]
pub struct IncidentFile {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    file: Box<dyn FsFile>,
    length: u64,
    /// Its length when it was written anew: too soon again it would not get shorter.
    compact: u64,
    /// Something could not be written: only the fold says it now.
    behind: bool,
}

impl IncidentFile {
    /// Reads what is there into `recorder`, and begins the file anew with it.
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        recorder: &mut Recorder,
        now: EventTime,
    ) -> io::Result<(Self, Found)> {
        fs.create_dir_all(dir)?;
        let path = dir.join(NAME);
        let mut found = Found::default();
        match read_small(&*fs, &path, READ_BOUND) {
            Ok(None) => {}
            Ok(Some(bytes)) => match read(&bytes, recorder) {
                Ok(cut) => found.cut = cut,
                Err(problem) => found.set_aside = Some((problem, set_aside(&*fs, dir, now)?)),
            },
            Err(error) => found.set_aside = Some((error.to_string(), set_aside(&*fs, dir, now)?)),
        }
        let (file, length) = write_anew(&*fs, dir, recorder)?;
        Ok((Self { fs, dir: dir.to_owned(), file, length, compact: length, behind: false }, found))
    }

    /// Adds records and syncs them; writes the file anew from `recorder` when it has grown too long.
    pub fn append(&mut self, records: &[Record], recorder: impl FnOnce() -> Recorder) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            encode(record, &mut bytes);
        }
        if self.behind || self.length + bytes.len() as u64 > MAX_FILE.max(2 * self.compact) {
            self.behind = true;
            // What is added is part of the fold.
            (self.file, self.length) = write_anew(&*self.fs, &self.dir, &recorder())?;
            (self.compact, self.behind) = (self.length, false);
            return Ok(());
        }
        let written = self.file.write_all_at(&bytes, self.length).and_then(|()| self.file.sync_data());
        self.behind = written.is_err();
        self.length += bytes.len() as u64;
        written
    }
}

fn encode(record: &Record, bytes: &mut Vec<u8>) {
    // Memory is the only thing that could fail here.
    let Ok(content) = postcard::to_stdvec(record) else { return };
    if content.len() > MAX_RECORD {
        return;
    }
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(crc32c::crc32c(&content).to_le_bytes());
    bytes.extend(content);
}

/// Reads all records; answers how many bytes at the end were cut short, or what is wrong.
fn read(bytes: &[u8], recorder: &mut Recorder) -> Result<usize, String> {
    // An empty file is one whose making was cut short.
    if bytes.is_empty() {
        return Ok(0);
    }
    let mut rest = match bytes.strip_prefix(MARK) {
        Some(rest) => rest,
        None if bytes.starts_with(b"SFINC\0\0") && bytes.len() >= MARK.len() => {
            return Err("it is of another version".to_owned());
        }
        None => return Err("it is no file of incidents".to_owned()),
    };
    loop {
        let at = bytes.len() - rest.len();
        let Some((frame, after)) = rest.split_at_checked(FRAME) else { return Ok(rest.len()) };
        let number = |range: std::ops::Range<usize>| {
            let four = frame.get(range).and_then(|four| four.try_into().ok());
            four.map_or(0, u32::from_le_bytes)
        };
        let (length, crc) = (number(0..4) as usize, number(4..8));
        if length == 0 || length > MAX_RECORD {
            // Zeros at the end are a file that grew before its content was written.
            if rest.iter().all(|byte| *byte == 0) {
                return Ok(rest.len());
            }
            return Err(format!("byte {at}: a record of {length} bytes"));
        }
        let Some((content, next)) = after.split_at_checked(length) else { return Ok(rest.len()) };
        if crc32c::crc32c(content) != crc {
            if next.iter().all(|byte| *byte == 0) {
                return Ok(rest.len());
            }
            return Err(format!("byte {at}: the checksum does not match"));
        }
        let record = postcard::from_bytes(content).map_err(|error| format!("byte {at}: {error}"))?;
        recorder.restore(record);
        rest = next;
    }
}

/// Moves the file out of the way.
fn set_aside(fs: &dyn Fs, dir: &Path, now: EventTime) -> io::Result<PathBuf> {
    let to = dir.join(format!("{NAME}.unreadable-{}", now.0));
    fs.rename(&dir.join(NAME), &to)?;
    fs.sync_dir(dir)?;
    Ok(to)
}

/// Writes the file anew, and puts it in place of the old one in one step.
fn write_anew(fs: &dyn Fs, dir: &Path, recorder: &Recorder) -> io::Result<(Box<dyn FsFile>, u64)> {
    let (path, fresh) = (dir.join(NAME), dir.join(format!("{NAME}.new")));
    remove_if_there(fs, &fresh)?;
    let mut bytes = MARK.to_vec();
    for record in recorder.records() {
        encode(&record, &mut bytes);
    }
    let file = fs.open(&fresh, OpenMode::CreateNew)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_data()?;
    fs.rename(&fresh, &path)?;
    fs.sync_dir(dir)?;
    Ok((file, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::super::event::{Breaker, Change, Operation, Scope, Transition};
    use super::super::recorder::Effect;
    use super::*;
    use crate::fs::{Fault, FaultyFs, Survivors};
    use crate::model::Site;

    fn dir() -> PathBuf {
        PathBuf::from("/data/control")
    }

    fn open(fs: &FaultyFs) -> (IncidentFile, Recorder, Found) {
        let mut recorder = Recorder::default();
        let opened = IncidentFile::open(Arc::new(fs.clone()), &dir(), &mut recorder, EventTime(7));
        let (file, found) = opened.unwrap();
        (file, recorder, found)
    }

    fn trip(recorder: &mut Recorder, n: u64) -> Vec<Record> {
        let transition = Transition {
            scope: Scope::site(Operation::Apply, Site::new(format!("s{n}"))),
            change: Change::Breaker(Breaker::Open),
            message: "x".repeat(100),
            evidence: None,
        };
        let saved = |effect| match effect {
            Effect::Save(record) => Some(record),
            _ => None,
        };
        recorder.apply(EventTime(1000 * n), &transition).into_iter().filter_map(saved).collect()
    }

    fn same(a: &Recorder, b: &Recorder) {
        assert_eq!(a.records().collect::<Vec<_>>(), b.records().collect::<Vec<_>>());
    }

    #[test]
    fn what_was_written_is_read_whatever_is_cut_off_the_end() {
        let fs = FaultyFs::new();
        let (mut file, mut recorder, found) = open(&fs);
        assert_eq!(found, Found::default());
        file.append(&trip(&mut recorder, 1), || unreachable!()).unwrap();
        let before = recorder.clone();
        let whole = fs.content(&dir().join(NAME)).unwrap();
        file.append(&trip(&mut recorder, 2), || unreachable!()).unwrap();
        let all = fs.content(&dir().join(NAME)).unwrap();
        same(&open(&fs.restart(Survivors::Synced)).1, &recorder);
        for cut in whole.len()..all.len() {
            let fs = fs.restart(Survivors::Synced);
            fs.set_content(&dir().join(NAME), all[..cut].to_vec());
            let (_, read, found) = open(&fs);
            assert_eq!(found.set_aside, None, "{cut}");
            assert_eq!(read.get(1), before.get(1));
            // Healed: nothing is cut any more.
            assert_eq!(open(&fs).2, Found::default());
        }
    }

    #[test]
    fn damage_is_set_aside_and_what_came_before_it_goes_on() {
        let fs = FaultyFs::new();
        let (mut file, mut recorder, _) = open(&fs);
        file.append(&trip(&mut recorder, 1), || unreachable!()).unwrap();
        let first = fs.content(&dir().join(NAME)).unwrap().len();
        file.append(&trip(&mut recorder, 2), || unreachable!()).unwrap();
        fs.flip(&dir().join(NAME), first + FRAME + 1, 0x40);
        let (_, read, found) = open(&fs);
        let (_, aside) = found.set_aside.unwrap();
        assert!(fs.content(&aside).is_some());
        assert!(read.get(1).is_some() && read.get(2).is_none());
        fs.set_content(&dir().join(NAME), b"something else".to_vec());
        assert!(open(&fs).2.set_aside.is_some());
        // Each is kept under a name of its own only if their times differ; the start goes on all the same.
        assert_eq!(open(&fs).2, Found::default());
    }

    #[test]
    fn it_stays_short() {
        let fs = FaultyFs::new();
        let (mut file, mut recorder, _) = open(&fs);
        // The last one says how the incident is now: saying it again changes nothing.
        let records = trip(&mut recorder, 1);
        file.append(&records, || unreachable!()).unwrap();
        let again = vec![records[records.len() - 1].clone(); 10_000];
        let mut written = 0;
        while written < 3 * MAX_FILE {
            written += 10_000 * 100;
            file.append(&again, || recorder.clone()).unwrap();
        }
        assert!(file.length <= MAX_FILE);
        same(&open(&fs).1, &recorder);
    }

    #[test]
    fn a_full_disk_is_an_error_and_no_damage() {
        let fs = FaultyFs::new();
        let (mut file, mut recorder, _) = open(&fs);
        file.append(&trip(&mut recorder, 1), || unreachable!()).unwrap();
        let kept = recorder.clone();
        fs.break_writes(Fault::Enospc);
        assert!(file.append(&trip(&mut recorder, 2), || unreachable!()).is_err());
        same(&open(&fs.restart(Survivors::Synced)).1, &kept);
    }

    #[test]
    fn what_could_not_be_written_is_made_up_for() {
        let fs = FaultyFs::new();
        let (mut file, mut recorder, _) = open(&fs);
        fs.fail_in(1, Fault::ShortWrite);
        assert!(file.append(&trip(&mut recorder, 1), || unreachable!()).is_err());
        let records = trip(&mut recorder, 2);
        file.append(&records, || recorder.clone()).unwrap();
        same(&open(&fs.restart(Survivors::Synced)).1, &recorder);
    }
}
