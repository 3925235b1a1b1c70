//! Making a manifest out of the segments, where it is lost or an old copy.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::super::error::{At as _, Damage, IoFailure};
use super::super::format::{HeaderProblem, MAX_NUMBER, SegmentHeader};
use super::super::fs::{Fs, OpenMode};
use super::super::manifest::{Manifest, Sealed, SegmentEntry, segment_number, segment_path};
use super::super::recover;
use super::salvage::{Salvaged, Source, salvage, without_gaps};
use super::survey::{header_of, set_aside};
use super::{Action, Finding, Loss, Plan, RepairError, RepairOptions, RepairReport};
use crate::model::NodeId;

/// A segment file that has entries.
struct Found {
    path: PathBuf,
    entry: SegmentEntry,
    /// What its header says, if it is whole.
    header: Option<SegmentHeader>,
    salvaged: Salvaged,
    /// Whole positions.
    positions: BTreeSet<u64>,
}

impl Found {
    /// Whether it holds what was carried over from others: its header speaks of no segment before it, and yet
    /// it is not the first of all.
    fn is_carried(&self) -> bool {
        self.header.as_ref().is_none_or(|header| {
            header.previous_digest == 0
                && header.accepted_high.0 > 0
                && header.previous_last + 1 == header.first_position
        })
    }

    fn last(&self) -> u64 {
        self.salvaged.last.map_or(self.entry.first_position, |(position, _)| position)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let first = |found: &Self| found.salvaged.first.map_or(0, |(position, _)| position);
        first(self) <= other.last() && first(other) <= self.last()
    }
}

pub(super) fn rebuild(
    fs: &dyn Fs,
    options: &RepairOptions,
    base: Option<&Manifest>,
    why: String,
    names: &[String],
) -> Result<Plan, RepairError> {
    let dir = &options.dir;
    let mut plan = Plan {
        report: RepairReport { manifest: Some(why), ..RepairReport::default() },
        manifest: base.cloned().unwrap_or_else(|| Manifest::new(NodeId(0))),
        // It must not say that the numbers of segments that it does not know are used up.
        has_manifest: false,
        rewrite: Vec::new(),
        aside: Vec::new(),
        needs_segment: true,
    };
    let (mut headers, mut headless) = (Vec::new(), Vec::new());
    for number in names.iter().filter_map(|name| segment_number(name)) {
        let path = segment_path(dir, number);
        match header_of(fs, &path)? {
            Ok(header) if header.number == number && is_possible(&header) => headers.push((path, header)),
            Ok(header) if header.number == number => headless.push((path, number)),
            Ok(header) => {
                let problem = format!("segment {} by its header", header.number);
                set_aside(path.clone(), vec![Damage::new(path, 24, problem)], &mut plan);
            }
            Err(HeaderProblem::Version(found)) => return Err(RepairError::Version { file: path, found }),
            Err(_) => headless.push((path, number)),
        }
    }
    let newest = headers.iter().max_by_key(|(_, header)| header.number).map(|(_, header)| header.node);
    let node = base.map(|base| base.node).or(newest);
    let node = node.ok_or_else(|| RepairError::NoJournal(dir.clone()))?;
    plan.manifest.node = node;
    if base.is_none() {
        let mut others: Vec<&SegmentHeader> = headers.iter().map(|(_, header)| header).collect();
        others.sort_by_key(|header| header.first_position);
        for other in others {
            if other.node != node && !plan.manifest.ancestors.contains(&other.node) {
                plan.manifest.ancestors.push(other.node);
            }
        }
    }
    let starts: Vec<u64> = headers.iter().map(|(_, header)| header.first_position).collect();
    let nodes: Vec<NodeId> = [node].into_iter().chain(plan.manifest.ancestors.clone()).collect();
    let mut found = Vec::new();
    for (path, header) in headers {
        if nodes.contains(&header.node) {
            found.extend(read(fs, path, header.node, header.number, Some(header), &mut plan)?);
        } else {
            let problem = format!("of node {}: not of this journal", header.node);
            set_aside(path.clone(), vec![Damage::new(path, 16, problem)], &mut plan);
        }
    }
    for (path, number) in headless {
        let mut known = None;
        for node in &nodes {
            if known.is_none() {
                known = read(fs, path.clone(), *node, number, None, &mut plan)?;
            }
        }
        match known {
            Some(segment) => found.push(segment),
            None => set_aside(
                path.clone(),
                vec![Damage::new(path, 0, "no header, and no batch that is whole")],
                &mut plan,
            ),
        }
    }
    found.sort_by_key(|segment| (segment.entry.first_position, segment.entry.number));
    drop_doubles(&mut found, &mut plan);

    // The newest that the segments go on from.
    let mut snapshots = options.snapshots.clone();
    snapshots.extend(plan.manifest.snapshot.take());
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.start));
    plan.manifest.snapshot = snapshots.into_iter().find(|snapshot| starts.contains(&snapshot.start));
    plan.report.snapshot.clone_from(&plan.manifest.snapshot);
    let has_beginning = found.first().is_none_or(|first| {
        !first.is_carried() && first.header.as_ref().is_some_and(|header| header.previous_last == 0)
    });
    if !has_beginning && plan.manifest.snapshot.is_none() {
        plan.report.no_history_before = found.first().map(|first| first.entry.first_position);
    }
    number(&found, base, &mut plan);
    // No number is used twice: what an earlier life of a file left behind must never be valid.
    let highest = names.iter().filter_map(|name| segment_number(name)).max().unwrap_or(0);
    plan.manifest.next_segment = plan.manifest.next_segment.max(highest + 1);
    for segment in found {
        plan.report.entries += segment.salvaged.entries;
        if !segment.salvaged.problems.is_empty() {
            plan.rewrite.push((segment.entry.number, None));
            plan.aside.push(segment.path.clone());
            plan.report.findings.push(Finding {
                file: segment.path,
                problems: segment.salvaged.problems,
                kept: segment.salvaged.entries,
                lost: segment.salvaged.lost,
                action: Action::Rewritten,
            });
        }
        plan.manifest.segments.push(segment.entry);
    }
    Ok(plan)
}

