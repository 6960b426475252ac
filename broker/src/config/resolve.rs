//! From settings to a configuration: defaults for this host, and the checks across values.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use catena_core::compaction::CompactionPolicy;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{
    ADMIN_PORT_DEFAULT, AdminAddress, ByteSize, Config, ConfigError, CoreChoice, Host,
    LISTEN_PORT_DEFAULT, Settings, Span,
};
use crate::limits::{
    CACHE_BYTES_DEFAULT_MAX, CACHE_BYTES_DEFAULT_MIN, CACHE_BYTES_PER_SHARD_MIN,
    CACHE_MEMORY_DIVISOR, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SHARDS_MAX,
    SPACE_BYTES_PER_SHARD_MIN,
};
use crate::store::{default_space_bytes, fix_of};

const DATA_DIR_DEFAULT: &str = "./catena-data";
const LOG_LEVEL_DEFAULT: &str = "info";

pub(super) fn resolve(settings: Settings, host: &Host) -> Result<Config, ConfigError> {
    let compaction = compaction(&settings)?;
    let data_dir = settings.data_dir.unwrap_or_else(|| DATA_DIR_DEFAULT.into());
    let cores = cores(settings.cores, host)?;
    let listen = settings.listen.unwrap_or(loopback(LISTEN_PORT_DEFAULT));
    if listen.ip().is_unspecified() && settings.advertise.is_none() {
        return Err(unusable(format!(
            "listen address {listen} means every address of this host, which clients cannot \
             connect to; say which one they should use with --advertise HOST:PORT"
        )));
    }
    let admin = admin(settings.admin, listen)?;
    let cache_bytes = cache_bytes(settings.cache_bytes, cores.len(), host)?;
    let space_bytes = space_bytes(settings.space_bytes, cores.len(), &data_dir)?;
    Ok(Config {
        data_dir,
        listen,
        advertise: settings.advertise,
        admin,
        cores,
        segment_bytes: segment_bytes(settings.segment_bytes)?,
        cache_bytes,
        space_bytes,
        compaction,
        log_format: settings.log_format.unwrap_or_default(),
        log_level: log_level(settings.log_level)?,
    })
}

/// Where the admin server listens, if it does: not where clients connect.
fn admin(
    given: Option<AdminAddress>,
    listen: SocketAddr,
) -> Result<Option<SocketAddr>, ConfigError> {
    let default = AdminAddress::On(loopback(ADMIN_PORT_DEFAULT));
    let admin: Option<SocketAddr> = given.unwrap_or(default).into();
    match admin {
        Some(admin) if is_same_port(listen, admin) => Err(unusable(format!(
            "--listen {listen} and --admin {admin} are the same port; choose another --admin \
             (or off)"
        ))),
        admin => Ok(admin),
    }
}

/// Whether only one of two sockets can have its address. Port 0 is a free one each time.
fn is_same_port(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (is_any || one.ip() == other.ip())
}

fn compaction(settings: &Settings) -> Result<CompactionPolicy, ConfigError> {
    let default = CompactionPolicy::default();
    let policy = CompactionPolicy {
        dirty_percent: settings
            .compaction_dirty_percent
            .map_or(default.dirty_percent, |percent| percent.0),
        lag_ms: millis(settings.compaction_lag, default.lag_ms),
        lag_max_ms: millis(settings.compaction_lag_max, default.lag_max_ms),
        tombstone_ms: millis(settings.tombstone_retention, default.tombstone_ms),
    };
    // Passes would be due for messages that they have to leave as they are.
    if policy.lag_ms > policy.lag_max_ms {
        return Err(unusable(format!(
            "--compaction-lag {} is longer than --compaction-lag-max {}; lower the first or raise \
             the second",
            Span(policy.lag_ms),
            Span(policy.lag_max_ms)
        )));
    }
    Ok(policy)
}

