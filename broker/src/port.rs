//! Holds ports from before they are listened on, so that one that is taken is no late surprise.
//!
//! A port of 0 must be turned into a real one before the first shard listens, and every shard
//! listens on the same. The reservation is bound but never listens, so no connection goes to it.
//! That of the admin server becomes its listener.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};

/// How long a listener on this host may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
/// How often it may answer before the port counts as in use.
const ANSWERS_MAX: usize = 20;

/// A bound port.
#[derive(Debug)]
pub(crate) struct PortReservation {
    _socket: OwnedFd,
    addr: SocketAddr,
}

impl PortReservation {
    /// Binds `addr`, shared with sockets of the same user that ask for sharing too, unless somebody
    /// listens there already: another broker would ask for sharing, too, and the kernel would deal
    /// the clients to both.
    pub(crate) fn bind(addr: SocketAddr) -> io::Result<PortReservation> {
        let (held, addr) = bound(addr, Sharing::OfUser)?;
        // Binding without sharing would tell as well, but it is also refused by the connections
        // that a broker killed a moment ago has left behind.
        for _ in 0..ANSWERS_MAX {
            let answer = TcpStream::connect_timeout(&reachable(addr), ANSWER_TIMEOUT);
            // A listener whose queue is full does not answer, but it is there.
            if answer.is_err_and(|error| error.kind() != io::ErrorKind::TimedOut) {
                return Ok(PortReservation {
                    _socket: held,
                    addr,
                });
            }
            // The kernel closes the sockets of a process with rings a moment after its end.
            std::thread::sleep(ANSWER_TIMEOUT);
        }
        Err(taken())
    }

    /// The address, with the real port.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// A socket that is bound alone and does not listen yet, with its real address. Nobody listens
/// there; whoever else binds the same and listens first may still win.
pub(crate) fn bind_alone(addr: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    bound(addr, Sharing::Refused)
}

/// The words for an address that somebody else has.
pub(crate) fn taken() -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there already")
}

/// Who else may listen on an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Sockets of the same user that ask for it.
    OfUser,
    Refused,
}

fn bound(addr: SocketAddr, sharing: Sharing) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, sharing == Sharing::OfUser)?;
    // Connections of an earlier run that are not over for the kernel are no obstacle.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &addr).map_err(|error| match error {
        Errno::ADDRINUSE => taken(),
        error => error.into(),
    })?;
    let addr = SocketAddr::try_from(getsockname(&socket)?).map_err(io::Error::from)?;
    Ok((socket, addr))
}

/// An address of this host at which a listener on `addr` answers.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_refused() {
        let first = PortReservation::bind("127.0.0.1:0".parse().expect("an address"));
        let first = first.expect("a free port");
        let (shared, _) =
            bound(first.addr(), Sharing::OfUser).expect("a shard may bind the port, too");
        let listener = TcpListener::from(shared);
        rustix::net::listen(&listener, 1).expect("it listens");
        let refused = PortReservation::bind(first.addr()).expect_err("it is in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let alone = bind_alone(first.addr()).expect_err("it is in use");
        assert_eq!(alone.to_string(), "somebody listens there already");
    }
}
