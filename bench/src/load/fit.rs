//! Whether the records of a bulk call fit into one batch. Pure.

use anyhow::{Result, bail};
use catena_protocol::batch::{BatchBuilder, BatchOptions};
use catena_protocol::record::Record;

use crate::args::KeyMode;
use crate::workload::Workload;

/// Refuses a shape whose bulk calls would silently become several batches each, since the
/// figures would then be those of another shape.
pub(crate) fn check_one_batch(workload: &Workload) -> Result<()> {
    // Records with keys or for several partitions go to as many batches as they hit partitions.
    if workload.spread.is_some() || workload.keys == KeyMode::RandomKeys {
        return Ok(());
    }
    let longest = workload.call_bytes_max() / u64::from(workload.records_per_call());
    let value = vec![0; usize::try_from(longest)?];
    let fitting = records_that_fit(&value, workload.batch_records);
    if fitting < workload.batch_records {
        bail!(
            "{} records of {} bytes do not fit into one batch, at most {fitting} do",
            workload.batch_records,
            longest
        );
    }
    Ok(())
}

fn records_that_fit(value: &[u8], wanted: u32) -> u32 {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = Record::from_value(value);
    (0..wanted)
        .find(|_| builder.push(&record).is_err())
        .unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_records_of_a_kibibyte_fit() {
        assert_eq!(records_that_fit(&[0; 1024], 1000), 1000);
    }

    #[test]
    fn what_does_not_fit_is_found_before_the_run() {
        let fitting = records_that_fit(&[0; 1024], 2000);
        assert!((1000..1010).contains(&fitting), "{fitting}");
        assert_eq!(records_that_fit(&vec![0; 2 << 20], 1), 0);
    }
}
