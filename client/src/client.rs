//! The client: what producers, consumers and admin calls of one cluster share.
//!
//! Invariant: connections and metadata are shared by everything made from one client, and live as
//! long as the last of it.

pub(crate) mod core;

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use catena_protocol::limits::{AUTH_BYTES_MAX, PEER_NAME_BYTES_MAX};

use self::core::Core;
use crate::admin::Admin;
use crate::connection::Endpoint;
use crate::connection::driver::DriverTimeouts;
use crate::connection::handshake::Identity;
use crate::connection::stream::Dialer;
use crate::consumer::ConsumerBuilder;
use crate::error::{BuildError, ConfigError, ConnectionError};
use crate::limits::CONNECTIONS_PER_NODE_DEFAULT;
use crate::producer::ProducerBuilder;

/// A cluster, as seen from here. Cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use catena_client::{Client, TopicConfig};
///
/// let client = Client::connect("broker-1:9640,broker-2:9640").await?;
/// client.admin().create_topic("orders", 12, TopicConfig::default()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    core: Arc<Core>,
}

impl Client {
    /// Connects with default settings. `addresses` is a list of `HOST:PORT`, separated by commas;
    /// one that answers is enough, it names the others.
    ///
    /// # Errors
    /// If none answers within the request timeout.
    ///
    /// # Cancel safety
    /// Dropping the call closes what it opened.
    pub async fn connect(addresses: &str) -> Result<Self, BuildError> {
        Self::builder().connect(addresses).await
    }

    /// Settings for a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Settings for a producer.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.core.clone())
    }

    /// Settings for a consumer.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.core.clone())
    }

    /// Topics, offsets and the cluster itself.
    pub fn admin(&self) -> Admin {
        Admin::new(self.core.clone())
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> [u8; 16] {
        self.core
            .identity
            .cluster
            .get()
            .copied()
            .unwrap_or_default()
    }
}

/// Builds a [`Client`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use catena_client::Client;
///
/// let client = Client::builder()
///     .client_name("billing")
///     .request_timeout(Duration::from_secs(5))
///     .connect("localhost:9640")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `connect`"]
pub struct ClientBuilder {
    client_name: String,
    auth: Vec<u8>,
    cluster_id: Option<[u8; 16]>,
    connections_per_node_max: usize,
    connect_timeout: Duration,
    request_timeout: Duration,
    idle_timeout: Duration,
    metadata_age_max: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            client_name: format!("catena-client/{}", env!("CARGO_PKG_VERSION")),
            auth: Vec::new(),
            cluster_id: None,
            connections_per_node_max: CONNECTIONS_PER_NODE_DEFAULT,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            metadata_age_max: Duration::from_secs(180),
        }
    }
}

