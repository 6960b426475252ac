//! The turns of a comparison: every workload on every system, then all of it again.
//!
//! A system runs only during its turns, so that none is measured beside another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::config::{CeilingConfig, Config, SystemConfig};
use super::figures::{Comparison, FailedRun, LeftOut, SystemRuns, WorkloadRuns};
use super::interrupt::Interrupt;
use super::server::Server;
use super::text;
use crate::args::RunArgs;
use crate::ceiling::disk::TestFile;
use crate::ceiling::report::CeilingReport;
use crate::ceiling::{CeilingArgs, measure_all};
use crate::load::measure::Measurement;
use crate::load::session::small_runtime;
use crate::progress::Progress;
use crate::report::LoadReport;
use crate::shares::HELD_AGAINST;
use crate::systems::{Job, NO_DRIVER, System, Target, has_driver, on};
use crate::workload::Workload;

/// Runs the comparison with the systems' data in a directory made in `parent`.
pub(crate) fn run(config: &Config, parent: &Path, command: String) -> Result<Comparison> {
    let data = tempfile::Builder::new()
        .prefix("catena-compare-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
    let interrupt = Interrupt::watch(data.path())?;
    eprintln!(
        "{} runs of {} workloads on {} systems: about {} and what starts and stops take",
        config.runs,
        config.workloads.len(),
        config.systems.len(),
        humantime::format_duration(config.length())
    );
    let (systems, left_out) = able(config, data.path(), &interrupt)?;
    let mut turns = Turns {
        config,
        command: &command,
        data: data.path(),
        interrupt,
        progress: Progress::new(),
        ceiling: config
            .ceiling
            .map(|ceiling| Beside::new(ceiling, config, data.path()))
            .transpose()?,
        failed: Vec::new(),
        taken: 0,
        all: config.workloads.len() * systems.len() * usize::try_from(config.runs)?,
    };
    let mut workloads = Vec::new();
    for workload in &config.workloads {
        workloads.push(turns.workload(workload, &systems));
    }
    let failed = turns.failed;
    let comparison = Comparison::new(command, config, workloads, left_out, failed);
    if let Err(error) = data.close() {
        eprintln!("catena-bench: the systems' data is left behind: {error}");
    }
    Ok(comparison)
}

/// The systems that start, and why the others do not. A system that was named on the command line
/// must start.
fn able<'a>(
    config: &'a Config,
    data: &Path,
    interrupt: &Interrupt,
) -> Result<(Vec<&'a SystemConfig>, Vec<LeftOut>)> {
    let (mut systems, mut left_out) = (Vec::new(), Vec::new());
    for system in &config.systems {
        match try_out(system, data, interrupt) {
            Ok(()) => systems.push(system),
            Err(error) if config.all_must_run => {
                return Err(error.context(format!("system \"{}\"", system.name)));
            }
            Err(error) => {
                eprintln!("left out: {}: {error:#}", system.name);
                left_out.push(LeftOut {
                    name: system.name.clone(),
                    reason: format!("{error:#}"),
                });
            }
        }
    }
    if systems.is_empty() {
        bail!("none of the systems can be run");
    }
    Ok((systems, left_out))
}

fn try_out(system: &SystemConfig, data: &Path, interrupt: &Interrupt) -> Result<()> {
    ensure!(
        has_driver(system.system),
        "no driver for it here: {NO_DRIVER}"
    );
    match start(system, data, interrupt)? {
        Some(server) => server.stop(),
        None => Ok(()),
    }
}

/// Starts what `system` says; nothing if it is running already.
fn start(system: &SystemConfig, data: &Path, interrupt: &Interrupt) -> Result<Option<Server>> {
    if system.command.is_empty() {
        return Ok(None);
    }
    Server::start(system, &data.join(&system.name), interrupt).map(Some)
}

struct Turns<'a> {
    config: &'a Config,
    command: &'a str,
    data: &'a Path,
    interrupt: Interrupt,
    progress: Progress,
    ceiling: Option<Beside>,
    failed: Vec<FailedRun>,
    taken: usize,
    all: usize,
}

