//! The lock-free counters that calls touch: one load and one compare-and-swap when a call begins, the
//! same when it ends.
//!
//! Calls are counted in the **bucket** in which they began. Buckets are numbered, and live in a ring of
//! slots; each slot's words carry the tag of the bucket that owns them, so that a call counts in its own
//! bucket or not at all. One thread at a time (the one that ticks, under the scope's lock) rolls the ring.
//!
//! Every call is counted off in exactly one place: its bucket (while that is in the ring), `late` (it
//! outlived the ring), or `returned` (the generation that admitted it is over). Which one is decided by a
//! single compare-and-swap, so no interleaving counts a call twice or loses it.

use super::sync::{AtomicU64, Ordering};

const FIELD_BITS: u32 = 24;
const FIELD: u64 = (1 << FIELD_BITS) - 1;
const HIGH_ONE: u64 = 1 << FIELD_BITS;
/// The bucket is over: no call may begin in it any more.
const SEALED: u64 = 1 << 48;
const TAG_SHIFT: u32 = 49;
const TAG_MASK: u64 = !0 << TAG_SHIFT;

/// Space between the slots of two stripes, so that they never share a cache line (in slots of 16 bytes).
const STRIPE_GAP: usize = 8;

/// What a call sees first: bucket, whether calls pass, generation, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate(u64);

impl Gate {
    const PASS: u64 = 1 << 32;
    const GENERATION_SHIFT: u32 = 33;

    fn new(bucket: u32, passes: bool, generation: u32) -> Self {
        let pass = if passes { Self::PASS } else { 0 };
        Self(u64::from(bucket) | pass | (u64::from(generation) << Self::GENERATION_SHIFT))
    }

    fn bucket(self) -> u32 {
        self.0 as u32
    }

    /// Calls pass without asking anyone.
    pub fn passes(self) -> bool {
        self.0 & Self::PASS != 0
    }

    /// Which generation of the state is current; 31 bits.
    pub fn generation(self) -> u32 {
        (self.0 >> Self::GENERATION_SHIFT) as u32
    }
}

/// Keeps what is read all the time off the lines that are written all the time.
#[repr(align(128))]
#[derive(Debug)]
struct Apart<T>(T);

/// `main`: tag, sealed, begun, ended well. `side`: tag, ended without a verdict, ended badly.
#[derive(Debug)]
struct Slot {
    main: AtomicU64,
    side: AtomicU64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It answered.
    Good,
    /// It failed.
    Bad,
    /// It was given up: it says nothing about the backend.
    Void,
}

/// A call that was counted as begun; it must be counted off once. In whole words: a processor that copies
/// two halves, just written, as one word waits for longer than all the counting takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Running {
    generation: u64,
    /// Stripe and bucket.
    place: u64,
}

impl Running {
    /// A call admitted under `generation` that has not begun.
    #[inline]
    pub fn not_yet(generation: u32) -> Self {
        Self { generation: u64::from(generation), place: 0 }
    }

    #[inline]
    fn generation(&self) -> u32 {
        self.generation as u32
    }

    #[inline]
    fn bucket(&self) -> u32 {
        self.place as u32
    }

    #[inline]
    fn stripe(&self) -> u32 {
        (self.place >> 32) as u32
    }
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

/// The counts of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that began in it.
    pub begun: u64,
    /// Of these: ended well.
    pub good: u64,
    /// Ended badly.
    pub bad: u64,
    /// Given up.
    pub void: u64,
}

impl Counts {
    /// Calls still in flight.
    pub fn open(self) -> u64 {
        self.begun.saturating_sub(self.good + self.bad + self.void)
    }

    fn add(&mut self, main: u64, side: u64) {
        self.begun += (main >> FIELD_BITS) & FIELD;
        self.good += main & FIELD;
        self.bad += side & FIELD;
        self.void += (side >> FIELD_BITS) & FIELD;
    }
}

/// The counters of one scope.
#[derive(Debug)]
pub struct Window {
    gate: Apart<AtomicU64>,
    /// Generation, and how many of its calls ended after they had left the ring.
    late: AtomicU64,
    /// Calls that began after their generation was over.
    outdated: AtomicU64,
    /// Calls of earlier generations that came back, since ever.
    returned: AtomicU64,
    cells: Box<[Slot]>,
    slots: u32,
    stripes: u32,
}

