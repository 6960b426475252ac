//! Wakes an executor that went to sleep before its first task ran.
//!
//! The hazard that the [heartbeat](super::heartbeat) bounds exists from an executor's first turn
//! on: a thread that loses its core for a millisecond there parks with its main task unseen, when
//! no timer of ours is armed yet, and sleeps for good (seen three times in some ten thousand starts
//! on a busy host). Nothing on the executor can wake it then; a signal ends the wait of its ring,
//! and it looks again. Used by the thread that starts the executor.

use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::consts::SIGURG;
use tracing::debug;

/// Starts take a millisecond or two; on a busy host one signal too many does no harm.
const PATIENCE: Duration = Duration::from_millis(50);

/// Waits until the executor of a thread says that it runs, and rouses it while it does not.
///
/// # Errors
/// The thread has ended instead.
pub(super) fn until_ready<T>(
    ready: &Receiver<()>,
    thread: &JoinHandle<T>,
) -> Result<(), RecvError> {
    loop {
        match ready.recv_timeout(PATIENCE) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
            Err(RecvTimeoutError::Timeout) => rouse(thread),
        }
    }
}

/// Interrupts what the thread waits for in the kernel.
fn rouse<T>(thread: &JoinHandle<T>) {
    /// Whether the signal is handled: by default it is ignored, and interrupts nothing. What else
    /// in the process handles it is called, too.
    static HANDLED: LazyLock<bool> = LazyLock::new(|| {
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGURG, flag).is_ok()
    });
    if *HANDLED {
        debug!("an executor has not started yet; waking it");
        // SAFETY: the thread was not joined, so its id is valid, also if it has ended. The handler
        // sets a flag and nothing more.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGURG) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_thread_that_waits_in_the_kernel_is_interrupted_until_it_is_ready() {
        let (ready, until) = sync_channel(1);
        let (mut ours, _theirs) = UnixStream::pair().expect("a pair of sockets");
        // With a timeout the kernel does not go on by itself after a signal, as with a ring.
        let patience = Some(Duration::from_secs(300));
        ours.set_read_timeout(patience).expect("a timeout");
        let thread = std::thread::spawn(move || {
            // Nobody writes: only a signal ends this.
            let ended = ours.read(&mut [0]);
            ready.send(()).expect("the test waits");
            ended.map_err(|error| error.kind())
        });
        until_ready(&until, &thread).expect("it gets ready");
        let ended = thread.join().expect("no panic");
        assert_eq!(ended, Err(ErrorKind::Interrupted));
    }

    #[test]
    fn a_thread_that_ends_is_not_waited_for() {
        let (ready, until) = sync_channel::<()>(1);
        let thread = std::thread::spawn(move || drop(ready));
        assert_eq!(until_ready(&until, &thread), Err(RecvError));
        thread.join().expect("no panic");
    }
}
