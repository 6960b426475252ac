//! What a broker is told: flags, then environment, then a TOML file, then defaults.
//!
//! Each source is read into the same [`Settings`]; unknown keys are errors in all of them.
//! [`Config`] is the result with every value decided. Runs once, on the starting thread.

mod address;
mod byte_size;
mod cgroup;
mod compaction;
mod core_list;
mod host;
mod resolve;
mod settings;
mod sources;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use catena_core::compaction::CompactionPolicy;
use thiserror::Error;

pub use address::{AdminAddress, HostPort};
pub use byte_size::ByteSize;
pub use compaction::{Percent, Span};
pub use core_list::CoreChoice;
pub use host::Host;
pub use settings::{Args, LogFormat, Settings};

/// The port clients connect to, unless told otherwise.
pub const LISTEN_PORT_DEFAULT: u16 = 9640;

/// The port of the admin HTTP server, unless told otherwise.
pub const ADMIN_PORT_DEFAULT: u16 = 9641;

/// The effective configuration of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The store; made and formatted if it does not exist.
    pub data_dir: PathBuf,
    /// Where clients connect. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// What clients are told to connect to; `None`: the address that was bound.
    pub advertise: Option<HostPort>,
    /// The admin HTTP server; `None`: off.
    pub admin: Option<SocketAddr>,
    /// The CPUs to use, ascending, one pinned shard each. 1 to
    /// [`SHARDS_MAX`](crate::limits::SHARDS_MAX).
    pub cores: Vec<usize>,
    /// The largest segment a journal grows to: a power of two from 4 MiB to 256 MiB.
    pub segment_bytes: u64,
    /// The read cache, all shards together.
    pub cache_bytes: u64,
    /// What the store may use on disk, all shards together.
    pub space_bytes: u64,
    /// When the partitions of compacted topics are compacted.
    pub compaction: CompactionPolicy,
    pub log_format: LogFormat,
    /// A level (`info`) or filter directives (`info,catena_broker::journal=debug`).
    pub log_level: String,
}

impl Config {
    /// Decides every value from `args`, then `environment`, then the file these name, then the
    /// defaults for `host`. Only `CATENA_*` variables are looked at.
    pub fn load(
        args: Args,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        host: &Host,
    ) -> Result<Self, ConfigError> {
        let environment = sources::read_environment(environment)?;
        let file = match args.config.or(environment.config) {
            Some(path) => sources::read_file(&path)?,
            None => Settings::default(),
        };
        let settings = args.settings.or(environment.settings).or(file);
        resolve::resolve(settings, host)
    }

    /// This configuration as a config file that gives it again.
    pub fn to_toml(&self) -> String {
        let settings = Settings::from(self);
        toml::to_string(&settings).expect("settings are plain values")
    }
}

/// Why a configuration is not usable. The text names the source and the key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("cannot read the config file {}: {source}", path.display())]
    ReadFile { path: PathBuf, source: io::Error },
    #[error("config file {}: {reason}", path.display())]
    Syntax { path: PathBuf, reason: String },
    #[error("{place}: unknown key `{key}`{}", suggestion(nearest.as_ref()))]
    UnknownKey {
        place: String,
        key: String,
        nearest: Option<String>,
    },
    #[error("{place}: `{key}`: {reason}")]
    Value {
        place: String,
        key: String,
        reason: String,
    },
    /// Values that are right alone but not together, or not on this host.
    #[error("{0}")]
    Unusable(String),
}

fn suggestion(nearest: Option<&String>) -> String {
    nearest.map_or_else(String::new, |nearest| {
        format!("; did you mean `{nearest}`?")
    })
}

#[cfg(test)]
mod tests;