impl Turns<'_> {
    /// All runs of one workload, the systems in turns.
    fn workload(&mut self, workload: &Workload, systems: &[&SystemConfig]) -> WorkloadRuns {
        let mut runs: BTreeMap<&str, Vec<Option<LoadReport>>> = BTreeMap::new();
        for _ in 0..self.config.runs {
            for system in systems {
                let report = self.run_of(workload, system);
                runs.entry(&system.name).or_default().push(report);
            }
        }
        let of = |system: &&SystemConfig| SystemRuns {
            name: system.name.clone(),
            runs: runs.remove(system.name.as_str()).unwrap_or_default(),
        };
        WorkloadRuns {
            name: workload.name.clone(),
            systems: systems.iter().map(of).collect(),
        }
    }

    /// One run with its figures told at once, since a comparison may take hours. A run that fails
    /// is noted and leaves the others as they are.
    fn run_of(&mut self, workload: &Workload, system: &SystemConfig) -> Option<LoadReport> {
        self.taken += 1;
        let place = format!(
            "run {} of {}: {} on {}",
            self.taken, self.all, workload.name, system.name
        );
        match self.turn(workload, system) {
            Ok(report) => {
                let figures: Vec<_> = report.phases.iter().map(text::phase).collect();
                self.progress
                    .note(&format!("{place}: {}", figures.join("; ")));
                Some(report)
            }
            Err(error) => {
                self.progress.note(&format!("{place}: failed: {error:#}"));
                self.failed.push(FailedRun {
                    workload: workload.name.clone(),
                    system: system.name.clone(),
                    error: format!("{error:#}"),
                });
                None
            }
        }
    }

    /// One run: start, measure, delete the topic, stop.
    fn turn(&mut self, workload: &Workload, system: &SystemConfig) -> Result<LoadReport> {
        let ceiling = self.ceiling.as_ref().map(Beside::measure).transpose()?;
        let server = start(system, self.data, &self.interrupt)?;
        let workload = Workload {
            acks: system.acks.unwrap_or(workload.acks),
            ..workload.clone()
        };
        let target = Target {
            address: system.address.clone(),
            topic: format!("compare-{}-{}", std::process::id(), self.taken).into(),
        };
        let measurement = Measurement {
            work: "compare",
            command: self.command.to_owned(),
            workload: &workload,
            args: &self.run_args(system, server.as_ref()),
            ceiling,
        };
        // On a thread of its own, since measuring keeps its thread to the cores of the load.
        let report = thread::scope(|scope| {
            let measuring = scope.spawn(|| on(system.system, &target, measurement));
            measuring.join()
        });
        // Also of a run that failed: a system that goes on running would keep it.
        let removed = on(system.system, &target, Remove);
        let report = report.map_err(|_| anyhow!("measuring panicked"))??;
        removed?;
        if let Some(server) = server {
            server.stop()?;
        }
        Ok(report)
    }

    fn run_args(&self, system: &SystemConfig, server: Option<&Server>) -> RunArgs {
        let cores = self.config.load_cores.clone();
        RunArgs {
            threads: u16::try_from(cores.len().max(1)).unwrap_or(u16::MAX),
            cores,
            server_pid: server.map(Server::pid),
            admin: system.admin.clone(),
            data_dir: Some(PathBuf::from(self.data)),
            ..RunArgs::default()
        }
    }
}

/// The ceiling, measured beside each run.
struct Beside {
    args: CeilingArgs,
    file: TestFile,
}

impl Beside {
    fn new(ceiling: CeilingConfig, config: &Config, data: &Path) -> Result<Self> {
        let servers = config
            .systems
            .iter()
            .find_map(|system| system.cores.first());
        let args = CeilingArgs {
            dir: data.to_owned(),
            bytes: ceiling.bytes,
            seconds: if config.is_quick { 1 } else { ceiling.seconds },
            runs: 1,
            server_core: servers.copied(),
            client_core: config.load_cores.first().copied(),
            first_fill: false,
            json: None,
        };
        let file = TestFile::create(data, ceiling.bytes).context("cannot make a test file")?;
        Ok(Self { args, file })
    }

    fn measure(&self) -> Result<CeilingReport> {
        // On a thread of its own, since measuring pins threads.
        let measured = thread::scope(|scope| {
            let measuring =
                scope.spawn(|| measure_all(&self.args, &HELD_AGAINST, &self.file, String::new()));
            measuring.join()
        });
        measured.map_err(|_| anyhow!("measuring the ceiling panicked"))?
    }
}

/// Deletes the topic of a run.
struct Remove;

impl Job for Remove {
    type Output = ();

    fn run<S: System>(self, system: &S) -> Result<()> {
        small_runtime()?.block_on(system.remove())
    }
}
