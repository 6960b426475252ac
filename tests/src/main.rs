//! The `catena-tests` program: long runs of the fault tests, and the evidence they give.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use catena_tests::cuts::{Point, Session, run};
use catena_tests::evidence::{self, Plan};
use catena_tests::machine::{Build, Layout};
use catena_tests::{churn, idle, soak};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Fault tests of Catena")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs all tiers of fault tests, prints what they give, and fails if anything is wrong
    Evidence {
        /// The share that CI runs (the default)
        #[arg(long, conflicts_with = "full")]
        quick: bool,
        /// The long run: 3,000 power cuts; goes on where an earlier one of the same seed was ended
        #[arg(long)]
        full: bool,
        /// Decides everything that is random
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many power cuts instead
        #[arg(long)]
        cuts: Option<u64>,
    },
    /// Lets power, processes, connections, topics and segments come and go on the same data
    Churn {
        /// How long
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// Decides the order of events and all that is random in them
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// What the data lies on: powerfs, ext4 or xfs
        #[arg(long, default_value = "powerfs")]
        layout: String,
    },
    /// Watches stalls and memory under mixed load, with readers that take nothing
    Soak {
        /// How long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Readers that ask for much and do not read; needs two descriptors each
        #[arg(long, default_value_t = 1_000)]
        stalled_readers: usize,
    },
    /// Measures what idle connections cost
    Idle {
        /// How many; needs as many descriptors in this process and in the broker
        #[arg(long, default_value_t = 5_000)]
        connections: usize,
    },
    /// Cuts the power of a broker under load, and checks what its clients saw
    Cuts {
        /// Decides the cut points and what is torn
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many cuts
        #[arg(long, default_value_t = 10)]
        cuts: u64,
        /// Cut at this operation of the first start, at the next of the second, and so on
        #[arg(long)]
        from_operation: Option<u64>,
        /// What the data lies on: powerfs, ext4 or xfs
        #[arg(long, default_value = "powerfs")]
        layout: String,
        /// A bug that the broker has
        #[arg(long)]
        bug: Option<String>,
    },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match Args::parse().command {
        Command::Evidence {
            quick: _,
            full,
            seed,
            cuts,
        } => {
            let mut plan = if full {
                Plan::full(seed)
            } else {
                Plan::quick(seed)
            };
            plan.cuts = cuts.unwrap_or(plan.cuts);
            let evidence = runtime.block_on(evidence::gather(&plan))?;
            evidence::print(&evidence);
            ensure!(evidence.is_good(), "the evidence is not good");
        }
        Command::Churn {
            minutes,
            seed,
            layout,
        } => {
            let plan = churn::Plan::new(minutes_long(minutes), seed, layout_named(&layout)?);
            let findings = churn::run(&plan).map_err(|error| anyhow!(error))?;
            let wrong = findings.wrong();
            ensure!(wrong.is_empty(), wrong.join("; "));
        }
        Command::Soak {
            minutes,
            stalled_readers,
        } => {
            let findings = soak::run(&soak::Plan {
                duration: minutes_long(minutes),
                stalled_readers,
            });
            ensure!(findings.wrong.is_empty(), findings.wrong.join("; "));
        }
        Command::Idle { connections } => {
            idle_cost(connections);
        }
        Command::Cuts {
            seed,
            cuts,
            from_operation,
            layout,
            bug,
        } => {
            let build = Build {
                layout: layout_named(&layout)?,
                bug,
                ..Build::new(seed)
            };
            let point = from_operation.map_or(Point::Random, Point::Enumerated);
            let session = Session::new(build, cuts, point);
            runtime.block_on(cut(&session))?;
        }
    }
    Ok(())
}

const fn minutes_long(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

fn layout_named(name: &str) -> Result<Layout> {
    let all = [Layout::Direct, Layout::Ext4, Layout::Xfs];
    let found = all.into_iter().find(|layout| layout.name() == name);
    found.ok_or_else(|| anyhow!("there is no layout {name:?}"))
}

async fn cut(session: &Session) -> Result<()> {
    let report = run(session).await.map_err(|error| anyhow!(error))?;
    for anomaly in &report.anomalies {
        println!("{anomaly}");
    }
    println!(
        "cuts survived {}, while starting {}, sectors kept {} lost {}, acknowledged {}, \
         polled {}, anomalies {}",
        report.survived,
        report.while_starting,
        report.sectors.kept,
        report.sectors.lost,
        report.acknowledged,
        report.polled,
        report.anomalies.len()
    );
    ensure!(report.anomalies.is_empty(), "there are anomalies");
    Ok(())
}

fn idle_cost(connections: usize) {
    let found = idle::run(connections);
    let [before, with] = found.ticks;
    println!(
        "{} bytes for each of {connections} connections",
        found.bytes_each
    );
    println!("processor time in 5 s: {before} ticks of 10 ms before, {with} with them");
    for (when, line) in ["before", "with them", "after"].iter().zip(found.latency) {
        println!("{when:>9}: {line}");
    }
}
