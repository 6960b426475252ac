//! A piece of aligned memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::slice;

use super::BUFFER_BYTES_MIN;

/// Owned bytes, aligned to [`BUFFER_BYTES_MIN`] and initialized.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    len: usize,
}

impl Memory {
    /// Zeros.
    pub(super) fn new(len: usize) -> Memory {
        let layout = layout(len);
        // SAFETY: the layout has a length: classes begin at `BUFFER_BYTES_MIN`.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Memory { start, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this length and zeroed; nobody writes while `self` is borrowed.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`, and not freed before.
        unsafe { dealloc(self.start.as_ptr(), layout(self.len)) };
    }
}

fn layout(len: usize) -> Layout {
    assert!(len >= BUFFER_BYTES_MIN, "no class is smaller");
    Layout::from_size_align(len, BUFFER_BYTES_MIN).expect("a class is a power of two")
}
