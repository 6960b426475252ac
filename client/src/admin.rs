//! Topics, offsets, and the cluster itself.
//!
//! Invariant: a change is repeated after a refusal that says it was not carried out, never after
//! a lost connection: then the caller decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use catena_protocol::error::{ErrorCode, owner_from_detail};
use catena_protocol::ids::{PartitionId, TopicId, TopicPartition};
use catena_protocol::limits::LIST_OFFSETS_ITEMS_MAX;
use catena_protocol::messages::{
    AlterTopicRequest, Cleanup, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    DescribeTopicResponse, ListOffsetsItem, ListOffsetsRequest, ListOffsetsResult, OffsetSpec,
    TopicConfig,
};

use crate::client::core::{Attempts, Core};
use crate::connection::Endpoint;
use crate::error::RequestError;
use crate::metadata::fetch_metadata;

/// What to change of a topic. What is not set stays.
///
/// ```
/// use catena_client::TopicChange;
///
/// // Keep three days, whatever the size.
/// let change = TopicChange {
///     retention_ms: Some(Some(3 * 24 * 3_600_000)),
///     retention_bytes: Some(None),
///     ..TopicChange::default()
/// };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// The new count of partitions; it can only grow. Keys change their partitions then.
    pub partitions: Option<u32>,
    /// The bytes to keep per partition; `Some(None)` lifts the limit.
    pub retention_bytes: Option<Option<u64>>,
    /// The age to keep, in ms; `Some(None)` lifts the limit.
    pub retention_ms: Option<Option<u64>>,
    /// The weakest durability class the topic takes.
    pub min_durability: Option<catena_protocol::ids::Durability>,
    /// How old records go. A topic that becomes compacted keeps the records without a key that it
    /// has, and takes no more of them.
    pub cleanup: Option<Cleanup>,
}

/// A topic in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicListing {
    /// The name.
    pub name: String,
    /// The id, never used twice.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its settings.
    pub config: TopicConfig,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// The node's id.
    pub id: u32,
    /// `HOST:PORT`.
    pub address: String,
    /// How many shards it runs.
    pub shards: u16,
}

/// The cluster as one of its nodes describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cluster {
    /// The cluster's id.
    pub id: [u8; 16],
    /// Rises with every change of metadata.
    pub metadata_version: u64,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// All topics, by name.
    pub topics: Vec<TopicListing>,
}

/// An offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOffset {
    /// The partition.
    pub partition: u32,
    /// The offset asked for.
    pub offset: u64,
    /// When it was looked up by time: the newest time of the batch found, in ms since 1970.
    pub timestamp_ms: Option<i64>,
}

/// Administration. Cheap to clone.
///
/// Every call is bounded by the client's request timeout. Calls that change something are carried
/// out at most once per call; [`RequestError::may_have_been_carried_out`] tells whether a call that
/// failed may have made its change. Dropping a call does not take a request back that was sent.
///
/// ```no_run
/// # async fn example(client: catena_client::Client) -> Result<(), catena_client::RequestError> {
/// use catena_client::{OffsetSpec, TopicConfig};
///
/// let admin = client.admin();
/// admin.create_topic("orders", 12, TopicConfig::default()).await?;
/// for end in admin.list_offsets("orders", OffsetSpec::Latest).await? {
///     println!("{}: {}", end.partition, end.offset);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    core: Arc<Core>,
}

