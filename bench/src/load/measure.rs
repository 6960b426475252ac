//! Measures a workload on a system: the run, and the report of it.

use std::process::ExitCode;

use anyhow::Result;

use super::fit::check_one_batch;
use super::run::{Outcome, PhaseOutcome, run};
use super::session::{Session, publish};
use crate::args::{RunArgs, TargetArgs};
use crate::ceiling::report::CeilingReport;
use crate::report::{Knee, LatencyReport, LoadReport, PhaseReport, ScheduleReport, Throughput};
use crate::shares::Compared;
use crate::systems::{Job, Prepared, System, on};
use crate::window::Window;
use crate::workload::{Pace, Phase, Workload};

/// A workload to be measured on a system.
pub(crate) struct Measurement<'a> {
    pub(crate) work: &'static str,
    pub(crate) command: String,
    pub(crate) workload: &'a Workload,
    pub(crate) args: &'a RunArgs,
    /// What the results are held against.
    pub(crate) ceiling: Option<CeilingReport>,
}

impl Measurement<'_> {
    /// Measures on the system that `target` names, prints the report and writes the files asked
    /// for; failure if records failed and that was not allowed.
    pub(crate) fn publish(self, target: &TargetArgs) -> Result<ExitCode> {
        let args = self.args;
        let report = on(target.system, &target.target(), self)?;
        publish(&report, args)
    }
}

impl Job for Measurement<'_> {
    type Output = LoadReport;

    fn run<S: System>(self, system: &S) -> Result<LoadReport> {
        measure(system, self)
    }
}

fn measure<S: System>(system: &S, told: Measurement<'_>) -> Result<LoadReport> {
    let Measurement {
        work,
        command,
        workload,
        args,
        ceiling,
    } = told;
    let workload = &workload.with_verification();
    workload.check()?;
    check_one_batch(workload)?;
    let (session, prepared) = Session::begin(args, ceiling, system.prepare(workload))?;
    let Prepared { partitions, facts } = prepared;
    let outcome = run(system, workload, partitions, args, session.clock)?;
    let mut report = LoadReport::new(work, command, facts);
    report.workload = Some(workload.clone());
    report.delivery = outcome.delivery;
    let run_start_ns = outcome
        .phases
        .first()
        .map_or(0, |phase| phase.window.start_ns);
    report.series = outcome.series.rates(run_start_ns);
    let phases = describe_all(workload, &outcome, run_start_ns);
    session.complete(&mut report, phases)?;
    report.knee = Knee::of(&report.phases);
    if outcome
        .phases
        .iter()
        .any(|phase| phase.produced.lateness.late > 0)
    {
        let remark = "sends started late; their delay is part of the latencies shown";
        report.remarks.push(remark.to_owned());
    }
    Ok(report)
}

fn describe_all(
    workload: &Workload,
    outcome: &Outcome,
    run_start_ns: u64,
) -> Vec<(PhaseReport, Window, Compared)> {
    let phases = workload.phases.iter().zip(&outcome.phases);
    phases
        .map(|(told, did)| {
            let phase = describe(workload, told, did, run_start_ns);
            let compared = compared(workload, told, &phase);
            (phase, did.window, compared)
        })
        .collect()
}

fn describe(workload: &Workload, told: &Phase, did: &PhaseOutcome, start_ns: u64) -> PhaseReport {
    let acks = if told.pace.is_open() {
        "intended send to ack"
    } else {
        "send to ack"
    };
    let ack_latency = LatencyReport::of(&did.produced.latencies, acks);
    let receives = workload.consumers > 0 || told.pace == Pace::Replay;
    let tally = if receives {
        &did.received
    } else {
        &did.produced
    };
    let mut phase = PhaseReport::new(&told.name, tally, did.window, start_ns);
    if receives {
        phase.call_unit = "records";
        if told.pace != Pace::Replay {
            let spans = "intended send to receipt, per record";
            phase.latency = LatencyReport::of(&did.received.latencies, spans);
            phase.ack_latency = ack_latency;
            phase.add_errors(&did.produced);
        }
    } else {
        phase.latency = ack_latency;
    }
    if workload.catch_up_consumers > 0 && told.pace != Pace::Replay {
        let elapsed_ns = did.window.measured_ns();
        phase.catch_up = Some(Throughput::of(&did.caught_up, elapsed_ns));
        phase.add_errors(&did.caught_up);
    }
    if let Pace::Rate(rate) = told.pace {
        phase.schedule = Some(ScheduleReport::new(rate, did.produced.lateness));
    }
    phase.delivery = did.replayed;
    phase
}

fn compared(workload: &Workload, told: &Phase, phase: &PhaseReport) -> Compared {
    let mb_per_second = phase.throughput.mb_per_second;
    if told.pace == Pace::Replay {
        return Compared::Fetch { mb_per_second };
    }
    if workload.consumers > 0 || told.pace == Pace::Pause {
        return Compared::Nothing;
    }
    match &phase.latency {
        Some(latency) if workload.producers == 1 && workload.has_one_in_flight(told.pace) => {
            Compared::OneInFlight {
                p50_us: latency.summary.p50_us,
                p99_us: latency.summary.p99_us,
            }
        }
        _ => Compared::Produce { mb_per_second },
    }
}
