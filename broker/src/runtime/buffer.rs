//! Buffers: 4 KiB-aligned memory that a socket can fill, a disk can write and a cache can keep.
//!
//! Every executor has its own pool of recycled buffers, in classes of 4 KiB << n up to 1 MiB, so
//! that steady state allocates nothing, zeroes nothing and takes no page fault. A buffer stays on
//! its executor's thread and goes back to the pool when it is dropped. To share one (a write in
//! flight, a tail cache, a send), freeze it as `Rc<Buffer>`: it is then read-only until the last
//! owner drops it.
//!
//! Memory comes from the process's allocator, never from the memory registered with the kernel:
//! cached data would hold that back from the I/O it is meant for.

mod pool;
mod write;

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use glommio::io::{DmaBuffer, ReadResult};

pub use pool::{FREE_BYTES_MAX, PoolStats, set_pool_bytes_max, stats};
pub(in crate::runtime) use write::WriteLease;
#[cfg(test)]
pub(in crate::runtime) use write::parked_writes;

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
    storage: Storage,
    /// Bytes visible, at most the capacity.
    len: usize,
}

#[derive(Debug)]
enum Storage {
    /// Whole memory of one class. `ManuallyDrop`, because dropping hands it to the pool.
    Pooled(ManuallyDrop<DmaBuffer>),
    /// Filled by a read. The backend allocates what it reads into, and lends it read-only.
    Read { bytes: ReadResult, capacity: usize },
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
        storage: Storage::Pooled(ManuallyDrop::new(memory)),
        len,
    }
}

impl Buffer {
    /// Bytes of memory this buffer holds: what a cache should charge for it.
    pub fn capacity(&self) -> usize {
        match &self.storage {
            Storage::Pooled(memory) => memory.len(),
            Storage::Read { capacity, .. } => *capacity,
        }
    }

    pub(in crate::runtime) fn from_read(bytes: ReadResult, capacity: usize) -> Self {
        let len = bytes.len();
        Self {
            storage: Storage::Read { bytes, capacity },
            len,
        }
    }

    /// Hides what lies behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The same bytes in pooled memory.
    fn copied(&self) -> Self {
        let mut copy = allocate(self.capacity().max(self.len));
        copy[..self.len].copy_from_slice(self);
        copy.len = self.len;
        copy
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.storage {
            Storage::Pooled(memory) => &memory.as_bytes()[..self.len],
            Storage::Read { bytes, .. } => bytes,
        }
    }
}

impl DerefMut for Buffer {
    /// A buffer filled by a file read is copied into pooled memory first, once.
    fn deref_mut(&mut self) -> &mut [u8] {
        if matches!(self.storage, Storage::Read { .. }) {
            *self = self.copied();
        }
        let len = self.len;
        match &mut self.storage {
            Storage::Pooled(memory) => &mut memory.as_bytes_mut()[..len],
            Storage::Read { .. } => unreachable!("replaced above"),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Storage::Pooled(memory) = &mut self.storage {
            // SAFETY: `memory` is taken once, here, and never touched again.
            pool::put(unsafe { ManuallyDrop::take(memory) });
        }
    }
}

/// Asks the process's allocator to keep freed memory instead of giving it back to the kernel.
///
/// The backend allocates what file reads are read into; without this, a megabyte read costs a
/// megabyte of page faults. For the whole process, so a program calls it once at start and an
/// embedded broker does not. Does nothing with allocators other than glibc's.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (option, bytes) in [
        (libc::M_MMAP_THRESHOLD, 32 << 20),
        (libc::M_TRIM_THRESHOLD, 512 << 20),
    ] {
        // SAFETY: no pointers; the allocator changes its own settings under its own lock. It
        // refuses a value it does not like, which is as good as not asking.
        unsafe { libc::mallopt(option, bytes) };
    }
}

#[cfg(test)]
mod tests;
