//! What a snapshot makes unnecessary goes, by one replacement of the manifest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::carry::Carried;
use super::error::SwitchError;
use super::manifest::{Manifest, SegmentEntry, SnapshotRef, put_in_place};
use super::spare::Spares;
use super::table::{Released, Segment, Shared};

/// What the journal is to be after a snapshot.
#[derive(Debug)]
pub struct Switch {
    /// The snapshot; it starts where a segment starts.
    pub snapshot: SnapshotRef,
    /// Numbers of segments before it that stay as they are, because most of their bytes wait.
    pub keep: Vec<u64>,
    /// What else before it waits.
    pub carried: Carried,
}

/// The segments after the switch, and the numbers of those that go.
fn plan(manifest: &Manifest, switch: &Switch) -> Result<(Vec<SegmentEntry>, Vec<u64>), SwitchError> {
    let start = switch.snapshot.start;
    let invalid = |problem: String| Err(SwitchError::Invalid(problem));
    if !manifest.segments.iter().any(|segment| segment.first_position == start) {
        return invalid(format!("no segment starts at entry {start}"));
    }
    for number in &switch.keep {
        if !manifest.segments.iter().any(|s| s.number == *number && s.first_position < start) {
            return invalid(format!("segment {number} is not one before entry {start}"));
        }
    }
    let (mut stay, mut go): (Vec<SegmentEntry>, Vec<u64>) = (Vec::new(), Vec::new());
    for (index, segment) in manifest.segments.iter().enumerate() {
        if segment.first_position < start && !switch.keep.contains(&segment.number) {
            go.push(segment.number);
            continue;
        }
        let mut segment = segment.clone();
        let follows = index.checked_sub(1).and_then(|before| manifest.segments.get(before));
        segment.detached |= follows.is_some_and(|follows| go.contains(&follows.number));
        stay.push(segment);
    }
    for draft in &switch.carried.drafts {
        let at = stay.partition_point(|segment| segment.first_position <= draft.entry.first_position);
        if let Some(after) = stay.get_mut(at) {
            after.detached = true;
        }
        stay.insert(at, draft.entry.clone());
    }
    let mut last = 0;
    for segment in &stay {
        if segment.first_position <= last {
            return invalid(format!("segment {} is not in order of position", segment.number));
        }
        last = segment.sealed.map_or(last, |sealed| sealed.last_position.max(last));
    }
    Ok((stay, go))
}

impl Shared {
    /// Carries a switch out: the manifest on disk, then what readers see, then the files.
    pub fn switch(&self, spares: &Spares, switch: Switch) -> Result<Released, SwitchError> {
        let mut manifest = self.manifest.lock();
        let (stay, go) = plan(&manifest, &switch)?;
        {
            // A pin that begins later finds released what had been released before it began.
            let pins = self.pins.lock();
            let ends = manifest.segments.iter().filter(|segment| go.contains(&segment.number));
            let highest = ends.filter_map(|segment| segment.sealed).map(|sealed| sealed.last_position).max();
            if let (Some(pin), Some(highest)) = (pins.lowest(), highest)
                && pin <= highest
            {
                return Err(SwitchError::Pinned { position: pin });
            }
        }
        let next = Manifest { segments: stay, snapshot: Some(switch.snapshot), ..manifest.clone() };
        // Up to here nothing names the carried segments, and an error removes them.
        next.prepare(&*self.fs, &self.dir)?;
        if let Err(failure) = put_in_place(&*self.fs, &self.dir) {
            // Which of the two is on the disk is not known, so every file stays.
            for draft in switch.carried.drafts {
                draft.abandon();
            }
            return Err(failure.into());
        }
        let detached: BTreeMap<u64, bool> = next.segments.iter().map(|s| (s.number, s.detached)).collect();
        let carried = switch.carried.drafts.into_iter().filter_map(super::carry::Draft::adopt);
        let carried: Vec<Arc<Segment>> = carried.map(Arc::new).collect();
        let mut files = Vec::new();
        let mut gone = Released::default();
        {
            let mut table = self.table.write();
            table.segments.retain(|segment| {
                let stays = !go.contains(&segment.number);
                if !stays {
                    gone.segments += 1;
                    gone.bytes += segment.length;
                    files.push((segment.path.clone(), segment.length));
                }
                stays
            });
            table.segments.extend(carried);
            table.segments.sort_by_key(|segment| segment.first_position);
            for segment in &table.segments {
                let is = detached.get(&segment.number).copied().unwrap_or_default();
                segment.detached.store(is, Ordering::Relaxed);
            }
        }
        *manifest = next;
        drop(manifest);
        for (path, length) in files {
            if let Err(failure) = spares.recycle(&path, length) {
                // No longer part of the journal: the next start removes it.
                self.sizes.stray.fetch_add(length, Ordering::Relaxed);
                tracing::warn!(%failure, "a released journal segment was not removed; the next start will");
            }
        }
        Ok(gone)
    }
}
