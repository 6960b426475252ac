//! `catena-bench compare`: the same workloads on several systems, in turns.
//!
//! `config` is what a file asks for, `server` a broker that is started for a turn, `interrupt`
//! what a signal does to it; `matrix` has the turns, `figures` what comes of them; `text` and
//! `page` show it.

mod config;
mod figures;
mod interrupt;
mod matrix;
mod page;
mod server;
mod text;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::limits::COMPARE_RUNS_MAX;
use crate::report::write_json;
use config::Config;

/// Run the same workloads on several systems, in turns, and compare.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// Which systems and workloads: TOML, see bench/compare.toml.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// One run of each, a second long: to see that it works, not to quote.
    #[arg(long, conflicts_with = "runs")]
    pub(crate) quick: bool,
    /// Runs of each workload on each system, instead of what the file says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32)
          .range(1..=i64::from(COMPARE_RUNS_MAX)))]
    pub(crate) runs: Option<u32>,
    /// Only these systems of the file.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) systems: Vec<String>,
    /// Only these workloads of the file.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) workloads: Vec<String>,
    /// Where the systems keep their data: on the disk to be measured. A directory is made in it
    /// for the comparison and removed afterwards.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Also write the result to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also write the result to this file, as a page for a browser.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Runs the comparison and reports it; failure if any record failed.
pub(crate) fn run(args: &CompareArgs, command: String) -> Result<ExitCode> {
    let config = Config::read(args)?;
    let comparison = matrix::run(&config, &args.dir, command)?;
    print!("{}", text::render(&comparison));
    if let Some(path) = &args.json {
        write_json(path, &comparison)?;
    }
    if let Some(path) = &args.html {
        let page = page::of(&comparison)?.render()?;
        fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if comparison.has_failures() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
