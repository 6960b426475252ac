//! `catena journal`: what lies on disk, read without a broker. Only `repair` writes, and only when
//! told to.

mod accepted;
mod audit;
mod checkpoints;
mod describe;
mod dump;
mod examine;
mod files;
mod metadata;
mod names;
mod repair;
mod report;
mod verify;
mod walk;

use std::path::Path;

pub use report::{Lost, Problem, Report, StoreReport};

use crate::cli::Journal;

pub(crate) fn run(command: Journal) -> anyhow::Result<()> {
    match command {
        Journal::Dump(args) => dump::run(&args),
        Journal::Verify(args) => verify::run(&args),
        Journal::Repair(args) => repair::run(&args),
    }
}

/// What `catena journal verify DIR` finds, without printing it.
///
/// # Errors
/// If `dir` holds no journal, a broker is using it, or a file cannot be read.
pub fn verify_store(dir: &Path) -> anyhow::Result<StoreReport> {
    verify::check(dir)
}
