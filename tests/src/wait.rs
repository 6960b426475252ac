//! Waiting for a condition, with a limit that only a broken broker reaches.

use std::thread;
use std::time::{Duration, Instant};

/// Generous: what is waited for normally takes milliseconds, but the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);

const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Waits, blocking this thread, until `holds` gives true.
///
/// # Panics
/// If it does not within [`LIMIT`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// Waits, blocking this thread, until `look` finds something.
///
/// # Panics
/// If it does not within [`LIMIT`].
pub fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "still not after {LIMIT:?}: {what}");
        thread::park_timeout(LOOK_INTERVAL);
    }
}

/// As [`until`], without blocking the runtime's thread.
///
/// # Panics
/// If the condition does not hold within [`LIMIT`].
pub async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    until_some_async(what, async || holds().await.then_some(())).await;
}

/// As [`until_some`], without blocking the runtime's thread.
///
/// # Panics
/// If nothing is found within [`LIMIT`].
pub async fn until_some_async<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "still not after {LIMIT:?}: {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Gives what `future` gives.
///
/// # Panics
/// If it does not within [`LIMIT`].
pub async fn within_limit<T>(what: &str, future: impl Future<Output = T>) -> T {
    let found = tokio::time::timeout(LIMIT, future).await;
    found.unwrap_or_else(|_| panic!("still not after {LIMIT:?}: {what}"))
}

/// After so many looks it does not happen. Looks and not time: a paused machine is not stuck.
const LOOKS_MAX: u32 = 6_000;

/// Whether `holds` comes to give true, looked at for about a minute. For runs in which it may not.
pub async fn comes_true(mut holds: impl FnMut() -> bool) -> bool {
    for _ in 0..LOOKS_MAX {
        if holds() {
            return true;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    false
}

/// Lets time pass while something is measured. Not for tests: they wait for a condition.
pub fn measure_for(duration: Duration) {
    let began = Instant::now();
    while let Some(rest) = duration.checked_sub(began.elapsed()) {
        thread::park_timeout(rest);
    }
}
