//! Copying segments, each verified where it has arrived.

use std::path::Path;
use std::sync::Arc;

use super::super::error::{At as _, Damage};
use super::super::format::{SEGMENT_HEADER, SegmentHeader};
use super::super::fs::{Fs, FsFile, OpenMode, remove_if_there};
use super::super::manifest::{Manifest, SegmentEntry, segment_number, segment_path};
use super::super::reader::JournalReader;
use super::{Image, ImageError, load, verify_segment};

/// How much is copied at once.
const CHUNK: usize = 1 << 20;
/// Ends the names of files that are being copied.
const PART: &str = ".part";

/// Copies the segments that hold entries up to `to`, the last entry of a sealed segment (see
/// [`super::super::Journal::roll`]), into `dir`, unless an equal copy is there. `progress` hears the bytes that are
/// in place. Nothing is released meanwhile. [`super::seal`] completes the image.
pub fn copy(
    reader: &JournalReader,
    to: u64,
    dir: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Image, ImageError> {
    let shared = reader.shared();
    let _pin = reader.pin(0);
    let (mut manifest, table) = {
        let manifest = shared.manifest.lock();
        (manifest.clone(), shared.table.read().clone())
    };
    if manifest.segments.iter().any(|segment| segment.sealed.is_none() && segment.first_position <= to) {
        return Err(ImageError::NotSealed(to));
    }
    manifest.segments.retain(|segment| segment.sealed.is_some() && segment.first_position <= to);
    manifest.next_position = manifest.next_position.max(to + 1);
    manifest.clean = None;
    let fs = &*shared.fs;
    fs.create_dir_all(dir).at("create", dir)?;
    if let Some(there) = load(fs, dir)?
        && there.node != manifest.node
        && !manifest.ancestors.contains(&there.node)
    {
        return Err(ImageError::Foreign { dir: dir.to_owned(), node: there.node });
    }
    let mut image = Image { fs: Arc::clone(&shared.fs), manifest, bytes: 0, copied: 0 };
    for entry in &image.manifest.segments {
        let source = table.segments.iter().find(|segment| segment.number == entry.number);
        let path = segment_path(&shared.dir, entry.number);
        let source = source.ok_or_else(|| {
            ImageError::Damaged(Damage::new(&path, 0, "the manifest names this segment, but it is not open"))
        })?;
        let bytes = entry.sealed.map_or(SEGMENT_HEADER, |sealed| sealed.end);
        if bring(fs, &*source.file, &path, entry, dir)? {
            image.copied += bytes;
        }
        image.bytes += bytes;
        progress(image.bytes);
    }
    fs.sync_dir(dir).at("sync", dir)?;
    Ok(image)
}

/// Has a verified copy of a segment in `dir`; whether it had to be made. Its name is durable once the directory is
/// synced.
pub(super) fn bring(
    fs: &dyn Fs,
    source: &dyn FsFile,
    source_path: &Path,
    entry: &SegmentEntry,
    dir: &Path,
) -> Result<bool, ImageError> {
    let path = segment_path(dir, entry.number);
    match fs.open(&path, OpenMode::Read) {
        Ok(there) => {
            if verify_segment(&*there, &path, entry).is_ok() {
                return Ok(false);
            }
            let head = there.read_up_to(SEGMENT_HEADER as usize, 0).at("read", &path)?;
            if let Ok(header) = SegmentHeader::decode(&head)
                && header.node != entry.node
            {
                return Err(ImageError::Foreign { dir: dir.to_owned(), node: header.node });
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).at("open", &path).map_err(Into::into),
    }
    let part = path.with_extension(PART.trim_start_matches('.'));
    remove_if_there(fs, &part).at("remove", &part)?;
    let copy = fs.open(&part, OpenMode::CreateNew).at("create", &part)?;
    let end = entry.sealed.map_or(SEGMENT_HEADER, |sealed| sealed.end);
    let mut at = 0;
    while at < end {
        let bytes = source.read_up_to(CHUNK.min((end - at) as usize), at).at("read", source_path)?;
        if bytes.is_empty() {
            return Err(ImageError::Damaged(Damage::new(source_path, at, "the file ends too early")));
        }
        copy.write_all_at(&bytes, at).at("write", &part)?;
        at += bytes.len() as u64;
    }
    // What is behind the end is not data; zeros take no room.
    copy.set_len(entry.length).at("resize", &part)?;
    copy.sync_data().at("sync", &part)?;
    if let Err(error) = verify_segment(&*copy, &part, entry) {
        // Whether it was like that before decides what is to be blamed.
        verify_segment(source, source_path, entry)?;
        return Err(error);
    }
    fs.rename(&part, &path).at("rename", &part)?;
    Ok(true)
}

/// Removes segments that the manifest does not name, and parts.
pub(super) fn prune(fs: &dyn Fs, dir: &Path, manifest: &Manifest) -> Result<(), ImageError> {
    for name in fs.list(dir).at("list", dir)? {
        let is_ours = match segment_number(&name) {
            Some(number) => manifest.segments.iter().any(|segment| segment.number == number),
            None => !(name.starts_with("segment-") && name.ends_with(PART)),
        };
        if !is_ours {
            let path = dir.join(name);
            fs.remove(&path).at("remove", &path)?;
        }
    }
    fs.sync_dir(dir).at("sync", dir)?;
    Ok(())
}
