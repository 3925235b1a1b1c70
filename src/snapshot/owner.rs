//! Whose snapshots a directory has. Snapshots that the journal's manifest does not name are removed, so that a directory
//! which two nodes share would cost each of them the other's.

use std::path::Path;

use super::error::SnapshotError;
use crate::fs::{Fs, OpenMode, read_small, remove_if_there};
use crate::journal::IoFailure;
use crate::model::NodeId;

const NAME: &str = "owner";
const TEMPORARY: &str = "owner.tmp";

/// Makes `dir` the directory of `node`, unless it is another's.
pub(super) fn claim(fs: &dyn Fs, dir: &Path, node: NodeId) -> Result<(), SnapshotError> {
    let failed = |operation, name: &str| {
        let file = dir.join(name);
        move |source| IoFailure { operation, file, source }
    };
    fs.create_dir_all(dir).map_err(failed("create", ""))?;
    let written = read_small(fs, &dir.join(NAME), 64).map_err(failed("read", NAME))?;
    let owner = written.map(|bytes| String::from_utf8_lossy(&bytes).trim().parse::<NodeId>());
    match owner {
        Some(Ok(owner)) if owner == node => return Ok(()),
        Some(Ok(owner)) => return Err(SnapshotError::Anothers { dir: dir.to_owned(), owner, node }),
        Some(Err(_)) => {
            tracing::warn!(dir = %dir.display(), "whose snapshots these are could not be read; it is noted anew");
        }
        None => {}
    }
    remove_if_there(fs, &dir.join(TEMPORARY)).map_err(failed("remove", TEMPORARY))?;
    let file = fs.open(&dir.join(TEMPORARY), OpenMode::CreateNew).map_err(failed("create", TEMPORARY))?;
    file.write_all_at(format!("{node}\n").as_bytes(), 0).map_err(failed("write", TEMPORARY))?;
    file.sync_data().map_err(failed("sync", TEMPORARY))?;
    fs.rename(&dir.join(TEMPORARY), &dir.join(NAME)).map_err(failed("rename", TEMPORARY))?;
    fs.sync_dir(dir).map_err(failed("sync", ""))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FaultyFs;

    #[test]
    fn a_directory_has_one_owner() {
        let fs = FaultyFs::new();
        let dir = Path::new("/snapshots");
        let claim = |node| claim(&fs, dir, NodeId(node));
        claim(1).unwrap();
        claim(1).unwrap();
        let refused = claim(2).unwrap_err();
        assert!(matches!(refused, SnapshotError::Anothers { .. }), "{refused}");
        let file = fs.open(&dir.join(NAME), OpenMode::Write).unwrap();
        file.write_all_at(b"?", 0).unwrap();
        claim(2).unwrap();
        claim(1).unwrap_err();
    }
}
