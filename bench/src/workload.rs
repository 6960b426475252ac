//! What load to put on a broker, whatever the broker: from the options of a command or a file.

mod check;
mod file;
mod lines;
pub(crate) mod phase;
mod sizes;

use std::time::Duration;

use serde::Serialize;

use crate::args::{Acks, Codec, KeyMode};
use crate::limits::{KEY_BYTES, STAMP_BYTES, VERIFICATION_MAX};
pub(crate) use file::WorkloadText;
pub(crate) use lines::Lines;
pub(crate) use phase::{Pace, Phase};
pub(crate) use sizes::Sizes;

/// One workload: who sends and receives what, and in which phases.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Workload {
    pub(crate) name: String,
    /// Partitions of the topic: one if it is made and none are named.
    pub(crate) partitions: Option<u32>,
    /// Bytes a partition of a topic made for the run keeps.
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) values: Values,
    pub(crate) keys: KeyMode,
    /// Records per call, acknowledged together.
    pub(crate) batch_records: u32,
    /// Each call carries one record for each of this many partitions.
    pub(crate) spread: Option<u32>,
    /// Whether the client groups single records.
    pub(crate) client_batching: bool,
    pub(crate) producers: u32,
    /// Calls in flight per producer of a closed loop.
    pub(crate) in_flight: u32,
    pub(crate) acks: Acks,
    pub(crate) compression: Codec,
    /// Consumers that receive what is produced meanwhile.
    pub(crate) consumers: u32,
    /// Consumers that read from the earliest record on, over and over, meanwhile.
    pub(crate) catch_up_consumers: u32,
    /// Account for every acknowledged record: read back once, in the order it was sent.
    pub(crate) verify: bool,
    pub(crate) phases: Vec<Phase>,
}

/// What the values of records are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Values {
    /// Random bytes, incompressible.
    Random(Sizes),
    /// The lines of a file, in turn.
    Lines(Lines),
}

impl Values {
    /// Bytes of the longest.
    pub(crate) fn bytes_max(&self) -> u32 {
        match self {
            Self::Random(sizes) => sizes.max(),
            Self::Lines(lines) => lines.bytes_max(),
        }
    }

    /// Bytes of one on average.
    #[cfg(feature = "peers")]
    pub(crate) fn bytes_mean(&self) -> u64 {
        match self {
            Self::Random(sizes) => sizes.mean(),
            Self::Lines(lines) => lines.bytes_mean(),
        }
    }
}

impl Workload {
    /// Records of one call.
    pub(crate) fn records_per_call(&self) -> u32 {
        self.spread.unwrap_or(self.batch_records)
    }

    /// Keys and values of one call at most.
    pub(crate) fn call_bytes_max(&self) -> u64 {
        let key_bytes = match (self.spread, self.keys) {
            (None, KeyMode::RandomKeys) => KEY_BYTES,
            _ => 0,
        };
        let stamp_bytes = match self.values {
            Values::Lines(_) if self.is_stamped() => STAMP_BYTES,
            _ => 0,
        };
        let beside = u64::try_from(key_bytes + stamp_bytes).expect("a few bytes");
        u64::from(self.records_per_call()) * (u64::from(self.values.bytes_max()) + beside)
    }

    /// Whether records carry a stamp: their number and the time they were meant to be sent.
    pub(crate) fn is_stamped(&self) -> bool {
        self.verify || self.consumers > 0 || self.catch_up_consumers > 0
    }

    /// Whether each producer waits for each call.
    pub(crate) fn has_one_in_flight(&self, pace: Pace) -> bool {
        pace == Pace::OneInFlight || (pace == Pace::Max && self.in_flight == 1)
    }

    /// The workload with what verifying adds: without consumers, everything is read back at the
    /// end.
    pub(crate) fn with_verification(&self) -> Self {
        let mut workload = self.clone();
        let replays = self.phases.iter().any(|phase| phase.pace == Pace::Replay);
        if self.verify && self.consumers == 0 && !replays {
            let mut phase = Phase::new(Pace::Replay, VERIFICATION_MAX);
            "verification".clone_into(&mut phase.name);
            workload.phases.push(phase);
        }
        workload
    }

    /// How long all phases take, warm-up included.
    pub(crate) fn length(&self) -> Duration {
        self.phases
            .iter()
            .map(|phase| phase.warmup + phase.duration)
            .sum()
    }
}

/// Single records of 1 KiB as fast as possible, for tests to change.
#[cfg(test)]
pub(crate) fn plain() -> Workload {
    Workload {
        name: "plain".to_owned(),
        partitions: None,
        retention_bytes: None,
        values: Values::Random(Sizes::Fixed(1024)),
        keys: KeyMode::None,
        batch_records: 1,
        spread: None,
        client_batching: false,
        producers: 1,
        in_flight: 256,
        acks: Acks::Durable,
        compression: Codec::None,
        consumers: 0,
        catch_up_consumers: 0,
        verify: false,
        phases: vec![Phase::new(Pace::Max, Duration::from_secs(1))],
    }
}
