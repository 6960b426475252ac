//! The values of a call's records: slices of random bytes, stamped in an end-to-end run.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::stamp::{STAMP_BYTES, Stamp};
use crate::payload::PayloadPool;

/// Makes the record values of one producer.
#[derive(Debug)]
pub(crate) struct Contents {
    pool: PayloadPool,
    stamps: Option<Stamps>,
    arena: Bytes,
    first_number: u64,
}

/// How the records of one load thread are stamped.
#[derive(Clone, Debug)]
pub(crate) struct Stamps {
    pub(crate) run: u64,
    pub(crate) thread: u32,
    /// The next record's number, shared by the producers of the thread.
    pub(crate) next: Rc<Cell<u64>>,
}

impl Contents {
    /// Values cut from `pool`, at least [`STAMP_BYTES`] long if they are stamped.
    pub(crate) fn new(pool: PayloadPool, stamps: Option<Stamps>) -> Self {
        assert!(
            stamps.is_none() || pool.record_bytes() >= STAMP_BYTES,
            "a stamp must fit"
        );
        Self {
            pool,
            stamps,
            arena: Bytes::new(),
            first_number: 0,
        }
    }

    /// Prepares the values of a call of `records` records. Without stamps this costs nothing;
    /// with them it is one allocation and copy for the whole call.
    pub(crate) fn begin_call(&mut self, records: u32, intended_ns: u64) {
        let Some(Stamps { run, thread, next }) = &self.stamps else {
            return;
        };
        self.first_number = next.get();
        next.set(self.first_number + u64::from(records));
        let mut arena = BytesMut::with_capacity(self.pool.record_bytes() * count(records));
        for number in self.first_number..next.get() {
            let start = arena.len();
            arena.extend_from_slice(&self.pool.next_value());
            Stamp {
                run: *run,
                intended_ns,
                number,
                thread: *thread,
            }
            .write(&mut arena[start..]);
        }
        self.arena = arena.freeze();
    }

    /// The number of the call's first record; zero without stamps.
    pub(crate) fn first_number(&self) -> u64 {
        self.first_number
    }

    /// The next value of the call.
    pub(crate) fn next_value(&mut self) -> Bytes {
        if self.stamps.is_some() {
            self.arena.split_to(self.pool.record_bytes())
        } else {
            self.pool.next_value()
        }
    }

    /// The next random key.
    pub(crate) fn next_key(&mut self) -> Bytes {
        self.pool.next_key()
    }
}

fn count(records: u32) -> usize {
    usize::try_from(records).expect("u32 fits usize on every Linux this runs on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_of_a_call_carries_its_own_number_and_the_calls_time() {
        let next = Rc::new(Cell::new(100));
        let stamps = Stamps {
            run: 5,
            thread: 2,
            next: next.clone(),
        };
        let mut contents = Contents::new(PayloadPool::new(40, 1), Some(stamps));
        contents.begin_call(3, 777);
        assert_eq!((contents.first_number(), next.get()), (100, 103));
        for number in 100..103 {
            let value = contents.next_value();
            assert_eq!(value.len(), 40);
            let expected = Stamp {
                run: 5,
                intended_ns: 777,
                number,
                thread: 2,
            };
            assert_eq!(Stamp::read(&value, 5), Some(expected));
        }
    }

    #[test]
    fn producers_of_a_thread_share_its_numbers() {
        let stamps = Stamps {
            run: 5,
            thread: 0,
            next: Rc::default(),
        };
        let pool = PayloadPool::new(32, 1);
        let mut first = Contents::new(pool.with_seed(1), Some(stamps.clone()));
        let mut second = Contents::new(pool, Some(stamps));
        first.begin_call(10, 0);
        second.begin_call(1, 0);
        assert_eq!(second.first_number(), 10);
    }
}
