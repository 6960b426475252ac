//! The program: options in, a running broker, an exit code out.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};
use catena_broker::admin::{AdminPort, AdminServer};
use catena_broker::config::{AdminAddress, Args, Config, CoreChoice, Host};
use catena_broker::server::{Broker, NodeOptions, Refusal, refusal_of};
use catena_broker::{logging, signals, startup};
use clap::Parser;
use tracing::{Level, enabled, error, info};

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
            say_why(&failure);
            exit_of(&failure).into()
        }
    }
}

/// Says why the program ends, also if the log filter lets no errors through.
fn say_why(failure: &Error) {
    if enabled!(Level::ERROR) {
        error!("{failure:#}");
    } else {
        eprintln!("catena-broker: {failure:#}");
    }
}

fn run(config: &Config) -> Result<()> {
    startup::check_host(config.cores.len())?;
    let stopping = install_signals().context("cannot handle signals")?;
    let options = NodeOptions::from(config);
    let prepared = Broker::prepare(&options).map_err(|failure| or_choose(failure, "--listen"))?;
    // Before anything is read back, which can take minutes.
    let admin = config.admin.map(bind_admin).transpose()?;
    let mut broker = prepared.start()?;
    startup::describe_disk(&config.data_dir);
    let served = serve(config, &mut broker, admin, &stopping);
    if served.is_err() {
        // No signal has limited it.
        signals::limit_stop(Exit::StoppedAtOnce as i32);
    }
    broker.stop().and(served)?;
    info!("stopped");
    Ok(())
}

/// Says when a signal asks for the stop. A broker that still starts then does so first, for a start
/// cannot be interrupted; the time to stop is limited from the signal on all the same.
fn install_signals() -> io::Result<Receiver<()>> {
    let (stop, stopping) = mpsc::channel();
    let ask = move || {
        signals::limit_stop(Exit::StoppedAtOnce as i32);
        // Nobody waits any more if the broker is stopping already.
        stop.send(()).unwrap_or_default();
    };
    signals::install(ask, Exit::StoppedAtOnce as i32)?;
    Ok(stopping)
}

fn bind_admin(addr: SocketAddr) -> Result<AdminPort> {
    let bound = AdminPort::bind(addr).with_context(|| no_admin(addr));
    bound.map_err(|failure| or_choose(failure, "--admin (or off)"))
}

fn no_admin(addr: SocketAddr) -> String {
    format!("cannot serve metrics and health on {addr}")
}

/// The failure, with what to do about it if it is an address that somebody else has.
fn or_choose(failure: Error, option: &str) -> Error {
    let is_taken = failure
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::AddrInUse);
    if is_taken {
        anyhow!("{failure:#}; stop it, or choose another {option}")
    } else {
        failure
    }
}

/// Returns on a signal; an error if the broker cannot go on.
fn serve(
    config: &Config,
    broker: &mut Broker,
    admin: Option<AdminPort>,
    stopping: &Receiver<()>,
) -> Result<()> {
    let start_admin = |port: AdminPort| {
        let addr = port.addr();
        let started = port.serve(Arc::clone(broker.status()));
        started.with_context(|| no_admin(addr))
    };
    let admin = admin.map(start_admin).transpose()?;
    if stopping.try_recv() != Err(TryRecvError::Empty) {
        return Ok(());
    }
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