/// Whether its numbers are such that a journal reaches.
fn is_possible(header: &SegmentHeader) -> bool {
    header.first_position > header.previous_last
        && [header.number, header.first_position, header.length].into_iter().all(|word| word <= MAX_NUMBER)
}

/// Reads a segment; `None` if it has no entry (and is said to be damaged if it is).
fn read(
    fs: &dyn Fs,
    path: PathBuf,
    node: NodeId,
    number: u64,
    header: Option<SegmentHeader>,
    plan: &mut Plan,
) -> Result<Option<Found>, IoFailure> {
    let file = fs.open(&path, OpenMode::Read).at("open", &path)?;
    let length = file.len().at("measure", &path)?;
    let first = header.map_or(1, |header| header.first_position);
    let gaps = plan.manifest.gaps.clone();
    let source =
        Source { file: &*file, path: &path, node, number, first, end: None, through: None, gaps: &gaps };
    let mut positions = BTreeSet::new();
    let mut salvaged = salvage(&source, &mut |entry| {
        positions.insert(entry.position);
        Ok(())
    })?;
    match header {
        None => salvaged.problems.insert(0, Damage::new(&path, 0, "no sound segment header")),
        Some(header) if header.length != length => {
            let problem = format!("the file has {length} bytes; its header says {}", header.length);
            salvaged.problems.insert(0, Damage::new(&path, length.min(header.length), problem));
        }
        Some(_) => {}
    }
    let (Some((first, _)), Some((last, high))) = (salvaged.first, salvaged.last) else {
        if header.is_some() && !salvaged.problems.is_empty() {
            set_aside(path, salvaged.problems, plan);
        }
        return Ok(None);
    };
    let entry = SegmentEntry {
        number,
        node,
        first_position: header.map_or(first, |header| header.first_position),
        length,
        sealed: Some(Sealed {
            end: salvaged.end,
            last_position: last,
            digest: salvaged.digest,
            accepted_high: high,
        }),
        detached: false,
    };
    Ok(Some(Found { path, entry, header, salvaged, positions }))
}

