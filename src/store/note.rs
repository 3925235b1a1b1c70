//! The note beside the journal: which generation of the store is in use, and how much of it is known to
//! be written. From it, and from the mark inside the generation, follows whether the store is trusted at
//! start. A copy inside the generation's directory tells whose it is.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::keys;
use super::sled::Mark;
use crate::model::{LowWater, NodeId, codec};

/// The note's file name.
pub const NOTE_FILE: &str = "store-note";

/// What is known of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Whose journal is applied.
    pub node: NodeId,
    /// Which generation.
    pub generation: u64,
    /// Every commit up to this one has been written out.
    pub commit_number: u64,
    /// The highest journal position that has been applied.
    pub last_position: u64,
    /// Where replay starts.
    pub low_water: LowWater,
    /// Whether the first replay into the generation has been finished.
    pub complete: bool,
    /// Whether the generation was closed in order and synced.
    pub clean: bool,
    /// Where the note was written.
    pub place: Place,
    /// The directory that holds the generation's, if it is not the configured one.
    pub elsewhere: Option<Elsewhere>,
    /// A rebuild that was begun and has not ended: the next start begins it again.
    pub rebuild: Option<Wanted>,
}

/// A generation that was built in another directory than the configured one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// The directory that holds the generation's.
    pub dir: PathBuf,
    /// What was configured then. With another configuration, that one counts.
    pub configured: PathBuf,
}

/// A rebuild that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Where; none: beside the old one.
    pub dir: Option<PathBuf>,
    /// Why.
    pub reason: String,
    /// Who asked; empty: the server itself.
    pub owner: String,
}

/// The note's format. Format 1 ended before `elsewhere`.
const FORMAT: u8 = 2;

/// The fields of format 1.
#[derive(Serialize, Deserialize)]
struct First {
    node: NodeId,
    generation: u64,
    commit_number: u64,
    last_position: u64,
    low_water: LowWater,
    complete: bool,
    clean: bool,
    place: Place,
}

fn decode(body: &[u8]) -> Option<Note> {
    if let Ok(note) = codec::decode(FORMAT, body) {
        return Some(note);
    }
    let first: First = keys::decode(body).ok()?;
    Some(Note {
        node: first.node,
        generation: first.generation,
        commit_number: first.commit_number,
        last_position: first.last_position,
        low_water: first.low_water,
        complete: first.complete,
        clean: first.clean,
        place: first.place,
        elsewhere: None,
        rebuild: None,
    })
}

/// A boot of a machine and a mount of a file system: what was written survives a crash of the process
/// only while both last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The kernel's id of this boot.
    pub boot: Option<Box<str>>,
    /// Device and mount id of the store's directory.
    pub mount: Option<(u64, u64)>,
}

impl Place {
    /// This boot, and the mount under `dir`. Unknown ids stay empty and match nothing.
    pub fn of(dir: &Path) -> Self {
        use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
        /// `STATX_MNT_ID_UNIQUE` (Linux 6.8): ids that are not used again after an unmount.
        const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let mount = statx(CWD, dir, AtFlags::empty(), StatxFlags::MNT_ID | UNIQUE).ok();
        Self {
            boot: boot.map(|id| id.trim().into()),
            mount: mount
                .filter(|stat| stat.stx_mask & (StatxFlags::MNT_ID | UNIQUE).bits() != 0)
                .map(|stat| (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_mnt_id)),
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.boot.is_some() && self.mount.is_some() && self == other
    }
}

/// Why a generation is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// There is no store.
    #[error("there is no store yet")]
    NoStore,
    /// The note is missing or cannot be read.
    #[error("there is no readable note of it beside the journal")]
    NoNote,
    /// The generation that the note names is missing.
    #[error("the generation that the note names is not there")]
    NoGeneration,
    /// Its first replay was interrupted.
    #[error("its rebuild was not finished")]
    Incomplete,
    /// It was not closed, and the machine was started anew or the disk mounted anew since.
    #[error("it was not closed before the machine or its disk went down")]
    OtherBoot,
    /// sled could not open it.
    #[error("it cannot be opened")]
    CannotOpen,
    /// It has no mark, or another node's.
    #[error("it does not say how far it has come")]
    NoMark,
    /// It has lost something that had been written out.
    #[error("it holds less than what had been written out")]
    Behind,
    /// It is not what was closed in order.
    #[error("it is not the one that was closed in order")]
    NotAsClosed,
}

/// Whether the note alone speaks against trust: then the store is not even opened.
pub fn judge_note(note: &Note, here: &Place) -> Result<(), Distrust> {
    if !note.complete {
        Err(Distrust::Incomplete)
    } else if !note.clean && !note.place.is(here) {
        Err(Distrust::OtherBoot)
    } else {
        Ok(())
    }
}

