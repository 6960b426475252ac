//! The byte streams below connections: TCP, or a socket pair to a broker in this process.
//!
//! Invariant: nothing above here knows which of them it has.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

#[cfg(feature = "embedded")]
use catena_broker::server::InProcess;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(feature = "embedded")]
use tokio::net::UnixStream;

/// How a client reaches its cluster.
#[derive(Debug)]
pub(crate) enum Dialer {
    /// By the addresses of its nodes.
    Tcp,
    /// Without a port; addresses are only for messages.
    #[cfg(feature = "embedded")]
    InProcess(InProcess),
}

/// An open byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(feature = "embedded")]
    InProcess(UnixStream),
}

impl Dialer {
    /// Opens a stream. Dropping the future closes it.
    pub(crate) async fn dial(&self, address: &str) -> io::Result<Stream> {
        match self {
            Dialer::Tcp => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            #[cfg(feature = "embedded")]
            Dialer::InProcess(broker) => connect_in_process(broker).await.map(Stream::InProcess),
        }
    }
}

/// Opens a stream to a broker in this process. Dropping the future closes it.
#[cfg(feature = "embedded")]
pub(crate) async fn connect_in_process(broker: &InProcess) -> io::Result<UnixStream> {
    let stream = broker.connect().await?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            #[cfg(feature = "embedded")]
            Stream::InProcess(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(feature = "embedded")]
            Stream::InProcess(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            #[cfg(feature = "embedded")]
            Stream::InProcess(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "embedded")]
            Stream::InProcess(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "embedded")]
            Stream::InProcess(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
