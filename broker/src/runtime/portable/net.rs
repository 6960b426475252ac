//! Sockets of the portable backend: plain system calls first, epoll when they would block.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::runtime::net::{Lender, calls};

/// Connections that may wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: u32 = 1024;

/// A connected stream socket of this executor: TCP, or one half of a pair.
pub(in crate::runtime) struct PortableConn(AsyncFd<OwnedFd>);

impl PortableConn {
    /// # Errors
    /// If the descriptor cannot be waited for: it is none, or the process has too many.
    pub(in crate::runtime) fn from_fd(fd: OwnedFd) -> io::Result<PortableConn> {
        // SAFETY: `OwnedFd` keeps the descriptor open and the same until it is dropped or taken out
        // of the `AsyncFd` again, and it is never replaced.
        let registered = unsafe { AsyncFd::register(fd) };
        Ok(PortableConn(registered?))
    }

    pub(in crate::runtime) async fn connect(address: SocketAddr) -> io::Result<PortableConn> {
        PortableConn::from_tcp(TcpStream::connect(address).await?)
    }

    fn from_tcp(stream: TcpStream) -> io::Result<PortableConn> {
        // Fails only if the peer is already gone, which the first receive reports.
        let _ = stream.set_nodelay(true);
        PortableConn::from_fd(stream.into_std()?.into())
    }

    pub(in crate::runtime) fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }

    pub(in crate::runtime) async fn recv(&self, lender: &impl Lender) -> io::Result<usize> {
        let received = self.0.async_io(Interest::READABLE, |fd| {
            lender.lend(|room| calls::recv(fd.as_fd(), room))
        });
        received.await
    }

    pub(in crate::runtime) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        calls::recv(self.0.as_fd(), buffer)
    }

    pub(in crate::runtime) fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        calls::send(self.0.as_fd(), slices)
    }

    pub(in crate::runtime) async fn writable(&self, first: &[u8]) -> io::Result<usize> {
        let slices = [IoSlice::new(first)];
        let sent = self
            .0
            .async_io(Interest::WRITABLE, |fd| calls::send(fd.as_fd(), &slices));
        sent.await
    }

    pub(in crate::runtime) fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getpeername(&self.0)?
            .ok_or(io::ErrorKind::NotConnected)?
            .try_into()?)
    }

    pub(in crate::runtime) fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getsockname(&self.0)?.try_into()?)
    }

    pub(in crate::runtime) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        Ok(rustix::net::sockopt::set_tcp_nodelay(&self.0, nodelay)?)
    }

    pub(in crate::runtime) fn shutdown(&self, how: rustix::net::Shutdown) {
        // Fails only if the connection has already ended, which is what was asked for.
        let _ = rustix::net::shutdown(&self.0, how);
    }

    pub(in crate::runtime) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A listening socket of this executor.
pub(in crate::runtime) struct PortableListener(TcpListener);

impl PortableListener {
    pub(in crate::runtime) fn bind(address: SocketAddr) -> io::Result<PortableListener> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG).map(PortableListener)
    }

    pub(in crate::runtime) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    pub(in crate::runtime) async fn accept(&self) -> io::Result<PortableConn> {
        let (stream, _) = self.0.accept().await?;
        PortableConn::from_tcp(stream)
    }
}
