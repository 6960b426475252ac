//! Readiness: which descriptors of an executor can be read or written, told by epoll.
//!
//! A descriptor is registered once, edge-triggered in both directions. What epoll tells is kept
//! until an attempt finds the opposite, so an operation costs its own system call and no other. One
//! that has emptied a socket says so ([`Watched::drained`]), and the next waits first.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

use super::executor::engine::{engine, here};

/// Events taken in one system call.
const EVENTS_MAX: usize = 256;

/// The epoll of an executor, and who waits for what it tells.
pub(super) struct Reactor {
    epoll: OwnedFd,
    sources: RefCell<Slab<Rc<Source>>>,
    events: RefCell<Vec<libc::epoll_event>>,
    /// Whether waits may end between two milliseconds (Linux 5.11, and no filter against it).
    is_precise: Cell<bool>,
}

/// A direction of a descriptor.
#[derive(Default)]
struct Direction {
    is_ready: Cell<bool>,
    /// Ended: ready for ever.
    is_closed: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Direction {
    fn tell(&self, is_closed: bool) {
        self.is_ready.set(true);
        if is_closed {
            self.is_closed.set(true);
        }
        let waiter = self.waiter.take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    fn clear(&self) {
        self.is_ready.set(self.is_closed.get());
    }

    fn wait(&self, waker: &Waker) {
        let mut waiter = self.waiter.borrow_mut();
        match &mut *waiter {
            Some(there) => there.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Repeats `attempt` until it does not say that it would block.
    fn poll<T>(
        &self,
        cx: &Context<'_>,
        attempt: &mut impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        if self.is_ready.get() {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Even if it was closed: what would block is waited for.
                    self.is_ready.set(false);
                }
                done => return Poll::Ready(done),
            }
        }
        self.wait(cx.waker());
        Poll::Pending
    }
}

#[derive(Default)]
struct Source {
    reading: Direction,
    writing: Direction,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Reactor> {
        let empty = libc::epoll_event { events: 0, u64: 0 };
        Ok(Reactor {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            sources: RefCell::default(),
            events: RefCell::new(vec![empty; EVENTS_MAX]),
            is_precise: Cell::new(true),
        })
    }

    /// Lets `fd` end waits, and nothing else. It must live as long as this.
    pub(super) fn watch_bell(&self, fd: impl AsFd) -> io::Result<()> {
        let edges = EventFlags::IN | EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(u64::MAX),
            edges,
        )?)
    }

    fn register(&self, fd: BorrowedFd<'_>) -> io::Result<(usize, Rc<Source>)> {
        let source = Rc::<Source>::default();
        let key = self.sources.borrow_mut().insert(Rc::clone(&source));
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = epoll::add(&self.epoll, fd, EventData::new_u64(key as u64), edges);
        if let Err(errno) = added {
            self.sources.borrow_mut().remove(key);
            return Err(errno.into());
        }
        Ok((key, source))
    }

    fn forget(&self, key: usize, fd: BorrowedFd<'_>) {
        // Fails only if it is not registered, which is what was asked for.
        let _ = epoll::delete(&self.epoll, fd);
        let source = self.sources.borrow_mut().try_remove(key);
        drop(source);
    }

    /// Waits until something is ready or `timeout` has passed, and wakes who waits for that. It may
    /// end early, for nothing.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = self.events.borrow_mut();
        let ready = match self.wait_for_events(&mut events, timeout) {
            // A signal, or a completion that the kernel wanted this thread for.
            Err(Errno::INTR) => 0,
            ready => ready?,
        };
        for event in &events[..ready] {
            let (flags, key) = (event.events, event.u64);
            let source = usize::try_from(key)
                .ok()
                .and_then(|key| self.sources.borrow().get(key).cloned());
            if let Some(source) = source {
                tell(&source, EventFlags::from_bits_retain(flags));
            }
        }
        Ok(())
    }

    fn wait_for_events(
        &self,
        events: &mut [libc::epoll_event],
        timeout: Option<Duration>,
    ) -> Result<usize, Errno> {
        let is_between = timeout.is_some_and(|timeout| timeout.subsec_nanos() % 1_000_000 != 0);
        if is_between && self.is_precise.get() {
            match self.wait_precisely(events, timeout.unwrap_or_default()) {
                Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => self.is_precise.set(false),
                waited => return waited,
            }
        }
        let millis = timeout.map_or(-1, |timeout| {
            let rounded_up = timeout.as_nanos().div_ceil(1_000_000);
            i32::try_from(rounded_up).unwrap_or(i32::MAX)
        });
        // SAFETY: `events` is writable for as many events as its length says.
        let ready = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                events.len().try_into().unwrap_or(i32::MAX),
                millis,
            )
        };
        count(ready.into())
    }

    fn wait_precisely(
        &self,
        events: &mut [libc::epoll_event],
        timeout: Duration,
    ) -> Result<usize, Errno> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: as above; the kernel reads `timeout`, and there is no signal mask.
        let ready = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                events.len(),
                &raw const timeout,
                ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        count(ready)
    }
}

/// What a system call returned.
fn count(returned: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(returned).map_err(|_| {
        let error = io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

fn tell(source: &Source, flags: EventFlags) {
    let has_ended = flags.intersects(EventFlags::HUP | EventFlags::ERR);
    if has_ended || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
        let is_closed = has_ended || flags.contains(EventFlags::RDHUP);
        source.reading.tell(is_closed);
    }
    if has_ended || flags.contains(EventFlags::OUT) {
        source.writing.tell(has_ended);
    }
}

/// A descriptor whose readiness the executor of this thread knows. Dropping it closes it.
pub(super) struct Watched {
    key: usize,
    source: Rc<Source>,
    /// Taken only by [`into_fd`](Self::into_fd).
    fd: Option<OwnedFd>,
}

impl Watched {
    /// # Errors
    /// If it cannot be waited for, or the process has too many.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Watched> {
        let (key, source) = engine().reactor.register(fd.as_fd())?;
        Ok(Watched {
            key,
            source,
            fd: Some(fd),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        let fd = self.fd.as_ref();
        fd.expect("taken only with this").as_fd()
    }

    /// Takes the descriptor out; it is not waited for any more.
    pub(super) fn into_fd(mut self) -> OwnedFd {
        self.forget();
        self.fd.take().expect("taken only with this")
    }

    /// Repeats `attempt`, which reads, whenever there is something, until it does not block.
    /// Cancel-safe if `attempt` is.
    pub(super) async fn read<T>(
        &self,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut attempt = || attempt(self.fd());
        poll_fn(|cx| self.source.reading.poll(cx, &mut attempt)).await
    }

    /// Likewise for an `attempt` that writes.
    pub(super) async fn write<T>(
        &self,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut attempt = || attempt(self.fd());
        poll_fn(|cx| self.source.writing.poll(cx, &mut attempt)).await
    }

    /// Says that the last read has left nothing. What comes from then on makes it ready again.
    pub(super) fn drained(&self) {
        self.source.reading.clear();
    }

    fn forget(&self) {
        if let (Some(fd), Some(engine)) = (&self.fd, here()) {
            engine.reactor.forget(self.key, fd.as_fd());
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.forget();
    }
}
