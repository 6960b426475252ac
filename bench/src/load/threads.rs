//! The load threads: each pinned, each with a single-threaded runtime of its own.
//!
//! All threads prepare (connect, build producers or consumers), meet, and then start at one
//! moment; a thread that fails to prepare stops the run before any load is sent.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;
use tokio::sync::Barrier;

use crate::clock::Clock;
use crate::cores::pin;
use crate::limits::{METER_MS, START_DELAY_NS};
use crate::progress::Progress;
use crate::rate::{mb_per_second, per_second};
use crate::window::Window;

/// When and where the threads run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) clock: Clock,
    pub(crate) threads: usize,
    /// Taken in turn; unpinned when empty.
    pub(crate) cores: &'a [usize],
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
}

/// What all threads have completed so far, warm-up included.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    pub(crate) fn add(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records and bytes so far, of all threads.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (
            self.records.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

/// Runs `prepare` and then `drive` on every thread; the outcomes in the order of the threads.
///
/// The first error of any thread is the error of the run.
pub(crate) fn run<Prepared, Outcome: Send>(
    plan: Plan<'_>,
    meter: &Meter,
    prepare: impl AsyncFn(usize) -> Result<Prepared> + Sync,
    drive: impl AsyncFn(Prepared, Window) -> Result<Outcome> + Sync,
) -> Result<(Window, Vec<Outcome>)> {
    let gate = StartGate::new(plan);
    // Made here, so that nothing that can fail lies before the threads' meeting.
    let runtimes = (0..plan.threads)
        .map(|_| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
        })
        .collect::<io::Result<Vec<_>>>()?;
    let body = |index: usize, runtime: &Runtime| -> Result<Option<Outcome>> {
        let pinned = pin(plan.cores.get(index % plan.cores.len().max(1)).copied());
        runtime.block_on(async {
            let prepared = match pinned {
                Ok(()) => prepare(index).await,
                Err(error) => Err(error),
            };
            let Some(window) = gate.meet(prepared.is_ok()).await else {
                // Some thread's error ends the run, perhaps this one's own.
                return prepared.map(|_| None);
            };
            drive(prepared?, window).await.map(Some)
        })
    };
    let outcomes = thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = runtimes
            .into_iter()
            .enumerate()
            .map(|(index, runtime)| scope.spawn(move || body(index, &runtime)))
            .collect();
        let progress = Progress::new();
        while threads.iter().any(|thread| !thread.is_finished()) {
            thread::park_timeout(Duration::from_millis(METER_MS));
            show(&progress, plan.clock, gate.window.get(), meter);
        }
        drop(progress);
        threads
            .into_iter()
            .map(|thread| thread.join().ok().context("a load thread panicked")?)
            .collect::<Result<Vec<_>>>()
    })?;
    let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
    match gate.window.get() {
        Some(window) if outcomes.len() == plan.threads => Ok((*window, outcomes)),
        _ => bail!("the run did not start"),
    }
}

/// Where the threads wait for each other before the first send.
struct StartGate<'a> {
    plan: Plan<'a>,
    barrier: Barrier,
    failed: AtomicBool,
    window: OnceLock<Window>,
}

impl<'a> StartGate<'a> {
    fn new(plan: Plan<'a>) -> Self {
        Self {
            plan,
            barrier: Barrier::new(plan.threads),
            failed: AtomicBool::new(false),
            window: OnceLock::new(),
        }
    }

    /// Waits for all threads; the window, or `None` if any of them is not ready.
    async fn meet(&self, ready: bool) -> Option<Window> {
        if !ready {
            self.failed.store(true, Ordering::Release);
        }
        if self.barrier.wait().await.is_leader() && !self.failed.load(Ordering::Acquire) {
            let start_ns = self.plan.clock.now_ns() + START_DELAY_NS;
            let window = Window::new(start_ns, self.plan.warmup, self.plan.duration);
            self.window
                .set(window)
                .expect("one thread leads, and it passes here once");
        }
        self.barrier.wait().await;
        self.window.get().copied()
    }
}

fn show(progress: &Progress, clock: Clock, window: Option<&Window>, meter: &Meter) {
    let Some(window) = window else {
        return progress.show("connecting");
    };
    let now_ns = clock.now_ns();
    let elapsed_ns = now_ns.saturating_sub(window.start_ns);
    let stretch = if now_ns < window.measure_ns {
        "warm-up"
    } else if now_ns < window.end_ns {
        "measuring"
    } else {
        "waiting for what is in flight"
    };
    let (records, bytes) = meter.totals();
    progress.show(&format!(
        "{stretch}: {records} records, {:.0}/s, {:.1} MB/s since the start",
        per_second(records, elapsed_ns),
        mb_per_second(bytes, elapsed_ns)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(threads: usize) -> Plan<'static> {
        Plan {
            clock: Clock::start(),
            threads,
            cores: &[],
            warmup: Duration::ZERO,
            duration: Duration::from_millis(1),
        }
    }

    #[test]
    fn all_threads_get_one_window() {
        let (window, outcomes) = run(
            plan(3),
            &Meter::default(),
            async |index| Ok(index),
            async |index, window| Ok((index, window)),
        )
        .expect("nothing fails");
        assert_eq!(outcomes, [(0, window), (1, window), (2, window)]);
    }

    #[test]
    fn one_thread_that_cannot_prepare_stops_the_run() {
        let result = run(
            plan(3),
            &Meter::default(),
            async |index| (index != 1).then_some(index).context("refused"),
            async |_, _| Ok(()),
        );
        assert_eq!(
            result.expect_err("one thread failed").to_string(),
            "refused"
        );
    }

    #[test]
    fn an_error_under_load_is_the_error_of_the_run() {
        let result = run(
            plan(2),
            &Meter::default(),
            async |index| Ok(index),
            async |index, _| if index == 0 { bail!("lost") } else { Ok(()) },
        );
        assert_eq!(result.expect_err("one thread failed").to_string(), "lost");
    }
}