impl Admin {
    pub(crate) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Makes a topic; gives its id.
    ///
    /// # Errors
    /// Among others `TopicExists`, `InvalidTopicName`, `InvalidPartitionCount`, `InvalidConfig`
    /// as [`RequestError::code`].
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        config: TopicConfig,
    ) -> Result<TopicId, RequestError> {
        let request = CreateTopicRequest {
            name: name.to_owned(),
            partitions,
            config,
        };
        let made = self.core.ask_any(&request, false).await?;
        self.core.metadata.note_change(name, made.metadata_version);
        Ok(made.topic)
    }

    /// Deletes a topic with all it holds.
    ///
    /// # Errors
    /// Among others [`RequestError::TopicNotFound`].
    pub async fn delete_topic(&self, name: &str) -> Result<(), RequestError> {
        let request = DeleteTopicRequest {
            name: name.to_owned(),
        };
        let deleted = self.core.ask_any(&request, false).await;
        let version = deleted
            .map_err(|error| not_found(name, error))?
            .metadata_version;
        self.core.metadata.note_change(name, version);
        Ok(())
    }

    /// Changes a topic's settings or adds partitions.
    ///
    /// # Errors
    /// Among others [`RequestError::TopicNotFound`], and `InvalidPartitionCount`, `InvalidConfig`
    /// as [`RequestError::code`].
    pub async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<(), RequestError> {
        let request = AlterTopicRequest {
            name: name.to_owned(),
            partitions: change.partitions,
            retention_bytes: change.retention_bytes,
            retention_ms: change.retention_ms,
            min_durability: change.min_durability,
            cleanup: change.cleanup,
        };
        let changed = self.core.ask_any(&request, true).await;
        let version = changed
            .map_err(|error| not_found(name, error))?
            .metadata_version;
        self.core.metadata.note_change(name, version);
        Ok(())
    }

    /// A topic in full: settings, the chains of its partitions, their owners.
    ///
    /// # Errors
    /// Among others [`RequestError::TopicNotFound`].
    pub async fn describe_topic(&self, name: &str) -> Result<DescribeTopicResponse, RequestError> {
        let request = DescribeTopicRequest {
            name: name.to_owned(),
        };
        self.core
            .ask_any(&request, true)
            .await
            .map_err(|error| not_found(name, error))
    }

    /// All topics, sorted by name.
    ///
    /// # Errors
    /// If no node answers in time.
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>, RequestError> {
        Ok(self.cluster().await?.topics)
    }

    /// Nodes and topics of the cluster.
    ///
    /// # Errors
    /// If no node answers in time.
    pub async fn cluster(&self) -> Result<Cluster, RequestError> {
        let pages = fetch_metadata(&self.core, None).await?;
        let mut cluster = Cluster {
            id: [0; 16],
            metadata_version: 0,
            nodes: Vec::new(),
            topics: Vec::new(),
        };
        for page in pages {
            cluster.id = page.cluster_id;
            cluster.metadata_version = page.version;
            cluster.nodes = page
                .nodes
                .into_iter()
                .map(|node| Node {
                    id: node.node.0,
                    address: format!("{}:{}", node.host, node.port),
                    shards: node.shards,
                })
                .collect();
            let topics = page
                .topics
                .into_iter()
                .filter(|topic| topic.error == ErrorCode::None);
            cluster.topics.extend(topics.map(|topic| TopicListing {
                name: topic.name,
                id: topic.id,
                partitions: topic.partitions,
                config: topic.config,
            }));
        }
        cluster.topics.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(cluster)
    }

    /// One offset of each partition of a topic, sorted by partition.
    ///
    /// # Errors
    /// Among others [`RequestError::TopicNotFound`]; fails as a whole.
    pub async fn list_offsets(
        &self,
        topic: &str,
        spec: OffsetSpec,
    ) -> Result<Vec<PartitionOffset>, RequestError> {
        let found = with_current_ids(&self.core, || async {
            let metadata = self.core.metadata.topic(&self.core, topic).await?;
            let items = (0..metadata.partitions).map(|partition| ListOffsetsItem {
                topic: metadata.id,
                partition: PartitionId(partition),
                spec,
            });
            list_offsets(&self.core, items.collect()).await
        });
        let found = found.await.map_err(|error| not_found(topic, error))?;
        let offset = |result: ListOffsetsResult| PartitionOffset {
            partition: result.partition.0,
            offset: result.offset.0,
            timestamp_ms: (result.timestamp_ms >= 0).then_some(result.timestamp_ms),
        };
        Ok(found.into_values().map(offset).collect())
    }
}

fn not_found(topic: &str, error: RequestError) -> RequestError {
    match error {
        RequestError::Refused {
            code: ErrorCode::TopicNotFound,
            ..
        } => RequestError::TopicNotFound {
            topic: topic.into(),
        },
        other => other,
    }
}

