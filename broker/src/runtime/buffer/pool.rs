//! The free lists of one executor's buffers.
//!
//! Invariant: a list holds only memory of exactly its class, so a buffer taken from it can be used
//! to its whole length.

use std::array;
use std::cell::RefCell;

use super::memory::Memory;
use super::{BUFFER_BYTES_MAX, BUFFER_BYTES_MIN};

const CLASSES: usize = (BUFFER_BYTES_MAX / BUFFER_BYTES_MIN).ilog2() as usize + 1;

/// Free memory one executor keeps unless told otherwise.
pub const FREE_BYTES_MAX: usize = 64 << 20;

/// What the pool of the current thread has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Buffers that had to be made of fresh memory.
    pub fresh: u64,
    /// Buffers taken from a free list.
    pub reused: u64,
    /// Bytes in the free lists now.
    pub free_bytes: usize,
}

struct Pool {
    free: [Vec<Memory>; CLASSES],
    free_bytes_max: usize,
    /// Of somebody else's budget, who does not use them now.
    lent_bytes: usize,
    stats: PoolStats,
}

impl Pool {
    fn has_room(&self, bytes: usize) -> bool {
        self.stats.free_bytes + bytes <= self.free_bytes_max + self.lent_bytes
    }

    /// Takes out what is above the bound, the largest first.
    fn excess(&mut self) -> Vec<Memory> {
        let mut excess = Vec::new();
        while !self.has_room(0)
            && let Some(memory) = self.free.iter_mut().rev().find_map(Vec::pop)
        {
            self.stats.free_bytes -= memory.len();
            excess.push(memory);
        }
        excess
    }
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool {
        free: array::from_fn(|_| Vec::new()),
        free_bytes_max: FREE_BYTES_MAX,
        lent_bytes: 0,
        stats: PoolStats::default(),
    });
}

/// Bounds the free memory that the current executor keeps for reuse (64 MiB at first).
pub fn set_pool_bytes_max(bytes: usize) {
    let excess = POOL.with_borrow_mut(|pool| {
        pool.free_bytes_max = bytes;
        pool.excess()
    });
    drop(excess);
}

/// Lets the current executor keep so much more free memory for reuse, until told otherwise.
///
/// For a cache that has just dropped much at once and will need as much again: its budget holds for
/// both.
pub fn lend(bytes: usize) {
    let excess = POOL.with_borrow_mut(|pool| {
        pool.lent_bytes = bytes;
        pool.excess()
    });
    drop(excess);
}

/// Counters of the current thread's pool.
pub fn stats() -> PoolStats {
    POOL.with_borrow(|pool| pool.stats)
}

pub(super) fn take(bytes: usize) -> Memory {
    assert!(
        bytes <= BUFFER_BYTES_MAX,
        "a buffer of {bytes} bytes is above the largest class"
    );
    let class = class_of(bytes);
    let reused = POOL.with_borrow_mut(|pool| {
        let memory = pool.free[class].pop();
        match &memory {
            Some(memory) => {
                pool.stats.free_bytes -= memory.len();
                pool.stats.reused += 1;
            }
            None => pool.stats.fresh += 1,
        }
        memory
    });
    reused.unwrap_or_else(|| fresh(class_bytes(class)))
}

fn fresh(bytes: usize) -> Memory {
    if bytes == BUFFER_BYTES_MAX
        && let Ok([one, other]) = Memory::pair()
    {
        put(other);
        return one;
    }
    Memory::new(bytes)
}

pub(super) fn put(memory: Memory) {
    let bytes = memory.len();
    // At thread exit the pool may be gone already; the memory is then simply freed.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.has_room(bytes) {
            pool.stats.free_bytes += bytes;
            pool.free[class_of(bytes)].push(memory);
        }
    });
}

fn class_of(bytes: usize) -> usize {
    let pages = bytes.max(1).div_ceil(BUFFER_BYTES_MIN).next_power_of_two();
    pages.ilog2() as usize
}

fn class_bytes(class: usize) -> usize {
    BUFFER_BYTES_MIN << class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_the_smallest_that_holds_the_bytes() {
        let class = |bytes| class_bytes(class_of(bytes));
        assert_eq!(class(0), 4 << 10);
        assert_eq!(class(4096), 4 << 10);
        assert_eq!(class(4097), 8 << 10);
        assert_eq!(class(1 << 20), 1 << 20);
        assert_eq!(class_of(BUFFER_BYTES_MAX), CLASSES - 1);
    }
}
