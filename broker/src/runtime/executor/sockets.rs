//! The open sockets of an executor, so that they end with it.
//!
//! What the tasks of an executor hold is leaked when one of them panics (see [`super::start`]).
//! Their sockets are shut down at least: peers would wait for answers, and a new listener for the
//! port, until the process ends.
//!
//! Invariant: a descriptor is noted only while its owner has it open. Used on the thread of the
//! executor.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;

use rustix::net::Shutdown;

use super::{Context, current};

/// The sockets that are open on an executor.
#[derive(Default)]
pub(super) struct OpenSockets(RefCell<BTreeSet<RawFd>>);

impl OpenSockets {
    /// Ends all of them in both directions: a listener refuses, a connection tells its peer.
    pub(super) fn shut_down(&self) {
        for fd in self.0.take() {
            // SAFETY: the descriptor is open: its owner drops its `OpenSocket` before it closes it,
            // on this thread.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            // Fails only for a connection that has ended already.
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }
}

/// Notes a socket of the current executor until it is dropped. Whoever owns the socket keeps this
/// in a field before it.
pub(in crate::runtime) struct OpenSocket {
    executor: Rc<Context>,
    fd: RawFd,
}

impl OpenSocket {
    pub(in crate::runtime) fn note(fd: RawFd) -> OpenSocket {
        let executor = current();
        executor.sockets.0.borrow_mut().insert(fd);
        OpenSocket { executor, fd }
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.executor.sockets.0.borrow_mut().remove(&self.fd);
    }
}
