//! Pieces of aligned memory.
//!
//! The largest come two at a time, as the halves of a huge page where the kernel gives one: the
//! device then gets one piece of 1 MiB instead of 256 pages from all over memory (a virtio queue
//! has room for as many pieces as one or two such writes have), and the first touch is one fault.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::{io, slice};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::{BUFFER_BYTES_MAX, BUFFER_BYTES_MIN};

/// A huge page of x86-64, and of 64-bit ARM with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 * BUFFER_BYTES_MAX;

/// Owned bytes, aligned to [`BUFFER_BYTES_MIN`] and initialized.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    len: usize,
    from: Source,
}

#[derive(Debug)]
enum Source {
    Allocator,
    HalfOf(Rc<HugePage>),
}

impl Memory {
    /// Zeros.
    pub(super) fn new(len: usize) -> Memory {
        let layout = layout(len);
        // SAFETY: the layout has a length: classes begin at `BUFFER_BYTES_MIN`.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        let from = Source::Allocator;
        Memory { start, len, from }
    }

    /// Two of [`BUFFER_BYTES_MAX`] that are zero and lie in one huge page.
    ///
    /// # Errors
    /// If the process may map no more memory.
    pub(super) fn pair() -> io::Result<[Memory; 2]> {
        let page = Rc::new(HugePage::map()?);
        Ok([0, BUFFER_BYTES_MAX].map(|offset| Memory {
            // SAFETY: both halves lie within the page.
            start: unsafe { page.start.add(offset) },
            len: BUFFER_BYTES_MAX,
            from: Source::HalfOf(Rc::clone(&page)),
        }))
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
        match &self.from {
            // SAFETY: allocated with this layout in `new`, and not freed before.
            Source::Allocator => unsafe { dealloc(self.start.as_ptr(), layout(self.len)) },
            Source::HalfOf(page) if Rc::strong_count(page) > 1 => {
                // The other half may stay for long; this one is given back at once. A kernel that
                // does not takes it back with the page.
                // SAFETY: this half is mapped, and nobody looks at it any more.
                let _ =
                    unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxDontNeed) };
            }
            Source::HalfOf(_) => {}
        }
    }
}

fn layout(len: usize) -> Layout {
    assert!(len >= BUFFER_BYTES_MIN, "no class is smaller");
    Layout::from_size_align(len, BUFFER_BYTES_MIN).expect("a class is a power of two")
}

/// A mapping of [`HUGE_PAGE_BYTES`], aligned to that.
#[derive(Debug)]
struct HugePage {
    start: NonNull<u8>,
}

impl HugePage {
    fn map() -> io::Result<HugePage> {
        let bytes = 2 * HUGE_PAGE_BYTES;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let mapped = unsafe {
            mmap_anonymous(ptr::null_mut(), bytes, protection, MapFlags::PRIVATE)?.cast::<u8>()
        };
        let before = mapped.align_offset(HUGE_PAGE_BYTES);
        let after = bytes - before - HUGE_PAGE_BYTES;
        // SAFETY: the page lies within the mapping: it is twice as long.
        let start = unsafe { mapped.add(before) };
        // SAFETY: what is unmapped lies within the mapping beside the page, and is nobody's.
        unsafe {
            if before > 0 {
                munmap(mapped.cast(), before)?;
            }
            munmap(start.add(HUGE_PAGE_BYTES).cast(), after)?;
        }
        let start = NonNull::new(start).expect("the kernel maps nothing at 0");
        let page = HugePage { start };
        // Where there are none, or none is free, it consists of small ones.
        // SAFETY: the whole page was mapped above.
        let _ = unsafe {
            madvise(
                start.as_ptr().cast(),
                HUGE_PAGE_BYTES,
                Advice::LinuxHugepage,
            )
        };
        Ok(page)
    }
}

impl Drop for HugePage {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`; both halves are gone. It fails only where nothing is mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), HUGE_PAGE_BYTES) };
    }
}
