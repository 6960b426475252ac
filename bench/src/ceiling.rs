//! What the machine itself can do: the broker's input and output pattern without the broker.
//!
//! Every measurement runs several times, in turns (one run of each, then the next of each) so
//! that a drifting machine moves all of them alike, and the median of each figure is reported.

pub(crate) mod blocking_server;
pub(crate) mod disk;
pub(crate) mod loopback;
pub(crate) mod report;
pub(crate) mod sink;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::cores::first_two;
use crate::limits::{CEILING_BYTES_MIN, CEILING_RUNS_MAX};
use crate::machine::Machine;
use crate::progress::Progress;
use disk::{TestFile, WritePattern};
use report::{CeilingReport, Measurement, Probe, RunFigures};

/// Measure the disk and loopback ceilings of this machine.
#[derive(Clone, Debug, Args)]
pub(crate) struct CeilingArgs {
    /// Directory on the disk to measure; a test file is made in it and removed afterwards.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Size of the test file. Make it larger than any cache the device may have.
    #[arg(long, value_name = "N", default_value_t = 4 << 30,
          value_parser = clap::value_parser!(u64).range(CEILING_BYTES_MIN..))]
    pub(crate) bytes: u64,
    /// Length of one run of one measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 2,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Runs of each measurement; the medians are reported.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(CEILING_RUNS_MAX)))]
    pub(crate) runs: u8,
    /// Core of the receiving or serving side; by default the first this process may use.
    #[arg(long, value_name = "CORE")]
    pub(crate) server_core: Option<usize>,
    /// Core of the sending side; by default the second, if there is one.
    #[arg(long, value_name = "CORE")]
    pub(crate) client_core: Option<usize>,
    /// Also write to space that is allocated but was never written.
    #[arg(long)]
    pub(crate) first_fill: bool,
    /// Also write the result to this file, for the other commands' --ceiling.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl CeilingArgs {
    fn cores(&self) -> (usize, usize) {
        let (first, second) = first_two();
        (
            self.server_core.unwrap_or(first),
            self.client_core.unwrap_or(second),
        )
    }
}

/// Runs all measurements and prints them.
pub(crate) fn run(args: &CeilingArgs, command: String) -> Result<()> {
    let file = TestFile::create(&args.dir, args.bytes)
        .with_context(|| format!("cannot make a test file in {}", args.dir.display()))?;
    let report = measure_all(args, &probes(args.first_fill), &file, command)?;
    print!("{}", report.render());
    if let Some(path) = &args.json {
        crate::report::write_json(path, &report)?;
    }
    Ok(())
}

/// Measures `probes` over `file`, in turns.
pub(crate) fn measure_all(
    args: &CeilingArgs,
    probes: &[Probe],
    file: &TestFile,
    command: String,
) -> Result<CeilingReport> {
    let mut measurements: Vec<_> = probes.iter().copied().map(Measurement::new).collect();
    let progress = Progress::new();
    for run in 1..=args.runs {
        for measurement in &mut measurements {
            let probe = measurement.probe;
            progress.show(&format!(
                "ceiling: run {run} of {}, {}",
                args.runs,
                probe.title()
            ));
            let figures = measure(probe, args, file)
                .with_context(|| format!("the measurement {:?} failed", probe.title()))?;
            measurement.runs.push(figures);
        }
    }
    drop(progress);
    let machine = Machine::describe(Some(&args.dir));
    let bytes = file.bytes();
    Ok(CeilingReport::new(command, machine, bytes, measurements))
}

/// All measurements, in the order in which each round runs them.
fn probes(first_fill: bool) -> Vec<Probe> {
    let mut probes = vec![
        Probe::DiskWrite1Mib,
        Probe::DiskWrite256Kib,
        Probe::DiskWrite256KibDsync,
        Probe::DiskWrite4KibDsync,
        Probe::DiskRead1Mib,
        Probe::Loopback,
        Probe::Sink1Mib,
        Probe::BlockingServerFlush,
        Probe::BlockingServerDsync,
    ];
    if first_fill {
        probes.push(Probe::DiskFirstFill1Mib);
    }
    probes
}

fn measure(probe: Probe, args: &CeilingArgs, file: &TestFile) -> Result<RunFigures> {
    let time = Duration::from_secs(args.seconds);
    let (server_core, client_core) = args.cores();
    match probe {
        Probe::DiskWrite1Mib => disk::write_groups(file, WritePattern::MIB, time),
        Probe::DiskWrite256Kib => disk::write_groups(file, WritePattern::KIB_256, time),
        Probe::DiskWrite256KibDsync => disk::write_dsync(file, 256 << 10, time),
        Probe::DiskWrite4KibDsync => disk::write_dsync(file, 4 << 10, time),
        Probe::DiskRead1Mib => disk::read_sequential(file, time),
        Probe::Loopback => loopback::stream(server_core, client_core, time),
        Probe::Sink1Mib => sink::stream(file, server_core, client_core, time),
        Probe::BlockingServerFlush => {
            blocking_server::measure(file, false, server_core, client_core, time)
        }
        Probe::BlockingServerDsync => {
            blocking_server::measure(file, true, server_core, client_core, time)
        }
        Probe::DiskFirstFill1Mib => {
            let fresh = TestFile::allocate(&args.dir, args.bytes)?;
            disk::write_groups(&fresh, WritePattern::MIB, time)
        }
    }
}
