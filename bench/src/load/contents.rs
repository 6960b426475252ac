//! The values of a call's records, stamped where they are to be received.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::stamp::Stamp;
use crate::limits::STAMP_BYTES;
use crate::payload::Payload;

/// Makes the record values of one producer.
#[derive(Debug)]
pub(crate) struct Contents {
    payload: Payload,
    stamps: Option<Stamps>,
    /// The stamped values of the call, one after the other, and the length of each.
    arena: Bytes,
    /// Bytes of the longest arena so far: the next one is likely to need no more.
    arena_bytes: usize,
    lengths: VecDeque<usize>,
    first_number: u64,
}

/// How the records of one producer are stamped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    pub(crate) run: u64,
    pub(crate) producer: u32,
    /// The next record's number.
    pub(crate) next: u64,
}

impl Contents {
    /// Values of `payload`: random ones at least [`STAMP_BYTES`] long if they are stamped.
    pub(crate) fn new(payload: Payload, stamps: Option<Stamps>) -> Self {
        Self {
            payload,
            stamps,
            arena: Bytes::new(),
            arena_bytes: 0,
            lengths: VecDeque::new(),
            first_number: 0,
        }
    }

    /// Prepares the values of a call of `records` records. Without stamps this costs nothing;
    /// with them it is one allocation and copy for the whole call.
    pub(crate) fn begin_call(&mut self, records: u32, intended_ns: u64) {
        let Some(stamps) = &mut self.stamps else {
            return;
        };
        self.first_number = stamps.next;
        stamps.next += u64::from(records);
        let mut arena = BytesMut::with_capacity(self.arena_bytes);
        self.lengths.clear();
        for number in self.first_number..stamps.next {
            let start = arena.len();
            // Random bytes may be written over, so that the record keeps its length.
            if !self.payload.is_random() {
                arena.extend_from_slice(&[0; STAMP_BYTES]);
            }
            arena.extend_from_slice(&self.payload.next_value());
            Stamp {
                run: stamps.run,
                intended_ns,
                number,
                producer: stamps.producer,
            }
            .write(&mut arena[start..]);
            self.lengths.push_back(arena.len() - start);
        }
        self.arena_bytes = self.arena_bytes.max(arena.len());
        self.arena = arena.freeze();
    }

    /// The number of the call's first record; zero without stamps.
    pub(crate) fn first_number(&self) -> u64 {
        self.first_number
    }

    /// The next value of the call.
    pub(crate) fn next_value(&mut self) -> Bytes {
        match self.lengths.pop_front() {
            Some(bytes) => self.arena.split_to(bytes),
            None => self.payload.next_value(),
        }
    }

    /// The next random key.
    pub(crate) fn next_key(&mut self) -> Bytes {
        self.payload.next_key()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::workload::{Lines, Sizes, Values};

    const STAMPS: Stamps = Stamps {
        run: 5,
        producer: 2,
        next: 100,
    };

    fn check_stamps(mut contents: Contents, bytes: usize) -> Bytes {
        contents.begin_call(3, 777);
        assert_eq!(contents.first_number(), 100);
        let mut last = Bytes::new();
        for number in 100..103 {
            last = contents.next_value();
            assert_eq!(last.len(), bytes);
            let expected = Stamp {
                run: 5,
                intended_ns: 777,
                number,
                producer: 2,
            };
            assert_eq!(Stamp::read(&last, 5), Some(expected));
        }
        contents.begin_call(1, 0);
        assert_eq!(contents.first_number(), 103);
        last
    }

    #[test]
    fn every_record_of_a_call_carries_its_own_number_and_the_calls_time() {
        let values = Values::Random(Sizes::Fixed(40));
        check_stamps(Contents::new(Payload::new(&values, 1), Some(STAMPS)), 40);
    }

    #[test]
    fn a_line_is_kept_whole_behind_its_stamp() {
        let lines = Lines::of(Path::new("x"), b"a line".to_vec());
        let payload = Payload::new(&Values::Lines(lines), 1);
        let last = check_stamps(Contents::new(payload, Some(STAMPS)), STAMP_BYTES + 6);
        assert_eq!(&last[STAMP_BYTES..], b"a line");
    }
}
