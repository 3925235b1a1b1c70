//! What a call looks at before it counts, and what it carries from its beginning to its end: one word each.

/// What a call sees first: bucket, whether calls pass, whether the ring is being rolled, generation, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate(pub(super) u64);

impl Gate {
    const PASS: u64 = 1 << 32;
    /// Owners are to keep away from their stripes.
    const ROLLING: u64 = 1 << 33;
    const GENERATION_SHIFT: u32 = 34;
    pub(super) const GENERATIONS: u32 = u32::MAX >> 2;
    /// Generation, and not rolling: what an owner compares with its call's.
    const OWNERS: u64 = (!0 << Self::GENERATION_SHIFT) | Self::ROLLING;

    pub(super) fn new(bucket: u32, passes: bool, generation: u32) -> Self {
        let pass = if passes { Self::PASS } else { 0 };
        Self(u64::from(bucket) | pass | (u64::from(generation) << Self::GENERATION_SHIFT))
    }

    #[inline]
    pub(super) fn bucket(self) -> u32 {
        self.0 as u32
    }

    /// Calls pass without asking anyone.
    #[inline]
    pub fn passes(self) -> bool {
        self.0 & Self::PASS != 0
    }

    /// Which generation of the state is current; 30 bits.
    #[inline]
    pub fn generation(self) -> u32 {
        (self.0 >> Self::GENERATION_SHIFT) as u32
    }

    pub(super) fn rolling(self) -> Self {
        Self(self.0 | Self::ROLLING)
    }

    /// An owner may count a call of this generation in its own stripe.
    #[inline]
    pub(super) fn is_for(self, call: &Running) -> bool {
        (self.0 ^ call.0) & Self::OWNERS == 0
    }
}

/// A call that was counted as begun; it must be counted off once. In one word, like the gate that it saw: it is moved
/// with every call, and a processor that copies as one what was just written as two waits for longer than all the
/// counting takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Running(u64);

impl Running {
    /// A call admitted under `generation` that has not begun.
    #[inline]
    pub fn not_yet(generation: u32) -> Self {
        Self(Gate::new(0, false, generation).0)
    }

    /// A call that began in the current bucket of `gate`.
    #[inline]
    pub(super) fn in_bucket(gate: Gate) -> Self {
        Self(Gate::new(gate.bucket(), false, gate.generation()).0)
    }

    #[inline]
    pub(super) fn generation(&self) -> u32 {
        Gate(self.0).generation()
    }

    #[inline]
    pub(super) fn bucket(&self) -> u32 {
        Gate(self.0).bucket()
    }
}
