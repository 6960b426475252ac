//! Apache Iggy, through its own client.
//!
//! The client has one request on its way per connection, so calls wait their turn in it. The
//! server has no long poll: a consumer that has caught up asks again and again, as the client's
//! own consumer does.

mod consumer;
mod durability;
mod producer;
mod route;

use std::sync::Arc;

use anyhow::{Context, Error, Result, anyhow, ensure};
use iggy::prelude::{
    CompressionAlgorithm, Identifier, IggyByteSize, IggyExpiry, MaxTopicSize, StreamClient,
    SystemClient, TcpClient, TopicClient, TopicDetails,
};

use super::background::Feed;
use super::{Facts, Prepared, System, Target};
use crate::args::{Acks, Codec, StartAt};
use crate::workload::Workload;
use consumer::{Reader, receive};
use durability::{configuration, durability};
use producer::IggyProducer;
use route::{Login, Route, id_of};

/// The stream the topics of runs belong to.
const STREAM: &str = "catena-bench";

/// An Iggy server.
#[derive(Clone, Debug)]
pub(crate) struct Iggy {
    target: Target,
}

impl Iggy {
    pub(crate) fn new(target: &Target) -> Self {
        Self {
            target: target.clone(),
        }
    }

    /// Finds out what a connection needs.
    fn route(&self) -> Result<Arc<Route>> {
        let Some(login) = Login::parse(&self.target.address) else {
            return Err(anyhow!(
                "an address is HOST:PORT or iggy://USER:PASSWORD@HOST:PORT"
            ));
        };
        Ok(Arc::new(Route {
            login,
            stream: Identifier::named(STREAM)?,
            topic: Identifier::named(&self.target.topic).context("not a name for a topic")?,
        }))
    }

    async fn ensure_topic(
        &self,
        client: &TcpClient,
        route: &Route,
        workload: &Workload,
    ) -> Result<TopicDetails> {
        if let Some(topic) = client.get_topic(&route.stream, &route.topic).await? {
            return Ok(topic);
        }
        if client.get_stream(&route.stream).await?.is_none() {
            client
                .create_stream(STREAM)
                .await
                .context("cannot make the stream")?;
        }
        let partitions = workload.partitions.unwrap_or(1);
        // Iggy bounds the topic, not its partitions.
        let size = workload
            .retention_bytes
            .map(|bytes| bytes.saturating_mul(partitions.into()));
        let size = size.map_or(MaxTopicSize::Unlimited, |bytes| {
            MaxTopicSize::Custom(IggyByteSize::from(bytes))
        });
        let (plain, kept) = (CompressionAlgorithm::None, IggyExpiry::NeverExpire);
        let name = &self.target.topic;
        let made = client
            .create_topic(&route.stream, name, partitions, plain, None, kept, size)
            .await;
        made.context("cannot make the topic; its size must be that of a segment at least")
    }
}

impl System for Iggy {
    type Producer = IggyProducer;
    type Consumer = Feed;

    async fn prepare(&self, workload: &Workload) -> Result<Prepared> {
        ensure!(
            workload.acks != Acks::None,
            "Iggy acknowledges every request"
        );
        ensure!(
            workload.compression == Codec::None && !workload.client_batching,
            "the driver for Iggy neither compresses nor groups messages"
        );
        let route = self.route()?;
        let client = route.connect().await.context("cannot connect to Iggy")?;
        let version = client.get_stats().await?.iggy_server_version;
        let config = configuration(&client).await;
        let (durability, verified) = durability(workload.acks, config.as_deref())?;
        let topic = self.ensure_topic(&client, &route, workload).await?;
        let partitions = topic.partitions_count;
        if let Some(asked) = workload.partitions {
            ensure!(
                asked == partitions,
                "the topic has {partitions} partitions, not {asked}"
            );
        }
        Ok(Prepared {
            partitions,
            facts: Facts {
                system: format!("Apache Iggy {version}"),
                durability: durability.to_owned(),
                verified: verified.map(str::to_owned),
                batch: Some("a request per partition, one after another".to_owned()),
            },
        })
    }

    async fn producer(&self, _: &Workload, _: u32) -> Result<IggyProducer> {
        let route = self.route()?;
        let client = route.connect().await?;
        let partitions = route.partitions(&client).await?;
        Ok(IggyProducer::new(route, client, partitions))
    }

    async fn consumer(&self, partitions: Vec<u32>, from: StartAt) -> Result<Feed> {
        let route = self.route()?;
        let client = route.connect().await?;
        let ids = route.partitions(&client).await?;
        let mut readers = Vec::new();
        for partition in partitions {
            let id = id_of(&ids, partition).map_err(Error::msg)?;
            let mut reader = Reader::new(partition, id);
            if from == StartAt::Latest {
                reader.next = route.end(&client, id).await?;
            }
            readers.push(reader);
        }
        Ok(Feed::new(|batches| {
            receive(route, client, readers, batches)
        }))
    }

    async fn remove(&self) -> Result<()> {
        let route = self.route()?;
        let client = route.connect().await?;
        Ok(client.delete_topic(&route.stream, &route.topic).await?)
    }
}