/// Looks names up and asks for what they stand for; does so again when a topic went meanwhile, as
/// another one may have its name by now. Ends with [`RequestError::TopicNotFound`] if none has.
///
/// The closure is not an `async` one: with that the compiler could not see that futures above this
/// one are `Send`, and a program could not spawn them.
pub(crate) async fn with_current_ids<T, F>(
    core: &Core,
    look_up: impl Fn() -> F,
) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let mut attempts = Attempts::new(core.timeouts.request);
    loop {
        match look_up().await {
            Err(
                error @ RequestError::Refused {
                    code: ErrorCode::TopicNotFound,
                    ..
                },
            ) => attempts.pause(&error).await?,
            other => return other,
        }
    }
}

/// Looks offsets up at the shards that own the partitions; asks again where ownership moved. Is
/// refused with `TopicNotFound` only if metadata, too, holds one of the topics no more.
pub(crate) async fn list_offsets(
    core: &Arc<Core>,
    items: Vec<ListOffsetsItem>,
) -> Result<BTreeMap<TopicPartition, ListOffsetsResult>, RequestError> {
    let mut attempts = Attempts::new(core.timeouts.request);
    let mut found = BTreeMap::new();
    let mut missing = items;
    loop {
        let generation = core.metadata.generation();
        let error = ask_owners(core, &mut missing, &mut found).await;
        match error {
            None => return Ok(found),
            Some(error) if is_about_the_id(&error) => {
                core.metadata.refresh(core, generation).await?;
                check_topics(core, missing.iter().map(|item| item.topic))?;
                attempts.pause(&error).await?;
            }
            Some(error) => {
                attempts.pause_after(error, true).await?;
                core.metadata.refresh(core, generation).await?;
            }
        }
    }
}

/// Refuses ids that metadata does not hold (any more), as a broker would.
pub(crate) fn check_topics(
    core: &Core,
    mut topics: impl Iterator<Item = TopicId>,
) -> Result<(), RequestError> {
    if topics.all(|topic| core.metadata.holds(topic)) {
        return Ok(());
    }
    Err(refused(ErrorCode::TopicNotFound, 0))
}

/// The metadata that the request was made from may be wrong: ask for it first.
fn is_about_the_id(error: &RequestError) -> bool {
    let code = error.code();
    code == Some(ErrorCode::TopicNotFound) || code == Some(ErrorCode::UnknownPartition)
}

/// One round; what was not found stays in `missing`, and the last reason comes back.
async fn ask_owners(
    core: &Arc<Core>,
    missing: &mut Vec<ListOffsetsItem>,
    found: &mut BTreeMap<TopicPartition, ListOffsetsResult>,
) -> Option<RequestError> {
    let mut last_error = None;
    let mut by_owner: Vec<(Endpoint, Vec<ListOffsetsItem>)> = Vec::new();
    for item in std::mem::take(missing) {
        let Some(owner) = core.metadata.owner(item.tp()) else {
            last_error = Some(refused(ErrorCode::UnknownPartition, 0));
            missing.push(item);
            continue;
        };
        match by_owner.iter_mut().find(|(endpoint, _)| *endpoint == owner) {
            Some((_, items)) => items.push(item),
            None => by_owner.push((owner, vec![item])),
        }
    }
    for (owner, items) in by_owner {
        for items in items.chunks(LIST_OFFSETS_ITEMS_MAX) {
            let request = ListOffsetsRequest {
                items: items.to_vec(),
            };
            match core.ask_once(&owner, &request).await {
                Err(error) => {
                    last_error = Some(error);
                    missing.extend_from_slice(items);
                }
                Ok(response) if response.items.len() != items.len() => {
                    let reason = "an answer for each offset asked for is missing".into();
                    return Some(RequestError::Protocol { reason });
                }
                Ok(response) => {
                    for (item, result) in items.iter().zip(response.items) {
                        if result.tp() == item.tp() && result.error == ErrorCode::None {
                            found.insert(item.tp(), result);
                            continue;
                        }
                        missing.push(*item);
                        last_error = Some(note_refusal(core, &result));
                    }
                }
            }
        }
    }
    last_error
}

fn note_refusal(core: &Core, result: &ListOffsetsResult) -> RequestError {
    if result.error == ErrorCode::NotOwner
        && let Some((node, shard)) = owner_from_detail(result.offset.0)
    {
        core.metadata.follow_hint(result.tp(), node, shard);
    }
    refused(result.error, result.offset.0)
}

fn refused(code: ErrorCode, detail: u64) -> RequestError {
    RequestError::Refused {
        code,
        message: "".into(),
        detail,
    }
}
