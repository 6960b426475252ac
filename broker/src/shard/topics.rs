//! Requests about topics: metadata from the shard's own copy, changes through the control plane.
//!
//! A change is answered when it is durable and every shard has applied it, so that whoever made a
//! topic can produce to it at once. Runs on the shard's executor.

use std::collections::BTreeSet;
use std::rc::Rc;

use catena_core::limits::PARTITION_RANGES_PER_TOPIC_MAX;
use catena_core::metadata::{Command, MetadataState, Outcome, Topic};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{CorrelationId, ProducerEpoch, ProducerId, TopicId};
use catena_protocol::limits::{METADATA_PAGE_RANGES_MAX, METADATA_PAGE_TOPICS_MAX};
use catena_protocol::messages::{
    AlterTopicRequest, AlterTopicResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse,
    InitProducerResponse, Message, MetadataRequest, MetadataResponse, PartitionRange, TopicConfig,
    TopicInfo,
};
use tracing::info;

use super::Shard;
use super::connection::Connection;
use super::message::{ControlError, ControlRequest};
use crate::limits::PRODUCER_IDS_PER_BLOCK;
use crate::runtime::channel;
use crate::runtime::clock;
use crate::runtime::executor::Queue;

// A page holds at least one topic, so that asking for page after page comes to an end.
const _: () = assert!(PARTITION_RANGES_PER_TOPIC_MAX <= METADATA_PAGE_RANGES_MAX);

/// Where an answer goes. As long as it exists it counts against the client's control credit.
pub struct ReplyTo {
    /// The connection.
    pub connection: Rc<Connection>,
    /// The request.
    pub correlation: CorrelationId,
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        self.connection.control_ended();
    }
}

impl ReplyTo {
    /// The answer to a request of a connection.
    pub fn new(connection: &Rc<Connection>, correlation: CorrelationId) -> ReplyTo {
        connection.control_began();
        ReplyTo {
            connection: Rc::clone(connection),
            correlation,
        }
    }

    fn send(&self, message: &impl Message) {
        let mut frame = Vec::new();
        message.encode(self.correlation, &mut frame);
        self.connection.send(frame);
    }

    fn refuse(&self, error: &ControlError) {
        let code = match error {
            ControlError::Refused(refusal) => refusal.code(),
            ControlError::Failed(_) => ErrorCode::StoreFailed,
        };
        self.connection
            .send_error(self.correlation, code, 0, &error.to_string());
    }
}

/// Answers with topics, chains and nodes, a page at a time.
pub fn metadata(shard: &Shard, to: &ReplyTo, request: &MetadataRequest) {
    let state = shard.metadata.borrow();
    let page = match &request.topics {
        Some(names) => named(&state, names),
        None => Some(page(&state, request.page)),
    };
    let Some(page) = page else {
        let message = format!(
            "these topics are more than {METADATA_PAGE_TOPICS_MAX}, or have more than \
             {METADATA_PAGE_RANGES_MAX} ranges; ask for fewer at once"
        );
        return to
            .connection
            .send_error(to.correlation, ErrorCode::RequestTooLarge, 0, &message);
    };
    to.send(&MetadataResponse {
        version: state.version(),
        cluster_id: shard.node.cluster_id,
        nodes: state.nodes().cloned().collect(),
        topics: page.topics,
        ranges: page.ranges,
        chains: state.chains().collect(),
        next_page: page.next,
    });
}

/// What fits into one response.
#[derive(Default)]
struct Page {
    topics: Vec<TopicInfo>,
    ranges: Vec<PartitionRange>,
    next: Option<u32>,
}

impl Page {
    /// Adds a topic with its ranges; false if there is no room for it.
    fn add(&mut self, info: TopicInfo, ranges: &[PartitionRange]) -> bool {
        let fits = self.topics.len() < METADATA_PAGE_TOPICS_MAX
            && self.ranges.len() + ranges.len() <= METADATA_PAGE_RANGES_MAX;
        if fits {
            self.topics.push(info);
            self.ranges.extend_from_slice(ranges);
        }
        fits
    }
}

fn page(state: &MetadataState, first: u32) -> Page {
    let mut page = Page::default();
    for topic in state.topics_from(TopicId::new(first)) {
        if !page.add(info_of(topic), &topic.ranges) {
            page.next = Some(topic.id.get());
            break;
        }
    }
    page
}

/// The topics of these names, each once; none if they do not fit into one response.
fn named(state: &MetadataState, names: &[String]) -> Option<Page> {
    let mut page = Page::default();
    let mut seen = BTreeSet::new();
    for name in names.iter().filter(|name| seen.insert(name.as_str())) {
        let fits = match state.topic_by_name(name) {
            Some(topic) => page.add(info_of(topic), &topic.ranges),
            None => page.add(not_found(name), &[]),
        };
        if !fits {
            return None;
        }
    }
    Some(page)
}

fn not_found(name: &str) -> TopicInfo {
    TopicInfo {
        name: name.to_owned(),
        id: TopicId::new(0),
        partitions: 0,
        config: TopicConfig::default(),
        error: ErrorCode::TopicNotFound,
    }
}

fn info_of(topic: &Topic) -> TopicInfo {
    TopicInfo {
        name: topic.name.clone(),
        id: topic.id,
        partitions: topic.partition_count(),
        config: topic.config.clone(),
        error: ErrorCode::None,
    }
}

