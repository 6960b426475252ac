//! Work that goes on without being polled: calls on their way, and records received ahead.
//!
//! Most clients send a request when its future is first polled and lose the answer when it is
//! dropped. The generator polls only the oldest call of a lane and drops a wait when its time is
//! up, so such futures get a local task each.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use super::{Consumer, Received};
use crate::limits::FEED_BATCHES_MAX;

/// A call on its way in a task of its own.
#[derive(Debug)]
pub(crate) struct Spawned(JoinHandle<Result<(), String>>);

impl Spawned {
    /// Starts `call` on this thread's `LocalSet`.
    pub(crate) fn new(call: impl Future<Output = Result<(), String>> + 'static) -> Self {
        Self(spawn_local(call))
    }
}

impl Future for Spawned {
    type Output = Result<(), String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|joined| match joined {
                Ok(outcome) => outcome,
                Err(_) => Err("the call was given up".to_owned()),
            })
    }
}

/// A record that was received ahead.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) partition: u32,
    pub(crate) key_bytes: usize,
    pub(crate) value: Bytes,
}

/// Records in the order they came, or the kind of an error.
pub(crate) type Batch = Result<Vec<Owned>, String>;

/// A consumer whose receiving goes on in a task of its own, a bounded number of batches ahead.
#[derive(Debug)]
pub(crate) struct Feed {
    batches: mpsc::Receiver<Batch>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Starts the task that `receive` makes of the channel it is to fill. The task ends when the
    /// channel is closed, at the latest when the feed is dropped.
    pub(crate) fn new<Task: Future<Output = ()> + 'static>(
        receive: impl FnOnce(mpsc::Sender<Batch>) -> Task,
    ) -> Self {
        let (sender, batches) = mpsc::channel(FEED_BATCHES_MAX);
        let task = spawn_local(receive(sender));
        Self { batches, task }
    }
}

impl Consumer for Feed {
    async fn receive(&mut self, take: &mut dyn FnMut(Result<Received<'_>, String>)) {
        let Some(batch) = self.batches.recv().await else {
            // The task gave up and has said why; there is nothing more to wait for.
            return std::future::pending().await;
        };
        let records = match batch {
            Ok(records) => records,
            Err(kind) => return take(Err(kind)),
        };
        for record in &records {
            take(Ok(Received {
                partition: record.partition,
                key_bytes: record.key_bytes,
                value: &record.value,
            }));
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}