/// Where two files have the same entries (a crash came before one of them was removed), one is enough.
fn drop_doubles(found: &mut Vec<Found>, plan: &mut Plan) {
    loop {
        let double = found.iter().enumerate().find_map(|(index, a)| {
            let other = found.iter().skip(index + 1).position(|b| a.overlaps(b))?;
            Some((index, index + 1 + other))
        });
        let Some((a, b)) = double else { return };
        let Some(drop) =
            found.get(a).zip(found.get(b)).map(|(x, y)| match (x.is_carried(), y.is_carried()) {
                // What was carried over is all that was wanted of where it came from, unless all of that is there.
                (true, false) => {
                    if is_elsewhere(x, found) {
                        a
                    } else {
                        b
                    }
                }
                (false, true) => {
                    if is_elsewhere(y, found) {
                        b
                    } else {
                        a
                    }
                }
                _ if x.positions.is_subset(&y.positions) => a,
                _ if y.positions.is_subset(&x.positions) => b,
                _ => {
                    if x.entry.number < y.entry.number {
                        a
                    } else {
                        b
                    }
                }
            })
        else {
            return;
        };
        let gone = found.remove(drop);
        let by_kind = gone.is_carried();
        let twin = found.iter().find(|other| other.overlaps(&gone));
        let is_lost = twin.is_some_and(|twin| twin.is_carried() == by_kind);
        let mut lost = Vec::new();
        if is_lost {
            let kept: BTreeSet<u64> = found.iter().flat_map(|other| &other.positions).copied().collect();
            for position in gone.positions.difference(&kept) {
                lost.push(Loss { first: *position, last: *position, ..Loss::default() });
            }
        }
        let problem = Damage::new(&gone.path, 0, "holds positions that another segment holds too");
        plan.aside.push(gone.path.clone());
        plan.report.findings.push(Finding {
            file: gone.path,
            problems: vec![problem],
            kept: 0,
            lost,
            action: Action::SetAside,
        });
    }
}

fn is_elsewhere(segment: &Found, found: &[Found]) -> bool {
    segment.positions.iter().all(|position| {
        let mut others = found.iter().filter(|other| other.entry.number != segment.entry.number);
        others.any(|other| !other.is_carried() && other.positions.contains(position))
    })
}

/// What the numbering tells: gaps, and what is missing between segments.
fn number(found: &[Found], base: Option<&Manifest>, plan: &mut Plan) {
    let start = plan.manifest.snapshot.as_ref().map_or(0, |snapshot| snapshot.start);
    let of_base =
        base.and_then(|base| base.segments.first()).map(|segment| segment.first_position.saturating_sub(1));
    let of_first = found.first().and_then(|first| first.header).map(|header| header.previous_last);
    let mut before = of_base.or(of_first).unwrap_or(0);
    for segment in found {
        if let (Some(header), false) = (&segment.header, segment.is_carried()) {
            let first = segment.salvaged.first.map_or(header.first_position, |(position, _)| position);
            // Whatever comes before its first entry was never given to anything; damage was counted already.
            if header.previous_last > 0 && header.first_position > header.previous_last + 1 {
                plan.manifest.gaps.push((header.previous_last, header.first_position));
            }
            if first > header.first_position && segment.salvaged.problems.is_empty() {
                plan.manifest.gaps.push((header.first_position - 1, first));
            }
            plan.manifest.gaps.extend(&segment.salvaged.jumps);
            if header.previous_last > before && header.first_position > start {
                let from = (before + 1).max(start);
                let gaps = plan.manifest.gaps.clone();
                for (first, last) in without_gaps(from, header.previous_last, &gaps) {
                    plan.report.lost.push(Loss { first, last, ..Loss::default() });
                }
            }
        }
        before = segment.last();
    }
    let own = found.iter().filter(|segment| segment.entry.node == plan.manifest.node);
    if base.is_none() {
        plan.manifest.origin = own.map(|segment| segment.entry.first_position).min().unwrap_or(before + 1);
    }
    // One more segment may have been lost together with the manifest.
    let longest = found.iter().map(|segment| segment.entry.length).max().unwrap_or(0);
    let from = plan.manifest.next_position.max(before + 1);
    plan.manifest.next_position = from + 2 * recover::most_entries(longest);
    plan.manifest.gaps.sort_unstable();
    plan.manifest.gaps.dedup();
    plan.manifest.clean = None;
    plan.manifest.segments.clear();
}
