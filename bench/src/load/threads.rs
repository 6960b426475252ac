//! The load threads: each pinned, each with a single-threaded runtime of its own.
//!
//! All threads prepare (connect, build producers or consumers), meet, and then start each phase at
//! one moment; a thread that fails stops the run before the next phase.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::LocalSet;

use super::meter::{Meter, Series};
use crate::clock::Clock;
use crate::cores::pin;
use crate::limits::{METER_MS, START_DELAY_NS};
use crate::progress::Progress;
use crate::window::Window;
use crate::workload::Phase;

/// When and where the threads run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) clock: Clock,
    pub(crate) threads: usize,
    /// Taken in turn; unpinned when empty.
    pub(crate) cores: &'a [usize],
    pub(crate) phases: &'a [Phase],
}

/// What the threads of a run do. Every step runs inside a `LocalSet` of the thread.
pub(crate) trait Work: Sync {
    /// What a thread keeps from phase to phase.
    type Part;
    /// What a thread found out in one phase.
    type Outcome: Send;

    /// Connects and builds what thread `thread` needs.
    async fn prepare(&self, thread: usize) -> Result<Self::Part>;

    /// Gets ready for phase `phase`; its window begins when all threads are.
    async fn arm(&self, part: &mut Self::Part, phase: usize) -> Result<()>;

    /// Runs phase `phase` over its window.
    async fn drive(
        &self,
        part: &mut Self::Part,
        phase: usize,
        window: Window,
    ) -> Result<Self::Outcome>;
}

/// All that a run did.
#[derive(Debug)]
pub(crate) struct Done<Outcome> {
    /// The window of each phase, and the outcomes of the threads in their order.
    pub(crate) phases: Vec<(Window, Vec<Outcome>)>,
    pub(crate) series: Series,
}

/// Runs `work` on every thread, phase by phase.
///
/// The first error of any thread is the error of the run.
pub(crate) fn run<W: Work>(plan: Plan<'_>, meter: &Meter, work: &W) -> Result<Done<W::Outcome>> {
    let gate = StartGate::new(plan);
    // Made here, so that nothing that can fail lies before the threads' meeting.
    let runtimes = (0..plan.threads)
        .map(|_| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
        })
        .collect::<io::Result<Vec<_>>>()?;
    let body = |index: usize, runtime: &Runtime| {
        let pinned = pin(plan.cores.get(index % plan.cores.len().max(1)).copied());
        LocalSet::new().block_on(runtime, run_thread(work, &gate, index, pinned))
    };
    let (outcomes, series) = thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = runtimes
            .into_iter()
            .enumerate()
            .map(|(index, runtime)| scope.spawn(move || body(index, &runtime)))
            .collect();
        let mut series = Series::default();
        let progress = Progress::new();
        while threads.iter().any(|thread| !thread.is_finished()) {
            thread::park_timeout(Duration::from_millis(METER_MS));
            let now_ns = plan.clock.now_ns();
            show(&progress, now_ns, &gate, meter, &series);
            if gate
                .windows
                .first()
                .is_some_and(|window| window.get().is_some())
            {
                series.add(now_ns, meter.totals());
            }
        }
        drop(progress);
        let outcomes = threads
            .into_iter()
            .map(|thread| thread.join().ok().context("a load thread panicked")?)
            .collect::<Result<Vec<_>>>();
        (outcomes, series)
    });
    let outcomes: Vec<Vec<W::Outcome>> = outcomes?.into_iter().flatten().collect();
    if outcomes.len() != plan.threads {
        bail!("the run did not start");
    }
    let windows = gate.windows.into_iter().filter_map(OnceLock::into_inner);
    Ok(Done {
        phases: windows.zip(by_phase(outcomes)).collect(),
        series,
    })
}

/// One thread's outcomes, phase by phase; none if another thread's error ended the run.
async fn run_thread<W: Work>(
    work: &W,
    gate: &StartGate<'_>,
    index: usize,
    pinned: Result<()>,
) -> Result<Option<Vec<W::Outcome>>> {
    let mut part = match pinned {
        Ok(()) => work.prepare(index).await,
        Err(error) => Err(error),
    };
    let mut outcomes = Vec::new();
    for phase in 0..gate.plan.phases.len() {
        if let Ok(ready) = &mut part
            && let Err(error) = work.arm(ready, phase).await
        {
            part = Err(error);
        }
        let Some(window) = gate.meet(phase, part.is_ok()).await else {
            // Some thread's error ends the run, perhaps this one's own.
            return part.map(|_| None);
        };
        let ready = part.as_mut().expect("the gate opens only if all are ready");
        match work.drive(ready, phase, window).await {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => part = Err(error),
        }
    }
    part.map(|_| Some(outcomes))
}

