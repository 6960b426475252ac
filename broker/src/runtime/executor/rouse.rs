//! Wakes an executor that sleeps over work of its own.
//!
//! The timers of the [heartbeat](super::heartbeat) bound that hazard as long as one is armed. None
//! is before the first task ran: a thread that loses its core for a millisecond there parks with
//! its main task unseen (seen three times in some ten thousand starts on a busy host). And a thread
//! that gets no core until all of them have fired has one try left, which can fail in the same way.
//! Nothing on the executor wakes it then. A signal does: it ends the wait of the ring, and the
//! executor looks again. The thread that starts an executor sends it until the executor says that
//! it runs, the watchdog as long as a shard that serves stands still.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::process::getpid;
use rustix::thread::gettid;
use signal_hook::consts::SIGURG;

/// Starts take a millisecond or two; on a busy host one signal too many does no harm.
const PATIENCE: Duration = Duration::from_millis(50);

/// A thread that can be interrupted, from its start to its end.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    /// The kernel's number of the thread; 0 when there is none.
    thread: AtomicI32,
}

impl Sleeper {
    /// It is the current thread.
    pub(super) fn begin(&self) {
        let number = gettid().as_raw_nonzero().get();
        self.thread.store(number, Ordering::Relaxed);
    }

    /// The thread ends.
    pub(super) fn end(&self) {
        self.thread.store(0, Ordering::Relaxed);
    }

    /// Interrupts what the thread waits for in the kernel; nothing if there is none.
    pub(super) fn rouse(&self) {
        /// Whether the signal is handled: by default it is ignored, and interrupts nothing. What
        /// else in the process handles it is called, too.
        static HANDLED: LazyLock<bool> = LazyLock::new(|| {
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(SIGURG, flag).is_ok()
        });
        let thread = self.thread.load(Ordering::Relaxed);
        if thread != 0 && *HANDLED {
            let process = getpid().as_raw_nonzero().get();
            // SAFETY: no memory is passed. A thread that has just ended is not found, and another
            // of this process that got its number is interrupted for nothing: the handler sets a
            // flag and nothing more.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGURG) };
        }
    }
}

/// Waits until an executor says that it runs, and rouses it while it does not.
///
/// # Errors
/// Its thread has ended instead.
pub(super) fn until_ready(ready: &Receiver<()>, rouse: impl Fn()) -> Result<(), RecvError> {
    loop {
        match ready.recv_timeout(PATIENCE) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
            Err(RecvTimeoutError::Timeout) => rouse(),
        }
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
        let sleeper = Arc::new(Sleeper::default());
        let asleep = Arc::clone(&sleeper);
        let thread = std::thread::spawn(move || {
            asleep.begin();
            // Nobody writes: only a signal ends this.
            let ended = ours.read(&mut [0]);
            ready.send(()).expect("the test waits");
            asleep.end();
            ended.map_err(|error| error.kind())
        });
        until_ready(&until, || sleeper.rouse()).expect("it gets ready");
        let ended = thread.join().expect("no panic");
        assert_eq!(ended, Err(ErrorKind::Interrupted));
        // Whoever has its number now is left alone.
        assert_eq!(sleeper.thread.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_thread_that_ends_is_not_waited_for() {
        let (ready, until) = sync_channel::<()>(1);
        let thread = std::thread::spawn(move || drop(ready));
        assert_eq!(until_ready(&until, || {}), Err(RecvError));
        thread.join().expect("no panic");
    }
}