impl Window {
    /// `slots` buckets are remembered; `stripes` threads count without disturbing each other. Both are
    /// rounded up to a power of two (at most 4,096 and 64). Starts in bucket `slots`, generation 0.
    pub fn new(slots: u32, stripes: u32) -> Self {
        let slots = slots.clamp(2, 4_096).next_power_of_two();
        let stripes = stripes.clamp(1, 64).next_power_of_two();
        let cells = (slots as usize + STRIPE_GAP) * stripes as usize;
        let window = Self {
            gate: Apart(AtomicU64::new(Gate::new(slots, true, 0).0)),
            late: AtomicU64::new(0),
            outdated: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            cells: (0..cells).map(|_| Slot { main: AtomicU64::new(0), side: AtomicU64::new(0) }).collect(),
            slots,
            stripes,
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
    #[expect(clippy::indexing_slicing, reason = "both parts are masked to the size of the allocation")]
    fn slot(&self, stripe: u32, bucket: u32) -> &Slot {
        let row = (stripe & (self.stripes - 1)) as usize * (self.slots as usize + STRIPE_GAP);
        &self.cells[row + (bucket & (self.slots - 1)) as usize]
    }

    #[inline]
    fn tag(&self, bucket: u32) -> u64 {
        u64::from(bucket >> self.slots.trailing_zeros()) << TAG_SHIFT
    }

    /// Counts a call as begun now, and notes in it where.
    #[inline]
    pub fn begin(&self, call: &mut Running, stripe: u32) -> Begun {
        loop {
            let gate = self.gate();
            if gate.generation() != call.generation() {
                self.outdated.fetch_add(1, Ordering::Relaxed);
                return Begun::Outdated;
            }
            let bucket = gate.bucket();
            let main = &self.slot(stripe, bucket).main;
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
                        call.place = u64::from(bucket) | (u64::from(stripe) << 32);
                        return Begun::Running;
                    }
                    Err(now) => word = now,
                }
            }
        }
    }

    /// Counts a running call off. True when its generation is still the current one.
    #[inline]
    pub fn end(&self, call: &Running, ending: Ending) -> bool {
        let gate = self.gate();
        if gate.generation() != call.generation() {
            self.returned.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if gate.bucket().wrapping_sub(call.bucket()) < self.slots {
            let slot = self.slot(call.stripe(), call.bucket());
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

    /// Gives the slot of `bucket` to it; answers what its former owner held.
    fn recycle(&self, bucket: u32, open: bool) -> Counts {
        let mut before = Counts::default();
        let tag = self.tag(bucket);
        for stripe in 0..self.stripes {
            let slot = self.slot(stripe, bucket);
            let main = slot.main.swap(if open { tag } else { tag | SEALED }, Ordering::AcqRel);
            let side = slot.side.swap(tag, Ordering::AcqRel);
            before.add(main, side);
        }
        before
    }

    /// Ends the current bucket and begins the next. Answers how many calls, still in flight, left the
    /// ring: from now on they are counted off by [`late`](Self::late).
    pub fn roll(&self) -> u64 {
        let gate = self.gate();
        let next = gate.bucket().wrapping_add(1);
        let left = self.recycle(next, true).open();
        self.publish(Gate::new(next, gate.passes(), gate.generation()));
        // Sealed last: until then a call that read the old gate may still begin in it.
        for stripe in 0..self.stripes {
            self.slot(stripe, gate.bucket()).main.fetch_or(SEALED, Ordering::AcqRel);
        }
        left
    }

    /// Starts the next generation with empty buckets. Answers how many calls of the ended one are in
    /// flight, not counting those that had left the ring before, and how many of those had ended.
    pub fn next_generation(&self, passes: bool) -> (u64, u64) {
        let gate = self.gate();
        let generation = (gate.generation() + 1) & (u32::MAX >> 1);
        // Far enough ahead for every call of the old generation to be outside the new ring, and not in the
        // slot of the running bucket: until the gate is published, calls go on beginning there.
        let bucket = gate.bucket().wrapping_add(self.slots + 1);
        let mut open = self.recycle(bucket, true).open();
        self.publish(Gate::new(bucket, passes, generation));
        for back in 1..self.slots {
            open += self.recycle(bucket.wrapping_sub(back), false).open();
        }
        // Last: a call that finds its slot taken is still counted here, as one of the old generation.
        let late = self.late.swap(u64::from(generation) << 32, Ordering::AcqRel);
        (open, late & u64::from(u32::MAX))
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
        let mut counts = Counts::default();
        for stripe in 0..self.stripes {
            let slot = self.slot(stripe, bucket);
            counts.add(slot.main.load(Ordering::Acquire), slot.side.load(Ordering::Acquire));
        }
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
