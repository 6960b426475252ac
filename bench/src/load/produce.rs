//! `catena-bench produce`.

use std::process::ExitCode;

use anyhow::Result;

use super::measure::Measurement;
use super::session::ceiling_of;
use crate::args::ProduceArgs;
use crate::workload::Workload;

/// Runs the load and reports it.
pub(crate) fn run(args: &ProduceArgs, command: String) -> Result<ExitCode> {
    let plain = args
        .shape
        .workload("produce", args.topic, args.pace, args.time);
    let workload = Workload {
        verify: args.verify,
        ..plain
    };
    let measurement = Measurement {
        work: "produce",
        command,
        workload: &workload,
        args: &args.run,
        ceiling: ceiling_of(&args.run)?,
    };
    measurement.publish(&args.target)
}
