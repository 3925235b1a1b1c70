//! A small disk of a test's own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// An ext4 file system in a file, mounted; gone when dropped.
pub struct Disk {
    dir: tempfile::TempDir,
    mounted: bool,
}

fn run(mut command: Command) -> bool {
    command.status().unwrap_or_else(|error| panic!("{command:?}: {error}")).success()
}

/// A command that only root may give.
fn as_root<const N: usize>(words: [&OsStr; N]) -> bool {
    let mut command = Command::new("sudo");
    if rustix::process::getuid().is_root() {
        command = Command::new(words[0]);
        command.args(&words[1..]);
    } else {
        command.arg("-n").args(words);
    }
    run(command)
}

impl Disk {
    /// An empty one, mounted.
    pub fn new(megabytes: u64) -> Self {
        // In memory where possible: what is tried is what comes back, not how fast.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let mut disk = Self { dir: dir.unwrap(), mounted: false };
        fs::File::create(disk.image()).unwrap().set_len(megabytes << 20).unwrap();
        fs::create_dir(disk.path()).unwrap();
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mut mkfs = Command::new("mkfs.ext4");
        // Nothing is put off that would go on in the background.
        let options = format!("lazy_itable_init=0,lazy_journal_init=0,root_owner={}:{}", owner.0, owner.1);
        mkfs.args(["-q", "-F", "-m", "0", "-E", &options]).arg(disk.image());
        assert!(run(mkfs));
        disk.mount("defaults");
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn saved(&self) -> PathBuf {
        self.dir.path().join("saved")
    }

    pub fn mount(&mut self, options: &str) {
        let options = format!("loop,{options}");
        let [image, path] = [self.image(), self.path()];
        let words = ["mount", "-o", &options].map(OsStr::new);
        assert!(as_root([words[0], words[1], words[2], image.as_os_str(), path.as_os_str()]));
        self.mounted = true;
    }

    pub fn unmount(&mut self) {
        assert!(as_root([OsStr::new("umount"), self.path().as_os_str()]));
        self.mounted = false;
    }

    /// What keeps the disk as it is at a moment.
    pub fn saver(&self) -> Saver {
        Saver { image: self.image(), saved: self.saved() }
    }

    /// The disk as it was saved: as it is found after a power cut.
    pub fn restore(&mut self, options: &str) {
        self.unmount();
        fs::rename(self.saved(), self.image()).unwrap();
        self.mount(options);
    }

    /// Every write to it waits from now on, inside the kernel, until what is answered is dropped: before any server
    /// on it, which could not end.
    pub fn freeze(&self) -> Frozen {
        assert!(as_root(["fsfreeze".as_ref(), "-f".as_ref(), self.path().as_os_str()]));
        Frozen(self.path())
    }

    /// Fills it to the last block but `left` bytes; answers what takes the room.
    pub fn fill(&self, left: u64) -> PathBuf {
        let ballast = self.path().join("ballast");
        let file = fs::File::create(&ballast).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        let mut len = 0;
        // Ever smaller pieces.
        let mut piece = 64 << 20;
        while piece >= 4096 {
            match rustix::fs::fallocate(&file, flags, len, piece) {
                Ok(()) => len += piece,
                Err(_) => piece /= 2,
            }
        }
        let room = len.saturating_sub(left);
        file.set_len(room).unwrap();
        ballast
    }
}

/// A frozen disk; thaws when dropped.
pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        as_root(["fsfreeze".as_ref(), "-u".as_ref(), self.0.as_os_str()]);
    }
}

/// Far longer than the kernel keeps what is to be written back (30 s).
const RESTS_WITHIN: Duration = Duration::from_mins(3);

/// Copies a disk.
pub struct Saver {
    image: PathBuf,
    saved: PathBuf,
}

impl Saver {
    /// Keeps what has reached the disk at one moment, while those who write to it stand still. What they
    /// have written is in the memory of the kernel until it is synced, and is not in it. Answers whether the
    /// disk came to rest, which it does once the kernel has written back what is old enough.
    #[must_use]
    pub fn save(&self) -> bool {
        // The kernel may be writing back: the copy is of one moment if the disk was the same after it as
        // it was read.
        let until = Instant::now() + RESTS_WITHIN;
        while Instant::now() < until {
            let mut copy = Command::new("cp");
            copy.arg("--sparse=always").args([&self.image, &self.saved]);
            assert!(run(copy));
            let mut compare = Command::new("cmp");
            compare.arg("--quiet").args([&self.image, &self.saved]);
            if run(compare) {
                return true;
            }
        }
        false
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Also with a process left on it.
            as_root(["umount".as_ref(), "--lazy".as_ref(), self.path().as_os_str()]);
        }
    }
}
