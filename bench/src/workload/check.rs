//! Workloads that make no sense are refused before they run. Pure.

use anyhow::{Result, ensure};

use super::{Pace, Phase, Sizes, Values, Workload};
use crate::args::KeyMode;
use crate::limits::{BATCH_RECORDS_MAX, CLIENTS_MAX, IN_FLIGHT_MAX, RECORD_BYTES_MAX, STAMP_BYTES};

impl Workload {
    /// Refuses what no run could do as it is written.
    pub(crate) fn check(&self) -> Result<()> {
        within("partitions", self.partitions.unwrap_or(1), 1, u32::MAX)?;
        within("batch_records", self.batch_records, 1, BATCH_RECORDS_MAX)?;
        within("spread", self.spread.unwrap_or(1), 1, BATCH_RECORDS_MAX)?;
        within("producers", self.producers, 1, CLIENTS_MAX)?;
        within("in_flight", self.in_flight, 1, IN_FLIGHT_MAX)?;
        within("consumers", self.consumers, 0, CLIENTS_MAX)?;
        within(
            "catch_up_consumers",
            self.catch_up_consumers,
            0,
            CLIENTS_MAX,
        )?;
        let is_plain = self.batch_records == 1 && self.keys == KeyMode::None;
        ensure!(
            self.spread.is_none() || is_plain,
            "spread excludes batch_records and keys: a call has one record for each partition"
        );
        ensure!(
            !self.client_batching || (self.batch_records == 1 && self.spread.is_none()),
            "client_batching excludes batch_records and spread: the client makes the batches"
        );
        for phase in &self.phases {
            ensure!(phase.pace != Pace::Rate(0), "a rate of 0 is a pause");
            ensure!(!phase.duration.is_zero(), "a phase of no duration");
        }
        self.check_values()?;
        self.check_reading()
    }

    fn check_values(&self) -> Result<()> {
        let Values::Random(sizes) = self.values else {
            return Ok(());
        };
        within("record_bytes", sizes.max(), 0, RECORD_BYTES_MAX)?;
        if let Sizes::Zipf { min, max, exponent } = sizes {
            ensure!(min <= max, "record_bytes: min {min} is more than max {max}");
            ensure!(
                exponent.is_finite() && exponent >= 0.0,
                "record_bytes: the exponent must be a number, zero or more"
            );
        }
        ensure!(
            !self.is_stamped() || usize::try_from(sizes.min())? >= STAMP_BYTES,
            "records that are received or verified carry a stamp: at least {STAMP_BYTES} bytes"
        );
        Ok(())
    }

    fn check_reading(&self) -> Result<()> {
        let replays = |phase: &Phase| phase.pace == Pace::Replay;
        let has_replay = self.phases.iter().any(replays);
        ensure!(
            !has_replay || self.is_stamped(),
            "a replay needs consumers or verify: records are told from older ones by their stamp"
        );
        ensure!(
            !self.phases.first().is_some_and(replays),
            "a replay reads what phases before it have produced"
        );
        let reads_all = has_replay || (self.verify && self.consumers == 0);
        ensure!(
            !reads_all || self.retention_bytes.is_none(),
            "what is read back at the end must be kept: leave retention_bytes out"
        );
        Ok(())
    }
}

fn within(name: &str, value: u32, min: u32, max: u32) -> Result<()> {
    ensure!(
        (min..=max).contains(&value),
        "{name} must lie between {min} and {max}, not {value}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::workload::plain;

    fn refused(change: impl FnOnce(&mut Workload)) -> String {
        let mut workload = plain();
        change(&mut workload);
        let refusal = workload.check().expect_err("it must be refused");
        refusal.to_string()
    }

    #[test]
    fn numbers_are_held_to_their_limits() {
        let mut workload = plain();
        workload.producers = CLIENTS_MAX;
        workload.in_flight = IN_FLIGHT_MAX;
        workload.batch_records = BATCH_RECORDS_MAX;
        workload.values = Values::Random(Sizes::Fixed(RECORD_BYTES_MAX));
        workload.check().expect("every number at its limit");
        assert!(refused(|w| w.producers = CLIENTS_MAX + 1).contains("producers"));
        assert!(refused(|w| w.producers = 0).contains("producers"));
        assert!(refused(|w| w.partitions = Some(0)).contains("partitions"));
        assert!(refused(|w| w.in_flight = IN_FLIGHT_MAX + 1).contains("in_flight"));
        assert!(refused(|w| w.batch_records = 0).contains("batch_records"));
        let long = Values::Random(Sizes::Fixed(RECORD_BYTES_MAX + 1));
        assert!(refused(|w| w.values = long).contains("record_bytes"));
    }

    #[test]
    fn a_stamp_must_fit_into_the_shortest_record() {
        let stamped = |min| {
            let mut workload = plain();
            workload.verify = true;
            workload.values = Values::Random(Sizes::Zipf {
                min,
                max: 100,
                exponent: 1.0,
            });
            workload.check()
        };
        let bytes = u32::try_from(STAMP_BYTES).expect("a few");
        stamped(bytes).expect("it fits");
        assert!(stamped(bytes - 1).is_err());
    }

    #[test]
    fn what_is_read_back_must_have_been_produced_and_kept() {
        let replay = Phase::new(Pace::Replay, Duration::from_secs(1));
        let alone = vec![replay.clone()];
        assert!(refused(|w| (w.verify, w.phases) = (true, alone)).contains("before it"));
        assert!(refused(|w| w.phases.push(replay)).contains("stamp"));
        assert!(refused(|w| (w.verify, w.retention_bytes) = (true, Some(1))).contains("kept"));
    }

    #[test]
    fn a_zipf_distribution_needs_an_exponent_that_is_a_number() {
        for exponent in [f64::NAN, f64::INFINITY, -1.0] {
            let values = Values::Random(Sizes::Zipf {
                min: 100,
                max: 200,
                exponent,
            });
            assert!(refused(|w| w.values = values).contains("exponent"));
        }
    }
}
