//! The client of Catena, a message broker.
//!
//! [`Client::connect`] gives a handle from which everything else is made: a [`Producer`] sends
//! [`Record`]s, a [`Consumer`] is a stream of [`ConsumerRecord`]s, [`Admin`] manages topics. The
//! defaults are safe: a send is acknowledged once the record is flushed to stable storage,
//! repeated attempts write nothing twice and keep the order.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use catena_client::{Client, Record, StartOffset, TopicConfig};
//! use futures_util::StreamExt;
//!
//! let client = Client::connect("localhost:9640").await?;
//! client.admin().create_topic("greetings", 4, TopicConfig::default()).await?;
//!
//! let producer = client.producer().build().await?;
//! producer.send_and_wait(Record::to("greetings").key("world").value("hello")).await?;
//!
//! let mut consumer =
//!     client.consumer().topic("greetings").start(StartOffset::Earliest).build().await?;
//! while let Some(record) = consumer.next().await {
//!     let record = record?;
//!     println!("{} {}: {:?}", record.partition, record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `embedded` a broker can run inside the program itself, for tests, event buses
//! and queues without a server: see the module `embedded`.
//!
//! Everything runs on the tokio runtime it is built in; a current-thread runtime is enough. Each
//! connection has one task that owns its socket.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(all(doctest, feature = "embedded"))]
#[doc = include_str!("../../README.md")]
struct Readme;

mod admin;
mod backoff;
mod client;
mod connection;
mod consumer;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
mod limits;
mod locking;
mod metadata;
mod producer;

pub use admin::{Admin, Cluster, Node, PartitionOffset, TopicChange, TopicListing};
pub use client::{Client, ClientBuilder};
pub use consumer::{
    Consumer, ConsumerBuilder, ConsumerRecord, RecordBatch, ResetPolicy, StartOffset,
};
pub use error::{
    BuildError, ConfigError, ConnectionError, ConsumeError, ProduceError, RequestError,
};
pub use producer::{
    BatchHandle, BatchMetadata, DeliveryHandle, Header, Partitioner, Producer, ProducerBuilder,
    Record, RecordMetadata, partition_of_key,
};

pub use catena_protocol::compression::Codec;
pub use catena_protocol::error::ErrorCode;
pub use catena_protocol::ids::{Durability, TopicId};
pub use catena_protocol::messages::{
    ChainInfo, Cleanup, DescribeTopicResponse, NodeInfo, OffsetSpec, PartitionRange, TopicConfig,
    TopicInfo,
};
