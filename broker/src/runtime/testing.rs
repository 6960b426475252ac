//! What the tests of everything above the runtime share.

use std::future::Future;
use std::time::{Duration, Instant};

use super::executor::{ExecutorConfig, start};

/// Runs `main` on an executor of its own and returns its result; a panic in it fails the test.
pub(crate) fn run<T, F, Fut>(main: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let thread = start(ExecutorConfig::system("test"), main).expect("an executor starts");
    match thread.join().expect("panics are reported as errors") {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Waits, on a plain thread, until `condition` holds; fails the test after 30 s.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::yield_now();
    }
}
