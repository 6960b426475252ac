//! `catena journal`: what lies on disk, read without a broker and without writing anything.

mod audit;
mod checkpoints;
mod describe;
mod dump;
mod files;
mod names;
mod report;
mod verify;
mod walk;

use crate::cli::Journal;

pub(crate) fn run(command: Journal) -> anyhow::Result<()> {
    match command {
        Journal::Dump(args) => dump::run(&args),
        Journal::Verify(args) => verify::run(&args),
    }
}
