//! Making a journal out of an image.

use std::path::Path;
use std::sync::Arc;

use super::super::error::{At as _, OpenError};
use super::super::fs::{Fs, OpenMode, read_small, remove_if_there};
use super::super::manifest::{MANIFEST, Manifest, segment_path};
use super::super::open::{begin_segment, new_node};
use super::super::spare::is_spare;
use super::copy::{bring, prune};
use super::{ImageError, load};
use crate::model::NodeId;

/// There while the directory has no manifest yet; holds the node's id to be.
pub(crate) const ADOPTING: &str = "adopting";

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

/// The manifest of the new journal, with a segment of the new node behind the image's.
fn own_segment(fs: &Arc<dyn Fs>, dir: &Path, image: Manifest, node: NodeId) -> Result<Manifest, ImageError> {
    // Of an earlier try: it would be in the way of the new one.
    let path = segment_path(dir, image.next_segment);
    remove_if_there(&**fs, &path).at("remove", &path)?;
    let original = image.node;
    let mut manifest = Manifest { node, ..image };
    if !manifest.ancestors.contains(&original) {
        manifest.ancestors.push(original);
    }
    manifest.origin = begin_segment(fs, dir, &mut manifest)?;
    Ok(manifest)
}

fn finish(fs: &dyn Fs, dir: &Path, node: NodeId) -> Result<NodeId, ImageError> {
    let marker = dir.join(ADOPTING);
    remove_if_there(fs, &marker).at("remove", &marker)?;
    fs.sync_dir(dir).at("sync", dir)?;
    Ok(node)
}
