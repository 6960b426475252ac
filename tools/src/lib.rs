//! `catena`: the command line for topics, messages, offsets and the journals on disk.
//!
//! Standard output carries what was asked for and nothing else; progress, summaries and errors go
//! to standard error. A library as well, so that tests can verify a store without a process:
//! see [`journal::verify_store`].

#![forbid(unsafe_code)]

mod cli;
mod connect;
mod consume;
mod exit;
pub mod journal;
mod offsets;
mod produce;
mod quantity;
mod refusal;
mod stdout;
mod topic;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use cli::{Cli, Command};

/// The program, from its arguments to its exit code.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli {
        connection,
        command,
    } = cli;
    // Offline commands start no runtime.
    if let Command::Journal(command) = command {
        return journal::run(command);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let done = runtime.block_on(async {
        match command {
            Command::Topic(command) => topic::run(&connection, command).await,
            Command::Produce(args) => produce::run(&connection, args).await,
            Command::Consume(args) => consume::run(&connection, args).await,
            Command::Offsets(args) => offsets::run(&connection, args).await,
            Command::Journal(_) => unreachable!("handled before the runtime starts"),
        }
    });
    // A read from a terminal cannot be interrupted; it must not hold up the end.
    runtime.shutdown_background();
    done
}
