//! What is wrong where the manifest is whole.

use std::path::{Path, PathBuf};

use super::super::error::{At as _, Damage, IoFailure, OpenError};
use super::super::format::{self, HeaderProblem, SEGMENT_HEADER, SegmentHeader};
use super::super::fs::{Fs, OpenMode};
use super::super::manifest::{Manifest, SegmentEntry, segment_number, segment_path};
use super::super::recover;
use super::super::walk::{Step, Walker};
use super::salvage::{Salvaged, Source, salvage, without_gaps};
use super::{Action, Finding, Loss, Plan, RepairError, RepairReport};
use crate::model::EventTime;

/// Why the manifest is not the last one, if it is not: segments have entries that it does not know.
pub(super) fn stale(
    fs: &dyn Fs,
    dir: &Path,
    manifest: &Manifest,
    names: &[String],
) -> Result<Option<String>, RepairError> {
    for number in names.iter().filter_map(|name| segment_number(name)) {
        if number < manifest.next_segment || manifest.segments.iter().any(|s| s.number == number) {
            continue;
        }
        let path = segment_path(dir, number);
        let file = fs.open(&path, OpenMode::Read).at("open", &path)?;
        let head = file.read_up_to(SEGMENT_HEADER as usize, 0).at("read", &path)?;
        let Ok(header) = SegmentHeader::decode(&head) else { continue };
        let ours = header.node == manifest.node || manifest.ancestors.contains(&header.node);
        let length = file.len().at("measure", &path)?;
        let mut walker = Walker::new(&*file, format::seed(header.node, number), length, None);
        if ours && matches!(walker.step().at("read", &path)?, Step::Batch(_)) {
            return Ok(Some(format!("it is an old copy: it does not know segment {number}")));
        }
    }
    Ok(None)
}

/// Reads everything.
pub(super) fn survey(
    fs: &dyn Fs,
    dir: &Path,
    manifest: Manifest,
    names: &[String],
) -> Result<Plan, RepairError> {
    let mut plan = Plan {
        report: RepairReport { snapshot: manifest.snapshot.clone(), ..RepairReport::default() },
        has_manifest: true,
        rewrite: Vec::new(),
        aside: Vec::new(),
        needs_segment: false,
        manifest,
    };
    let entries = plan.manifest.segments.clone();
    for (index, entry) in entries.iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|before| entries.get(before));
        let is_last = index + 1 == entries.len();
        look_at(fs, dir, entry, previous, is_last, &mut plan)?;
    }
    strangers(fs, dir, names, &mut plan)?;
    Ok(plan)
}

