//! Runs a workload on a system: producers, consumers or both, phase by phase.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use tokio::task::spawn_local;

use super::arrivals::Arrivals;
use super::caller::Caller;
use super::contents::{Contents, Stamps};
use super::drive::{Drive, Driven, Pacing, drive};
use super::marks::Marks;
use super::meter::{Meter, Series};
use super::picker::Picker;
use super::receipts::Receipts;
use super::receiving::{CatchUp, Ledger, replay, tail};
use super::threads::{self, Plan, Work};
use crate::args::{RunArgs, StartAt};
use crate::clock::{Clock, duration_ns};
use crate::limits::ORDER_PAIRS_MAX;
use crate::payload::Payload;
use crate::report::Delivery;
use crate::schedule::share_of_schedule;
use crate::systems::System;
use crate::tally::Tally;
use crate::window::Window;
use crate::workload::{Pace, Phase, Workload};

/// What a run found out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) phases: Vec<PhaseOutcome>,
    /// What became of every acknowledged record that consumers were to receive meanwhile.
    pub(crate) delivery: Option<Delivery>,
    pub(crate) series: Series,
}

/// What all threads did in one phase.
#[derive(Debug)]
pub(crate) struct PhaseOutcome {
    pub(crate) window: Window,
    pub(crate) produced: Tally,
    pub(crate) received: Tally,
    pub(crate) caught_up: Tally,
    /// What became of every acknowledged record, in a replay.
    pub(crate) replayed: Option<Delivery>,
}

/// Runs `workload`, checked and with its topic ready, on `system`.
pub(crate) fn run<S: System>(
    system: &S,
    workload: &Workload,
    partitions: u32,
    args: &RunArgs,
    clock: Clock,
) -> Result<Outcome> {
    let pairs = u64::from(workload.producers) * u64::from(partitions);
    ensure!(
        !workload.is_stamped() || pairs <= ORDER_PAIRS_MAX,
        "order is watched for {ORDER_PAIRS_MAX} pairs of a producer and a partition, not {pairs}"
    );
    let load = Load::new(system, workload, partitions, args, clock);
    let plan = Plan {
        clock,
        threads: load.threads,
        cores: &args.cores,
        phases: &workload.phases,
    };
    let done = threads::run(plan, &load.meter, &load)?;
    let mut acknowledged = vec![Marks::default(); length(workload.producers)];
    let mut phases = Vec::new();
    let mut tailed: Option<Receipts> = None;
    for (window, outcomes) in done.phases {
        phases.push(gather(window, outcomes, &mut acknowledged, &mut tailed));
    }
    let delivery = tailed.map(|receipts| receipts.against(&acknowledged));
    Ok(Outcome {
        phases,
        delivery,
        series: done.series,
    })
}

/// The counts of all threads in one phase, and what all threads have had acknowledged so far.
fn gather(
    mut window: Window,
    outcomes: Vec<ThreadOutcome>,
    acknowledged: &mut [Marks],
    tailed: &mut Option<Receipts>,
) -> PhaseOutcome {
    // A replay is measured up to the moment when everything was read.
    let ends = outcomes.iter().filter_map(|outcome| outcome.replay_end_ns);
    if let Some(end_ns) = ends.max() {
        window.end_ns = end_ns.clamp(window.measure_ns + 1, window.end_ns);
    }
    let mut phase = PhaseOutcome {
        window,
        produced: Tally::new(window),
        received: Tally::new(window),
        caught_up: Tally::new(window),
        replayed: None,
    };
    let mut replayed: Option<Receipts> = None;
    for outcome in outcomes {
        phase.produced.merge(&outcome.produced);
        phase.received.merge(&outcome.received);
        phase.caught_up.merge(&outcome.caught_up);
        for (producer, marks) in outcome.acknowledged {
            acknowledged[producer].merge(&marks);
        }
        merge(&mut replayed, outcome.replayed);
        merge(tailed, outcome.tailed);
    }
    phase.replayed = replayed.map(|receipts| receipts.against(acknowledged));
    phase
}

fn merge(all: &mut Option<Receipts>, more: Option<Receipts>) {
    match (all, more) {
        (Some(all), Some(more)) => all.merge(&more),
        (all @ None, more) => *all = more,
        (Some(_), None) => {}
    }
}

/// A workload on its way.
struct Load<'a, S> {
    system: &'a S,
    workload: &'a Workload,
    partitions: u32,
    args: &'a RunArgs,
    clock: Clock,
    threads: usize,
    /// Tells the records of this run from all others.
    run_mark: u64,
    meter: Arc<Meter>,
    arrivals: Arc<Arrivals>,
}

/// One thread's producers and consumers.
struct Part<S: System> {
    thread: usize,
    /// The numbers of the producers, within the run.
    producers: Vec<usize>,
    callers: Vec<Caller<S::Producer>>,
    tails: Vec<S::Consumer>,
    catching_up: Vec<CatchUp<S>>,
    /// Made for a replay, and used up by it.
    replayers: Vec<S::Consumer>,
    tailed: Rc<RefCell<Receipts>>,
}

