//! Structured logs to standard error, as text or JSON lines.
//!
//! A shard never waits for whoever reads standard error: lines go through a bounded queue to a
//! thread that writes them, and when the queue is full a line is dropped and counted. Only the
//! `catena-broker` program starts this; a broker inside another program logs to its subscriber.

mod queue;

use std::io;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::LogFormat;

pub use queue::LogGuard;

/// Why logging could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoggingError {
    #[error("bad log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("cannot start the log thread: {0}")]
    Thread(#[from] io::Error),
    #[error("logging is already set up: {0}")]
    AlreadySet(#[from] TryInitError),
}

/// Sends this process's logs to standard error from now on. Keep the guard until the end of
/// `main`: dropping it writes what is still queued.
///
/// `filter` is a level or filter directives, as in `Config::log_level`.
pub fn start(format: LogFormat, filter: &str) -> Result<LogGuard, LoggingError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let (queue, guard) = queue::start(io::stderr())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue);
    match format {
        LogFormat::Text => builder.with_ansi(false).finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(guard)
}