/// Files that are called segments and are none of this journal's.
fn strangers(fs: &dyn Fs, dir: &Path, names: &[String], plan: &mut Plan) -> Result<(), RepairError> {
    for number in names.iter().filter_map(|name| segment_number(name)) {
        if plan.manifest.segments.iter().any(|segment| segment.number == number) {
            continue;
        }
        let path = segment_path(dir, number);
        if plan.aside.contains(&path) {
            continue;
        }
        let own = [name_of(&path)];
        // As a start would judge it, by itself.
        match recover::sweep(fs, dir, &plan.manifest, &own) {
            Ok(_) => {}
            Err(OpenError::Damaged { damage, .. }) => set_aside(path, vec![damage], plan),
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned()
}

pub(super) fn set_aside(path: PathBuf, problems: Vec<Damage>, plan: &mut Plan) {
    plan.aside.push(path.clone());
    plan.report.findings.push(Finding {
        file: path,
        problems,
        kept: 0,
        lost: Vec::new(),
        action: Action::SetAside,
    });
}

fn look_at(
    fs: &dyn Fs,
    dir: &Path,
    entry: &SegmentEntry,
    previous: Option<&SegmentEntry>,
    is_last: bool,
    plan: &mut Plan,
) -> Result<(), RepairError> {
    let path = segment_path(dir, entry.number);
    let known = if is_last { plan.manifest.clean } else { entry.sealed };
    let through = known.map(|sealed| sealed.last_position).filter(|last| *last >= entry.first_position);
    let opened = recover::open_segment(fs, dir, entry, previous, OpenMode::Read);
    let mut problems = Vec::new();
    let header = match opened {
        Ok((segment, header)) => Some((segment, header)),
        Err(OpenError::Damaged { damage, .. }) => {
            problems.push(damage);
            None
        }
        Err(other) => return Err(other.into()),
    };
    let file = match fs.open(&path, OpenMode::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let last = through.or_else(|| known.map(|_| entry.first_position.saturating_sub(1)));
            missing(path, entry, last, is_last, problems, plan);
            return Ok(());
        }
        other => other.at("open", &path)?,
    };
    let source = Source {
        file: &*file,
        path: &path,
        node: entry.node,
        number: entry.number,
        first: entry.first_position,
        end: entry.sealed.map(|sealed| sealed.end),
        through,
        gaps: &plan.manifest.gaps,
    };
    let mut found: Salvaged = salvage(&source, &mut |_| Ok(()))?;
    if is_last && let Some((segment, header)) = &header {
        // What a start says: it may cut a torn tail by itself.
        match recover::walk_last(dir, segment, header, plan.manifest.clean.as_ref()) {
            Ok(_) => found.problems.clear(),
            Err(OpenError::Damaged { damage, .. }) if found.problems.is_empty() => {
                found.problems.push(damage);
            }
            Err(OpenError::Damaged { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    if found.problems.is_empty()
        && let Some(sealed) = entry.sealed
        && sealed.digest != found.digest
    {
        let problem = "its batches are not those that it was sealed with";
        found.problems.push(Damage::new(&path, found.end, problem));
    }
    problems.append(&mut found.problems);
    plan.report.entries += found.entries;
    if problems.is_empty() {
        return Ok(());
    }
    plan.needs_segment |= is_last;
    let is_cut = found.tail.is_some() || file.len().at("measure", &path)? != entry.length;
    if is_last && through.is_none() && is_cut {
        let before = entry.first_position.saturating_sub(1);
        let (last, after) = found.last.map_or((before, None), |(position, time)| (position, Some(time)));
        found.lost.push(open_loss(last, after, entry, plan));
    }
    let action = if found.entries > 0 { Action::Rewritten } else { Action::SetAside };
    if action == Action::Rewritten {
        plan.rewrite.push((entry.number, entry.sealed.map(|sealed| sealed.end)));
    } else {
        plan.manifest.segments.retain(|segment| segment.number != entry.number);
    }
    plan.aside.push(path.clone());
    let finding = Finding { file: path, problems, kept: found.entries, lost: found.lost, action };
    plan.report.findings.push(finding);
    Ok(())
}

/// A segment whose file is not there.
fn missing(
    path: PathBuf,
    entry: &SegmentEntry,
    last: Option<u64>,
    is_last: bool,
    problems: Vec<Damage>,
    plan: &mut Plan,
) {
    plan.needs_segment |= is_last;
    plan.manifest.segments.retain(|segment| segment.number != entry.number);
    let Some(last) = last else {
        let lost = vec![open_loss(entry.first_position.saturating_sub(1), None, entry, plan)];
        plan.report.findings.push(Finding { file: path, problems, kept: 0, lost, action: Action::Missing });
        return;
    };
    let lost = without_gaps(entry.first_position, last, &plan.manifest.gaps)
        .into_iter()
        .map(|(first, last)| Loss { first, last, ..Loss::default() })
        .collect();
    plan.report.findings.push(Finding { file: path, problems, kept: 0, lost, action: Action::Missing });
}

/// How far the segment that was being written reached nobody knows; numbering goes on beyond all that it can have
/// held.
fn open_loss(last: u64, after: Option<EventTime>, entry: &SegmentEntry, plan: &mut Plan) -> Loss {
    let manifest = &mut plan.manifest;
    let from = manifest.next_position.max(entry.first_position);
    manifest.next_position = from + recover::most_entries(entry.length);
    let end = recover::beyond(manifest.next_position - 1) - 1;
    Loss { first: last + 1, last: end, open_end: true, after, ..Loss::default() }
}

/// What reading a segment again hands over.
pub(super) fn each_entry(
    fs: &dyn Fs,
    path: &Path,
    entry: &SegmentEntry,
    end: Option<u64>,
    keep: &mut dyn FnMut(super::super::reader::StoredEntry) -> Result<(), IoFailure>,
) -> Result<(), IoFailure> {
    let file = fs.open(path, OpenMode::Read).at("open", path)?;
    let source = Source {
        file: &*file,
        path,
        node: entry.node,
        number: entry.number,
        first: entry.first_position,
        end,
        through: None,
        gaps: &[],
    };
    salvage(&source, keep).map(|_| ())
}

/// The header of a segment file, if it is whole.
pub(super) fn header_of(fs: &dyn Fs, path: &Path) -> Result<Result<SegmentHeader, HeaderProblem>, IoFailure> {
    let file = fs.open(path, OpenMode::Read).at("open", path)?;
    Ok(SegmentHeader::decode(&file.read_up_to(SEGMENT_HEADER as usize, 0).at("read", path)?))
}
