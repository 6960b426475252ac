//! TCP: listeners and connections of one executor.
//!
//! Sending tries the plain non-blocking system call first and waits for readiness only when the
//! socket would block. Receiving waits first if the last receive emptied the socket. So either is
//! one system call per operation in steady state, without a copy or an allocation.
//!
//! Invariant: at most one task receives from a connection and at most one waits to send on it, at
//! any time (asserted). They may be different tasks: share the connection as `Rc<Conn>`.

pub(in crate::runtime) mod calls;
mod tcp;

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

use super::executor::yield_if_needed;
#[cfg(feature = "simulation")]
use super::simulated::{self, SimulatedConn, SimulatedListener};
use tcp::{TcpConn, TcpListening};

/// Most slices one [`Conn::try_send`] passes on (the kernel's `UIO_MAXIOV`); more are left for the
/// next call.
pub const SEND_SLICES_MAX: usize = 1024;

/// A listening socket.
///
/// `SO_REUSEPORT` is always set, so every shard can listen on one port and the kernel spreads the
/// connections. A second process of the same user could bind too: take a lock file first.
pub struct Listener(Listening);

enum Listening {
    Tcp(TcpListening),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedListener),
}

impl Listener {
    /// Binds and listens. Port 0 picks a free one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if simulated::world().is_some() {
            return Ok(Self(Listening::Simulated(SimulatedListener::bind(address))));
        }
        TcpListening::bind(address).map(|bound| Self(Listening::Tcp(bound)))
    }

    /// The address it listens on, with the real port.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Listening::Tcp(listener) => listener.local_addr(),
            #[cfg(feature = "simulation")]
            Listening::Simulated(listener) => Ok(listener.address()),
        }
    }

    /// The next connection, with `TCP_NODELAY` set.
    ///
    /// Cancellation: a connection accepted by the kernel in the same instant is closed.
    ///
    /// # Errors
    /// What the operating system says. Running out of descriptors or memory (`EMFILE`, `ENFILE`,
    /// `ENOBUFS`, `ENOMEM`) passes with time: wait a little and go on. A connection that was reset
    /// before it was accepted is skipped.
    pub async fn accept(&self) -> io::Result<Conn> {
        match &self.0 {
            Listening::Tcp(listener) => {
                let conn = skip_aborted(async || listener.accept().await).await?;
                Ok(Conn::new(Stream::Tcp(conn)))
            }
            #[cfg(feature = "simulation")]
            Listening::Simulated(listener) => {
                Ok(Conn::new(Stream::Simulated(listener.accept().await)))
            }
        }
    }
}

/// Accepts until it is not a connection that has ended already.
async fn skip_aborted<T>(accept: impl AsyncFn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match accept().await {
            Err(error) if is_aborted(&error) => {}
            accepted => return accepted,
        }
    }
}

fn is_aborted(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// A connection between two executors: taken out of one with [`Conn::into_socket`], adopted by the
/// other with [`Conn::from_socket`].
#[derive(Debug)]
pub struct Socket(Detached);

/// A connected stream socket that was made elsewhere: TCP, or one half of a socket pair.
impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Self(Detached::Socket(fd))
    }
}

#[derive(Debug)]
enum Detached {
    Socket(OwnedFd),
    #[cfg(feature = "simulation")]
    Simulated(u64),
}

/// Lends memory to receive into. It may be other memory each time.
pub trait Lender {
    /// Calls `receive` with at least one byte of it.
    fn lend<T>(&self, receive: impl FnOnce(&mut [u8]) -> T) -> T;
}

/// Lends what the caller brought.
struct Own<'a>(RefCell<&'a mut [u8]>);

impl Lender for Own<'_> {
    fn lend<T>(&self, receive: impl FnOnce(&mut [u8]) -> T) -> T {
        receive(&mut self.0.borrow_mut())
    }
}

/// A TCP connection.
///
/// All methods take `&self`. Dropping it closes the socket.
pub struct Conn {
    stream: Stream,
    receiving: Cell<bool>,
    sending: Cell<bool>,
}

enum Stream {
    Tcp(TcpConn),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedConn),
}

