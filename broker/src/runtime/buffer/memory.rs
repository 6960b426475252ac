//! Pieces of aligned memory.
//!
//! They are parts of huge pages, where the kernel gives such: the device then gets one piece of
//! 1 MiB instead of 256 pages from all over memory (a virtio queue has room for as many pieces as
//! one or two such writes have), and the first touch of 2 MiB is one fault.
//!
//! Invariant: the pieces of a page never overlap. A page begins as one piece, which is split into
//! halves and joined from them again.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::{io, mem, slice};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A huge page of x86-64, and of 64-bit ARM with pages of 4 KiB.
pub(super) const PAGE_BYTES: usize = 2 << 20;

/// Owned bytes, aligned to their length and initialized: a part of a page, which lives as long as
/// one of its pieces.
#[derive(Debug)]
pub(super) struct Memory {
    page: Rc<HugePage>,
    start: NonNull<u8>,
    len: usize,
}

impl Memory {
    /// [`PAGE_BYTES`] of zeros.
    ///
    /// Aborts as an allocator does if the process may map no more memory.
    pub(super) fn page() -> Memory {
        let Ok(page) = HugePage::map() else {
            let layout = Layout::from_size_align(PAGE_BYTES, PAGE_BYTES);
            handle_alloc_error(layout.expect("a power of two"))
        };
        Memory {
            start: page.start,
            page: Rc::new(page),
            len: PAGE_BYTES,
        }
    }

    /// The lower and the upper half.
    ///
    /// # Panics
    /// If it is one byte.
    pub(super) fn split(mut self) -> [Memory; 2] {
        assert!(self.len > 1, "a byte has no halves");
        self.len /= 2;
        let upper = Memory {
            page: Rc::clone(&self.page),
            // SAFETY: the upper half lies within the page, as this piece did.
            start: unsafe { self.start.add(self.len) },
            len: self.len,
        };
        [self, upper]
    }

    /// Undoes [`split`](Memory::split).
    ///
    /// # Panics
    /// If the two are not the halves of one piece, in this order.
    pub(super) fn join(mut self, mut upper: Memory) -> Memory {
        assert!(
            Rc::ptr_eq(&self.page, &upper.page)
                && self.len == upper.len
                && self.address() < upper.address()
                && self.buddy() == upper.address(),
            "only halves of one piece can be joined"
        );
        self.len += mem::take(&mut upper.len);
        self
    }

    /// Where it starts.
    pub(super) fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// Where the other half of the piece starts that this is a half of.
    pub(super) fn buddy(&self) -> usize {
        self.address() ^ self.len
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped as long as the page, initialized by the kernel, and in no other piece;
        // nobody writes while `self` is borrowed.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Other pieces may keep the page for long; this one is given back at once. A kernel that
        // does not takes it back with the page.
        if Rc::strong_count(&self.page) > 1 && self.len > 0 {
            // Or the kernel would make a huge page of the rest again some time.
            self.page.advise(Advice::LinuxNoHugepage);
            let start = self.start.as_ptr().cast();
            // SAFETY: these bytes are mapped, in no other piece, and nobody looks at them again.
            let _ = unsafe { madvise(start, self.len, Advice::LinuxDontNeed) };
        }
    }
}

/// A mapping of [`PAGE_BYTES`], aligned to that.
#[derive(Debug)]
struct HugePage {
    start: NonNull<u8>,
}

impl HugePage {
    fn map() -> io::Result<HugePage> {
        let page = match map(PAGE_BYTES)? {
            // Most are: the kernel places a mapping beside the one before, and the two are one to
            // it. It allows a process 65,530.
            start if start.align_offset(PAGE_BYTES) == 0 => start,
            unaligned => {
                // SAFETY: mapped just now, and nobody's.
                unsafe { munmap(unaligned.cast(), PAGE_BYTES)? };
                map_aligned()?
            }
        };
        let start = NonNull::new(page).expect("the kernel maps nothing at 0");
        let page = HugePage { start };
        // Where there are none, or none is free, it consists of small ones.
        page.advise(Advice::LinuxHugepage);
        Ok(page)
    }

    /// Says what the page is for. A kernel that does not know that does without.
    fn advise(&self, advice: Advice) {
        // SAFETY: the whole page is mapped, and the advice changes none of its bytes.
        let _ = unsafe { madvise(self.start.as_ptr().cast(), PAGE_BYTES, advice) };
    }
}

/// Anonymous memory at a place of the kernel's choice.
fn map(bytes: usize) -> io::Result<*mut u8> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, which takes no other's place.
    let mapped = unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, MapFlags::PRIVATE)? };
    Ok(mapped.cast())
}

/// The last aligned page of a mapping that is twice as long.
fn map_aligned() -> io::Result<*mut u8> {
    let mapped = map(2 * PAGE_BYTES)?;
    let after = (mapped.addr()) % PAGE_BYTES;
    let before = PAGE_BYTES - after;
    // SAFETY: the page lies within the mapping; so does what is unmapped beside it, which is
    // nobody's.
    unsafe {
        let start = mapped.add(before);
        munmap(mapped.cast(), before)?;
        if after > 0 {
            munmap(start.add(PAGE_BYTES).cast(), after)?;
        }
        Ok(start)
    }
}

impl Drop for HugePage {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`; no piece is left. It fails only where nothing is mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), PAGE_BYTES) };
    }
}
