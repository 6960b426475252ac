//! Connections to a broker from the process that it is in.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::runtime::channel::Sender;
use crate::shard::message::ShardMessage;

/// Makes connections without a port. Cheap to clone; does not keep the broker running.
#[derive(Clone)]
pub struct InProcess {
    pub(super) shard: Sender<ShardMessage>,
}

impl InProcess {
    /// A new connection, which speaks the wire protocol like one over TCP. The first request on it
    /// is `Hello`.
    ///
    /// # Errors
    /// `ConnectionRefused` once the broker stops or has failed; else what the operating system says
    /// when it has no descriptors left.
    ///
    /// # Cancel safety
    /// Dropping the call closes the connection.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let socket = OwnedFd::from(theirs).into();
        let sent = self.shard.send(ShardMessage::Accept { socket }).await;
        // It may have been sent just as the shard stopped to look.
        if sent.is_err() || self.shard.is_closed() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(ours)
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}
