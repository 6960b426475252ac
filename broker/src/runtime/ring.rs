//! File operations on `io_uring`.
//!
//! Operations are collected while the tasks of a queue run and handed to the kernel in one system
//! call. Invariant: what the kernel may touch (a buffer, a path, a descriptor) is kept
//! here until it says that the operation has ended, also if nobody waits for it any more.

use std::cell::RefCell;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use slab::Slab;

use super::buffer::Buffer;

/// Operations handed over at once; more take another system call.
const SUBMISSIONS: u32 = 256;

/// Completions that the ring holds; more wait in the kernel.
const COMPLETIONS: u32 = 4096;

/// How often the end of an executor looks for completions.
const PAUSE_AT_END: Duration = Duration::from_micros(200);

/// The ring of an executor, and what is on it.
pub(super) struct Ring {
    ring: RefCell<IoUring>,
    operations: RefCell<Slab<Operation>>,
}

/// What an operation on the ring needs until it has ended.
#[expect(dead_code, reason = "kept alive, not looked at")]
enum Kept {
    /// The descriptor must not be closed before the kernel has seen it: its number could be
    /// another file's by then.
    Flush(Rc<OwnedFd>),
    Write(Rc<OwnedFd>, Rc<Buffer>),
    Read(Rc<OwnedFd>, Buffer),
    Open(CString),
}

enum State {
    Waiting(Option<Waker>),
    /// What the kernel returned.
    Done(i32),
    /// Nobody waits.
    Abandoned,
}

struct Operation {
    state: State,
    kept: Kept,
}

impl Operation {
    /// Gives up what it returned, which nobody wants.
    fn discard(self, result: i32) {
        if matches!(self.kept, Kept::Open(_)) {
            drop(opened(result));
        }
    }
}

impl Drop for Ring {
    /// What the kernel still works on keeps its memory for good, also after a panic.
    fn drop(&mut self) {
        let operations = self.operations.take();
        if !operations.is_empty() {
            mem::forget(operations);
        }
    }
}

impl Ring {
    /// With what the kernel offers to spare interrupts: completions wait until this thread next
    /// enters the kernel (Linux 5.19), and it alone submits (6.0).
    pub(super) fn new() -> io::Result<Ring> {
        Ring::sized(SUBMISSIONS, COMPLETIONS)
    }

    fn sized(submissions: u32, completions: u32) -> io::Result<Ring> {
        let build = |cooperates: bool, is_single: bool| {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(completions);
            if cooperates {
                builder.setup_coop_taskrun();
            }
            if is_single {
                builder.setup_single_issuer();
            }
            builder.build(submissions)
        };
        let is_unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
        let mut ring = build(true, true);
        if ring.as_ref().is_err_and(is_unknown) {
            ring = build(true, false);
        }
        if ring.as_ref().is_err_and(is_unknown) {
            ring = build(false, false);
        }
        Ok(Ring {
            ring: RefCell::new(ring?),
            operations: RefCell::default(),
        })
    }

    /// Hands what was collected to the kernel, and has it hand out completions that did not fit.
    ///
    /// What it cannot take now stays ([`has_more`](Self::has_more)); the caller tries again soon.
    ///
    /// # Panics
    /// If the kernel refuses the ring itself.
    pub(super) fn submit(&self) {
        let mut ring = self.ring.borrow_mut();
        loop {
            let submission = ring.submission();
            if submission.is_empty() && !submission.cq_overflow() {
                return;
            }
            drop(submission);
            match ring.submit() {
                // It ends early at an operation that it does not take: the rest is as good.
                Ok(1..) => {}
                Ok(0) => return,
                Err(error) => match error.raw_os_error() {
                    // No memory, no room for completions, a signal.
                    Some(libc::EAGAIN | libc::EBUSY | libc::EINTR) => return,
                    _ => panic!("the kernel refuses the ring: {error}"),
                },
            }
        }
    }

    /// Whether operations wait to be handed over.
    pub(super) fn has_more(&self) -> bool {
        !self.ring.borrow_mut().submission().is_empty()
    }

    /// Whether the kernel has done something that was not taken in.
    pub(super) fn has_completions(&self) -> bool {
        !self.ring.borrow_mut().completion().is_empty()
    }

    /// Takes in what the kernel has done, and wakes who waits for it.
    pub(super) fn reap(&self) {
        loop {
            let next = self.ring.borrow_mut().completion().next();
            let Some(completion) = next else {
                if self.ring.borrow_mut().submission().cq_overflow() {
                    self.submit();
                    continue;
                }
                return;
            };
            let key = usize::try_from(completion.user_data()).expect("a key of the slab");
            self.complete(key, completion.result());
        }
    }

