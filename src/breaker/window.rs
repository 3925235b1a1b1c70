//! The counters that calls touch: one load of the gate and one counter when a call begins, the same when it ends.
//!
//! Calls are counted in the **bucket** in which they began. Buckets are numbered, and live in a ring of slots. One
//! thread at a time (the one that ticks, under the scope's lock) rolls the ring.
//!
//! Every call is counted off in exactly one place: its bucket (while that is in the ring), `late` (it
//! outlived the ring), or `returned` (the generation that admitted it is over). There are two ways to count:
//! - **Owned** stripes belong to one thread each, which adds with plain loads and stores, at a third of the price
//!   of an atomic addition. Before it touches its stripe it says so in `busy` and then looks at the gate; the one
//!   who ticks says so in the gate and then looks at `busy`. Whichever comes first, the other sees it: the owner
//!   counts elsewhere, or the one who ticks waits for a dozen instructions. The fence which that takes is free for
//!   the owner (see `sync`).
//! - The **shared** stripe is for all other threads, and for owners while the ring is rolled. Its words carry the
//!   tag of the bucket that owns the slot, so that a call counts in its own bucket or not at all, and a single
//!   compare-and-swap decides.
//!
//! So nobody who calls ever waits, and no interleaving counts a call twice or loses it.

pub use super::gate::{Gate, Running};
use super::owned::Owned;
pub use super::owned::{Counts, Ending};
use super::sync::{AtomicU64, Ordering, has_fence, heavy_fence, pause};

const FIELD_BITS: u32 = 24;
const FIELD: u64 = (1 << FIELD_BITS) - 1;
const HIGH_ONE: u64 = 1 << FIELD_BITS;
/// The bucket is over: no call may begin in it any more.
const SEALED: u64 = 1 << 48;
const TAG_SHIFT: u32 = 49;
const TAG_MASK: u64 = !0 << TAG_SHIFT;

/// Who rolls the ring looks so often whether an owner is done before it puts that off.
const PATIENCE: u32 = 256;

/// Keeps what is read all the time off the lines that are written all the time.
#[repr(align(128))]
#[derive(Debug)]
struct Apart<T>(T);

/// A slot of the shared stripe. `main`: tag, sealed, begun, ended well. `side`: tag, ended without a verdict, ended
/// badly.
#[derive(Debug)]
struct Slot {
    main: AtomicU64,
    side: AtomicU64,
}

/// What came of counting a call as begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Counted.
    Running,
    /// Its generation is over; counted among the written-off until it returns.
    Outdated,
    /// More than 2^24 calls began in this bucket: not counted.
    Full,
}

impl Slot {
    fn counts(main: u64, side: u64) -> Counts {
        Counts {
            begun: (main >> FIELD_BITS) & FIELD,
            good: main & FIELD,
            bad: side & FIELD,
            void: (side >> FIELD_BITS) & FIELD,
        }
    }
}

/// The counters of one scope.
#[derive(Debug)]
pub struct Window {
    gate: Apart<AtomicU64>,
    owned: Box<[Apart<Owned>]>,
    shared: Box<[Slot]>,
    slots: u32,
    /// Generation, and how many of its calls ended after they had left the ring.
    late: AtomicU64,
    /// Calls that began after their generation was over.
    outdated: AtomicU64,
    /// Calls of earlier generations that came back, since ever.
    returned: AtomicU64,
}

impl Window {
    /// `slots` buckets are remembered (rounded up to a power of two, at most 4,096). The first `stripes` threads
    /// (at most 64) count in stripes of their own, where the system has the fence for it. Starts in bucket `slots`,
    /// generation 0.
    pub fn new(slots: u32, stripes: u32) -> Self {
        let slots = slots.clamp(2, 4_096).next_power_of_two();
        let stripes = if stripes > 0 && has_fence() { stripes.min(64) } else { 0 };
        let window = Self {
            gate: Apart(AtomicU64::new(Gate::new(slots, true, 0).0)),
            owned: (0..stripes).map(|_| Apart(Owned::new(slots))).collect(),
            shared: (0..slots).map(|_| Slot { main: AtomicU64::new(0), side: AtomicU64::new(0) }).collect(),
            slots,
            late: AtomicU64::new(0),
            outdated: AtomicU64::new(0),
            returned: AtomicU64::new(0),
        };
        for bucket in 1..=slots {
            window.recycle(bucket, bucket == slots);
        }
        window
    }

    /// How many buckets the ring remembers.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// How many threads have a stripe of their own.
    #[inline]
    pub fn stripes(&self) -> usize {
        self.owned.len()
    }

