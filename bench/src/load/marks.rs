//! Which numbered records were acknowledged, and which received: one bit each. Pure.

use crate::limits::NUMBERS_MAX;

/// A growing set of record numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    words: Vec<u64>,
}

impl Marks {
    /// Adds `number`; whether it was not there before. Numbers come from messages, so one that
    /// no run can reach is not added (and would otherwise ask for any amount of memory).
    pub(crate) fn add(&mut self, number: u64) -> bool {
        let (Ok(word), true) = (usize::try_from(number / 64), number < NUMBERS_MAX) else {
            return false;
        };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    /// Adds all of `other`; how many of them were there before.
    pub(crate) fn merge(&mut self, other: &Self) -> u64 {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        let mut repeated = 0;
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            repeated += u64::from((*word & more).count_ones());
            *word |= more;
        }
        repeated
    }

    /// How many numbers are in the set.
    pub(crate) fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// How many numbers of this set are not in `other`.
    pub(crate) fn count_missing_from(&self, other: &Self) -> u64 {
        let theirs = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words
            .iter()
            .zip(theirs)
            .map(|(word, their)| u64::from((word & !their).count_ones()))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(numbers: &[u64]) -> Marks {
        let mut marks = Marks::default();
        for number in numbers {
            marks.add(*number);
        }
        marks
    }

    #[test]
    fn a_number_is_new_once() {
        let mut marks = Marks::default();
        assert!(marks.add(1000));
        assert!(!marks.add(1000));
        assert!(marks.add(0));
        assert_eq!(marks.count(), 2);
    }

    #[test]
    fn what_was_acknowledged_and_not_received_is_missing() {
        let acknowledged = marks(&[1, 2, 3, 500]);
        let received = marks(&[2, 3, 4]);
        assert_eq!(acknowledged.count_missing_from(&received), 2);
        assert_eq!(acknowledged.count_missing_from(&acknowledged), 0);
    }

    #[test]
    fn merging_counts_what_two_consumers_both_received() {
        let mut left = marks(&[1, 2]);
        assert_eq!(left.merge(&marks(&[2, 3, 900])), 1);
        assert_eq!(left, marks(&[1, 2, 3, 900]));
    }

    #[test]
    fn a_number_no_run_can_reach_takes_no_memory() {
        let mut marks = Marks::default();
        assert!(!marks.add(u64::MAX));
        assert_eq!(marks, Marks::default());
    }
}
