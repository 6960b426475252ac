//! Sockets of an executor: plain system calls, and the readiness that the reactor tells.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
    sockopt,
};

use super::{Lender, calls};
use crate::runtime::reactor::Watched;

/// Connections that may wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: i32 = 1024;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    Ok(socket_with(family, SocketType::STREAM, FLAGS, None)?)
}

/// A listening socket of this executor.
pub(super) struct TcpListening(Watched);

impl TcpListening {
    pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListening> {
        let socket = socket(address)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Watched::new(socket).map(TcpListening)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getsockname(self.0.fd())?.try_into()?)
    }

    pub(super) async fn accept(&self) -> io::Result<TcpConn> {
        let accepted = self.0.read(|fd| Ok(accept_with(fd, FLAGS)?));
        TcpConn::new(accepted.await?)
    }
}

/// A connected stream socket of this executor: TCP, or one half of a pair.
pub(super) struct TcpConn(Watched);

impl TcpConn {
    fn new(fd: OwnedFd) -> io::Result<TcpConn> {
        // Fails only if the peer is already gone, which the first receive reports.
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        TcpConn::from_fd(fd)
    }

    /// # Errors
    /// If the descriptor cannot be waited for: it is none, or the process has too many.
    pub(super) fn from_fd(fd: OwnedFd) -> io::Result<TcpConn> {
        Watched::new(fd).map(TcpConn)
    }

    pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpConn> {
        let socket = socket(address)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let conn = TcpConn::new(socket)?;
        let connected = conn.0.write(|fd| {
            sockopt::socket_error(fd)??;
            match rustix::net::getpeername(fd) {
                Err(Errno::NOTCONN) => Err(io::ErrorKind::WouldBlock.into()),
                known => Ok(known.map(drop)?),
            }
        });
        connected.await?;
        Ok(conn)
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0.into_fd()
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getpeername(self.0.fd())?
            .ok_or(io::ErrorKind::NotConnected)?
            .try_into()?)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getsockname(self.0.fd())?.try_into()?)
    }

    pub(super) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        Ok(sockopt::set_tcp_nodelay(self.0.fd(), nodelay)?)
    }

    /// Waits for bytes, first if the last receive left room in its memory.
    pub(super) async fn recv(&self, lender: &impl Lender) -> io::Result<usize> {
        let received = self.0.read(|_| lender.lend(|room| self.try_recv(room)));
        received.await
    }

    /// What leaves room has emptied the socket. (A receive also ends at urgent data, which no
    /// client sends by itself: who does waits until more comes.)
    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = calls::recv(self.0.fd(), buffer);
        let has_emptied = match &received {
            Ok(bytes) => *bytes < buffer.len(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if has_emptied {
            self.0.drained();
        }
        received
    }

    pub(super) fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        calls::send(self.0.fd(), slices)
    }

    pub(super) async fn writable(&self, first: &[u8]) -> io::Result<usize> {
        let slices = [IoSlice::new(first)];
        self.0.write(|fd| calls::send(fd, &slices)).await
    }

    pub(super) fn shutdown(&self, how: rustix::net::Shutdown) {
        // Fails only if the connection has already ended, which is what was asked for.
        let _ = rustix::net::shutdown(self.0.fd(), how);
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.0.fd().as_fd().as_raw_fd()
    }
}
