//! Brokers that speak the Kafka protocol: Kafka itself, Redpanda and others.
//!
//! The messages are those of the `kafka-protocol` crate, the connections are made here. `rskafka`,
//! the client that is Rust alone, leaves Nagle's algorithm on: a batch of 30 KiB took it 44 ms on
//! loopback, and 0.1 ms this way. Nor can it ask for a topic's settings, without which nobody
//! knows when Kafka acknowledges.

mod cluster;
mod consumer;
mod durability;
mod producer;
mod wire;

use anyhow::{Context, Error, Result, ensure};

use super::background::Feed;
use super::{Facts, Prepared, System, Target};
use crate::args::{Codec, StartAt};
use crate::workload::Workload;
use cluster::{Cluster, Layout, is_redpanda, system_of};
use durability::{judge, required_acks, settings_for};
use producer::KafkaProducer;
use wire::Wire;

/// A Kafka-compatible broker or cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kafka {
    cluster: Cluster,
}

impl Kafka {
    pub(crate) fn new(target: &Target) -> Self {
        Self {
            cluster: Cluster::new(target),
        }
    }

    /// Makes the topic if it is missing.
    async fn ensure_topic(&self, wire: &mut Wire, workload: &Workload) -> Result<Layout> {
        let layout = self.cluster.layout(wire).await.map_err(Error::msg)?;
        if layout.leaders.is_some() {
            return Ok(layout);
        }
        let mut settings = settings_for(is_redpanda(&layout), workload.acks);
        if let Some(bytes) = workload.retention_bytes {
            settings.insert("retention.bytes".to_owned(), bytes.to_string());
        }
        let partitions = workload.partitions.unwrap_or(1);
        let made = self.cluster.create(wire, partitions, &settings).await;
        made.map_err(Error::msg).with_context(|| {
            format!("cannot make the topic; it can be made by hand, with {partitions} partitions")
        })
    }
}

impl System for Kafka {
    type Producer = KafkaProducer;
    type Consumer = Feed;

    async fn prepare(&self, workload: &Workload) -> Result<Prepared> {
        ensure!(
            workload.compression == Codec::None && !workload.client_batching,
            "the driver for Kafka neither compresses nor groups records"
        );
        let mut wire = self.cluster.connect().await.map_err(Error::msg)?;
        let layout = self.ensure_topic(&mut wire, workload).await?;
        let partitions = u32::try_from(layout.leaders.as_ref().map_or(0, Vec::len))?;
        if let Some(asked) = workload.partitions {
            ensure!(
                asked == partitions,
                "the topic has {partitions} partitions, not {asked}"
            );
        }
        let settings = self.cluster.settings(&mut wire).await;
        let settings = settings
            .map_err(Error::msg)
            .context("cannot ask for the settings")?;
        let judged = judge(is_redpanda(&layout), workload.acks, settings.as_ref())?;
        let replicas = layout.replicas;
        Ok(Prepared {
            partitions,
            facts: Facts {
                system: system_of(&mut wire, &layout).await.map_err(Error::msg)?,
                durability: format!("{}; replicas of a partition: {replicas}", judged.words),
                verified: judged.verified,
                batch: None,
            },
        })
    }

    async fn producer(&self, workload: &Workload, _: u32) -> Result<KafkaProducer> {
        let acks = required_acks(workload.acks);
        KafkaProducer::connect(self.cluster.clone(), acks)
            .await
            .map_err(Error::msg)
    }

    async fn consumer(&self, partitions: Vec<u32>, from: StartAt) -> Result<Feed> {
        let offsets = self
            .cluster
            .offsets(partitions, from)
            .await
            .map_err(Error::msg)?;
        let cluster = self.cluster.clone();
        Ok(Feed::new(|batches| {
            consumer::receive(cluster, offsets, batches)
        }))
    }

    async fn remove(&self) -> Result<()> {
        self.cluster
            .delete()
            .await
            .map_err(Error::msg)
            .context("cannot delete the topic")
    }
}
