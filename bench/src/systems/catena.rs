//! Catena, through its client crate.

mod consumer;
mod producer;
mod topic;

use anyhow::Result;
use catena_client::StartOffset;

use super::{Facts, Prepared, System, Target};
use crate::args::{Acks, StartAt};
use crate::workload::Workload;
use consumer::CatenaConsumer;
pub(crate) use consumer::{kind_of, receive_batches};
use producer::CatenaProducer;
pub(crate) use topic::{connect, find_topic};

/// A Catena broker or cluster.
#[derive(Clone, Debug)]
pub(crate) struct Catena {
    target: Target,
}

impl Catena {
    pub(crate) fn new(target: &Target) -> Self {
        Self {
            target: target.clone(),
        }
    }
}

impl System for Catena {
    type Producer = CatenaProducer;
    type Consumer = CatenaConsumer;

    async fn prepare(&self, workload: &Workload) -> Result<Prepared> {
        Ok(Prepared {
            partitions: topic::ensure_topic(&self.target, workload).await?,
            facts: Facts {
                system: "Catena".to_owned(),
                durability: durability(workload.acks).to_owned(),
                verified: Some("part of every request".to_owned()),
                batch: None,
            },
        })
    }

    async fn producer(&self, workload: &Workload, _: u32) -> Result<CatenaProducer> {
        let client = connect(&self.target.address).await?;
        CatenaProducer::build(&client, self.target.topic.clone(), workload).await
    }

    async fn consumer(&self, partitions: Vec<u32>, from: StartAt) -> Result<CatenaConsumer> {
        let client = connect(&self.target.address).await?;
        let consumer = client
            .consumer()
            .topic(&*self.target.topic)
            .partitions(partitions)
            .start(start_offset(from));
        Ok(CatenaConsumer::new(consumer.build().await?))
    }

    async fn remove(&self) -> Result<()> {
        let admin = connect(&self.target.address).await?.admin();
        admin.delete_topic(&self.target.topic).await?;
        Ok(())
    }
}

/// Where the client's consumer begins.
pub(crate) fn start_offset(from: StartAt) -> StartOffset {
    match from {
        StartAt::Earliest => StartOffset::Earliest,
        StartAt::Latest => StartOffset::Latest,
    }
}

fn durability(acks: Acks) -> &'static str {
    match acks {
        Acks::Durable => "durable: acknowledged after the flush on every member of the chain",
        Acks::Received => "received: acknowledged from memory, may be lost in a crash",
        Acks::None => "none: never acknowledged, done when the client has sent it",
    }
}
