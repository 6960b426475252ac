//! Sockets of the glommio backend: plain system calls, and the readiness that the reactor tells.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::{Lender, calls};
use crate::runtime::executor::OpenSocket;
use crate::runtime::file::io_error;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A listening socket of this executor.
pub(super) struct TcpListening {
    _open: OpenSocket,
    listener: TcpListener,
}

impl TcpListening {
    /// Made here and not by the backend, whose listener does not tell its descriptor.
    pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListening> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        let open = OpenSocket::note(socket.as_raw_fd());
        // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, and the listener takes
        // it.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(TcpListening {
            _open: open,
            listener,
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr().map_err(io_error)
    }

    pub(super) async fn accept(&self) -> io::Result<TcpConn> {
        let stream = self.listener.accept().await.map_err(io_error)?;
        // Fails only if the peer is already gone, which the first receive reports.
        let _ = stream.set_nodelay(true);
        Ok(TcpConn::new(stream))
    }
}

/// A connected socket of this executor.
pub(super) struct TcpConn {
    _open: OpenSocket,
    stream: RefCell<TcpStream>,
}

impl TcpConn {
    fn new(stream: TcpStream) -> TcpConn {
        TcpConn {
            _open: OpenSocket::note(stream.as_raw_fd()),
            stream: RefCell::new(stream),
        }
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
        self.stream.borrow().peer_addr().map_err(io_error)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.borrow().local_addr().map_err(io_error)
    }

    pub(super) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.stream.borrow().set_nodelay(nodelay).map_err(io_error)
    }

    /// Waits for bytes. The backend asks for readiness as soon as a receive did not fill its
    /// memory, and does not try again before that has come.
    pub(super) async fn recv(&self, lender: &impl Lender) -> io::Result<usize> {
        loop {
            let received = poll_fn(|cx| {
                lender.lend(|room| Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, room))
            });
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
            let sent = poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, first));
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
        self.stream.borrow().as_raw_fd()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }
}
