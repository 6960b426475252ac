//! Connections of the glommio backend: plain system calls first, the reactor when they would block.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::calls;
use crate::runtime::file::io_error;

/// A connected socket of this executor.
pub(super) struct TcpConn(RefCell<TcpStream>);

impl TcpConn {
    pub(super) fn new(stream: TcpStream) -> TcpConn {
        TcpConn(RefCell::new(stream))
    }

    pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpConn> {
        let stream = TcpStream::connect(address).await.map_err(io_error)?;
        stream.set_nodelay(true).map_err(io_error)?;
        Ok(TcpConn::new(stream))
    }

    pub(super) fn from_fd(fd: OwnedFd) -> TcpConn {
        // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, and the stream takes it.
        let stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        TcpConn::new(stream)
    }

    pub(super) fn into_fd(self) -> io::Result<OwnedFd> {
        // The stream cannot give its descriptor away, because a readiness poll of it may be armed
        // in the ring. The poll is withdrawn when the stream is dropped and takes no data.
        self.fd().try_clone_to_owned()
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.borrow().peer_addr().map_err(io_error)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.borrow().local_addr().map_err(io_error)
    }

    pub(super) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.0.borrow().set_nodelay(nodelay).map_err(io_error)
    }

    /// Waits for bytes.
    pub(super) async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let received =
                poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, &mut *buffer));
            match received.await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        calls::recv(self.fd(), buffer)
    }

    pub(super) fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        calls::send(self.fd(), slices)
    }

    pub(super) async fn writable(&self, first: &[u8]) -> io::Result<usize> {
        loop {
            let sent = poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, first));
            match sent.await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    pub(super) fn shutdown(&self, how: rustix::net::Shutdown) {
        // Fails only if the connection has already ended, which is what was asked for.
        let _ = rustix::net::shutdown(self.fd(), how);
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.0.borrow().as_raw_fd()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }
}
