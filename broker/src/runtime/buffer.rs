//! Buffers: 4 KiB-aligned memory that a socket can fill, a disk can write and a cache can keep.
//!
//! Every executor has its own pool of recycled memory, cut into classes of 4 KiB << n up to 1 MiB,
//! so that steady state maps nothing, zeroes nothing and takes no page fault, also when the sizes
//! change. A buffer stays on its executor's thread and goes back to the pool when it is dropped. To
//! share one (a write in flight, a tail cache, a send), freeze it as `Rc<Buffer>`: it is then
//! read-only until the last owner drops it.
//!
//! Memory is mapped in huge pages of 2 MiB.

mod memory;
mod pool;

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use memory::Memory;
pub use pool::{FREE_BYTES_MAX, PoolStats, lend, set_pool_bytes_max, stats};

/// Smallest buffer class, and the alignment of all of them.
pub const BUFFER_BYTES_MIN: usize = 4 << 10;

/// Largest buffer class, which is also the largest single disk I/O.
pub const BUFFER_BYTES_MAX: usize = 1 << 20;

/// An owned piece of aligned memory.
///
/// Dereferences to its bytes. A buffer from [`allocate`] has the length of its class and arbitrary
/// (but initialized) contents; one from a file read has the length that was read.
#[derive(Debug)]
pub struct Buffer {
    /// Whole memory of one class. `ManuallyDrop`, because dropping hands it to the pool.
    memory: ManuallyDrop<Memory>,
    /// Bytes visible, at most the capacity.
    len: usize,
}

/// Takes a buffer of at least `bytes` bytes from the pool of the current thread.
///
/// Contents are whatever the last user left (zeros in fresh memory).
///
/// # Panics
/// If `bytes` is above [`BUFFER_BYTES_MAX`].
///
/// ```
/// use catena_broker::runtime::buffer::allocate;
///
/// let mut buffer = allocate(5000);
/// assert_eq!(buffer.capacity(), 8192);
/// buffer[..5].copy_from_slice(b"hello");
/// ```
pub fn allocate(bytes: usize) -> Buffer {
    let memory = pool::take(bytes);
    let len = memory.len();
    Buffer {
        memory: ManuallyDrop::new(memory),
        len,
    }
}

impl Buffer {
    /// Bytes of memory this buffer holds: what a cache should charge for it.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Hides what lies behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.bytes()[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the memory is taken once, here, and never touched again.
        pool::put(unsafe { ManuallyDrop::take(&mut self.memory) });
    }
}

#[cfg(test)]
mod tests;
