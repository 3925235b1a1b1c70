//! Making a journal out of an image.

use std::path::Path;
use std::sync::Arc;

use super::super::error::{At as _, OpenError};
use super::super::format::{SEGMENT_HEADER, SegmentHeader};
use super::super::fs::{Fs, OpenMode, read_small, remove_if_there};
use super::super::log::make_segment;
use super::super::manifest::{MANIFEST, Manifest, Sealed, SegmentEntry, segment_path};
use super::super::open::new_node;
use super::super::recover::POSITION_STEP;
use super::super::spare::{Spares, is_spare};
use super::copy::{bring, prune};
use super::{ImageError, load};
use crate::model::{EventTime, NodeId};

/// There while the directory has no manifest yet; holds the node's id to be.
pub(crate) const ADOPTING: &str = "adopting";
/// Length of the first segment of its own if the image tells none.
const SEGMENT_BYTES: u64 = 64 << 20;

pub(super) fn adopt_in(fs: &Arc<dyn Fs>, image_dir: &Path, journal_dir: &Path) -> Result<NodeId, ImageError> {
    let image = load(&**fs, image_dir)?.ok_or_else(|| ImageError::NotAnImage(image_dir.to_owned()))?;
    fs.create_dir_all(journal_dir).at("create", journal_dir)?;
    let lock_file = journal_dir.join("lock");
    let lock = fs.lock(&lock_file).at("lock", &lock_file)?;
    let _lock = lock.ok_or_else(|| ImageError::Locked(journal_dir.to_owned()))?;
    let Some(node) = begin(&**fs, journal_dir, &image)? else {
        let done = Manifest::load(&**fs, journal_dir).map_err(|error| error.into_open(journal_dir))?;
        return finish(&**fs, journal_dir, done.map_or(image.node, |manifest| manifest.node));
    };
    for entry in &image.segments {
        let path = segment_path(image_dir, entry.number);
        let source = fs.open(&path, OpenMode::Read).at("open", &path)?;
        bring(&**fs, &*source, &path, entry, journal_dir)?;
    }
    prune(&**fs, journal_dir, &image)?;
    let manifest = own_segment(fs, journal_dir, image, node)?;
    manifest.store(&**fs, journal_dir)?;
    finish(&**fs, journal_dir, node)
}

/// Leaves the mark that this is going on; the node's id, or `None` if only the mark is left to be removed.
fn begin(fs: &dyn Fs, dir: &Path, image: &Manifest) -> Result<Option<NodeId>, ImageError> {
    let names = fs.list(dir).at("list", dir)?;
    let marker = dir.join(ADOPTING);
    if names.iter().any(|name| name == ADOPTING) {
        let text = read_small(fs, &marker, 64).at("read", &marker)?.unwrap_or_default();
        let marked = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
        if names.iter().any(|name| name == MANIFEST) {
            let there = Manifest::load(fs, dir).map_err(|error| error.into_open(dir))?;
            let is_same = there
                .is_some_and(|there| Some(there.node.0) == marked && there.ancestors.contains(&image.node));
            return if is_same { Ok(None) } else { Err(ImageError::NotEmpty(dir.to_owned())) };
        }
    } else if names.iter().any(|name| name != "lock") {
        return Err(ImageError::NotEmpty(dir.to_owned()));
    }
    let node = new_node().map_err(|error| match error {
        OpenError::Options(problem) => ImageError::NoIdentity(problem),
        other => other.into(),
    })?;
    remove_if_there(fs, &marker).at("remove", &marker)?;
    let file = fs.open(&marker, OpenMode::CreateNew).at("create", &marker)?;
    file.write_all_at(format!("{}\n", node.0).as_bytes(), 0).at("write", &marker)?;
    file.sync_data().at("sync", &marker)?;
    fs.sync_dir(dir).at("sync", dir)?;
    // Of an earlier try: not among the image's, and spares may be half made.
    for name in names.iter().filter(|name| is_spare(name) || *name == "manifest.tmp") {
        let path = dir.join(name);
        fs.remove(&path).at("remove", &path)?;
    }
    Ok(Some(node))
}

/// Begins a segment of the new node behind the image's; the manifest that names them all.
fn own_segment(fs: &Arc<dyn Fs>, dir: &Path, image: Manifest, node: NodeId) -> Result<Manifest, ImageError> {
    let before = image.segments.iter().rev().find_map(|segment| segment.sealed);
    let (last, high, digest) = before
        .map_or((0, EventTime(0), 0), |sealed| (sealed.last_position, sealed.accepted_high, sealed.digest));
    let beyond = last.max(image.next_position.saturating_sub(1));
    let origin = (beyond / POSITION_STEP + 1) * POSITION_STEP;
    // Those that entries were carried to are as long as their content: no measure.
    let usual = |s: &&SegmentEntry| s.sealed.is_some_and(|sealed| sealed.end < s.length);
    let length = image.segments.iter().filter(usual).map(|s| s.length).max().unwrap_or(SEGMENT_BYTES);
    let header = SegmentHeader {
        node,
        number: image.next_segment,
        first_position: origin,
        accepted_high: high,
        previous_digest: digest,
        previous_last: last,
        length,
    };
    // Of an earlier try: it would be in the way of the new one.
    let path = segment_path(dir, header.number);
    remove_if_there(&**fs, &path).at("remove", &path)?;
    let spares = Spares::open(Arc::clone(fs), dir, length, &[])?;
    make_segment(&**fs, dir, &spares, &header, |_| Ok(()))?;
    let original = image.node;
    let mut manifest = Manifest {
        node,
        next_segment: header.number + 1,
        origin,
        next_position: origin,
        clean: Some(Sealed { end: SEGMENT_HEADER, last_position: last, digest: 0, accepted_high: high }),
        ..image
    };
    if !manifest.ancestors.contains(&original) {
        manifest.ancestors.push(original);
    }
    manifest.gaps.push((last, origin));
    manifest.segments.push(SegmentEntry {
        number: header.number,
        node,
        first_position: origin,
        length,
        sealed: None,
        detached: false,
    });
    Ok(manifest)
}

fn finish(fs: &dyn Fs, dir: &Path, node: NodeId) -> Result<NodeId, ImageError> {
    let marker = dir.join(ADOPTING);
    remove_if_there(fs, &marker).at("remove", &marker)?;
    fs.sync_dir(dir).at("sync", dir)?;
    Ok(node)
}
