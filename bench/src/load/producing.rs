//! What produce and end-to-end runs share: dealing producers to threads, driving them, and the
//! parts of the report that are about them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::contents::{Contents, Stamps};
use super::drive::{Drive, Driven, Pacing, drive};
use super::picker::Picker;
use super::sender::ClientSender;
use super::target::{Topic, connect};
use super::threads::Meter;
use crate::args::{Acks, Pace, RunArgs, ShapeArgs, TargetArgs};
use crate::clock::Clock;
use crate::payload::PayloadPool;
use crate::report::{LoadReport, ScheduleReport};
use crate::schedule::share_of_schedule;
use crate::tally::Tally;
use crate::window::Window;

/// Length of the warm-up unless the user says otherwise.
pub(crate) const WARMUP: Duration = Duration::from_secs(2);

/// The producing side of a run.
#[derive(Clone, Debug)]
pub(crate) struct Producing<'a> {
    pub(crate) target: &'a TargetArgs,
    pub(crate) shape: &'a ShapeArgs,
    pub(crate) pace: Pace,
    pub(crate) run: &'a RunArgs,
    pub(crate) topic: Topic,
    pub(crate) clock: Clock,
    pub(crate) meter: Arc<Meter>,
    /// In an end-to-end run, what marks its records.
    pub(crate) run_mark: Option<u64>,
}

impl Producing<'_> {
    /// Threads that have a producer.
    pub(crate) fn threads(&self) -> u32 {
        self.shape.producers.min(u32::from(self.run.threads))
    }

    /// The producers of thread `thread`, each with its own connections.
    pub(crate) async fn prepare(&self, thread: u32) -> Result<Vec<ClientSender>> {
        let seed = self.run.seed;
        let pool = PayloadPool::new(usize::try_from(self.shape.record_bytes)?, seed);
        let next = Rc::new(Cell::new(0));
        let mut senders = Vec::new();
        for index in (thread..self.shape.producers).step_by(usize::try_from(self.threads())?) {
            let client = connect(&self.target.broker).await?;
            let stamps = self.run_mark.map(|run| Stamps {
                run,
                thread,
                next: next.clone(),
            });
            let pool = pool.with_seed(seed.wrapping_add(u64::from(index)));
            let contents = Contents::new(pool, stamps);
            let sender = ClientSender::build(&client, &self.topic, self.shape, index, contents);
            senders.push(sender.await?);
        }
        Ok(senders)
    }

    /// Drives the producers of thread `thread` over `window`.
    pub(crate) async fn drive(
        &self,
        thread: u32,
        senders: Vec<ClientSender>,
        window: Window,
    ) -> Driven {
        let told = Drive {
            clock: self.clock,
            window,
            drain: self.run.drain,
            pacing: self.pacing(thread, window),
            records_per_call: self.shape.records_per_call(),
            lanes: Picker::lanes(self.shape, self.topic.partitions),
            meter: self.meter.clone(),
            keep_numbers: self.run_mark.is_some(),
        };
        drive(senders, told).await
    }

    fn pacing(&self, thread: u32, window: Window) -> Pacing {
        let Some(rate) = self.pace.rate else {
            let calls = if self.is_one_in_flight() {
                1
            } else {
                self.shape.in_flight
            };
            let calls_in_flight_max = usize::try_from(calls).expect("u32 fits usize");
            return Pacing::Closed {
                calls_in_flight_max,
            };
        };
        let records_per_call = u64::from(self.shape.records_per_call());
        let (index, count) = (u64::from(thread), u64::from(self.threads()));
        // A thread of an end-to-end run may have consumers only.
        if index >= count {
            return Pacing::Open(None);
        }
        Pacing::Open(share_of_schedule(
            window.start_ns,
            records_per_call,
            rate,
            index,
            count,
        ))
    }

    /// Whether each producer waits for each call.
    pub(crate) fn is_one_in_flight(&self) -> bool {
        self.pace.one_in_flight || (self.pace.max && self.shape.in_flight == 1)
    }

    /// Adds to the report what is known of the producing side.
    pub(crate) fn describe(&self, report: &mut LoadReport, producers: &Tally) {
        describe_durability(report, self.shape.acks);
        let Some(rate) = self.pace.rate else { return };
        let lateness = producers.lateness;
        report.schedule = Some(ScheduleReport::new(rate, lateness));
        if lateness.late > 0 {
            let remark = "sends started late; their delay is part of the latencies shown";
            report.remarks.push(remark.to_owned());
        }
    }
}

fn describe_durability(report: &mut LoadReport, acks: Acks) {
    report.durability = match acks {
        Acks::Durable => "durable: acknowledged after the flush on every member of the chain",
        Acks::Received => "received: acknowledged from memory, may be lost in a crash",
        Acks::None => "none: never acknowledged, done when the client has sent it",
    };
}
