//! Builds the attribute index from the profiles, in the background.
//!
//! The builder reads, decodes and sorts a chunk of profiles at a time, and hands the entries to the
//! writer thread, which inserts them. So that it cannot bring back what a commit has replaced after it was
//! read, the writer notes while a pass runs which profiles it touches and when, and leaves those out;
//! their commits insert all of their entries (see [`AttributeIndex::edits`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::pool::{Answer, Pool};
use super::trees::decode_live;
use super::{Shared, Trees};
use crate::model::Record;
use crate::store::index::{AttributeIndex, Batch};
use crate::store::{Call, Operation, StoreError, keys};

/// Profiles in a chunk: about two milliseconds of the writer's time.
const CHUNK: usize = 1024;
/// How long to wait after a pass that failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A part of all profiles.
struct Chunk {
    entries: Batch,
    profiles: u64,
    last_key: Option<Vec<u8>>,
}

/// The builder thread: a pass at once, then one each time that `wake` says so.
pub fn run(shared: &Arc<Shared>, writer: &Pool, wake: &Receiver<()>) {
    let mut first = true;
    while !shared.stopped() {
        match shared.call(Operation::ScanRecords, || pass(shared, writer, first)) {
            Ok(()) => {
                first = false;
                if wake.recv().is_err() {
                    return;
                }
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "building the attribute index failed; trying again");
                let _ = wake.recv_timeout(RETRY_AFTER);
            }
        }
    }
}

/// One pass over all profiles. The first one is under way since the index was made.
fn pass(shared: &Arc<Shared>, writer: &Pool, first: bool) -> Result<(), StoreError> {
    let (begun, generation) = (Arc::clone(shared), shared.generation);
    on_writer(generation, writer, move || {
        let mut writer = begun.writer.lock();
        begun.index.begin_pass(writer.mark().profiles);
        if !first {
            writer.track();
        }
        Ok(())
    })?
    .blocking()?;
    let trees = shared.trees()?;
    let (mut after, mut inserted): (Option<Vec<u8>>, Option<Answer<()>>) = (None, None);
    loop {
        // Before the chunk is read: what is touched from here on is left out.
        let as_of = shared.clock.load(Ordering::Acquire);
        let chunk = read(&trees, &shared.index, after.as_deref())?;
        if let Some(inserted) = inserted.take() {
            inserted.blocking()?;
        }
        let Some(last_key) = chunk.last_key else { break };
        after = Some(last_key);
        let shared = Arc::clone(shared);
        inserted = Some(on_writer(generation, writer, move || {
            let mut writer = shared.writer.lock();
            writer.forget_touched_before(as_of);
            shared.index.insert_batch(&chunk.entries, |number| writer.touched(number));
            shared.index.advance_pass(chunk.profiles);
            Ok(())
        })?);
    }
    let ended = Arc::clone(shared);
    on_writer(generation, writer, move || {
        ended.index.end_pass();
        ended.writer.lock().stop_tracking();
        Ok(())
    })?
    .blocking()
}

fn on_writer(
    generation: u64,
    writer: &Pool,
    work: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
) -> Result<Answer<()>, StoreError> {
    writer.submit_waiting(Call { generation, operation: Operation::BuildIndex, site: None }, work)
}

fn read(trees: &Trees, index: &AttributeIndex, after: Option<&[u8]>) -> Result<Chunk, StoreError> {
    let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let mut chunk = Chunk { entries: Batch::default(), profiles: 0, last_key: None };
    for item in trees.profiles.range::<&[u8], _>((from, std::ops::Bound::Unbounded)).take(CHUNK) {
        let (key, value) = item?;
        if let Record::Live(profile) = decode_live(&value)? {
            index.unbuilt(&keys::split(&key)?.0, &profile, &mut chunk.entries);
        }
        chunk.profiles += 1;
        chunk.last_key = Some(key.to_vec());
    }
    chunk.entries.sort();
    Ok(chunk)
}