    /// The word that calls look at.
    #[inline]
    pub fn gate(&self) -> Gate {
        Gate(self.gate.0.load(Ordering::Acquire))
    }

    /// The current bucket's number.
    pub fn bucket(&self) -> u32 {
        self.gate().bucket()
    }

    #[inline]
    fn slot(&self, bucket: u32) -> usize {
        (bucket & (self.slots - 1)) as usize
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a slot is masked to the size of the allocation")]
    fn words(&self, bucket: u32) -> &Slot {
        &self.shared[self.slot(bucket)]
    }

    fn tag(&self, bucket: u32) -> u64 {
        u64::from(bucket >> self.slots.trailing_zeros()) << TAG_SHIFT
    }

    /// Counts a call as begun now, and notes in it where. No other thread may use the number `stripe` at the same
    /// time, unless it is too large for a stripe of its own.
    #[inline]
    pub fn begin(&self, call: &mut Running, stripe: u32) -> Begun {
        if let Some(Apart(own)) = self.owned.get(stripe as usize) {
            own.enter();
            let gate = self.gate();
            let counted = gate.is_for(call) && own.begun(self.slot(gate.bucket()));
            own.leave();
            if counted {
                *call = Running::in_bucket(gate);
                return Begun::Running;
            }
        }
        self.begin_shared(call)
    }

    #[cold]
    fn begin_shared(&self, call: &mut Running) -> Begun {
        loop {
            let gate = self.gate();
            if gate.generation() != call.generation() {
                self.outdated.fetch_add(1, Ordering::Relaxed);
                return Begun::Outdated;
            }
            let bucket = gate.bucket();
            let main = &self.words(bucket).main;
            let tag = self.tag(bucket);
            // Another tag, or sealed: the bucket went by since the gate was read. Having acquired what was
            // written after the new gate, the next read of the gate sees that.
            let mut word = main.load(Ordering::Acquire);
            while word & (TAG_MASK | SEALED) == tag {
                if (word >> FIELD_BITS) & FIELD == FIELD {
                    return Begun::Full;
                }
                match main.compare_exchange_weak(word, word + HIGH_ONE, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        *call = Running::in_bucket(gate);
                        return Begun::Running;
                    }
                    Err(now) => word = now,
                }
            }
        }
    }

    /// Counts a running call off, on the thread of number `stripe` as in [`begin`](Self::begin); it need not be the
    /// one that began it. True when its generation is still the current one.
    #[inline]
    pub fn end(&self, call: &Running, ending: Ending, stripe: u32) -> bool {
        if let Some(Apart(own)) = self.owned.get(stripe as usize) {
            own.enter();
            let gate = self.gate();
            let counted = gate.is_for(call)
                && gate.bucket().wrapping_sub(call.bucket()) < self.slots
                && own.ended(self.slot(call.bucket()), ending);
            own.leave();
            if counted {
                return true;
            }
        }
        self.end_shared(call, ending)
    }