impl Conn {
    /// Connects to `address`, with `TCP_NODELAY` set. Cancel-safe.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if simulated::world().is_some() {
            let conn = SimulatedConn::connect(address).await?;
            return Ok(Self::new(Stream::Simulated(conn)));
        }
        let conn = TcpConn::connect(address).await?;
        Ok(Self::new(Stream::Tcp(conn)))
    }

    /// Adopts a connection on this executor.
    ///
    /// # Errors
    /// If the executor cannot wait for it.
    pub fn from_socket(socket: Socket) -> io::Result<Self> {
        Ok(Self::new(match socket.0 {
            Detached::Socket(fd) => Stream::Tcp(TcpConn::from_fd(fd)?),
            #[cfg(feature = "simulation")]
            Detached::Simulated(number) => Stream::Simulated(SimulatedConn::attach(number)),
        }))
    }

    /// Takes the connection out, to be adopted on another executor.
    ///
    /// No byte is lost: nothing is buffered here, so what the kernel has received and this side has
    /// not read stays in the socket.
    pub fn into_socket(self) -> Socket {
        Socket(match self.stream {
            Stream::Tcp(conn) => Detached::Socket(conn.into_fd()),
            #[cfg(feature = "simulation")]
            Stream::Simulated(conn) => Detached::Simulated(conn.detach()),
        })
    }

    /// The peer's address.
    ///
    /// # Errors
    /// If the peer is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.stream {
            Stream::Tcp(conn) => conn.peer_addr(),
            #[cfg(feature = "simulation")]
            Stream::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// This side's address.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.stream {
            Stream::Tcp(conn) => conn.local_addr(),
            #[cfg(feature = "simulation")]
            Stream::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Turns Nagle's algorithm off (`true`) or on. It starts off.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(conn) => conn.set_nodelay(nodelay),
            #[cfg(feature = "simulation")]
            Stream::Simulated(_) => Ok(()),
        }
    }

    /// Receives at least one byte into `buffer`; 0 means that the peer has finished sending.
    ///
    /// A connection that waits holds `buffer`; with [`recv_lent`](Self::recv_lent) it holds none.
    /// Yields first if another queue is due, so a busy connection cannot hold the executor.
    /// Cancel-safe.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Panics
    /// If another task is receiving, or `buffer` is empty.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "a receive needs room for a byte");
        self.recv_lent(&Own(RefCell::new(buffer))).await
    }

    /// As [`recv`](Self::recv), into memory that is lent for the moment of the system call only: a
    /// connection that waits holds none. What was received lies in the memory that was lent last:
    /// this completes within the poll that received, so nobody else was lent it before the caller's
    /// next await. Yields first, too. Cancel-safe.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Panics
    /// If another task is receiving.
    pub async fn recv_lent(&self, lender: &impl Lender) -> io::Result<usize> {
        yield_if_needed().await;
        let _receiving = Exclusive::claim(&self.receiving, "one task receives at a time");
        match &self.stream {
            Stream::Tcp(conn) => conn.recv(lender).await,
            #[cfg(feature = "simulation")]
            Stream::Simulated(conn) => conn.recv(lender).await,
        }
    }

    /// Receives exactly `buffer.len()` bytes. `false` if the peer had finished before the first.
    ///
    /// Not cancel-safe: bytes received before a cancellation are lost with `buffer`'s fill count.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer finished in between, else what the operating system says.
    pub async fn recv_exact(&self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.recv(&mut buffer[filled..]).await? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                received => filled += received,
            }
        }
        Ok(true)
    }

    /// Receives what is already there.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is, else what the operating system says.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(conn) => conn.try_recv(buffer),
            #[cfg(feature = "simulation")]
            Stream::Simulated(conn) => conn.try_recv(buffer),
        }
    }

    /// Sends as much of `slices` as the socket takes, in one system call and without a copy in
    /// user space. Returns the bytes taken, which may be fewer than given.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes nothing now: await [`writable`](Self::writable). Else what
    /// the operating system says.
    pub fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let slices = &slices[..slices.len().min(SEND_SLICES_MAX)];
        match &self.stream {
            Stream::Tcp(conn) => conn.try_send(slices),
            #[cfg(feature = "simulation")]
            Stream::Simulated(conn) => conn.try_send(slices),
        }
    }

    /// Waits until the socket takes bytes and sends a part of `first` with that; returns how many
    /// bytes of it are sent. The pause between two [`try_send`](Self::try_send)s.
    ///
    /// Cancel-safe: a dropped wait has sent nothing.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Panics
    /// If another task is waiting, or `first` is empty (there is nothing to wait for).
    pub async fn writable(&self, first: &[u8]) -> io::Result<usize> {
        assert!(
            !first.is_empty(),
            "readiness to send shows by sending a byte"
        );
        let _sending = Exclusive::claim(&self.sending, "one task waits to send at a time");
        match &self.stream {
            Stream::Tcp(conn) => conn.writable(first).await,
            #[cfg(feature = "simulation")]
            Stream::Simulated(conn) => conn.writable(first).await,
        }
    }

    /// Sends all of `bytes`, waiting as needed. For handshakes and small replies.
    ///
    /// Not cancel-safe: a part may have been sent.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = match self.try_send(&[IoSlice::new(bytes)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable(bytes).await?
                }
                sent => sent?,
            };
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Ends both directions: pending receives return 0, pending sends fail. Idempotent.
    pub fn shutdown(&self) {
        self.shutdown_how(Shutdown::Both);
    }

    /// Ends the sending direction: the peer reads what was sent and then the end.
    pub fn shutdown_send(&self) {
        self.shutdown_how(Shutdown::Write);
    }

    fn shutdown_how(&self, how: Shutdown) {
        let directions = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        match &self.stream {
            Stream::Tcp(conn) => conn.shutdown(directions),
            #[cfg(feature = "simulation")]
            Stream::Simulated(conn) => {
                conn.shutdown(how != Shutdown::Write, how != Shutdown::Read);
            }
        }
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            receiving: Cell::new(false),
            sending: Cell::new(false),
        }
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Conn");
        match &self.stream {
            Stream::Tcp(conn) => debug.field("fd", &conn.raw_fd()),
            #[cfg(feature = "simulation")]
            Stream::Simulated(conn) => debug.field("number", &conn.number()),
        };
        debug.finish_non_exhaustive()
    }
}

/// Holds a flag for as long as an operation that must be alone is under way.
struct Exclusive<'a>(&'a Cell<bool>);

impl<'a> Exclusive<'a> {
    fn claim(flag: &'a Cell<bool>, rule: &str) -> Self {
        // One waker is kept per direction: a second waiter would silence the first.
        assert!(!flag.replace(true), "{rule}");
        Self(flag)
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[cfg(test)]
mod tests;
