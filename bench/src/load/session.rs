//! What every load run does before and after its load: samplers, comparison, report.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use crate::args::RunArgs;
use crate::ceiling::report::CeilingReport;
use crate::clock::Clock;
use crate::cores::keep_to;
use crate::limits::SAMPLING_GAP_MS_MAX;
use crate::machine::Machine;
use crate::report::{LoadReport, PhaseReport, SegmentReport, html, write_json};
use crate::server::metrics::{SegmentCounters, segment_counters};
use crate::server::{Sampler, Samples};
use crate::shares::{Compared, mismatch, shares};
use crate::window::Window;

/// A run in progress.
pub(crate) struct Session<'a> {
    pub(crate) clock: Clock,
    args: &'a RunArgs,
    ceiling: Option<CeilingReport>,
    segments_before: Option<SegmentCounters>,
    server: Option<Sampler>,
    generator: Sampler,
}

impl<'a> Session<'a> {
    /// Gets the system ready by `prepare`, and begins to sample; the results will be held against
    /// `ceiling`.
    pub(crate) fn begin<Ready>(
        args: &'a RunArgs,
        ceiling: Option<CeilingReport>,
        prepare: impl Future<Output = Result<Ready>>,
    ) -> Result<(Self, Ready)> {
        keep_to(&args.cores)?;
        let (ready, segments_before) = small_runtime()?
            .block_on(async { anyhow::Ok((prepare.await?, segments(args).await?)) })?;
        let clock = Clock::start();
        let server = args
            .server_pid
            .map(|pid| Sampler::start(pid, clock))
            .transpose()?;
        let generator = Sampler::start(std::process::id(), clock)?;
        let session = Self {
            clock,
            args,
            ceiling,
            segments_before,
            server,
            generator,
        };
        Ok((session, ready))
    }

    /// Adds `phases`, each with its window and what it is to be held against, and completes the
    /// report.
    pub(crate) fn complete(
        self,
        report: &mut LoadReport,
        phases: Vec<(PhaseReport, Window, Compared)>,
    ) -> Result<()> {
        report.machine = Machine::describe(self.args.data_dir.as_deref());
        let server = self.server.map(Sampler::finish).transpose()?;
        let generator = self.generator.finish()?;
        for (mut phase, window, compared) in phases {
            let bytes = phase.throughput.bytes;
            let used = |samples: &Samples| samples.over(window, bytes);
            phase.server = server.as_ref().map(used);
            phase.generator = Some(used(&generator));
            if let Some(ceiling) = &self.ceiling {
                phase.shares = shares(compared, ceiling);
            }
            report.phases.push(phase);
        }
        let gap_ms = generator.longest_gap_ms();
        if gap_ms > SAMPLING_GAP_MS_MAX {
            report.remarks.push(format!(
                "this machine stood still for {gap_ms:.0} ms: do not trust these latencies"
            ));
        }
        let segments_after = small_runtime()?.block_on(segments(self.args))?;
        report.segments = segments_after
            .zip(self.segments_before)
            .map(|(after, before)| SegmentReport::from(after.since(before)));
        if let Some(ceiling) = &self.ceiling {
            let elsewhere = mismatch(&report.machine, &ceiling.machine);
            report.remarks.extend(elsewhere);
        }
        Ok(())
    }
}

/// The ceiling that the options name.
pub(crate) fn ceiling_of(args: &RunArgs) -> Result<Option<CeilingReport>> {
    args.ceiling.as_deref().map(CeilingReport::load).transpose()
}

/// Prints the report and writes the files asked for; failure if records failed and that was not
/// allowed.
pub(crate) fn publish(report: &LoadReport, args: &RunArgs) -> Result<ExitCode> {
    print!("{}", report.render());
    if let Some(path) = &args.json {
        write_json(path, report)?;
    }
    if let Some(path) = &args.html {
        html::write(path, report)?;
    }
    let failed = report.has_failures() && !args.allow_errors;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

pub(crate) fn small_runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

async fn segments(args: &RunArgs) -> Result<Option<SegmentCounters>> {
    let Some(address) = &args.admin else {
        return Ok(None);
    };
    let counters = segment_counters(address).await;
    counters
        .map(Some)
        .with_context(|| "--admin names no address with the broker's metrics")
}
