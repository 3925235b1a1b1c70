//! Reading what is whole of a segment that is not.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;

use super::super::error::{At as _, Damage, IoFailure};
use super::super::format::{
    self, BATCH_HEADER, BATCH_OVERHEAD, BatchHeader, ENTRY_HEADER, EntryHeader, MAX_NUMBER, RawEntry,
    SEGMENT_HEADER,
};
use super::super::fs::FsFile;
use super::super::reader::StoredEntry;
use super::super::walk::{Batch, Step, Walker};
use super::Loss;
use crate::model::codec::peek_entry;
use crate::model::{EventTime, NodeId};

/// How much is searched at once.
const WINDOW: usize = 256 * 1024;

/// A segment's file, and what is known of it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub file: &'a dyn FsFile,
    pub path: &'a Path,
    pub node: NodeId,
    pub number: u64,
    /// No entry in it is below this.
    pub first: u64,
    /// Where its last batch ended.
    pub end: Option<u64>,
    /// Its last entry.
    pub through: Option<u64>,
    /// Positions strictly between the two were never acknowledged.
    pub gaps: &'a [(u64, u64)],
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    pub problems: Vec<Damage>,
    pub lost: Vec<Loss>,
    /// Entries that are whole.
    pub entries: u64,
    /// First and last of them, and when they were accepted.
    pub first: Option<(u64, EventTime)>,
    pub last: Option<(u64, EventTime)>,
    /// Where the last whole batch ends, and the digest of all: of use where there is no problem.
    pub end: u64,
    pub digest: u32,
    /// Jumps of the numbering between whole batches.
    pub jumps: Vec<(u64, u64)>,
    /// Why the walk ended behind the last whole batch.
    pub tail: Option<Damage>,
}

/// Hands every entry that is whole to `keep`, in order.
pub(super) fn salvage(
    source: &Source<'_>,
    keep: &mut dyn FnMut(StoredEntry) -> Result<(), IoFailure>,
) -> Result<Salvaged, IoFailure> {
    let length = source.file.len().at("measure", source.path)?;
    let seed = format::seed(source.node, source.number);
    let found = Salvaged { end: SEGMENT_HEADER, ..Salvaged::default() };
    let mut salvager =
        Salvager { source, length, seed, keep, found, last: source.first.saturating_sub(1), doubt: None };
    salvager.run()?;
    Ok(salvager.found)
}

struct Salvager<'a> {
    source: &'a Source<'a>,
    length: u64,
    seed: u32,
    keep: &'a mut dyn FnMut(StoredEntry) -> Result<(), IoFailure>,
    found: Salvaged,
    /// The last entry that was whole, or what comes before the first.
    last: u64,
    /// Bytes since then were bad; sites that they speak of.
    doubt: Option<BTreeSet<String>>,
}