/// One thread's counts in one phase.
struct ThreadOutcome {
    produced: Tally,
    /// By producer of the run.
    acknowledged: Vec<(usize, Marks)>,
    received: Tally,
    caught_up: Tally,
    replayed: Option<Receipts>,
    replay_end_ns: Option<u64>,
    /// In the last phase of a run with consumers.
    tailed: Option<Receipts>,
}

impl<'a, S: System> Load<'a, S> {
    fn new(
        system: &'a S,
        workload: &'a Workload,
        partitions: u32,
        args: &'a RunArgs,
        clock: Clock,
    ) -> Self {
        let consumers = workload.consumers.max(workload.catch_up_consumers);
        let busy = workload.producers.max(consumers.min(partitions));
        let threads = length(u32::from(args.threads).min(busy));
        Self {
            system,
            workload,
            partitions,
            args,
            clock,
            threads,
            run_mark: run_mark(),
            meter: Arc::default(),
            arrivals: Arc::new(Arrivals::new(threads, workload.phases.len())),
        }
    }

    /// Those of `count` that are this thread's.
    fn own(&self, thread: usize, count: u32) -> impl Iterator<Item = u32> + use<S> {
        let thread = u32::try_from(thread).expect("few threads");
        (thread..count).step_by(self.threads)
    }

    /// The partitions of consumer `index` of `count`: every `count`-th one. None for some if there
    /// are more consumers than partitions.
    fn assignment(&self, index: u32, count: u32) -> Vec<u32> {
        (index..self.partitions).step_by(length(count)).collect()
    }

    fn caller(&self, producer: S::Producer, index: u32, payload: &Payload) -> Caller<S::Producer> {
        let stamps = self.workload.is_stamped().then_some(Stamps {
            run: self.run_mark,
            producer: index,
            next: 0,
        });
        let payload = payload.with_seed(self.args.seed.wrapping_add(u64::from(index)));
        let contents = Contents::new(payload, stamps);
        Caller::new(producer, self.workload, index, self.partitions, contents)
    }

    /// Consumers of this thread, of `count` in all.
    async fn consumers(
        &self,
        thread: usize,
        count: u32,
        from: StartAt,
    ) -> Result<Vec<S::Consumer>> {
        let mut consumers = Vec::new();
        for index in self.own(thread, count.min(self.partitions)) {
            let assignment = self.assignment(index, count);
            consumers.push(self.system.consumer(assignment, from).await?);
        }
        Ok(consumers)
    }

    fn receipts(&self) -> Rc<RefCell<Receipts>> {
        let receipts = Receipts::new(self.run_mark, self.workload.producers);
        Rc::new(RefCell::new(receipts))
    }

    fn ledger(&self, phase: usize, window: Window, receipts: &Rc<RefCell<Receipts>>) -> Ledger {
        let drain_ns = duration_ns(self.args.drain);
        let is_replay = self.workload.phases[phase].pace == Pace::Replay;
        // The producers may take one drain, and what they sent last another. A replay has no more
        // than its window.
        let beyond_ns = if is_replay {
            0
        } else {
            drain_ns.saturating_mul(2)
        };
        Ledger {
            clock: self.clock,
            window,
            phase,
            deadline_ns: window.end_ns.saturating_add(beyond_ns),
            tally: Rc::new(RefCell::new(Tally::new(window))),
            receipts: receipts.clone(),
            arrivals: self.arrivals.clone(),
            meter: self.meter.clone(),
        }
    }

    fn pacing(&self, thread: usize, phase: &Phase, window: Window) -> Option<Pacing> {
        let calls_in_flight_max = match phase.pace {
            Pace::Pause | Pace::Replay => return None,
            Pace::OneInFlight => 1,
            Pace::Max => length(self.workload.in_flight),
            Pace::Rate(rate) => {
                let records_per_call = u64::from(self.workload.records_per_call());
                let count = self.threads.min(length(self.workload.producers));
                // A thread may have consumers only.
                if thread >= count {
                    return Some(Pacing::Open(None));
                }
                let [index, count] = [thread, count].map(|n| u64::try_from(n).expect("few"));
                let start_ns = window.start_ns;
                let share = share_of_schedule(start_ns, records_per_call, rate, index, count);
                return Some(Pacing::Open(share));
            }
        };
        Some(Pacing::Closed {
            calls_in_flight_max,
        })
    }

