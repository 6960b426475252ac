//! Tasks: tokio's, but cancelled when dropped, and with panics that end the executor.

use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::task::JoinHandle;

use super::Portable;

/// A spawned task: a future of its result, cancelled on drop.
#[derive(Debug)]
pub(in crate::runtime) struct PortableTask<T>(Option<JoinHandle<T>>);

impl Portable {
    /// Spawns a task on the executor of this thread.
    pub(in crate::runtime) fn spawn<F>(self: &Rc<Self>, future: F) -> PortableTask<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let portable = Rc::clone(self);
        // The backend would keep a panic for whoever awaits the task, which may be nobody.
        let guarded = async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(output) => output,
                Err(panic) => {
                    portable.note_panic(panic);
                    pending().await
                }
            }
        };
        PortableTask(Some(tokio::task::spawn_local(guarded)))
    }
}

impl<T> PortableTask<T> {
    pub(in crate::runtime) fn detach(mut self) {
        // A handle that is dropped leaves its task alone.
        self.0.take();
    }

    /// Stops the task and waits until its future is dropped. `Some` if it had completed.
    pub(in crate::runtime) async fn cancel(mut self) -> Option<T> {
        let handle = self.0.take()?;
        handle.abort();
        handle.await.ok()
    }
}

impl<T> Future for PortableTask<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let handle = self.0.as_mut().expect("taken only with the task");
        match Pin::new(handle).poll(cx) {
            Poll::Ready(Ok(output)) => Poll::Ready(output),
            // Without its handle a task ends only with the executor, and with it who waits here.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for PortableTask<T> {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}
