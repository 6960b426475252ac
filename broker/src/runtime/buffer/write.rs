//! Writing a part of a buffer.
//!
//! The backend writes a `DmaBuffer` to its whole length and can only ever shorten one, so a pooled
//! buffer that is partly filled needs a second, shortened `DmaBuffer` over the same memory: its
//! *twin*. Invariants: a twin is never dropped, only forgotten (the memory belongs to the buffer);
//! and the buffer outlives every reference to its twin, also when the write is abandoned while the
//! kernel still works on it.

use std::cell::RefCell;
use std::mem;
use std::ptr;
use std::rc::Rc;

use glommio::io::DmaBuffer;

use super::{Buffer, Storage};

thread_local! {
    /// Leases of abandoned writes that the kernel may not have finished.
    static PARKED: RefCell<Vec<WriteLease>> = const { RefCell::new(Vec::new()) };
}

/// A buffer's memory, lent to one write.
#[derive(Debug)]
pub(in crate::runtime) struct WriteLease {
    /// `Some` until dropped.
    twin: Option<Rc<DmaBuffer>>,
    buffer: Rc<Buffer>,
}

impl WriteLease {
    /// Lends the first `len` bytes. Bytes that a file read brought in are copied first.
    pub(in crate::runtime) fn new(buffer: Rc<Buffer>, len: usize) -> Self {
        assert!(
            len <= buffer.len(),
            "a write of {len} bytes from a buffer of {}",
            buffer.len()
        );
        release_parked();
        let buffer = match &buffer.storage {
            Storage::Pooled(_) => buffer,
            Storage::Read { .. } => Rc::new(buffer.copied()),
        };
        let Storage::Pooled(memory) = &buffer.storage else {
            unreachable!("copies live in pooled memory");
        };
        // SAFETY: a bitwise copy of a live value. Dropping both would free the memory twice, so
        // the copy is forgotten in `drop` below, whatever happens. Both only ever lend the bytes
        // for reading: the buffer sits in an `Rc` that this lease holds a share of.
        let mut twin = unsafe { ptr::read(&raw const **memory) };
        twin.trim_to_size(len);
        Self {
            twin: Some(Rc::new(twin)),
            buffer,
        }
    }

    /// What to hand to the backend.
    pub(in crate::runtime) fn source(&self) -> Rc<DmaBuffer> {
        Rc::clone(
            self.twin
                .as_ref()
                .expect("a lease has its twin until dropped"),
        )
    }

    fn is_in_use(&self) -> bool {
        self.twin
            .as_ref()
            .is_some_and(|twin| Rc::strong_count(twin) > 1)
    }
}

impl Drop for WriteLease {
    fn drop(&mut self) {
        match self.twin.take().map(Rc::try_unwrap) {
            None => {}
            Some(Ok(twin)) => mem::forget(twin),
            Some(Err(twin)) => park(Self {
                twin: Some(twin),
                buffer: Rc::clone(&self.buffer),
            }),
        }
    }
}

fn park(lease: WriteLease) {
    let mut lease = Some(lease);
    let _ = PARKED.try_with(|parked| parked.borrow_mut().extend(lease.take()));
    // The thread is ending with the write in flight: the memory is leaked rather than freed under
    // the kernel's hands.
    mem::forget(lease);
}

fn release_parked() {
    let done: Vec<_> = PARKED.with_borrow_mut(|parked| {
        if parked.is_empty() {
            return Vec::new();
        }
        parked.extract_if(.., |lease| !lease.is_in_use()).collect()
    });
    drop(done);
}

/// Abandoned writes whose memory the kernel may still use.
#[cfg(test)]
pub(in crate::runtime) fn parked_writes() -> usize {
    release_parked();
    PARKED.with_borrow(Vec::len)
}
