//! `catena-bench produce`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;

use super::fit::check_one_batch;
use super::producing::{Producing, WARMUP};
use super::session::{Session, TopicRule};
use super::threads::{self, Plan};
use crate::args::ProduceArgs;
use crate::compare::Compared;
use crate::report::LoadReport;
use crate::tally::Tally;

/// Runs the load and reports it.
pub(crate) fn run(args: &ProduceArgs, command: String) -> Result<ExitCode> {
    check_one_batch(&args.shape)?;
    let session = Session::begin(&args.run, &args.target, TopicRule::CreateMissing)?;
    let producing = Producing {
        target: &args.target,
        shape: &args.shape,
        pace: args.pace,
        run: &args.run,
        topic: session.topic.clone(),
        clock: session.clock,
        meter: Arc::default(),
        run_mark: None,
    };
    let plan = Plan {
        clock: session.clock,
        threads: usize::try_from(producing.threads())?,
        cores: &args.run.cores,
        warmup: args.run.warmup.unwrap_or(WARMUP),
        duration: args.run.duration,
    };
    let (window, driven) = threads::run(
        plan,
        &producing.meter,
        async |index| {
            let thread = u32::try_from(index)?;
            Ok((thread, producing.prepare(thread).await?))
        },
        async |(thread, senders), window| Ok(producing.drive(thread, senders, window).await),
    )?;
    let mut tally = Tally::new(window);
    for thread in &driven {
        tally.merge(&thread.tally);
    }
    let mut report = LoadReport::new("produce", command, &tally, window);
    report.latency_from = if args.pace.rate.is_some() {
        "intended send to ack"
    } else {
        "send to ack"
    };
    producing.describe(&mut report, &tally);
    let compared = compared(&producing, &report);
    session.finish(report, window, compared)
}

fn compared(producing: &Producing<'_>, report: &LoadReport) -> Compared {
    match report.latency {
        Some(latency) if producing.is_one_in_flight() && producing.shape.producers == 1 => {
            Compared::OneInFlight {
                p50_us: latency.p50_us,
                p99_us: latency.p99_us,
            }
        }
        _ => Compared::Produce {
            mb_per_second: report.throughput.mb_per_second,
        },
    }
}
