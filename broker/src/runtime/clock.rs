//! Clocks and timers of an executor.
//!
//! Times are u64 microseconds of one monotonic clock shared by all threads of the process, or i64
//! milliseconds of wall time. Timers overshoot by 50-150 us, on the portable backend by up to 2 ms.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed")]
pub struct Elapsed;

/// Monotonic microseconds since the process first asked; the same on every thread.
pub fn now_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    #[cfg(feature = "simulation")]
    if let Some(world) = super::simulated::world() {
        return world.now_us();
    }
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_micros()).expect("a process runs for less than 500,000 years")
}

/// Wall clock, milliseconds since 1970 (negative before). It can jump: never for durations.
pub fn wall_ms() -> i64 {
    #[cfg(feature = "simulation")]
    if let Some(world) = super::simulated::world() {
        return world.wall_ms();
    }
    let millis = |duration: Duration| {
        i64::try_from(duration.as_millis()).expect("the clock shows a year below 292,000,000")
    };
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    }
}

/// A timer of the backend that runs on this thread.
enum Timer {
    Glommio(glommio::timer::Timer),
    Portable(Pin<Box<tokio::time::Sleep>>),
    #[cfg(feature = "simulation")]
    Simulated(super::simulated::Sleep),
}

impl Timer {
    fn new(duration: Duration) -> Timer {
        #[cfg(feature = "simulation")]
        if let Some(world) = super::simulated::world() {
            let wait_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            let deadline_us = world.now_us().saturating_add(wait_us);
            return Timer::Simulated(super::simulated::Sleep::until(deadline_us));
        }
        if super::portable::is_here() {
            return Timer::Portable(Box::pin(tokio::time::sleep(duration)));
        }
        Timer::Glommio(glommio::timer::Timer::new(duration))
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Timer::Glommio(timer) => Pin::new(timer).poll(cx).map(|_| ()),
            Timer::Portable(sleep) => sleep.as_mut().poll(cx),
            #[cfg(feature = "simulation")]
            Timer::Simulated(sleep) => Pin::new(sleep).poll(cx),
        }
    }
}

/// Waits for at least `duration`. Cancel-safe.
pub async fn sleep(duration: Duration) {
    Timer::new(duration).await;
}

/// Waits until [`now_us`] is at least `deadline_us`. Cancel-safe.
pub async fn sleep_until(deadline_us: u64) {
    let wait_us = deadline_us.saturating_sub(now_us());
    if wait_us > 0 {
        sleep(Duration::from_micros(wait_us)).await;
    }
}

/// Runs `future` for at most `duration`, then drops it.
///
/// The future is polled before the deadline is looked at, so one that is ready always wins.
///
/// # Errors
/// [`Elapsed`] if the deadline passed first; what the future had not finished is then cancelled by
/// its own rules.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    // Not the backend's own socket timeouts: they leave their timers armed when a read is
    // abandoned.
    let mut future = pin!(future);
    let mut timer = Timer::new(duration);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut timer).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

#[cfg(test)]
mod tests;
