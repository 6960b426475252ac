//! What every load run does before and after its load: topic, samplers, comparison, report.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use super::target::{Topic, ensure_topic, find_topic};
use crate::args::{RunArgs, TargetArgs};
use crate::ceiling::report::CeilingReport;
use crate::clock::Clock;
use crate::compare::{Compared, mismatch, shares};
use crate::cores::keep_to;
use crate::limits::SAMPLING_GAP_MS_MAX;
use crate::machine::Machine;
use crate::report::{LoadReport, SegmentReport, write_json};
use crate::server::Sampler;
use crate::server::metrics::{SegmentCounters, segment_counters};
use crate::window::Window;

/// Whether a run makes the topic it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicRule {
    CreateMissing,
    MustExist,
}

/// A run in progress.
pub(crate) struct Session<'a> {
    pub(crate) clock: Clock,
    pub(crate) topic: Topic,
    args: &'a RunArgs,
    ceiling: Option<CeilingReport>,
    segments_before: Option<SegmentCounters>,
    server: Option<Sampler>,
    generator: Sampler,
}

impl<'a> Session<'a> {
    /// Reads the ceiling, makes sure of the topic, and begins to sample.
    pub(crate) fn begin(args: &'a RunArgs, target: &TargetArgs, rule: TopicRule) -> Result<Self> {
        keep_to(&args.cores)?;
        let ceiling = args
            .ceiling
            .as_deref()
            .map(CeilingReport::load)
            .transpose()?;
        let runtime = small_runtime()?;
        let (topic, segments_before) = runtime.block_on(async {
            let topic = match rule {
                TopicRule::CreateMissing => ensure_topic(target).await?,
                TopicRule::MustExist => find_topic(target).await?,
            };
            anyhow::Ok((topic, segments(args).await?))
        })?;
        let clock = Clock::start();
        let server = args
            .server_pid
            .map(|pid| Sampler::start(pid, clock))
            .transpose()?;
        let generator = Sampler::start(std::process::id(), clock)?;
        Ok(Self {
            clock,
            topic,
            args,
            ceiling,
            segments_before,
            server,
            generator,
        })
    }

    /// Completes and prints the report; failure if records failed and that was not allowed.
    pub(crate) fn finish(
        self,
        mut report: LoadReport,
        window: Window,
        compared: Compared,
    ) -> Result<ExitCode> {
        let bytes = report.throughput.bytes;
        report.machine = Machine::describe(self.args.data_dir.as_deref());
        report.server = self
            .server
            .map(|server| server.finish(window, bytes))
            .transpose()?;
        let generator = self.generator.finish(window, bytes)?;
        if generator.sampling_gap_ms > SAMPLING_GAP_MS_MAX {
            report.remarks.push(format!(
                "this machine stood still for {:.0} ms: do not trust these latencies",
                generator.sampling_gap_ms
            ));
        }
        report.generator = Some(generator);
        let segments_after = small_runtime()?.block_on(segments(self.args))?;
        report.segments = segments_after
            .zip(self.segments_before)
            .map(|(after, before)| SegmentReport::from(after.since(before)));
        if let Some(ceiling) = &self.ceiling {
            report.shares = shares(compared, ceiling);
            report
                .remarks
                .extend(mismatch(&report.machine, &ceiling.machine));
        }
        print!("{}", report.render());
        if let Some(path) = &self.args.json {
            write_json(path, &report)?;
        }
        let failed = report.has_failures() && !self.args.allow_errors;
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn small_runtime() -> Result<Runtime> {
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
