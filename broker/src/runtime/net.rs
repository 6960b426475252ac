//! TCP: listeners and connections of one executor.
//!
//! Receiving and sending try the plain non-blocking system call first and ask the reactor for
//! readiness only when the socket would block: one system call per operation in steady state, no
//! copy, no allocation. The backend's own operations would add a ring round trip to each receive
//! and cannot send from several slices at once.
//!
//! Invariant: at most one task receives from a connection and at most one waits to send on it, at
//! any time (asserted). They may be different tasks: share the connection as `Rc<Conn>`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};

use super::executor::yield_if_needed;
use super::file::io_error;

/// Most slices one [`Conn::try_send`] passes on (the kernel's `UIO_MAXIOV`); more are left for the
/// next call.
pub const SEND_SLICES_MAX: usize = 1024;

/// A listening socket.
///
/// `SO_REUSEPORT` is always set, so every shard can listen on one port and the kernel spreads the
/// connections. A second process of the same user could bind too: take a lock file first.
pub struct Listener(TcpListener);

impl Listener {
    /// Binds and listens. Port 0 picks a free one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).map(Self).map_err(io_error)
    }

    /// The address it listens on, with the real port.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr().map_err(io_error)
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
        loop {
            let stream = match self.0.accept().await.map_err(io_error) {
                Ok(stream) => stream,
                Err(error) if is_aborted(&error) => continue,
                Err(error) => return Err(error),
            };
            // Fails only if the peer is already gone, which the first receive reports.
            let _ = stream.set_nodelay(true);
            return Ok(Conn::new(stream));
        }
    }
}

fn is_aborted(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// A TCP connection.
///
/// All methods take `&self`. Dropping it closes the socket.
pub struct Conn {
    stream: RefCell<TcpStream>,
    receiving: Cell<bool>,
    sending: Cell<bool>,
}

impl Conn {
    /// Connects to `address`, with `TCP_NODELAY` set. Cancel-safe.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await.map_err(io_error)?;
        stream.set_nodelay(true).map_err(io_error)?;
        Ok(Self::new(stream))
    }

    /// Adopts a connected socket on this executor.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, and the stream takes it.
        let stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        Self::new(stream)
    }

    /// Takes the socket out, to be adopted on another executor.
    ///
    /// No byte is lost: nothing is buffered here, so what the kernel has received and this side has
    /// not read stays in the socket.
    ///
    /// # Errors
    /// If the process has no free descriptor.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        // The stream cannot give its descriptor away, because a readiness poll of it may be armed
        // in the ring. The poll is withdrawn when the stream is dropped and takes no data.
        self.fd().try_clone_to_owned()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// If the peer is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.borrow().peer_addr().map_err(io_error)
    }

    /// This side's address.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.borrow().local_addr().map_err(io_error)
    }

    /// Turns Nagle's algorithm off (`true`) or on. It starts off.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.stream.borrow().set_nodelay(nodelay).map_err(io_error)
    }

    /// Receives at least one byte into `buffer`; 0 means that the peer has finished sending.
    ///
    /// An idle connection holds no memory but `buffer`: wait with one as small as the fixed frame
    /// prefix and allocate when its contents are known. Yields first if another queue is due, so a
    /// busy connection cannot hold the executor. Cancel-safe.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Panics
    /// If another task is receiving, or `buffer` is empty.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "a receive needs room for a byte");
        yield_if_needed().await;
        match self.try_recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        let _receiving = Exclusive::claim(&self.receiving, "one task receives at a time");
        loop {
            let received =
                poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut *buffer));
            match received.await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
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
        let fd = self.raw_fd();
        retry_interrupted(|| {
            // SAFETY: the pointer and length describe `buffer`, borrowed for the whole call.
            unsafe {
                libc::recv(
                    fd,
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                )
            }
        })
    }

    /// Sends as much of `slices` as the socket takes, in one system call and without a copy in
    /// user space. Returns the bytes taken, which may be fewer than given.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes nothing now: await [`writable`](Self::writable). Else what
    /// the operating system says.
    pub fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let slices = &slices[..slices.len().min(SEND_SLICES_MAX)];
        let fd = self.raw_fd();
        // SAFETY: all zero bytes are a valid `msghdr` (null pointers, no name, no control data).
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is guaranteed to have the layout of `iovec`, and sending only reads it.
        message.msg_iov = slices.as_ptr().cast::<libc::iovec>().cast_mut();
        message.msg_iovlen = slices.len();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        retry_interrupted(|| {
            // SAFETY: `message` points at `slices`, whose memory is borrowed for the whole call.
            unsafe { libc::sendmsg(fd, &raw const message, flags) }
        })
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
        loop {
            let sent = poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, first));
            match sent.await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
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
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        // Fails only if the connection has already ended, which is what was asked for.
        let _ = rustix::net::shutdown(self.fd(), how);
    }

    fn new(stream: TcpStream) -> Self {
        Self {
            stream: RefCell::new(stream),
            receiving: Cell::new(false),
            sending: Cell::new(false),
        }
    }

    fn raw_fd(&self) -> RawFd {
        self.stream.borrow().as_raw_fd()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("fd", &self.raw_fd())
            .finish_non_exhaustive()
    }
}

/// Repeats a system call that a signal interrupted.
fn retry_interrupted(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Holds a flag for as long as an operation that must be alone is under way.
struct Exclusive<'a>(&'a Cell<bool>);

impl<'a> Exclusive<'a> {
    fn claim(flag: &'a Cell<bool>, rule: &str) -> Self {
        // The backend keeps one waker per direction: a second waiter would silence the first.
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