/// Answers with one topic in full.
pub fn describe(shard: &Shard, to: &ReplyTo, request: &DescribeTopicRequest) {
    let state = shard.metadata.borrow();
    let Some(topic) = state.topic_by_name(&request.name) else {
        let message = format!("topic {:?} does not exist", request.name);
        return to
            .connection
            .send_error(to.correlation, ErrorCode::TopicNotFound, 0, &message);
    };
    to.send(&DescribeTopicResponse {
        topic: info_of(topic),
        ranges: topic.ranges.clone(),
        chains: state.chains().collect(),
        created_ms: topic.created_ms,
    });
}

/// Creates a topic.
pub fn create(shard: &Rc<Shard>, to: ReplyTo, request: CreateTopicRequest) {
    let command = Command::CreateTopic {
        name: request.name,
        partitions: request.partitions,
        config: request.config,
        created_ms: clock::wall_ms(),
    };
    propose(shard, to, command, |shard, to, outcome| {
        if let Outcome::TopicCreated { topic } = outcome {
            let metadata_version = shard.metadata.borrow().version();
            to.send(&CreateTopicResponse {
                topic,
                metadata_version,
            });
        }
    });
}

/// Deletes a topic.
pub fn delete(shard: &Rc<Shard>, to: ReplyTo, request: DeleteTopicRequest) {
    propose(
        shard,
        to,
        Command::DeleteTopic { name: request.name },
        |shard, to, _| {
            let metadata_version = shard.metadata.borrow().version();
            to.send(&DeleteTopicResponse { metadata_version });
        },
    );
}

/// Changes a topic.
pub fn alter(shard: &Rc<Shard>, to: ReplyTo, request: AlterTopicRequest) {
    let command = Command::AlterTopic {
        name: request.name,
        partitions: request.partitions,
        retention_bytes: request.retention_bytes,
        retention_ms: request.retention_ms,
        min_durability: request.min_durability,
        cleanup: request.cleanup,
    };
    propose(shard, to, command, |shard, to, _| {
        let metadata_version = shard.metadata.borrow().version();
        to.send(&AlterTopicResponse { metadata_version });
    });
}

/// Gives out a producer id, from the block that this shard holds or from a new one.
pub fn init_producer(shard: &Rc<Shard>, to: ReplyTo) {
    if let Some(producer) = shard.producer_ids.borrow_mut().next() {
        return to.send(&InitProducerResponse {
            producer: ProducerId::new(producer),
            epoch: ProducerEpoch::new(0),
        });
    }
    let command = Command::AllocateProducers {
        count: PRODUCER_IDS_PER_BLOCK,
    };
    propose(shard, to, command, |shard, to, outcome| {
        if let Outcome::ProducersAllocated { first, count } = outcome {
            // A block that came meanwhile for another request is lost, which costs numbers only.
            *shard.producer_ids.borrow_mut() = first.get()..first.get() + u64::from(count);
            init_producer(shard, to);
        }
    });
}

/// Sends a command to the control plane and hands its outcome to `answer`.
fn propose(
    shard: &Rc<Shard>,
    to: ReplyTo,
    command: Command,
    answer: impl FnOnce(&Rc<Shard>, ReplyTo, Outcome) + 'static,
) {
    let shard_in_task = Rc::clone(shard);
    shard.tasks.spawn(Queue::Control, async move {
        let shard = shard_in_task;
        let (reply, outcome) = channel::bounded(1);
        let sent = shard
            .control
            .send(ControlRequest::Propose { command, reply })
            .await;
        match (sent, outcome.recv().await) {
            (Ok(()), Some(Ok(outcome))) => answer(&shard, to, outcome),
            (Ok(()), Some(Err(error))) => to.refuse(&error),
            _ => to.connection.send_error(
                to.correlation,
                ErrorCode::ShuttingDown,
                0,
                "the broker is stopping",
            ),
        }
    });
}

impl Shard {
    /// Applies a committed command to this shard's copy and to its log.
    pub fn apply_command(self: &Rc<Self>, command: &Command) {
        let outcome = self.metadata.borrow_mut().apply(command);
        match outcome {
            Outcome::TopicCreated { topic } | Outcome::TopicAltered { topic, .. } => {
                self.open_partitions(topic);
            }
            Outcome::TopicDeleted { topic } => {
                info!(shard = self.id.get(), topic = topic.name, "topic deleted");
                let shard = Rc::clone(self);
                self.tasks.spawn(Queue::Background, async move {
                    if let Err(error) = shard.drop_topic(topic.id).await {
                        info!(%error, "a deleted topic is dropped at the next start");
                    }
                });
            }
            Outcome::Initialized
            | Outcome::NodeOpened { .. }
            | Outcome::ProducersAllocated { .. }
            | Outcome::Refused(_) => {}
        }
    }

    /// Makes sure that this shard has its partitions of a topic.
    pub fn open_partitions(&self, topic: TopicId) {
        let metadata = self.metadata.borrow();
        let Some(topic) = metadata.topic(topic) else {
            return;
        };
        let mut log = self.log.borrow_mut();
        for partition in (0..topic.partition_count()).map(catena_protocol::ids::PartitionId::new) {
            let Some(chain) = topic.chain_of(partition) else {
                continue;
            };
            if self.owner_of(chain) == self.id {
                let tp = catena_protocol::ids::TopicPartition {
                    topic: topic.id,
                    partition,
                };
                log.ensure_partition(tp, chain)
                    .expect("metadata never moves a partition, and its chains are open here");
            }
        }
    }
}

#[cfg(test)]
mod tests;
