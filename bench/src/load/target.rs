//! The broker and topic a run works on.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use catena_client::{Admin, Client, ErrorCode};
use catena_protocol::messages::TopicConfig;

use crate::args::TargetArgs;

/// What a call needs to know of its topic.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) partitions: u32,
}

/// A client with connections of its own, as an application would have.
pub(crate) async fn connect(broker: &str) -> Result<Client> {
    Client::connect(broker)
        .await
        .with_context(|| format!("cannot connect to {broker}"))
}

/// Creates the topic if there is none, and checks it as [`find_topic`] does.
pub(crate) async fn ensure_topic(target: &TargetArgs) -> Result<Topic> {
    let admin = connect(&target.broker).await?.admin();
    let name = &target.topic;
    let config = TopicConfig {
        retention_bytes: target.retention_bytes,
        ..TopicConfig::default()
    };
    match admin
        .create_topic(name, target.partitions.unwrap_or(1), config)
        .await
    {
        Err(error) if error.code() == Some(ErrorCode::TopicExists) => {}
        outcome => {
            outcome.with_context(|| format!("cannot create topic {name}"))?;
        }
    }
    check(&admin, target).await
}

/// The topic as it is.
pub(crate) async fn find_topic(target: &TargetArgs) -> Result<Topic> {
    check(&connect(&target.broker).await?.admin(), target).await
}

/// Refuses a topic with other partitions than asked for: figures for its name would then be
/// those of another shape.
async fn check(admin: &Admin, target: &TargetArgs) -> Result<Topic> {
    let name = &target.topic;
    let partitions = admin.describe_topic(name).await?.topic.partitions;
    if let Some(wanted) = target.partitions {
        ensure!(
            wanted == partitions,
            "topic {name} exists with {partitions} partitions, not {wanted}; name another --topic"
        );
    }
    Ok(Topic {
        name: name.as_str().into(),
        partitions,
    })
}