    #[cold]
    fn end_shared(&self, call: &Running, ending: Ending) -> bool {
        let gate = self.gate();
        if gate.generation() != call.generation() {
            self.returned.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if gate.bucket().wrapping_sub(call.bucket()) < self.slots {
            let slot = self.words(call.bucket());
            let (word, one) = match ending {
                Ending::Good => (&slot.main, 1),
                Ending::Bad => (&slot.side, 1),
                Ending::Void => (&slot.side, HIGH_ONE),
            };
            let tag = self.tag(call.bucket());
            let mut seen = word.load(Ordering::Relaxed);
            while seen & TAG_MASK == tag {
                match word.compare_exchange_weak(seen, seen + one, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => return true,
                    Err(now) => seen = now,
                }
            }
        }
        self.end_late(call.generation())
    }

    /// Counts off a call that began outdated.
    pub fn end_outdated(&self) {
        self.returned.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    fn end_late(&self, generation: u32) -> bool {
        let mut word = self.late.load(Ordering::Relaxed);
        while (word >> 32) as u32 == generation {
            match self.late.compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        self.returned.fetch_add(1, Ordering::Relaxed);
        false
    }

    // What follows is for the one thread that ticks.

    /// Keeps the owners away from their stripes until a gate is published; false when one of them is still there
    /// after `patience` looks: its thread was taken off its processor just then.
    fn keep_owners_away(&self, patience: Option<u32>) -> bool {
        if self.owned.is_empty() {
            return true;
        }
        self.publish(self.gate().rolling());
        heavy_fence();
        let mut looks = 0;
        for Apart(own) in &self.owned {
            while own.is_busy() {
                if patience.is_some_and(|patience| looks >= patience) {
                    return false;
                }
                pause(looks);
                looks = looks.saturating_add(1);
            }
        }
        true
    }

    /// Gives the slot of `bucket` to it; answers what its former owner held. Owners are kept away.
    fn recycle(&self, bucket: u32, open: bool) -> Counts {
        let mut before = self.recycle_shared(bucket, open);
        self.owned.iter().for_each(|Apart(own)| before.add(own.take(self.slot(bucket))));
        before
    }

    fn recycle_shared(&self, bucket: u32, open: bool) -> Counts {
        let tag = self.tag(bucket);
        let words = self.words(bucket);
        let main = words.main.swap(if open { tag } else { tag | SEALED }, Ordering::AcqRel);
        let side = words.side.swap(tag, Ordering::AcqRel);
        Slot::counts(main, side)
    }

    /// Ends the current bucket and begins the next. Answers how many calls, still in flight, left the
    /// ring: from now on they are counted off by [`late`](Self::late). `None`: not now, the bucket goes on.
    pub fn roll(&self) -> Option<u64> {
        let gate = self.gate();
        if !self.keep_owners_away(Some(PATIENCE)) {
            self.publish(gate);
            return None;
        }
        let next = gate.bucket().wrapping_add(1);
        let left = self.recycle(next, true).open();
        self.publish(Gate::new(next, gate.passes(), gate.generation()));
        // Sealed last: until then a call that read the old gate may still begin in it.
        self.words(gate.bucket()).main.fetch_or(SEALED, Ordering::AcqRel);
        Some(left)
    }

    /// Starts the next generation with empty buckets. Answers how many calls of the ended one are in
    /// flight, not counting those that had left the ring before, and how many of those had ended.
    pub fn next_generation(&self, passes: bool) -> (u64, u64) {
        let gate = self.gate();
        // A dozen instructions, and whoever is in them needs nothing but a processor.
        self.keep_owners_away(None);
        let generation = (gate.generation() + 1) & Gate::GENERATIONS;
        // Far enough ahead for every call of the old generation to be outside the new ring, and not in the
        // slot of the running bucket: until the gate is published, calls go on beginning there.
        let bucket = gate.bucket().wrapping_add(self.slots + 1);
        // What owners have counted has to be taken before they may come back, what the others have only after
        // they have seen the gate.
        let mut before = self.recycle(bucket, true);
        for back in 1..self.slots {
            let slot = self.slot(bucket.wrapping_sub(back));
            self.owned.iter().for_each(|Apart(own)| before.add(own.take(slot)));
        }
        self.publish(Gate::new(bucket, passes, generation));
        for back in 1..self.slots {
            before.add(self.recycle_shared(bucket.wrapping_sub(back), false));
        }
        // Last: a call that finds its slot taken is still counted here, as one of the old generation.
        let late = self.late.swap(u64::from(generation) << 32, Ordering::AcqRel);
        (before.open(), late & u64::from(u32::MAX))
    }

    /// What goes on while the owner of `stripe` has been taken off its processor in the middle of counting.
    #[cfg(test)]
    pub fn interrupted(&self, stripe: usize, meanwhile: impl FnOnce()) {
        self.owned[stripe].0.enter();
        meanwhile();
        self.owned[stripe].0.leave();
    }

    /// Lets calls pass, or makes them ask.
    pub fn set_passes(&self, passes: bool) {
        let gate = self.gate();
        self.publish(Gate::new(gate.bucket(), passes, gate.generation()));
    }

    fn publish(&self, gate: Gate) {
        self.gate.0.store(gate.0, Ordering::Release);
    }

    /// The counts of a bucket that is in the ring and over.
    pub fn read(&self, bucket: u32) -> Counts {
        let words = self.words(bucket);
        let mut counts = Slot::counts(words.main.load(Ordering::Acquire), words.side.load(Ordering::Acquire));
        self.owned.iter().for_each(|Apart(own)| counts.add(own.read(self.slot(bucket))));
        counts
    }

    /// How many calls of this generation ended after they had left the ring.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Acquire) & u64::from(u32::MAX)
    }

    /// Calls that began under a generation that was over, and calls of such generations that came back.
    pub fn written_off(&self) -> (u64, u64) {
        // In this order: what has returned must have been counted as begun.
        let returned = self.returned.load(Ordering::Acquire);
        (self.outdated.load(Ordering::Acquire), returned)
    }
}
