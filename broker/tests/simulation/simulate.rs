//! `catena-simulate`: runs seeds of the simulation and says what they came to.
//!
//! A seed that fails is printed with everything that is needed to run it again. Exit code 1 if any
//! failed, or, with `--bug`, if none did.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use catena_broker::runtime::simulated::disk::Fault;
use catena_core::planted::{self, Bug};
use clap::Parser;

mod consumer;
mod model;
mod node;
mod payload;
mod plan;
mod producer;
mod quiet;
mod run;
mod wire;
mod world;

use plan::Trouble;
use run::Summary;

/// Runs the broker in a simulation, by seed.
#[derive(Debug, Parser)]
#[command(name = "catena-simulate")]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// A bug to plant: then a seed that fails is what is wanted, and the first one ends the run.
    #[arg(long)]
    bug: Option<String>,
    /// Only seeds with this kind of trouble: crashes, errors, damage, slowness, slow-readers.
    #[arg(long)]
    trouble: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Prints every event. For one seed.
    #[arg(long)]
    verbose: bool,
    /// Prints one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// The kind of trouble of that name.
fn trouble_named(name: &str) -> Option<Trouble> {
    match name {
        "crashes" => Some(Trouble::Crashes),
        "errors" => Some(Trouble::Errors),
        "damage" => Some(Trouble::Damage),
        "slowness" => Some(Trouble::Slowness),
        "slow-readers" => Some(Trouble::SlowReaders),
        _ => None,
    }
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    crashes: u64,
    starts: u64,
    ios: u64,
    acks: u64,
    reads: u64,
    reported_lost: u64,
    refused: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: Vec<Summary>,
}

impl Totals {
    fn add(&mut self, summary: Summary) {
        self.seeds += 1;
        self.crashes += summary.crashes;
        self.starts += summary.starts;
        self.ios += summary.ios;
        self.acks += summary.acks;
        self.reads += summary.reads;
        self.reported_lost += summary.reported_lost;
        self.refused += u64::from(summary.refused.is_some());
        for (fault, count) in Fault::ALL.into_iter().zip(summary.faults) {
            *self.faults.entry(fault.name()).or_default() += count;
        }
        if summary.failure.is_some() {
            self.failed.push(summary);
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let bug = match args.bug.as_deref().map(|name| (name, Bug::from_name(name))) {
        None => None,
        Some((_, Some(bug))) => Some(bug),
        Some((name, None)) => {
            let known: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            eprintln!("catena-simulate: there is no bug {name:?}; there are {known:?}");
            return ExitCode::from(2);
        }
    };
    planted::set(bug);
    if args.verbose {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .without_time()
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    }
    let started = Instant::now();
    let totals = run_all(&args, bug.is_some());
    report(&args, &totals, started.elapsed().as_secs_f64());
    let is_caught = !totals.failed.is_empty();
    ExitCode::from(u8::from(is_caught != bug.is_some()))
}

fn run_all(args: &Args, stops_at_failure: bool) -> Totals {
    let next = AtomicU64::new(args.from);
    let end = args.from.saturating_add(args.seeds);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let kind = args.trouble.as_deref().and_then(trouble_named);
                    if kind.is_some_and(|kind| kind != Trouble::of_seed(seed)) {
                        continue;
                    }
                    let summary = run::run_seed(seed, args.verbose);
                    if let Some(failure) = &summary.failure {
                        eprintln!("seed {seed} ({:?}): {failure}", Trouble::of_seed(seed));
                        if stops_at_failure {
                            next.store(end, Ordering::Relaxed);
                        }
                    }
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    totals.add(summary);
                }
            });
        }
    });
    totals.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn report(args: &Args, totals: &Totals, seconds: f64) {
    let failed: Vec<u64> = totals.failed.iter().map(|summary| summary.seed).collect();
    let faults: Vec<String> = totals
        .faults
        .iter()
        .map(|(name, count)| format!("\"{name}\":{count}"))
        .collect();
    let bug = args.bug.as_deref().unwrap_or("none");
    if args.json {
        println!(
            "{{\"bug\":\"{bug}\",\"from\":{},\"seeds\":{},\"failed\":{failed:?},\"crashes\":{},\
             \"starts\":{},\"refused\":{},\"ios\":{},\"acks\":{},\"reads\":{},\
             \"reported_lost\":{},\"faults\":{{{}}},\"seconds\":{seconds:.1}}}",
            args.from,
            totals.seeds,
            totals.crashes,
            totals.starts,
            totals.refused,
            totals.ios,
            totals.acks,
            totals.reads,
            totals.reported_lost,
            faults.join(",")
        );
        return;
    }
    println!(
        "{} seeds from {}, bug {bug}: {} failed; {} crashes, {} starts ({} refused on damage), \
         {} disk operations, {} acks, {} records read, {} ranges reported lost; {seconds:.1} s",
        totals.seeds,
        args.from,
        failed.len(),
        totals.crashes,
        totals.starts,
        totals.refused,
        totals.ios,
        totals.acks,
        totals.reads,
        totals.reported_lost,
    );
    println!("faults: {}", faults.join(", "));
    for seed in failed {
        let bug = args.bug.as_deref().map(|bug| format!(" --bug {bug}"));
        let bug = bug.unwrap_or_default();
        println!("again: catena-simulate --from {seed} --seeds 1{bug} --verbose");
    }
}
