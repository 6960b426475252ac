//! Record contents: incompressible, made once from a seed, cut differently for each record.

use bytes::Bytes;

use crate::limits::{KEY_BYTES, PAYLOAD_POOL_BYTES_MIN};

/// A small generator of uniform bits (`SplitMix64`, Steele and others, OOPSLA 2014, figure 17).
/// Same seed, same sequence.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 uniform bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`; the bias is below 2^-32 for the small bounds used here.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("a length in memory fits 64 bits");
        usize::try_from(self.bits() % bound).expect("it is below a usize")
    }
}

/// Fills `out` with random bytes, the same for the same seed.
pub(crate) fn fill_random(out: &mut [u8], seed: u64) {
    let mut random = Random::new(seed);
    for chunk in out.chunks_mut(8) {
        let bits = random.bits().to_le_bytes();
        chunk.copy_from_slice(&bits[..chunk.len()]);
    }
}

/// Random bytes that record values are slices of: no allocation and no copy per record.
#[derive(Clone, Debug)]
pub(crate) struct PayloadPool {
    bytes: Bytes,
    record_bytes: usize,
    random: Random,
}

impl PayloadPool {
    /// A pool for values of `record_bytes`, at least twice as long as a value.
    pub(crate) fn new(record_bytes: usize, seed: u64) -> Self {
        let mut bytes = vec![0; PAYLOAD_POOL_BYTES_MIN.max(2 * record_bytes)];
        fill_random(&mut bytes, seed);
        Self {
            bytes: Bytes::from(bytes),
            record_bytes,
            random: Random::new(!seed),
        }
    }

    /// The same bytes, cut by another sequence of places.
    pub(crate) fn with_seed(&self, seed: u64) -> Self {
        Self {
            random: Random::new(!seed),
            ..self.clone()
        }
    }

    /// The next value, at a random place of the pool.
    pub(crate) fn next_value(&mut self) -> Bytes {
        let start = self.random.below(self.bytes.len() - self.record_bytes + 1);
        self.bytes.slice(start..start + self.record_bytes)
    }

    /// Bytes of a value.
    pub(crate) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// The next key of [`KEY_BYTES`] random bytes.
    pub(crate) fn next_key(&mut self) -> Bytes {
        let start = self.random.below(self.bytes.len() - KEY_BYTES + 1);
        self.bytes.slice(start..start + KEY_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_records() {
        let values = |seed| {
            let mut pool = PayloadPool::new(100, seed);
            (0..10).map(|_| pool.next_value()).collect::<Vec<_>>()
        };
        assert_eq!(values(7), values(7));
        assert_ne!(values(7), values(8));
    }

    #[test]
    fn records_of_a_run_differ() {
        let mut pool = PayloadPool::new(64, 1);
        let mut values: Vec<_> = (0..1000).map(|_| pool.next_value()).collect();
        values.sort();
        values.dedup();
        assert!(values.len() > 990, "{} of 1000 differ", values.len());
    }

    #[test]
    fn random_bytes_use_every_byte_value_about_equally() {
        let mut bytes = vec![0; 1 << 18];
        fill_random(&mut bytes, 42);
        let mut counts = [0_u32; 256];
        for byte in bytes {
            counts[usize::from(byte)] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1250).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_generator_follows_its_published_sequence() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.bits(), 6_457_827_717_110_365_317);
        assert_eq!(random.bits(), 3_203_168_211_198_807_973);
    }
}
