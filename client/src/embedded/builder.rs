//! Settings of an embedded broker.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use catena_broker::admin::AdminServer;
use catena_broker::limits::{CACHE_BYTES_PER_SHARD_MIN, SHARDS_MAX, SPACE_BYTES_PER_SHARD_MIN};
use catena_broker::server::{self, Broker, NodeOptions};

use super::{EmbeddedBroker, EmbeddedError, Listen, Storage};
use crate::error::ConfigError;

/// Builds an [`EmbeddedBroker`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use catena_client::Client;
/// use catena_client::embedded::{EmbeddedBroker, Listen};
///
/// let anywhere = "127.0.0.1:0".parse()?;
/// let broker = EmbeddedBroker::builder().listen(Listen::Tcp(anywhere)).start().await?;
/// let addr = broker.local_addr().ok_or("it listens")?;
/// let client = Client::connect(&addr.to_string()).await?;
/// # drop(client);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `start`"]
pub struct EmbeddedBrokerBuilder {
    storage: Storage,
    listen: Listen,
    advertise: Option<String>,
    admin: Option<SocketAddr>,
    shards: Option<usize>,
    space_bytes: Option<u64>,
    cache_bytes: Option<u64>,
}

impl EmbeddedBrokerBuilder {
    /// Where it keeps its data; in memory by default.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// Who reaches it; only this process by default.
    pub const fn listen(mut self, listen: Listen) -> Self {
        self.listen = listen;
        self
    }

    /// What clients over TCP are told to connect to, `HOST:PORT`; by default the address that it
    /// listens on. Must be given when that stands for all addresses of the host.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Serves metrics and health over HTTP here; nowhere by default.
    pub const fn admin(mut self, addr: SocketAddr) -> Self {
        self.admin = Some(addr);
        self
    }

    /// How many shards, each a thread and a journal; 1 by default, at most 64.
    pub const fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// What the journals may take, all together, before producers are refused with
    /// [`StorageFull`](crate::ErrorCode::StorageFull): of memory (256 MiB by default) or of the
    /// directory (4 GiB). At least 64 MiB per shard.
    pub const fn space_bytes(mut self, bytes: u64) -> Self {
        self.space_bytes = Some(bytes);
        self
    }

    /// The read cache; 16 MiB by default, at least 8 MiB per shard.
    pub const fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = Some(bytes);
        self
    }

    /// Starts it; what its directory holds is recovered first. Returns when it serves.
    ///
    /// # Errors
    /// [`EmbeddedError`]; nothing of the broker runs then.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// A broker whose start was given up is stopped as soon as it has started.
    pub async fn start(self) -> Result<EmbeddedBroker, EmbeddedError> {
        let options = self.options()?;
        let admin = self.admin;
        let started = tokio::task::spawn_blocking(move || start(&options, admin));
        match started.await {
            Ok(started) => started,
            // The runtime is going down, or a start panicked.
            Err(interrupted) => Err(EmbeddedError::new(None, &interrupted)),
        }
    }

    fn options(&self) -> Result<NodeOptions, ConfigError> {
        let storage = match &self.storage {
            Storage::Memory => server::Storage::Memory,
            Storage::Dir(dir) => server::Storage::Directory(dir.clone()),
        };
        let defaults = NodeOptions::embedded(storage);
        let shards = self.shards.unwrap_or(1);
        let share = u64::try_from(shards).unwrap_or(u64::MAX);
        let options = NodeOptions {
            listen: match self.listen {
                Listen::None => None,
                Listen::Tcp(addr) => Some(addr),
            },
            advertise: match &self.advertise {
                Some(address) => Some(address.parse().map_err(|_| ConfigError {
                    setting: "advertise",
                    reason: "HOST:PORT, like broker-1.example:9640",
                })?),
                None => None,
            },
            cores: vec![None; shards.min(SHARDS_MAX)],
            cache_bytes: self.cache_bytes.unwrap_or(
                defaults
                    .cache_bytes
                    .max(share.saturating_mul(CACHE_BYTES_PER_SHARD_MIN)),
            ),
            space_bytes: self.space_bytes.unwrap_or(
                defaults
                    .space_bytes
                    .max(share.saturating_mul(SPACE_BYTES_PER_SHARD_MIN)),
            ),
            ..defaults
        };
        check(&options, shards)?;
        Ok(options)
    }
}

