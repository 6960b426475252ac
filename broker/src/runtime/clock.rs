//! Clocks and timers of an executor.
//!
//! Times are u64 microseconds of one monotonic clock shared by all threads of the process, or i64
//! milliseconds of wall time. Timers overshoot by 50-150 us, and by up to a millisecond where the
//! kernel has no `epoll_pwait2` or forbids it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::executor::engine::{engine, here};
use super::timers::Armed;

/// A deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed")]
pub struct Elapsed;

/// Monotonic microseconds since the process first asked; the same on every thread.
pub fn now_us() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(world) = super::simulated::world() {
        return world.now_us();
    }
    now_ns() / 1000
}

/// The same in nanoseconds, for executors of real time.
pub(super) fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).expect("a process runs for less than 500 years")
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

/// A timer of the executor that runs on this thread.
enum Timer {
    Native(Sleep),
    #[cfg(feature = "simulation")]
    Simulated(super::simulated::Sleep),
}

impl Timer {
    fn new(duration: Duration) -> Timer {
        let wait_us = u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let deadline_us = now_us().saturating_add(wait_us);
        #[cfg(feature = "simulation")]
        if super::simulated::world().is_some() {
            return Timer::Simulated(super::simulated::Sleep::until(deadline_us));
        }
        Timer::Native(Sleep {
            deadline_us,
            armed: None,
        })
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Timer::Native(sleep) => Pin::new(sleep).poll(cx),
            #[cfg(feature = "simulation")]
            Timer::Simulated(sleep) => Pin::new(sleep).poll(cx),
        }
    }
}

/// Completes at a moment of the monotonic clock.
struct Sleep {
    deadline_us: u64,
    armed: Option<Armed>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now_us() >= self.deadline_us {
            return Poll::Ready(());
        }
        let engine = engine();
        if let Some(armed) = self.armed.take() {
            engine.timers.disarm(armed);
        }
        self.armed = Some(engine.timers.arm(self.deadline_us, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(armed), Some(engine)) = (self.armed.take(), here()) {
            engine.timers.disarm(armed);
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
