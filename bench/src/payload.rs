//! Record contents: random bytes made once from a seed and cut differently for each record, or
//! the lines of a file.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{KEY_BYTES, PAYLOAD_POOL_BYTES_MIN};
use crate::workload::{Lines, Values};

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

/// The values and keys of one producer's records.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    source: Source,
    /// Random bytes that keys, and values without a file, are slices of: no allocation and no copy
    /// per record.
    pool: Bytes,
    random: Random,
}

#[derive(Clone, Debug)]
enum Source {
    /// Slices of the pool, their lengths taken from here in turn.
    Pool { sizes: Arc<[usize]>, next: usize },
    /// These, in turn.
    Lines { lines: Lines, next: usize },
}

impl Payload {
    /// What `values` describes, made from `seed`.
    pub(crate) fn new(values: &Values, seed: u64) -> Self {
        let longest = usize::try_from(values.bytes_max()).expect("u32 fits usize");
        let mut pool = vec![0; PAYLOAD_POOL_BYTES_MIN.max(2 * longest)];
        fill_random(&mut pool, seed);
        let source = match values {
            Values::Random(sizes) => Source::Pool {
                sizes: sizes.draw(seed).into(),
                next: 0,
            },
            Values::Lines(lines) => Source::Lines {
                lines: lines.clone(),
                next: 0,
            },
        };
        Self {
            source,
            pool: Bytes::from(pool),
            random: Random::new(!seed),
        }
    }

    /// The same bytes, lengths and lines in another order.
    pub(crate) fn with_seed(&self, seed: u64) -> Self {
        let mut random = Random::new(!seed);
        let mut source = self.source.clone();
        match &mut source {
            Source::Pool { sizes, next } => *next = random.below(sizes.len()),
            Source::Lines { lines, next } => *next = random.below(lines.len()),
        }
        Self {
            source,
            pool: self.pool.clone(),
            random,
        }
    }

    /// The next value.
    pub(crate) fn next_value(&mut self) -> Bytes {
        match &mut self.source {
            Source::Pool { sizes, next } => {
                let bytes = sizes[*next];
                *next = (*next + 1) % sizes.len();
                cut(&self.pool, bytes, &mut self.random)
            }
            Source::Lines { lines, next } => {
                let line = lines.get(*next);
                *next = (*next + 1) % lines.len();
                line
            }
        }
    }

    /// Whether a value may be written over: random bytes may, lines may not.
    pub(crate) fn is_random(&self) -> bool {
        matches!(self.source, Source::Pool { .. })
    }

    /// The next key of [`KEY_BYTES`] random bytes.
    pub(crate) fn next_key(&mut self) -> Bytes {
        cut(&self.pool, KEY_BYTES, &mut self.random)
    }
}

fn cut(pool: &Bytes, bytes: usize, random: &mut Random) -> Bytes {
    let start = random.below(pool.len() - bytes + 1);
    pool.slice(start..start + bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Sizes;

    fn random(bytes: u32) -> Values {
        Values::Random(Sizes::Fixed(bytes))
    }

    #[test]
    fn the_same_seed_gives_the_same_records() {
        let values = |seed| {
            let mut payload = Payload::new(&random(100), seed);
            (0..10).map(|_| payload.next_value()).collect::<Vec<_>>()
        };
        assert_eq!(values(7), values(7));
        assert_ne!(values(7), values(8));
    }

    #[test]
    fn records_of_a_run_differ() {
        let mut payload = Payload::new(&random(64), 1);
        let mut values: Vec<_> = (0..1000).map(|_| payload.next_value()).collect();
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
