//! The topic a run works on.

use anyhow::{Context, Result, ensure};
use catena_client::{Admin, Client, ErrorCode};
use catena_protocol::messages::TopicConfig;

use crate::systems::Target;
use crate::workload::Workload;

/// A client with connections of its own, as an application would have.
pub(crate) async fn connect(address: &str) -> Result<Client> {
    Client::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))
}

/// Creates the topic if there is none, and checks it as [`find_topic`] does; its partitions.
pub(super) async fn ensure_topic(target: &Target, workload: &Workload) -> Result<u32> {
    let admin = connect(&target.address).await?.admin();
    let name = &target.topic;
    let config = TopicConfig {
        retention_bytes: workload.retention_bytes,
        ..TopicConfig::default()
    };
    match admin
        .create_topic(name, workload.partitions.unwrap_or(1), config)
        .await
    {
        Err(error) if error.code() == Some(ErrorCode::TopicExists) => {}
        outcome => {
            outcome.with_context(|| format!("cannot create topic {name}"))?;
        }
    }
    check(&admin, name, workload.partitions).await
}

/// The partitions of the topic as it is.
pub(crate) async fn find_topic(target: &Target, wanted: Option<u32>) -> Result<u32> {
    let admin = connect(&target.address).await?.admin();
    check(&admin, &target.topic, wanted).await
}

/// Refuses a topic with other partitions than asked for: figures for its name would then be
/// those of another shape.
async fn check(admin: &Admin, name: &str, wanted: Option<u32>) -> Result<u32> {
    let partitions = admin.describe_topic(name).await?.topic.partitions;
    if let Some(wanted) = wanted {
        ensure!(
            wanted == partitions,
            "topic {name} exists with {partitions} partitions, not {wanted}; name another --topic"
        );
    }
    Ok(partitions)
}
