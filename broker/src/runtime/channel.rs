//! Channels: between executors (and other threads), and inside one executor.
//!
//! Between threads: [`bounded`], a multi-producer, single-consumer queue whose ends are `Send`.
//! Inside one executor, without atomics: [`Notify`] and [`oneshot`].
//!
//! Invariant: once a channel is closed, by its receiver or by the end of that, a sender that asks
//! after its send sees so, or what it sent is dropped. The queue below would keep what nobody
//! receives for as long as there are senders.

mod local;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use local::{Notify, OneshotReceiver, OneshotSender, oneshot};

/// The sending end; cheap to clone, usable from any thread.
#[derive(Debug)]
pub struct Sender<T> {
    queue: flume::Sender<T>,
    closed: Arc<AtomicBool>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            closed: Arc::clone(&self.closed),
        }
    }
}

/// The receiving end. Dropping it closes the channel.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: flume::Receiver<T>,
    closed: Arc<AtomicBool>,
}

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
    let closed = Arc::<AtomicBool>::default();
    (
        Sender {
            queue: sender,
            closed: Arc::clone(&closed),
        },
        Receiver {
            queue: receiver,
            closed,
        },
    )
}

impl<T> Sender<T> {
    /// Sends without waiting.
    ///
    /// # Errors
    /// [`TrySendError`] with the value, if the channel is full or closed.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if self.is_closed() {
            return Err(TrySendError::Closed(value));
        }
        self.queue.try_send(value).map_err(|error| match error {
            flume::TrySendError::Full(value) => TrySendError::Full(value),
            flume::TrySendError::Disconnected(value) => TrySendError::Closed(value),
        })
    }

    /// Sends, waiting for room.
    ///
    /// Cancellation: a send dropped before it completes either happened entirely or not at all.
    ///
    /// # Errors
    /// The value, if the channel is closed. One that is closed in the same instant may have taken
    /// and dropped it: who has to know asks [`is_closed`](Self::is_closed) afterwards.
    pub async fn send(&self, value: T) -> Result<(), T> {
        if self.is_closed() {
            return Err(value);
        }
        let sent = self.queue.send_async(value).await;
        sent.map_err(|error| error.0)
    }

    /// Sends from a thread that may block. Never on an executor.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_blocking(&self, value: T) -> Result<(), T> {
        if self.is_closed() {
            return Err(value);
        }
        self.queue.send(value).map_err(|error| error.0)
    }

    /// True once nothing that is sent will be received.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl<T> Receiver<T> {
    /// The next value, or `None` once every sender is gone and the channel is empty. Cancel-safe.
    pub async fn recv(&self) -> Option<T> {
        self.queue.recv_async().await.ok()
    }

    /// The next value if one is there.
    pub fn try_recv(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }

    /// Waits for at most `timeout` on a thread that may block. Never on an executor.
    ///
    /// `None` if nothing came in time, or never will.
    pub fn recv_timeout(&self, timeout: std::time::Duration) -> Option<T> {
        self.queue.recv_timeout(timeout).ok()
    }

    /// The next value, blocking the thread. Never on an executor.
    pub fn recv_blocking(&self) -> Option<T> {
        self.queue.recv().ok()
    }

    /// Refuses what is sent from now on and drops what waits.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // What is sent after the queue was seen empty finds the flag set: the queue's lock orders
        // the two.
        while self.queue.try_recv().is_ok() {}
    }

    /// What closes the channel when dropped, be the receiver leaked. For an executor's guard.
    pub fn closer(&self) -> Closer<T> {
        Closer {
            _receiver: Self {
                queue: self.queue.clone(),
                closed: Arc::clone(&self.closed),
            },
        }
    }

    /// Values that wait to be received.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True if no value waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Closes a channel when dropped, as its [`Receiver`] does.
#[derive(Debug)]
#[must_use = "dropping it closes the channel"]
pub struct Closer<T> {
    _receiver: Receiver<T>,
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
