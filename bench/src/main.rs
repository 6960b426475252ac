//! `catena-bench`: a load generator whose figures can be trusted.
//!
//! Open loop unless told otherwise: calls start by a fixed schedule and latency is measured from
//! the intended start, so that a stall of the broker, the network or the generator itself shows
//! in the percentiles. Every report names its durability class, the command, and the machine.

#![forbid(unsafe_code)]

mod args;
mod ceiling;
mod clock;
mod compare;
mod cores;
mod latency;
mod limits;
mod load;
mod machine;
mod payload;
mod progress;
mod rate;
mod report;
mod schedule;
mod server;
mod shares;
mod systems;
mod tally;
mod window;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use args::{Cli, Command};

/// With thousands of calls in flight to thousands of partitions the allocator of the C library
/// takes a fifth of the generator's time, and more the more partitions there are.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.command, args::command_line()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("catena-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command, command_line: String) -> Result<ExitCode> {
    match command {
        Command::Produce(args) => load::produce::run(args, command_line),
        Command::Consume(args) => load::consume::run(args, command_line),
        Command::E2e(args) => load::e2e::run(args, command_line),
        Command::Workload(args) => load::workload::run(args, command_line),
        Command::Compare(args) => compare::run(args, command_line),
        Command::Ceiling(args) => {
            ceiling::run(args, command_line)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
