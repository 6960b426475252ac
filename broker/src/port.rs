//! Holds a port from before the shards bind it until they have.
//!
//! A port of 0 must be turned into a real one before the first shard listens, and every shard
//! listens on the same. The reservation is bound but never listens, so no connection goes to it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

/// A bound port.
#[derive(Debug)]
pub(crate) struct PortReservation {
    _socket: OwnedFd,
    addr: SocketAddr,
}

impl PortReservation {
    /// Binds `addr`, shared with sockets of the same user that ask for sharing too.
    pub(crate) fn bind(addr: SocketAddr) -> io::Result<PortReservation> {
        let family = if addr.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let held = socket(family, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseport(&held, true)?;
        sockopt::set_socket_reuseaddr(&held, true)?;
        bind(&held, &addr)?;
        let addr = SocketAddr::try_from(getsockname(&held)?).map_err(io::Error::from)?;
        Ok(PortReservation {
            _socket: held,
            addr,
        })
    }

    /// The address, with the real port.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}
