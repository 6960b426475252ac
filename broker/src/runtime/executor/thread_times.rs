//! How a thread spent its time, as the kernel's scheduler counts it.
//!
//! Says of a pause whether the thread worked through it, waited for a core, or slept. Linux only;
//! where the kernel does not count (`CONFIG_SCHED_INFO`), nothing is known.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Of one thread, since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadTimes {
    /// On a core.
    pub(super) running: Duration,
    /// Ready to run, and not on a core.
    pub(super) waiting: Duration,
}

impl ThreadTimes {
    /// What was added since an earlier look.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            running: self.running.saturating_sub(earlier.running),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }
}

/// Reads the times of the thread that opened it: about a microsecond each time.
#[derive(Debug)]
pub(super) struct ThreadClock(Option<File>);

impl ThreadClock {
    pub(super) fn open() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    pub(super) fn read(&self) -> Option<ThreadTimes> {
        let mut text = [0; 96];
        let bytes = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        parse(text.get(..bytes)?)
    }
}

/// `running waiting timeslices`, the first two in nanoseconds.
fn parse(text: &[u8]) -> Option<ThreadTimes> {
    let text = std::str::from_utf8(text).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let mut next = || fields.next()?.parse().ok().map(Duration::from_nanos);
    Some(ThreadTimes {
        running: next()?,
        waiting: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_and_anything_else_is_not() {
        let times = parse(b"7000 5000 3\n").expect("a good line");
        assert_eq!(times.running, Duration::from_micros(7));
        assert_eq!(times.waiting, Duration::from_micros(5));
        for bad in [&b""[..], b"7000", b"x 5000 3", b"-1 5000 3", b"\xff 1 1"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn time_on_a_core_is_counted_as_that() {
        let clock = ThreadClock::open();
        let Some(before) = clock.read() else { return };
        let mut spent = ThreadTimes {
            running: Duration::ZERO,
            waiting: Duration::ZERO,
        };
        while spent.running < Duration::from_millis(2) {
            spent = clock.read().expect("as before").since(before);
        }
    }
}