    /// Sends what the phase asks for; what was acknowledged.
    async fn produce(
        &self,
        part: &mut Part<S>,
        phase: usize,
        window: Window,
    ) -> (Tally, Vec<(usize, Marks)>) {
        let told = &self.workload.phases[phase];
        let Some(pacing) = self.pacing(part.thread, told, window) else {
            tokio::time::sleep_until(self.clock.instant(window.end_ns).into()).await;
            self.arrivals.produced(0);
            return (Tally::new(window), Vec::new());
        };
        let drive_so = Drive {
            clock: self.clock,
            window,
            drain: self.args.drain,
            pacing,
            records_per_call: self.workload.records_per_call(),
            lanes: Picker::lanes(self.workload, self.partitions),
            meter: self.meter.clone(),
            keep_numbers: self.workload.is_stamped(),
        };
        let Driven {
            senders,
            tally,
            acknowledged,
        } = drive(std::mem::take(&mut part.callers), drive_so).await;
        part.callers = senders;
        let acknowledged: Vec<_> = part.producers.iter().copied().zip(acknowledged).collect();
        let records = acknowledged.iter().map(|(_, marks)| marks.count()).sum();
        self.arrivals.produced(records);
        (tally, acknowledged)
    }
}

impl<S: System> Work for Load<'_, S> {
    type Part = Part<S>;
    type Outcome = ThreadOutcome;

    async fn prepare(&self, thread: usize) -> Result<Part<S>> {
        let workload = self.workload;
        let mut catching_up = Vec::new();
        let readers = workload.catch_up_consumers.min(self.partitions);
        for index in self.own(thread, readers) {
            let assignment = self.assignment(index, readers);
            let system = self.system.clone();
            catching_up.push(CatchUp::new(system, self.run_mark, assignment).await?);
        }
        let tailing = workload.consumers.min(self.partitions);
        let tails = self.consumers(thread, tailing, StartAt::Latest).await?;
        let payload = Payload::new(&workload.values, self.args.seed);
        let (mut producers, mut callers) = (Vec::new(), Vec::new());
        for index in self.own(thread, workload.producers) {
            let producer = self.system.producer(workload, index).await?;
            producers.push(length(index));
            callers.push(self.caller(producer, index, &payload));
        }
        Ok(Part {
            thread,
            producers,
            callers,
            tails,
            catching_up,
            replayers: Vec::new(),
            tailed: self.receipts(),
        })
    }

    async fn arm(&self, part: &mut Part<S>, phase: usize) -> Result<()> {
        ensure!(
            part.callers.len() == part.producers.len(),
            "a producer was stuck when the phase before had ended"
        );
        if self.workload.phases[phase].pace == Pace::Replay {
            let count = self.workload.consumers.max(1).min(self.partitions);
            part.replayers = self
                .consumers(part.thread, count, StartAt::Earliest)
                .await?;
        }
        Ok(())
    }

    async fn drive(
        &self,
        part: &mut Part<S>,
        phase: usize,
        window: Window,
    ) -> Result<ThreadOutcome> {
        let is_replay = self.workload.phases[phase].pace == Pace::Replay;
        let receipts = if is_replay {
            self.receipts()
        } else {
            part.tailed.clone()
        };
        let ledger = self.ledger(phase, window, &receipts);
        let caught_up = Rc::new(RefCell::new(Tally::new(window)));
        // On the thread's own set: what a consumer starts must live as long as the consumer.
        let patience_ns = duration_ns(self.args.drain);
        let (mut tails, mut replays, mut readers) = (Vec::new(), Vec::new(), Vec::new());
        if is_replay {
            for consumer in part.replayers.drain(..) {
                replays.push(spawn_local(replay(consumer, ledger.clone(), patience_ns)));
            }
        } else {
            for consumer in part.tails.drain(..) {
                tails.push(spawn_local(tail(consumer, ledger.clone())));
            }
        }
        // A replay ends when it has read everything; nothing else would.
        let reading_on = if is_replay {
            0..0
        } else {
            0..part.catching_up.len()
        };
        for reader in part.catching_up.drain(reading_on) {
            let reading = reader.read(self.clock, window, caught_up.clone());
            readers.push(spawn_local(reading));
        }
        let (produced, acknowledged) = if is_replay {
            // Producing ended with the phase before; only the count of ends is due.
            self.arrivals.produced(0);
            (Tally::new(window), Vec::new())
        } else {
            self.produce(part, phase, window).await
        };
        for task in tails {
            part.tails.push(task.await?);
        }
        for task in readers {
            part.catching_up.push(task.await?);
        }
        let mut replay_end_ns = None;
        for task in replays {
            replay_end_ns = replay_end_ns.max(Some(task.await?));
        }
        let is_last = phase + 1 == self.workload.phases.len();
        let received = ledger.tally.borrow().clone();
        let caught_up = caught_up.borrow().clone();
        Ok(ThreadOutcome {
            produced,
            acknowledged,
            received,
            caught_up,
            replayed: is_replay.then(|| receipts.borrow().clone()),
            replay_end_ns,
            tailed: (is_last && self.workload.consumers > 0).then(|| part.tailed.borrow().clone()),
        })
    }
}

/// Tells the records of this run from all others.
fn run_mark() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    duration_ns(now) ^ u64::from(std::process::id()).rotate_left(44)
}

fn length(count: u32) -> usize {
    usize::try_from(count).expect("u32 fits usize")
}