impl Salvager<'_> {
    fn run(&mut self) -> Result<(), IoFailure> {
        let Source { file, path, end, .. } = *self.source;
        let mut at = SEGMENT_HEADER;
        loop {
            let mut walker = Walker::from_offset(file, self.seed, self.length, None, at);
            let problem = loop {
                at = walker.offset();
                if Some(at) == end || at >= self.length {
                    self.finish(at);
                    return Ok(());
                }
                match walker.step().at("read", path)? {
                    Step::Batch(batch) => self.batch(&batch, walker.offset())?,
                    Step::End => break None,
                    Step::Bad(problem) => break Some(problem),
                }
            };
            let head = file.read_up_to(BATCH_HEADER, at).at("read", path)?;
            if problem.is_some()
                && let Some(header) = BatchHeader::decode(&head, self.seed)
                && at + header.total() <= self.length
            {
                self.problem(at, problem.unwrap_or_default());
                self.part_of_batch(at, &header)?;
                at += header.total();
                continue;
            }
            let Some(next) = self.next_header(at + 1)? else {
                self.found.tail = problem.map(|problem| Damage::new(path, at, problem));
                self.finish(at);
                return Ok(());
            };
            let problem = problem.unwrap_or_else(|| "zeros".to_owned());
            self.problem(at, format!("{problem}, but a batch follows at byte {next}"));
            self.doubt.get_or_insert_default();
            at = next;
        }
    }

    fn problem(&mut self, at: u64, problem: String) {
        self.found.problems.push(Damage::new(self.source.path, at, problem));
    }

    fn batch(&mut self, batch: &Batch, end: u64) -> Result<(), IoFailure> {
        for entry in &batch.entries {
            self.good(batch.offset, StoredEntry::new(self.source.node, batch, entry))?;
        }
        self.found.end = end;
        self.found.digest = format::digest(self.found.digest, batch.checksum);
        Ok(())
    }

    fn good(&mut self, at: u64, entry: StoredEntry) -> Result<(), IoFailure> {
        let (position, time) = (entry.position, entry.accepted_at);
        if position <= self.last || position > MAX_NUMBER {
            self.problem(at, format!("entry {position}, which does not follow entry {}", self.last));
            return Ok(());
        }
        if self.doubt.is_some() {
            self.lose_up_to(position - 1, Some(time));
        } else if position > self.last + 1 && self.found.last.is_some() {
            self.found.jumps.push((self.last, position));
        }
        for loss in self.found.lost.iter_mut().rev().take_while(|loss| loss.before.is_none()) {
            loss.before = Some(time);
        }
        self.last = position;
        self.found.entries += 1;
        self.found.first.get_or_insert((position, time));
        self.found.last = Some((position, time));
        (self.keep)(entry)
    }

    /// What is missing since the last whole entry, up to `through`, is lost.
    fn lose_up_to(&mut self, through: u64, before: Option<EventTime>) {
        let sites: Vec<String> = self.doubt.take().unwrap_or_default().into_iter().collect();
        let after = self.found.last.map(|(_, time)| time);
        for (first, last) in without_gaps(self.last + 1, through, self.source.gaps) {
            self.found.lost.push(Loss {
                first,
                last,
                sites: sites.clone(),
                after,
                before,
                ..Loss::default()
            });
        }
        self.last = self.last.max(through);
    }

    /// The entries of a damaged batch that are whole by themselves.
    fn part_of_batch(&mut self, at: u64, header: &BatchHeader) -> Result<(), IoFailure> {
        let bytes = self.source.file.read_up_to(header.total() as usize, at).at("read", self.source.path)?;
        let bytes = Bytes::from(bytes);
        let end = bytes.len().saturating_sub(4);
        let (mut from, mut next) = (BATCH_HEADER, 0);
        let mut whole = 0;
        while from + ENTRY_HEADER <= end {
            let head = bytes.get(from..).and_then(EntryHeader::decode).filter(|h| h.back as usize == from);
            let until = head.map_or(usize::MAX, |h| (from + ENTRY_HEADER).saturating_add(h.length as usize));
            let (Some(head), true) = (head, until <= end) else {
                from += 1;
                continue;
            };
            let (entry, payload) = (bytes.slice(from..until), bytes.slice(from + ENTRY_HEADER..until));
            let position = |index: u32| header.first_position.saturating_add(u64::from(index));
            let found = (next..header.count).find(|k| head.verifies(self.seed, position(*k), &entry));
            let Some(index) = found else {
                let sites = self.doubt.get_or_insert_default();
                sites.extend(peek_entry(&payload).ok().map(|head| head.site.to_owned()));
                from += 1;
                continue;
            };
            if index > next {
                self.doubt.get_or_insert_default();
            }
            let raw = RawEntry {
                position: position(index),
                accepted_at: head.accepted_at,
                back: head.back,
                payload,
            };
            let batch = Batch { offset: at, header: *header, entries: Vec::new(), checksum: 0 };
            self.good(at, StoredEntry::new(self.source.node, &batch, &raw))?;
            (from, next, whole) = (until, index + 1, whole + 1);
        }
        if whole < header.count {
            self.doubt.get_or_insert_default();
            let through = header.last_position().min(MAX_NUMBER);
            if self.last < through {
                self.lose_up_to(through, None);
            }
        }
        Ok(())
    }

    /// The next place where the header of a batch is whole.
    fn next_header(&self, mut from: u64) -> Result<Option<u64>, IoFailure> {
        let Source { file, path, .. } = *self.source;
        while from + BATCH_OVERHEAD <= self.length {
            let window = file.read_up_to(WINDOW.min((self.length - from) as usize), from).at("read", path)?;
            let mut at = 0;
            while let Some(found) = format::find_batch_magic(&window, at) {
                let place = from + found as u64;
                let head = file.read_up_to(BATCH_HEADER, place).at("read", path)?;
                if BatchHeader::decode(&head, self.seed).is_some_and(|h| place + h.total() <= self.length) {
                    return Ok(Some(place));
                }
                at = found + 1;
            }
            if window.len() < BATCH_HEADER {
                break;
            }
            // Magic bytes that straddle two windows are in the next one whole.
            from += window.len() as u64 - 3;
        }
        Ok(None)
    }

    fn finish(&mut self, at: u64) {
        if let Some(end) = self.source.end
            && at < end
        {
            let problem = self.found.tail.take().map(|tail| tail.problem);
            let problem = problem.unwrap_or_else(|| "zeros".to_owned());
            self.problem(at, format!("{problem}; its batches had ended at byte {end}"));
            self.doubt.get_or_insert_default();
        }
        if let Some(through) = self.source.through
            && self.last < through
        {
            if self.found.problems.is_empty() {
                self.problem(at, format!("its entries end at {}, not at {through}", self.last));
            }
            self.lose_up_to(through, None);
        }
    }
}

/// The parts of `first..=last` that are in no gap.
pub(super) fn without_gaps(first: u64, last: u64, gaps: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let mut from = first;
    let mut gaps: Vec<(u64, u64)> = gaps.to_vec();
    gaps.sort_unstable();
    for (before, after) in gaps {
        if after <= from || before >= last {
            continue;
        }
        if before >= from {
            parts.push((from, before));
        }
        from = after;
    }
    if from <= last {
        parts.push((from, last));
    }
    parts
}