fn check(options: &NodeOptions, shards: usize) -> Result<(), ConfigError> {
    let share = u64::try_from(shards).unwrap_or(u64::MAX);
    let is_vague = options
        .listen
        .is_some_and(|addr| addr.ip().is_unspecified());
    let rules = [
        ((1..=SHARDS_MAX).contains(&shards), "shards", "1 to 64"),
        (
            options.cache_bytes / share.max(1) >= CACHE_BYTES_PER_SHARD_MIN,
            "cache_bytes",
            "at least 8 MiB per shard",
        ),
        (
            options.space_bytes / share.max(1) >= SPACE_BYTES_PER_SHARD_MIN,
            "space_bytes",
            "at least 64 MiB per shard",
        ),
        (
            !is_vague || options.advertise.is_some(),
            "advertise",
            "needed when it listens on all addresses of the host",
        ),
    ];
    match rules.into_iter().find(|(holds, _, _)| !holds) {
        Some((_, setting, reason)) => Err(ConfigError { setting, reason }),
        None => Ok(()),
    }
}

/// Starts a broker on a thread that may block.
fn start(
    options: &NodeOptions,
    admin: Option<SocketAddr>,
) -> Result<EmbeddedBroker, EmbeddedError> {
    let broker = Broker::start(options)
        .map_err(|failure| EmbeddedError::new(server::refusal_of(&failure), &failure))?;
    let serve = |addr| {
        AdminServer::start(addr, Arc::clone(broker.status())).map_err(|error| {
            let reason = format!("cannot serve metrics and health on {addr}: {error}");
            EmbeddedError::new(None, &reason)
        })
    };
    let admin = admin.map(serve).transpose()?;
    Ok(EmbeddedBroker {
        addr: broker.addr(),
        in_process: broker.in_process(),
        admin,
        broker: Mutex::new(broker),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn refused(builder: &EmbeddedBrokerBuilder) -> Option<&'static str> {
        builder.options().err().map(|error| error.setting)
    }

    fn new() -> EmbeddedBrokerBuilder {
        EmbeddedBroker::builder()
    }

    #[test]
    fn settings_are_refused_beyond_their_bounds_and_not_before() {
        assert_eq!(refused(&new()), None);
        for (builder, expected) in [
            (new().shards(0), Some("shards")),
            (new().shards(64), None),
            (new().shards(65), Some("shards")),
            (new().shards(usize::MAX), Some("shards")),
            (new().cache_bytes(8 * MIB - 1), Some("cache_bytes")),
            (new().cache_bytes(8 * MIB), None),
            (new().shards(2).cache_bytes(15 * MIB), Some("cache_bytes")),
            (new().space_bytes(64 * MIB - 1), Some("space_bytes")),
            (new().space_bytes(64 * MIB), None),
            (new().shards(3).space_bytes(128 * MIB), Some("space_bytes")),
            (new().advertise("nowhere"), Some("advertise")),
        ] {
            assert_eq!(refused(&builder), expected, "{builder:?}");
        }
    }

    #[test]
    fn clients_are_never_told_to_connect_to_every_address() {
        let everywhere = "0.0.0.0:0".parse().expect("an address");
        let vague = new().listen(Listen::Tcp(everywhere));
        assert_eq!(refused(&vague), Some("advertise"));
        assert_eq!(refused(&vague.advertise("broker.example:9640")), None);
    }

    #[test]
    fn an_embedded_broker_is_small_and_pins_nothing() {
        let options = new().options().expect("the defaults are allowed");
        assert_eq!(options.cores, [None]);
        assert_eq!(options.listen, None);
        assert_eq!(options.segment_bytes, 4 * MIB);
        assert_eq!(options.cache_bytes, 16 * MIB);
        assert_eq!(options.space_bytes, 256 * MIB);
        let on_disk = new().storage(Storage::Dir("somewhere".into()));
        let options = on_disk.options().expect("the defaults are allowed");
        assert_eq!(options.space_bytes, 4096 * MIB);
    }
}
