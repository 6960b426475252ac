//! Channels: between executors (and other threads), and inside one executor.
//!
//! Between threads: [`bounded`], a multi-producer, single-consumer queue whose ends are `Send`.
//! Inside one executor, without atomics: [`Notify`] and [`oneshot`].
//!
//! A task's waker is counted in 16 bits by the backend: one task must not wait for more than about
//! 30,000 things at once (a `join_all` over acknowledgements, say). Any number of tasks that wait
//! for one thing each is fine.

mod local;

pub use local::{Notify, OneshotReceiver, OneshotSender, oneshot};

/// The sending end; cheap to clone, usable from any thread.
#[derive(Debug)]
pub struct Sender<T>(flume::Sender<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver<T>(flume::Receiver<T>);

/// Why a value could not be sent; it is handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<T> {
    /// The channel holds as many values as it may.
    #[error("the channel is full")]
    Full(T),
    /// The receiver is gone.
    #[error("the channel is closed")]
    Closed(T),
}

/// A channel of at most `capacity` values.
///
/// # Panics
/// If `capacity` is 0.
#[must_use]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel holds at least one value");
    let (sender, receiver) = flume::bounded(capacity);
    (Sender(sender), Receiver(receiver))
}

impl<T> Sender<T> {
    /// Sends without waiting.
    ///
    /// # Errors
    /// [`TrySendError`] with the value, if the channel is full or closed.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.0.try_send(value).map_err(|error| match error {
            flume::TrySendError::Full(value) => TrySendError::Full(value),
            flume::TrySendError::Disconnected(value) => TrySendError::Closed(value),
        })
    }

    /// Sends, waiting for room.
    ///
    /// Cancellation: a send dropped before it completes either happened entirely or not at all.
    ///
    /// # Errors
    /// The value, if the receiver is gone.
    pub async fn send(&self, value: T) -> Result<(), T> {
        self.0.send_async(value).await.map_err(|error| error.0)
    }

    /// Sends from a thread that may block. Never on an executor.
    ///
    /// # Errors
    /// The value, if the receiver is gone.
    pub fn send_blocking(&self, value: T) -> Result<(), T> {
        self.0.send(value).map_err(|error| error.0)
    }

    /// True once the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.0.is_disconnected()
    }
}

impl<T> Receiver<T> {
    /// The next value, or `None` once every sender is gone and the channel is empty. Cancel-safe.
    pub async fn recv(&self) -> Option<T> {
        self.0.recv_async().await.ok()
    }

    /// The next value if one is there.
    pub fn try_recv(&self) -> Option<T> {
        self.0.try_recv().ok()
    }

    /// Waits for at most `timeout` on a thread that may block. Never on an executor.
    ///
    /// `None` if nothing came in time, or never will.
    pub fn recv_timeout(&self, timeout: std::time::Duration) -> Option<T> {
        self.0.recv_timeout(timeout).ok()
    }

    /// The next value, blocking the thread. Never on an executor.
    pub fn recv_blocking(&self) -> Option<T> {
        self.0.recv().ok()
    }

    /// Values that wait to be received.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if no value waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