    fn complete(&self, key: usize, result: i32) {
        let mut operations = self.operations.borrow_mut();
        let operation = &mut operations[key];
        match mem::replace(&mut operation.state, State::Done(result)) {
            State::Waiting(waker) => {
                drop(operations);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Abandoned => {
                let operation = operations.remove(key);
                drop(operations);
                operation.discard(result);
            }
            State::Done(_) => unreachable!("the kernel completes an operation once"),
        }
    }

    /// Waits for all operations until `deadline`; false if the kernel has not done all by then.
    /// Those keep their memory for good.
    pub(super) fn finish(&self, deadline: Instant) -> bool {
        loop {
            self.submit();
            self.reap();
            if self.operations.borrow().is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(PAUSE_AT_END);
        }
    }

    fn push(&self, entry: Entry, kept: Kept) -> usize {
        let key = self.operations.borrow_mut().insert(Operation {
            state: State::Waiting(None),
            kept,
        });
        let entry = entry.user_data(key as u64);
        loop {
            // SAFETY: what the entry points to is in `operations`, in memory that does not move
            // with its owner, until the kernel has completed it.
            let pushed = unsafe { self.ring.borrow_mut().submission().push(&entry) };
            if pushed.is_ok() {
                return key;
            }
            self.submit();
            if self.has_more() {
                // The kernel takes no more before it is rid of completions.
                self.reap();
                thread::yield_now();
            }
        }
    }

    /// Writes the first `len` bytes of `buffer`; says how many were written.
    pub(super) async fn write(
        &self,
        file: &Rc<OwnedFd>,
        buffer: Rc<Buffer>,
        len: usize,
        offset: u64,
    ) -> io::Result<usize> {
        let bytes = &buffer[..len];
        let entry = opcode::Write::new(Fd(file.as_raw_fd()), bytes.as_ptr(), io_len(len));
        let entry = entry.offset(offset).build();
        let kept = Kept::Write(Rc::clone(file), buffer);
        let (written, _) = self.run(entry, kept).await;
        returned(written)
    }

    /// Reads up to `bytes` into `buffer`, which is then as long as what was read.
    pub(super) async fn read(
        &self,
        file: &Rc<OwnedFd>,
        mut buffer: Buffer,
        bytes: usize,
        offset: u64,
    ) -> io::Result<Buffer> {
        let room = &mut buffer[..bytes];
        let entry = opcode::Read::new(Fd(file.as_raw_fd()), room.as_mut_ptr(), io_len(bytes));
        let entry = entry.offset(offset).build();
        let (read, kept) = self.run(entry, Kept::Read(Rc::clone(file), buffer)).await;
        let Kept::Read(_, mut buffer) = kept else {
            unreachable!("what was kept comes back");
        };
        buffer.truncate(returned(read)?);
        Ok(buffer)
    }

    /// Makes completed writes durable, and the length of the file.
    pub(super) async fn flush(&self, file: &Rc<OwnedFd>) -> io::Result<()> {
        let entry = opcode::Fsync::new(Fd(file.as_raw_fd()));
        let entry = entry.flags(io_uring::types::FsyncFlags::DATASYNC).build();
        let (flushed, _) = self.run(entry, Kept::Flush(Rc::clone(file))).await;
        returned(flushed).map(drop)
    }

    /// Opens an existing file with these flags of `open(2)`.
    pub(super) async fn open(&self, path: CString, flags: i32) -> io::Result<OwnedFd> {
        let entry = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr());
        let entry = entry.flags(flags | libc::O_CLOEXEC).build();
        let (fd, _) = self.run(entry, Kept::Open(path)).await;
        opened(fd)
    }

    async fn run(&self, entry: Entry, kept: Kept) -> (i32, Kept) {
        let key = self.push(entry, kept);
        Pending {
            ring: self,
            key: Some(key),
        }
        .await
    }

    /// Operations that nobody waits for and the kernel has not finished.
    #[cfg(test)]
    pub(super) fn abandoned(&self) -> usize {
        let operations = self.operations.borrow();
        let abandoned = |operation: &Operation| matches!(operation.state, State::Abandoned);
        operations.iter().filter(|(_, at)| abandoned(at)).count()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd = self.ring.borrow().as_raw_fd();
        // SAFETY: the ring owns the descriptor, is never replaced, and lives as long as the borrow
        // of `self`.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

/// Lengths are at most 1 MiB.
fn io_len(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("bounded by the largest buffer")
}

/// What the kernel returned: a count, or the negative of an error number.
fn returned(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn opened(result: i32) -> io::Result<OwnedFd> {
    returned(result)?;
    // SAFETY: the kernel has just opened this descriptor for whoever asked, which is this.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// An operation on the ring that is waited for. Dropping it leaves the operation to the kernel.
struct Pending<'a> {
    ring: &'a Ring,
    /// `None` once it has completed.
    key: Option<usize>,
}

impl Future for Pending<'_> {
    type Output = (i32, Kept);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self.key.expect("polled until it completes");
        let mut operations = self.ring.operations.borrow_mut();
        match &mut operations[key].state {
            State::Done(result) => {
                let result = *result;
                let operation = operations.remove(key);
                drop(operations);
                self.key = None;
                Poll::Ready((result, operation.kept))
            }
            State::Waiting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Abandoned => unreachable!("only dropping abandons"),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut operations = self.ring.operations.borrow_mut();
        if let State::Done(result) = operations[key].state {
            let operation = operations.remove(key);
            drop(operations);
            operation.discard(result);
        } else {
            operations[key].state = State::Abandoned;
        }
    }
}

#[cfg(test)]
mod tests;
