//! A small seeded generator: `SplitMix64` (Steele, Lea, Flood 2014).

/// A sequence of numbers that its seed decides.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        // The bias of a bound far below 2^64 is far below what any run could show.
        self.next_u64() % bound
    }

    /// A number in `[low, high]`.
    ///
    /// # Panics
    /// If `low` is above `high`.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "a range has its ends in order");
        low + self.below(high - low + 1)
    }

    /// An index below `len`.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        let bound = u64::try_from(len).expect("usize fits u64");
        usize::try_from(self.below(bound)).expect("below a usize")
    }

    /// True `times` out of `of`.
    pub const fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// A generator whose sequence is independent of this one's.
    #[must_use]
    pub const fn fork(&mut self) -> Rng {
        Rng(self.next_u64())
    }
}