fn millis(given: Option<Span>, default: u64) -> u64 {
    given.map_or(default, |span| span.0)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn unusable(reason: String) -> ConfigError {
    ConfigError::Unusable(reason)
}

fn cores(choice: Option<CoreChoice>, host: &Host) -> Result<Vec<usize>, ConfigError> {
    let cores = match choice {
        None => host.default_cpus().into_iter().take(SHARDS_MAX).collect(),
        Some(CoreChoice::All) => host.cpus.clone(),
        Some(CoreChoice::List(cores)) => cores,
    };
    if let Some(cpu) = cores.iter().find(|cpu| !host.cpus.contains(cpu)) {
        let allowed = CoreChoice::List(host.cpus.clone());
        return Err(unusable(format!(
            "--cores names CPU {cpu}, but this process may only run on {allowed}"
        )));
    }
    if cores.len() > SHARDS_MAX {
        let count = cores.len();
        return Err(unusable(format!(
            "--cores names {count} CPUs; a node has at most {SHARDS_MAX} shards"
        )));
    }
    Ok(cores)
}

fn segment_bytes(given: Option<ByteSize>) -> Result<u64, ConfigError> {
    let bytes = given.map_or(SEGMENT_BYTES_MAX, |size| size.0);
    let in_range = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes);
    if !in_range || !bytes.is_power_of_two() {
        return Err(unusable(format!(
            "--segment-bytes {} is not a power of two from {} to {}",
            ByteSize(bytes),
            ByteSize(SEGMENT_BYTES_MIN),
            ByteSize(SEGMENT_BYTES_MAX)
        )));
    }
    Ok(bytes)
}

fn cache_bytes(given: Option<ByteSize>, shards: usize, host: &Host) -> Result<u64, ConfigError> {
    let least = per_shard(CACHE_BYTES_PER_SHARD_MIN, shards);
    let Some(ByteSize(bytes)) = given else {
        let share = host.memory_bytes / CACHE_MEMORY_DIVISOR;
        let bounded = share.clamp(CACHE_BYTES_DEFAULT_MIN, CACHE_BYTES_DEFAULT_MAX);
        return Ok(bounded.max(least));
    };
    if bytes < least {
        return Err(too_small("--cache-bytes", bytes, least, shards));
    }
    if bytes > host.memory_bytes {
        return Err(unusable(format!(
            "--cache-bytes {} is more than the memory of this host or container, {} bytes",
            ByteSize(bytes),
            host.memory_bytes
        )));
    }
    Ok(bytes)
}

fn space_bytes(
    given: Option<ByteSize>,
    shards: usize,
    data_dir: &Path,
) -> Result<u64, ConfigError> {
    let bytes = match given {
        Some(size) => size.0,
        None => default_space_bytes(data_dir).map_err(|error| {
            let dir = data_dir.display();
            let fix = fix_of(data_dir, error.kind());
            unusable(format!(
                "cannot find out the free space of the data directory {dir}: {error}{fix}"
            ))
        })?,
    };
    let least = per_shard(SPACE_BYTES_PER_SHARD_MIN, shards);
    if bytes >= least {
        return Ok(bytes);
    }
    if given.is_some() {
        return Err(too_small("--space-bytes", bytes, least, shards));
    }
    Err(unusable(format!(
        "the file system of the data directory {} leaves the store {bytes} bytes; {shards} shards \
         need {}: free some space, or use fewer --cores",
        data_dir.display(),
        ByteSize(least)
    )))
}

fn too_small(option: &str, bytes: u64, least: u64, shards: usize) -> ConfigError {
    let (bytes, least) = (ByteSize(bytes), ByteSize(least));
    unusable(format!(
        "{option} {bytes} is too small: {shards} shards need {least}"
    ))
}

fn per_shard(bytes: u64, shards: usize) -> u64 {
    u64::try_from(shards).map_or(u64::MAX, |shards| bytes.saturating_mul(shards))
}

/// The directives of a filter, without spaces around them: the filter would take those for parts of
/// names.
fn log_level(given: Option<String>) -> Result<String, ConfigError> {
    let level = given.unwrap_or_else(|| LOG_LEVEL_DEFAULT.into());
    let directives = level.split(',').map(str::trim);
    let directives: Vec<&str> = directives
        .filter(|directive| !directive.is_empty())
        .collect();
    if directives.is_empty() {
        return Err(unusable("--log-level is empty".into()));
    }
    // A word alone that is no level would be taken for a target, and silence all others.
    let is_usable = |directive: &str| {
        if directive.contains('=') {
            EnvFilter::builder().parse(directive).is_ok()
        } else {
            directive.parse::<LevelFilter>().is_ok()
        }
    };
    let bad = directives.iter().find(|directive| !is_usable(directive));
    match bad {
        None => Ok(directives.join(",")),
        Some(directive) => Err(unusable(format!(
            "--log-level {directive:?}: write error, warn, info, debug or trace, or TARGET=LEVEL"
        ))),
    }
}
