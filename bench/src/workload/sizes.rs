//! How long values are. Pure.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

use crate::limits::SIZES_DRAWN;

/// The lengths of values in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sizes {
    Fixed(u32),
    /// `min` bytes most often, and each longer length more rarely: the k-th one with a weight of
    /// `k` to the power of `-exponent`, up to `max`.
    Zipf {
        min: u32,
        max: u32,
        exponent: f64,
    },
}

impl Eq for Sizes {}

impl Sizes {
    /// The longest.
    pub(crate) fn max(self) -> u32 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Zipf { max, .. } => max,
        }
    }

    /// The shortest.
    pub(crate) fn min(self) -> u32 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Zipf { min, .. } => min,
        }
    }

    /// The mean of what is drawn.
    #[cfg(feature = "peers")]
    pub(crate) fn mean(self) -> u64 {
        let drawn = self.draw(0);
        let mean = drawn.iter().sum::<usize>() / drawn.len();
        u64::try_from(mean).expect("a length fits 64 bits")
    }

    /// Lengths drawn with `seed`, to be taken in turn: enough of them for the distribution to show,
    /// and drawing during a run would take the generator's time.
    pub(crate) fn draw(self, seed: u64) -> Vec<usize> {
        let length = |bytes: u32| usize::try_from(bytes).expect("u32 fits usize");
        match self {
            Self::Fixed(bytes) => vec![length(bytes)],
            Self::Zipf { min, max, exponent } => {
                let ranks = f64::from(max - min) + 1.0;
                let zipf = Zipf::new(ranks, exponent).expect("checked when the workload was read");
                let mut random = SmallRng::seed_from_u64(seed);
                let one = |_| length(min) + rank_below(zipf.sample(&mut random), ranks);
                (0..SIZES_DRAWN).map(one).collect()
            }
        }
    }
}

/// A rank counted from one as an index counted from zero.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number between one and at most 2^32, which both types hold exactly"
)]
fn rank_below(rank: f64, ranks: f64) -> usize {
    (rank.clamp(1.0, ranks) - 1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZIPF: Sizes = Sizes::Zipf {
        min: 100,
        max: 10_000,
        exponent: 1.0,
    };

    #[test]
    fn lengths_stay_between_their_bounds_and_the_shortest_is_the_most_frequent() {
        let drawn = ZIPF.draw(1);
        assert!(drawn.iter().all(|bytes| (100..=10_000).contains(bytes)));
        let count = |range: std::ops::Range<usize>| {
            drawn.iter().filter(|bytes| range.contains(bytes)).count()
        };
        // With exponent 1 a decade of ranks weighs about the same as any other.
        let (ones, hundreds) = (count(100..110), count(200..1_100));
        assert!(count(100..101) > count(101..102));
        assert!(ones.abs_diff(hundreds) < ones / 2, "{ones} and {hundreds}");
    }

    #[test]
    fn the_same_seed_draws_the_same_lengths() {
        assert_eq!(ZIPF.draw(7), ZIPF.draw(7));
        assert_ne!(ZIPF.draw(7), ZIPF.draw(8));
        assert_eq!(Sizes::Fixed(5).draw(1), [5]);
    }
}