/// Whether a generation with this `mark` is trusted. A clean one must be exactly as it was closed. After
/// a crash of the process alone, one that holds at least what was flushed: what else is there is a prefix
/// of its one writer's order, and replay brings the rest.
pub fn judge(note: &Note, mark: Option<&Mark>, here: &Place) -> Result<(), Distrust> {
    judge_note(note, here)?;
    let mark = match mark {
        Some(mark) if mark.node == note.node => *mark,
        // Closed before its first commit.
        None if note.commit_number == 0 => return Ok(()),
        _ => return Err(Distrust::NoMark),
    };
    if note.clean {
        let same = mark.commit_number == note.commit_number && mark.last_position == note.last_position;
        return if same { Ok(()) } else { Err(Distrust::NotAsClosed) };
    }
    if mark.commit_number >= note.commit_number { Ok(()) } else { Err(Distrust::Behind) }
}

/// Reads the note in `dir`. None if it is missing, or damaged, which is as good as missing.
pub fn read(dir: &Path) -> std::io::Result<Option<Note>> {
    let bytes = match fs::read(dir.join(NOTE_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let note = bytes.split_first_chunk::<4>().and_then(|(sum, body)| {
        let sound = u32::from_le_bytes(*sum) == crc32c::crc32c(body);
        if sound { decode(body) } else { None }
    });
    if note.is_none() {
        tracing::warn!(dir = %dir.display(), "the store's note is damaged");
    }
    Ok(note)
}

/// Puts `note` in place of the one in `dir`, all or nothing, and syncs it.
pub fn write(dir: &Path, note: &Note) -> std::io::Result<()> {
    let body = codec::encode(FORMAT, note);
    let (path, new) = (dir.join(NOTE_FILE), dir.join(format!("{NOTE_FILE}.new")));
    let mut file = File::create(&new)?;
    file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    sync_dir(dir)
}

/// Syncs a directory's entries.
pub fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Syncs a directory with all that is in it.
pub fn sync_all(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(boot: &str, mount: u64) -> Place {
        Place { boot: Some(boot.into()), mount: Some((1, mount)) }
    }

    fn note(clean: bool) -> Note {
        Note {
            node: NodeId(1),
            generation: 1,
            commit_number: 10,
            last_position: 20,
            low_water: LowWater::default(),
            complete: true,
            clean,
            place: place("b", 1),
            elsewhere: None,
            rebuild: None,
        }
    }

    fn mark(node: u64, commit_number: u64, last_position: u64) -> Mark {
        Mark { node: NodeId(node), commit_number, last_position, profiles: 0 }
    }

    #[test]
    fn trust_follows_from_note_and_mark() {
        let (here, boot, mount, unknown) = (place("b", 1), place("c", 1), place("b", 2), Place::default());
        let incomplete = Note { complete: false, ..note(true) };
        let unknown_both = Note { place: Place::default(), ..note(false) };
        let first = Note { commit_number: 0, ..note(true) };
        let cases = [
            (note(true), Some(mark(1, 10, 20)), &boot, Ok(())),
            (note(true), Some(mark(1, 11, 21)), &here, Err(Distrust::NotAsClosed)),
            (note(true), Some(mark(1, 9, 20)), &here, Err(Distrust::NotAsClosed)),
            (note(true), Some(mark(1, 10, 21)), &here, Err(Distrust::NotAsClosed)),
            (note(true), Some(mark(2, 10, 20)), &here, Err(Distrust::NoMark)),
            (note(true), None, &here, Err(Distrust::NoMark)),
            (first, None, &boot, Ok(())),
            (incomplete, Some(mark(1, 10, 20)), &here, Err(Distrust::Incomplete)),
            (note(false), Some(mark(1, 10, 20)), &here, Ok(())),
            (note(false), Some(mark(1, 15, 30)), &here, Ok(())),
            (note(false), Some(mark(1, 9, 19)), &here, Err(Distrust::Behind)),
            (note(false), None, &here, Err(Distrust::NoMark)),
            (note(false), Some(mark(1, 15, 30)), &boot, Err(Distrust::OtherBoot)),
            (note(false), Some(mark(1, 15, 30)), &mount, Err(Distrust::OtherBoot)),
            (unknown_both, Some(mark(1, 15, 30)), &unknown, Err(Distrust::OtherBoot)),
        ];
        for (note, mark, here, expected) in cases {
            assert_eq!(judge(&note, mark.as_ref(), here), expected, "{note:?} {mark:?} {here:?}");
        }
    }

    #[test]
    fn a_note_is_read_as_written_and_every_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        write(dir.path(), &note(true)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(note(true)));
        let path = dir.path().join(NOTE_FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(read(dir.path()).unwrap(), None, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(read(dir.path()).unwrap(), None, "cut at {at}");
        }
    }

    #[test]
    fn the_first_format_is_still_read() {
        let first = First {
            node: NodeId(1),
            generation: 1,
            commit_number: 10,
            last_position: 20,
            low_water: LowWater::default(),
            complete: true,
            clean: true,
            place: place("b", 1),
        };
        assert_eq!(decode(&keys::encode(&first)), Some(note(true)));
    }

    #[test]
    fn the_machine_tells_boot_and_mount() {
        let place = Place::of(&std::env::temp_dir());
        assert!(place.is(&Place::of(&std::env::temp_dir())), "{place:?}");
    }
}
