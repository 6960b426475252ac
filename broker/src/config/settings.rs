//! The options as a source gives them: each one set or not.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use super::address::{listen_address, read_listen_address};
use super::{
    AdminAddress, ByteSize, Config, ConfigError, CoreChoice, HostPort, Percent, Span, sources,
};

/// The command line of `catena-broker`.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "catena-broker",
    version,
    about = "The Catena message broker.",
    after_help = "Every option with a value can also be set in the environment as CATENA_<NAME> \
        (--data-dir is CATENA_DATA_DIR) and, except --config, in the config file under its name \
        without the dashes. A flag wins over the environment, the environment over the file.\n\n\
        Exit codes: 0 stopped cleanly, 1 failed, 2 bad configuration, 3 data directory refused, \
        4 host refused, 5 stopped at once (second signal, or the stop took too long)."
)]
pub struct Args {
    #[command(flatten)]
    pub settings: Settings,
    /// A TOML file with the same options.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the effective configuration as TOML and exit.
    #[arg(long)]
    pub check_config: bool,
}

/// The options that flags, environment and config file share.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The data directory, made if missing [default: ./catena-data].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:9640].
    #[arg(long, value_name = "IP:PORT", value_parser = listen_address)]
    #[serde(default, deserialize_with = "read_listen_address")]
    pub listen: Option<SocketAddr>,
    /// What clients are told to connect to [default: the listen address].
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<HostPort>,
    /// Metrics and health over HTTP, or `off` [default: 127.0.0.1:9641].
    #[arg(long, value_name = "IP:PORT|off")]
    pub admin: Option<AdminAddress>,
    /// The CPUs to use, as `0,2-3` or `all` [default: all allowed, at most the CPU quota].
    #[arg(long, value_name = "LIST")]
    pub cores: Option<CoreChoice>,
    /// The largest segment, a power of two from 4MiB to 256MiB [default: 256MiB].
    #[arg(long, value_name = "SIZE")]
    pub segment_bytes: Option<ByteSize>,
    /// The read cache [default: 1/8 of memory, 64MiB to 4GiB].
    #[arg(long, value_name = "SIZE")]
    pub cache_bytes: Option<ByteSize>,
    /// What the store may use on disk [default: 85 % of free and used].
    #[arg(long, value_name = "SIZE")]
    pub space_bytes: Option<ByteSize>,
    /// Compacted topics: the part of a partition, in percent, that must be new [default: 50].
    #[arg(long, value_name = "PERCENT")]
    pub compaction_dirty_percent: Option<Percent>,
    /// Compacted topics: messages younger than this stay as they are [default: 0s].
    #[arg(long, value_name = "TIME")]
    pub compaction_lag: Option<Span>,
    /// Compacted topics: how long anything new waits at the most [default: 24h].
    #[arg(long, value_name = "TIME")]
    pub compaction_lag_max: Option<Span>,
    /// Compacted topics: how long a message without a value stays [default: 24h].
    #[arg(long, value_name = "TIME")]
    pub tombstone_retention: Option<Span>,
    /// The form of log lines [default: text].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or filter directives [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl Settings {
    /// The names of the fields, as in flags and files.
    pub(super) const KEYS: [&str; 14] = [
        "data-dir",
        "listen",
        "advertise",
        "admin",
        "cores",
        "segment-bytes",
        "cache-bytes",
        "space-bytes",
        "compaction-dirty-percent",
        "compaction-lag",
        "compaction-lag-max",
        "tombstone-retention",
        "log-format",
        "log-level",
    ];

    /// What the text of a config file says; `path` is only for messages.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::UnknownKey`] or [`ConfigError::Value`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        sources::parse_file(text, path)
    }

    /// These settings, with `weaker` where they say nothing.
    pub(super) fn or(self, weaker: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(weaker.data_dir),
            listen: self.listen.or(weaker.listen),
            advertise: self.advertise.or(weaker.advertise),
            admin: self.admin.or(weaker.admin),
            cores: self.cores.or(weaker.cores),
            segment_bytes: self.segment_bytes.or(weaker.segment_bytes),
            cache_bytes: self.cache_bytes.or(weaker.cache_bytes),
            space_bytes: self.space_bytes.or(weaker.space_bytes),
            compaction_dirty_percent: self
                .compaction_dirty_percent
                .or(weaker.compaction_dirty_percent),
            compaction_lag: self.compaction_lag.or(weaker.compaction_lag),
            compaction_lag_max: self.compaction_lag_max.or(weaker.compaction_lag_max),
            tombstone_retention: self.tombstone_retention.or(weaker.tombstone_retention),
            log_format: self.log_format.or(weaker.log_format),
            log_level: self.log_level.or(weaker.log_level),
        }
    }
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            data_dir: Some(config.data_dir.clone()),
            listen: Some(config.listen),
            advertise: config.advertise.clone(),
            admin: Some(config.admin.into()),
            cores: Some(CoreChoice::List(config.cores.clone())),
            segment_bytes: Some(ByteSize(config.segment_bytes)),
            cache_bytes: Some(ByteSize(config.cache_bytes)),
            space_bytes: Some(ByteSize(config.space_bytes)),
            compaction_dirty_percent: Some(Percent(config.compaction.dirty_percent)),
            compaction_lag: Some(Span(config.compaction.lag_ms)),
            compaction_lag_max: Some(Span(config.compaction.lag_max_ms)),
            tombstone_retention: Some(Span(config.compaction.tombstone_ms)),
            log_format: Some(config.log_format),
            log_level: Some(config.log_level.clone()),
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}
