//! The program: options in, a running broker, an exit code out.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use catena_broker::admin::AdminServer;
use catena_broker::config::{AdminAddress, Args, Config, CoreChoice, Host};
use catena_broker::server::{Broker, NodeOptions, Refusal, refusal_of};
use catena_broker::{logging, signals, startup};
use clap::Parser;
use tracing::{error, info};

/// How often the program looks whether the broker ended by itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The exit codes besides 0, as documented in `docs/OPERATIONS.md`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exit {
    Failed = 1,
    /// Also what clap ends with on a bad flag.
    BadConfiguration = 2,
    DataDirectoryRefused = 3,
    HostRefused = 4,
    StoppedAtOnce = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the program with these environment variables.
pub(crate) fn main(variables: impl Iterator<Item = (OsString, OsString)>) -> ExitCode {
    let args = Args::parse();
    let check_only = args.check_config;
    let config = match Config::load(args, variables, &Host::detect()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("catena-broker: {error}");
            return Exit::BadConfiguration.into();
        }
    };
    if check_only {
        print!("{}", config.to_toml());
        return ExitCode::SUCCESS;
    }
    // Kept to the end: dropping it writes the last lines.
    let _log = match logging::start(config.log_format, &config.log_level) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("catena-broker: {error}");
            return Exit::Failed.into();
        }
    };
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure:#}");
            exit_of(&failure).into()
        }
    }
}

fn run(config: &Config) -> Result<()> {
    startup::check_host(config.cores.len())?;
    let mut broker = Broker::start(&NodeOptions::from(config))?;
    startup::describe_disk(&config.data_dir);
    let served = serve(config, &mut broker);
    signals::limit_stop(Exit::StoppedAtOnce as i32);
    broker.stop().and(served)?;
    info!("stopped");
    Ok(())
}

/// Returns on a signal; an error if the broker cannot go on.
fn serve(config: &Config, broker: &mut Broker) -> Result<()> {
    let start_admin = |addr| {
        AdminServer::start(addr, Arc::clone(broker.status()))
            .with_context(|| format!("cannot serve metrics and health on {addr}"))
    };
    let admin = config.admin.map(start_admin).transpose()?;
    let (stop, stopping) = mpsc::channel();
    // Nobody waits any more if the broker is stopping already.
    let ask = move || stop.send(()).unwrap_or_default();
    signals::install(ask, Exit::StoppedAtOnce as i32).context("cannot handle signals")?;
    announce(config, broker, admin.as_ref());
    while stopping.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        ensure!(broker.failure().is_none(), "a shard ended by itself");
    }
    Ok(())
}

/// Prints the line that tells people and scripts that the broker serves.
fn announce(config: &Config, broker: &Broker, admin: Option<&AdminServer>) {
    let listen = broker.addr().unwrap_or(config.listen);
    let admin = AdminAddress::from(admin.map(AdminServer::addr));
    let (shards, cores) = (config.cores.len(), CoreChoice::List(config.cores.clone()));
    let data_dir = config.data_dir.display();
    // Nobody has to read it: a closed standard output is no reason to stop.
    let _ = writeln!(
        std::io::stdout(),
        "catena-broker ready: listen {listen}, admin {admin}, shards {shards} (cores {cores}), \
         data {data_dir}, acks after flush"
    );
}

fn exit_of(failure: &Error) -> Exit {
    match refusal_of(failure) {
        Some(Refusal::DataDirectory) => Exit::DataDirectoryRefused,
        Some(Refusal::Host) => Exit::HostRefused,
        None => Exit::Failed,
    }
}
