//! `catena-bench workload`: the load that a file describes.

use std::process::ExitCode;

use anyhow::Result;

use super::measure::Measurement;
use super::session::ceiling_of;
use crate::args::WorkloadArgs;
use crate::workload::Workload;

/// Runs the workload and reports it.
pub(crate) fn run(args: &WorkloadArgs, command: String) -> Result<ExitCode> {
    let workload = Workload::read(&args.file)?;
    let measurement = Measurement {
        work: "workload",
        command,
        workload: &workload,
        args: &args.run,
        ceiling: ceiling_of(&args.run)?,
    };
    measurement.publish(&args.target)
}
