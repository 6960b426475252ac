//! `catena-bench e2e`: every record is stamped with its intended send time and a number, so that
//! latency spans the whole way and every acknowledged record is accounted for.

use std::process::ExitCode;

use anyhow::Result;

use super::measure::Measurement;
use super::session::ceiling_of;
use crate::args::E2eArgs;
use crate::workload::Workload;

/// Runs producers and consumers side by side and reports.
pub(crate) fn run(args: &E2eArgs, command: String) -> Result<ExitCode> {
    let plain = args.shape.workload("e2e", args.topic, args.pace, args.time);
    let workload = Workload {
        consumers: args.consumers,
        ..plain
    };
    let measurement = Measurement {
        work: "e2e",
        command,
        workload: &workload,
        args: &args.run,
        ceiling: ceiling_of(&args.run)?,
    };
    measurement.publish(&args.target)
}