/// Lists by thread as lists by phase.
fn by_phase<Outcome>(threads: Vec<Vec<Outcome>>) -> Vec<Vec<Outcome>> {
    let mut phases: Vec<Vec<Outcome>> = Vec::new();
    for outcomes in threads {
        for (phase, outcome) in outcomes.into_iter().enumerate() {
            if phase == phases.len() {
                phases.push(Vec::new());
            }
            phases[phase].push(outcome);
        }
    }
    phases
}

/// Where the threads wait for each other before each phase.
struct StartGate<'a> {
    plan: Plan<'a>,
    barrier: Barrier,
    failed: AtomicBool,
    windows: Vec<OnceLock<Window>>,
}

impl<'a> StartGate<'a> {
    fn new(plan: Plan<'a>) -> Self {
        Self {
            plan,
            barrier: Barrier::new(plan.threads),
            failed: AtomicBool::new(false),
            windows: plan.phases.iter().map(|_| OnceLock::new()).collect(),
        }
    }

    /// Waits for all threads; the window of the phase, or `None` if any of them is not ready.
    async fn meet(&self, phase: usize, ready: bool) -> Option<Window> {
        if !ready {
            self.failed.store(true, Ordering::Release);
        }
        if self.barrier.wait().await.is_leader() && !self.failed.load(Ordering::Acquire) {
            let start_ns = self.plan.clock.now_ns() + START_DELAY_NS;
            let Phase {
                warmup, duration, ..
            } = self.plan.phases[phase];
            self.windows[phase]
                .set(Window::new(start_ns, warmup, duration))
                .expect("one thread leads, and it passes here once for each phase");
        }
        self.barrier.wait().await;
        self.windows[phase].get().copied()
    }
}

fn show(progress: &Progress, now_ns: u64, gate: &StartGate<'_>, meter: &Meter, series: &Series) {
    let started = gate
        .windows
        .iter()
        .rposition(|window| window.get().is_some());
    let Some(phase) = started else {
        return progress.show("connecting");
    };
    let window = gate.windows[phase].get().expect("it was found to be set");
    let stretch = if now_ns < window.measure_ns {
        "warm-up"
    } else if now_ns < window.end_ns {
        "measuring"
    } else {
        "waiting for what is in flight"
    };
    let phases = gate.plan.phases;
    let place = match phases.len() {
        1 => String::new(),
        count => format!("{}/{count} {}, ", phase + 1, phases[phase].name),
    };
    let rates = series.rates_since_last(now_ns, meter.totals());
    progress.show(&format!("{place}{stretch}: {rates}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Pace;

    /// Fails where it is told to.
    #[derive(Default)]
    struct Scripted {
        prepare_fails: Option<usize>,
        drive_fails: Option<(usize, usize)>,
    }

    impl Work for Scripted {
        type Part = usize;
        type Outcome = (usize, usize, Window);

        async fn prepare(&self, thread: usize) -> Result<usize> {
            (self.prepare_fails != Some(thread))
                .then_some(thread)
                .context("refused")
        }

        async fn arm(&self, _: &mut usize, _: usize) -> Result<()> {
            Ok(())
        }

        async fn drive(
            &self,
            part: &mut usize,
            phase: usize,
            window: Window,
        ) -> Result<Self::Outcome> {
            if self.drive_fails == Some((*part, phase)) {
                bail!("lost");
            }
            Ok((*part, phase, window))
        }
    }

    fn run_scripted(threads: usize, work: &Scripted) -> Result<Done<(usize, usize, Window)>> {
        let phases = [
            Phase::new(Pace::Max, Duration::from_millis(1)),
            Phase::new(Pace::Pause, Duration::from_millis(1)),
        ];
        let plan = Plan {
            clock: Clock::start(),
            threads,
            cores: &[],
            phases: &phases,
        };
        run(plan, &Meter::default(), work)
    }

    #[test]
    fn all_threads_get_one_window_for_each_phase() {
        let done = run_scripted(3, &Scripted::default()).expect("nothing fails");
        assert_eq!(done.phases.len(), 2);
        for (phase, (window, outcomes)) in done.phases.into_iter().enumerate() {
            let expected = [0, 1, 2].map(|thread| (thread, phase, window));
            assert_eq!(outcomes, expected);
        }
    }

    #[test]
    fn one_thread_that_cannot_prepare_stops_the_run() {
        let work = Scripted {
            prepare_fails: Some(1),
            ..Scripted::default()
        };
        let error = run_scripted(3, &work).expect_err("one thread failed");
        assert_eq!(error.to_string(), "refused");
    }

    #[test]
    fn an_error_under_load_is_the_error_of_the_run_in_any_phase() {
        for phase in [0, 1] {
            let work = Scripted {
                drive_fails: Some((0, phase)),
                ..Scripted::default()
            };
            let error = run_scripted(2, &work).expect_err("one thread failed");
            assert_eq!(error.to_string(), "lost");
        }
    }
}
