//! The free memory of one executor's buffers: a buddy allocator.
//!
//! Buffers are powers of two, and so are the pieces that lie free. A buffer is cut from the
//! smallest free piece that holds it, the lowest in memory of those; a piece that is put back is
//! joined with its other half as long as that is free, too. So memory that served small buffers
//! serves large ones next, and the other way round: the load may change as it likes, and nothing is
//! mapped anew.
//! (Knowlton, "A fast storage allocator", 1965.)
//!
//! Invariants: a list holds only pieces of exactly its class, and no two free pieces are the halves
//! of one.

use std::array;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::iter;

use super::memory::{Memory, PAGE_BYTES};
use super::{BUFFER_BYTES_MAX, BUFFER_BYTES_MIN};

/// From the smallest buffer to a whole page.
const CLASSES: usize = (PAGE_BYTES / BUFFER_BYTES_MIN).ilog2() as usize + 1;

/// Free memory one executor keeps unless told otherwise.
pub const FREE_BYTES_MAX: usize = 64 << 20;

/// What the pool of the current thread has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Buffers for which fresh memory was mapped: 2 MiB, of which the rest is free.
    pub fresh: u64,
    /// Buffers cut from free memory.
    pub reused: u64,
    /// Bytes that are free now.
    pub free_bytes: usize,
}

struct Pool {
    /// Of each class, by address.
    free: [BTreeMap<usize, Memory>; CLASSES],
    free_bytes_max: usize,
    /// Of somebody else's budget, who does not use them now.
    lent_bytes: usize,
    stats: PoolStats,
}

impl Pool {
    /// A piece of exactly this class, cut from what is free.
    fn cut(&mut self, class: usize) -> Option<Memory> {
        let from = (class..CLASSES).find(|from| !self.free[*from].is_empty())?;
        let (_, mut memory) = self.free[from].pop_first()?;
        for class in (class..from).rev() {
            let [lower, upper] = memory.split();
            self.free[class].insert(upper.address(), upper);
            memory = lower;
        }
        self.stats.free_bytes -= memory.len();
        Some(memory)
    }

    fn put(&mut self, mut memory: Memory) {
        self.stats.free_bytes += memory.len();
        let mut class = class_of(memory.len());
        while memory.len() < PAGE_BYTES
            && let Some(buddy) = self.free[class].remove(&memory.buddy())
        {
            memory = if buddy.address() > memory.address() {
                memory.join(buddy)
            } else {
                buddy.join(memory)
            };
            class += 1;
        }
        self.free[class].insert(memory.address(), memory);
    }

    /// Takes out what is above the bound: whole pages first, then the smallest pieces, which are of
    /// the least use.
    fn excess(&mut self) -> Vec<Memory> {
        let mut excess = Vec::new();
        while self.stats.free_bytes > self.free_bytes_max.saturating_add(self.lent_bytes) {
            let mut classes = iter::once(CLASSES - 1).chain(0..CLASSES);
            let (_, memory) = classes
                .find_map(|class| self.free[class].pop_last())
                .expect("free bytes lie in a list");
            self.stats.free_bytes -= memory.len();
            excess.push(memory);
        }
        excess
    }
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool {
        free: array::from_fn(|_| BTreeMap::new()),
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
        let memory = pool.cut(class);
        match &memory {
            Some(_) => pool.stats.reused += 1,
            None => pool.stats.fresh += 1,
        }
        memory
    });
    reused.unwrap_or_else(|| fresh(class))
}

/// Cuts a piece from a page of its own.
fn fresh(class: usize) -> Memory {
    let (memory, excess) = POOL.with_borrow_mut(|pool| {
        pool.put(Memory::page());
        let memory = pool.cut(class).expect("a page holds the largest class");
        (memory, pool.excess())
    });
    drop(excess);
    memory
}

pub(super) fn put(memory: Memory) {
    // At thread exit the pool may be gone already; the memory is then simply freed.
    let excess = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        pool.put(memory);
        pool.excess()
    });
    drop(excess);
}

fn class_of(bytes: usize) -> usize {
    let pages = bytes.max(1).div_ceil(BUFFER_BYTES_MIN).next_power_of_two();
    pages.ilog2() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_the_smallest_that_holds_the_bytes() {
        let class = |bytes| BUFFER_BYTES_MIN << class_of(bytes);
        assert_eq!(class(0), 4 << 10);
        assert_eq!(class(4096), 4 << 10);
        assert_eq!(class(4097), 8 << 10);
        assert_eq!(class(1 << 20), 1 << 20);
        assert_eq!(class_of(PAGE_BYTES), CLASSES - 1);
    }
}
