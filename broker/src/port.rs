//! Holds a port from before the shards bind it until they have.
//!
//! A port of 0 must be turned into a real one before the first shard listens, and every shard
//! listens on the same. The reservation is bound but never listens, so no connection goes to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

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
        let held = bound(addr)?;
        let addr = SocketAddr::try_from(getsockname(&held)?).map_err(io::Error::from)?;
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
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "somebody listens there already",
        ))
    }

    /// The address, with the real port.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn bound(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &addr)?;
    Ok(socket)
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
        let shared = bound(first.addr()).expect("a shard may bind the port, too");
        let listener = TcpListener::from(shared);
        rustix::net::listen(&listener, 1).expect("it listens");
        let refused = PortReservation::bind(first.addr()).expect_err("it is in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