impl ClientBuilder {
    /// What the broker's logs call this client; at most 255 bytes.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = name.into();
        self
    }

    /// Credentials for the hello; at most 64 KiB.
    pub fn auth(mut self, auth: impl Into<Vec<u8>>) -> Self {
        self.auth = auth.into();
        self
    }

    /// The cluster that must be met. By default the first one met counts from then on.
    pub const fn cluster_id(mut self, cluster_id: [u8; 16]) -> Self {
        self.cluster_id = Some(cluster_id);
        self
    }

    /// Connections to one node for producing, and for each consumer; 64 by default, at least 1.
    /// One is opened for each shard that owns a partition in use. A broker does not pass requests
    /// on between its shards, so a node with more shards than this is used in part: what the others
    /// own fails with [`NotOwner`](crate::ErrorCode::NotOwner) when its time is over.
    pub const fn connections_per_node_max(mut self, connections: usize) -> Self {
        self.connections_per_node_max = connections;
        self
    }

    /// The longest wait for a connection and its hello; 5 s by default.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest wait for the answer to one request, after which its connection is given up;
    /// 10 s by default, at least 10 ms.
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a connection without work is kept; 60 s by default, at least 10 ms.
    pub const fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// The age at which metadata is fetched again though nothing seems wrong with it; 3 minutes by
    /// default, at least 100 ms.
    pub const fn metadata_age_max(mut self, age: Duration) -> Self {
        self.metadata_age_max = age;
        self
    }

    /// Connects to the first address that answers.
    ///
    /// # Errors
    /// If a setting is out of range, no address can be read, or none answers within the request
    /// timeout.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect(self, addresses: &str) -> Result<Client, BuildError> {
        self.check()?;
        let bootstrap = parse(addresses)?;
        self.connect_through(Dialer::Tcp, bootstrap).await
    }

    /// Connects to a broker in this process.
    #[cfg(feature = "embedded")]
    pub(crate) async fn connect_in_process(
        self,
        broker: catena_broker::server::InProcess,
    ) -> Result<Client, BuildError> {
        self.check()?;
        let bootstrap = Endpoint {
            address: "in-process".into(),
            node: None,
            shard: None,
        };
        self.connect_through(Dialer::InProcess(broker), vec![bootstrap])
            .await
    }

    async fn connect_through(
        self,
        dialer: Dialer,
        bootstrap: Vec<Endpoint>,
    ) -> Result<Client, BuildError> {
        let timeouts = DriverTimeouts {
            request: self.request_timeout,
            idle: self.idle_timeout,
        };
        let identity = Identity {
            dialer,
            client_name: self.client_name,
            auth: self.auth,
            cluster: self.cluster_id.map_or_else(OnceLock::new, OnceLock::from),
            connect_timeout: self.connect_timeout,
        };
        let connections = self.connections_per_node_max;
        let core = Arc::new(Core::new(
            Arc::new(identity),
            timeouts,
            connections,
            bootstrap,
        ));
        // Learns the nodes, so that a bootstrap address may go away later.
        core.metadata.refresh(&core, 0).await?;
        tokio::spawn(keep_metadata(Arc::downgrade(&core), self.metadata_age_max));
        Ok(Client { core })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let short = Duration::from_millis(10);
        let rules = [
            (
                self.client_name.len() <= PEER_NAME_BYTES_MAX,
                "client_name",
                "at most 255 bytes",
            ),
            (self.auth.len() <= AUTH_BYTES_MAX, "auth", "at most 64 KiB"),
            (
                self.connections_per_node_max > 0,
                "connections_per_node_max",
                "at least 1",
            ),
            (
                self.connect_timeout >= short,
                "connect_timeout",
                "at least 10 ms",
            ),
            (
                self.request_timeout >= short,
                "request_timeout",
                "at least 10 ms",
            ),
            (self.idle_timeout >= short, "idle_timeout", "at least 10 ms"),
            (
                self.metadata_age_max >= short * 10,
                "metadata_age_max",
                "at least 100 ms",
            ),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, setting, reason)) => Err(ConfigError { setting, reason }),
            None => Ok(()),
        }
    }
}

fn parse(addresses: &str) -> Result<Vec<Endpoint>, ConnectionError> {
    let wrong = || ConnectionError::Address {
        addresses: addresses.into(),
    };
    let endpoint = |address: &str| {
        let address = address.trim();
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Endpoint {
            address: address.into(),
            node: None,
            shard: None,
        })
    };
    addresses.split(',').map(endpoint).collect()
}

async fn keep_metadata(core: Weak<Core>, age_max: Duration) {
    loop {
        tokio::time::sleep(age_max).await;
        let Some(core) = core.upgrade() else { return };
        if let Err(error) = core
            .metadata
            .refresh(&core, core.metadata.generation())
            .await
        {
            tracing::warn!(%error, "metadata could not be refreshed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_a_host_and_a_port() {
        let good = parse("a:1, [::1]:9640 ,10.0.0.1:65535").expect("good addresses");
        let addresses: Vec<_> = good.iter().map(|endpoint| &*endpoint.address).collect();
        assert_eq!(addresses, ["a:1", "[::1]:9640", "10.0.0.1:65535"]);
        for bad in ["", "a", "a:", ":1", "a:65536", "a:1,,b:2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
