//! Carrying a repair out.

use std::path::Path;
use std::sync::Arc;

use super::super::error::{At as _, IoFailure};
use super::super::format::SegmentHeader;
use super::super::fs::{Fs, FsFile, OpenMode, remove_if_there};
use super::super::manifest::{MANIFEST, Manifest, ManifestError, SegmentEntry, carry_path, segment_path};
use super::super::open::begin_segment;
use super::super::rewrite::Rewriter;
use super::survey::{each_entry, header_of};
use super::{Plan, RepairError, RepairOptions, RepairReport};

const CHUNK: usize = 1 << 20;
/// Most bytes of a batch that is written.
const BATCH_BYTES: u64 = 8 << 20;

pub(super) fn apply(
    fs: &Arc<dyn Fs>,
    options: &RepairOptions,
    plan: Plan,
) -> Result<RepairReport, RepairError> {
    let dir = &options.dir;
    let Plan { report, mut manifest, has_manifest, rewrite, aside, needs_segment } = plan;
    save(&**fs, options, &aside, &report)?;
    let mut number = manifest.next_segment;
    manifest.next_segment += rewrite.len() as u64;
    if has_manifest {
        // Used up first: what a crash leaves of the new segments is of no use to a start.
        let used_up = |error: ManifestError| RepairError::from(error.into_open(dir));
        if let Some(mut there) = Manifest::load(&**fs, dir).map_err(used_up)? {
            there.next_segment = there.next_segment.max(manifest.next_segment);
            there.store(&**fs, dir)?;
        }
    }
    for (old, end) in rewrite {
        let Some(index) = manifest.segments.iter().position(|segment| segment.number == old) else {
            continue;
        };
        let Some(entry) = manifest.segments.get_mut(index) else { continue };
        *entry = write_again(&**fs, dir, entry, end, number)?;
        number += 1;
    }
    fs.sync_dir(dir).at("sync", dir)?;
    for loss in report.losses() {
        manifest.gaps.push((loss.first.saturating_sub(1), loss.last + 1));
    }
    if needs_segment {
        begin_segment(fs, dir, &mut manifest)?;
    }
    detach(&**fs, dir, &mut manifest)?;
    manifest.store(&**fs, dir)?;
    for path in &aside {
        remove_if_there(&**fs, path).at("remove", path)?;
    }
    fs.sync_dir(dir).at("sync", dir)?;
    Ok(report)
}

/// Copies what goes, the manifest, and what is said of them.
fn save(
    fs: &dyn Fs,
    options: &RepairOptions,
    aside: &[std::path::PathBuf],
    report: &RepairReport,
) -> Result<(), IoFailure> {
    let to = options.dir.join(&options.save_as);
    fs.create_dir_all(&to).at("create", &to)?;
    let manifest = options.dir.join(MANIFEST);
    for path in aside.iter().chain([&manifest]) {
        let source = match fs.open(path, OpenMode::Read) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.at("open", path)?,
        };
        let target = to.join(path.file_name().unwrap_or_default());
        let copy = create(fs, &target)?;
        let mut at = 0;
        loop {
            let bytes = source.read_up_to(CHUNK, at).at("read", path)?;
            if bytes.is_empty() {
                break;
            }
            copy.write_all_at(&bytes, at).at("write", &target)?;
            at += bytes.len() as u64;
        }
        copy.sync_data().at("sync", &target)?;
    }
    let target = to.join("report");
    let file = create(fs, &target)?;
    file.write_all_at(report.to_string().as_bytes(), 0).at("write", &target)?;
    file.sync_data().at("sync", &target)?;
    fs.sync_dir(&to).at("sync", &to)
}

fn create(fs: &dyn Fs, path: &Path) -> Result<Box<dyn FsFile>, IoFailure> {
    remove_if_there(fs, path).at("remove", path)?;
    fs.open(path, OpenMode::CreateNew).at("create", path)
}

/// Writes the whole entries of a damaged segment into segment `number`.
fn write_again(
    fs: &dyn Fs,
    dir: &Path,
    entry: &SegmentEntry,
    end: Option<u64>,
    number: u64,
) -> Result<SegmentEntry, IoFailure> {
    let (source, part) = (segment_path(dir, entry.number), carry_path(dir, number));
    let file = create(fs, &part)?;
    let mut rewriter: Option<Rewriter> = None;
    each_entry(fs, &source, entry, end, &mut |stored| {
        let rewriter = rewriter.get_or_insert_with(|| Rewriter::new(number, &stored));
        rewriter.push(&*file, &part, &stored, BATCH_BYTES).map(|_| ())
    })?;
    let Some(mut rewriter) = rewriter else {
        let problem = std::io::Error::other("has no whole entry any more");
        return Err(problem).at("read", &source);
    };
    rewriter.finish(&*file, &part)?;
    let path = segment_path(dir, number);
    fs.rename(&part, &path).at("rename", &part)?;
    Ok(rewriter.entry)
}

/// Notes which segments do not follow, by their headers, the one before them.
fn detach(fs: &dyn Fs, dir: &Path, manifest: &mut Manifest) -> Result<(), IoFailure> {
    let mut before = None;
    for segment in &mut manifest.segments {
        if let Some(before) = before {
            let path = segment_path(dir, segment.number);
            let follows = |header: SegmentHeader, seal: super::super::manifest::Sealed| {
                header.previous_digest == seal.digest
                    && header.previous_last == seal.last_position
                    && header.accepted_high == seal.accepted_high
            };
            let header = header_of(fs, &path)?.ok();
            segment.detached = !header.zip(before).is_some_and(|(header, seal)| follows(header, seal));
        }
        before = Some(segment.sealed);
    }
    Ok(())
}
