//! What a driver asks a cluster: where a topic's partitions lie, its settings, its offsets.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
use kafka_protocol::messages::{
    ApiVersionsRequest, BrokerId, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    ListOffsetsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::time::{sleep, timeout};

use super::super::Target;
use super::wire::{Outcome, Wire, check};
use crate::args::StartAt;

/// How long the cluster may take until a change of topics has come about everywhere.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(30);

/// How often to look whether it has.
const CHANGE_CHECK: Duration = Duration::from_millis(20);

/// The same for the broker that makes the change.
const CHANGE_TIME_MAX_MS: i32 = 30_000;

/// A resource of this type is a topic.
const TOPIC_RESOURCE: i8 = 2;

/// Asks for as many replicas as the cluster's settings say.
const DEFAULT_REPLICATION: i16 = -1;

/// The settings of a topic by name.
pub(super) type Settings = BTreeMap<String, String>;

/// A cluster and the topic of the run.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    addresses: Vec<String>,
    topic: TopicName,
}

/// Which broker has what.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) cluster_id: String,
    /// Leaders by partition; `None` if there is no such topic.
    pub(super) leaders: Option<Vec<i32>>,
    /// Replicas of the partition that has most.
    pub(super) replicas: usize,
    controller: i32,
    addresses: HashMap<i32, String>,
}

impl Layout {
    /// Whether each partition of the topic has a leader.
    pub(super) fn is_led(&self) -> bool {
        self.leaders
            .as_ref()
            .is_some_and(|leaders| leaders.iter().all(|leader| *leader >= 0))
    }

    /// Connects to a broker.
    pub(super) async fn connect(&self, broker: i32) -> Outcome<Wire> {
        let address = self
            .addresses
            .get(&broker)
            .ok_or("no such broker, or no leader")?;
        Wire::connect(address).await
    }

    /// The broker that leads a partition.
    pub(super) fn leader(&self, partition: u32) -> Outcome<i32> {
        let leaders = self.leaders.as_ref().ok_or("no such topic")?;
        let leader = usize::try_from(partition)
            .ok()
            .and_then(|index| leaders.get(index));
        leader
            .copied()
            .ok_or_else(|| "no such partition".to_owned())
    }

    /// The partitions of `wanted` by the broker that leads them.
    pub(super) fn by_leader(
        &self,
        wanted: impl IntoIterator<Item = u32>,
    ) -> Outcome<BTreeMap<i32, Vec<u32>>> {
        let mut parts = BTreeMap::<_, Vec<u32>>::new();
        for partition in wanted {
            parts
                .entry(self.leader(partition)?)
                .or_default()
                .push(partition);
        }
        Ok(parts)
    }
}

impl Cluster {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            addresses: target
                .address
                .split(',')
                .map(|one| one.trim().to_owned())
                .collect(),
            topic: StrBytes::from_string(target.topic.to_string()).into(),
        }
    }

    pub(super) fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Connects to whichever broker answers first.
    pub(super) async fn connect(&self) -> Outcome<Wire> {
        let mut refusal = "no broker is named".to_owned();
        for address in &self.addresses {
            match Wire::connect(address).await {
                Ok(wire) => return Ok(wire),
                Err(kind) => refusal = kind,
            }
        }
        Err(refusal)
    }

    /// Connects to the broker that changes topics, if that is a certain one.
    async fn controller(&self, layout: &Layout) -> Outcome<Wire> {
        if layout.addresses.contains_key(&layout.controller) {
            layout.connect(layout.controller).await
        } else {
            self.connect().await
        }
    }

    /// Where everything lies now.
    pub(super) async fn layout(&self, wire: &mut Wire) -> Outcome<Layout> {
        let named = MetadataRequestTopic::default().with_name(Some(self.topic.clone()));
        // In versions before the fourth a broker may make a topic that is asked about.
        let makes_topics = wire.versions().of::<MetadataRequest>()? < 4;
        let request = MetadataRequest::default()
            .with_topics(Some(vec![named]))
            .with_allow_auto_topic_creation(makes_topics);
        layout_of(wire.call(&request).await?)
    }

    /// Connects and looks where everything lies.
    pub(super) async fn find(&self) -> Outcome<Layout> {
        let mut wire = self.connect().await?;
        self.layout(&mut wire).await
    }

    /// Makes the topic and waits until every partition has a leader.
    pub(super) async fn create(
        &self,
        wire: &mut Wire,
        partitions: u32,
        settings: &Settings,
    ) -> Outcome<Layout> {
        let configs = settings.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(name.clone().into())
                .with_value(Some(value.clone().into()))
        });
        let topic = CreatableTopic::default()
            .with_name(self.topic.clone())
            .with_num_partitions(i32::try_from(partitions).map_err(|_| "too many partitions")?)
            .with_replication_factor(DEFAULT_REPLICATION)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(CHANGE_TIME_MAX_MS);
        let layout = self.layout(wire).await?;
        let mut controller = self.controller(&layout).await?;
        // A topic that is being deleted is not listed any more, but still in the way.
        until(async || {
            let answer = controller.call(&request).await?;
            let topic = answer.topics.first().ok_or("unreadable answer")?;
            if topic.error_code == ResponseError::TopicAlreadyExists.code() {
                return Ok(None);
            }
            check(topic.error_code)
                .map(Some)
                .map_err(|kind| match &topic.error_message {
                    Some(message) => format!("{kind}: {message}"),
                    None => kind,
                })
        })
        .await?;
        until(async || Ok(Some(self.layout(wire).await?).filter(Layout::is_led))).await
    }

    /// Deletes the topic and waits until it is gone.
    pub(super) async fn delete(&self) -> Outcome<()> {
        let mut wire = self.connect().await?;
        let layout = self.layout(&mut wire).await?;
        let mut controller = self.controller(&layout).await?;
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![self.topic.clone()])
            .with_timeout_ms(CHANGE_TIME_MAX_MS);
        for topic in controller.call(&request).await?.responses {
            check(topic.error_code)?;
        }
        let is_gone = |layout: Layout| layout.leaders.is_none().then_some(());
        until(async || Ok(is_gone(self.layout(&mut wire).await?))).await
    }

    /// The topic's settings; `None` if the broker does not tell.
    pub(super) async fn settings(&self, wire: &mut Wire) -> Outcome<Option<Settings>> {
        if !wire.versions().has::<DescribeConfigsRequest>() {
            return Ok(None);
        }
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(self.topic.0.clone())
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let mut settings = Settings::new();
        for result in wire.call(&request).await?.results {
            check(result.error_code)?;
            settings.extend(result.configs.into_iter().map(|config| {
                let value = config
                    .value
                    .map_or_else(String::new, |value| value.to_string());
                (config.name.to_string(), value)
            }));
        }
        Ok(Some(settings))
    }

    /// Offsets to begin at.
    pub(super) async fn offsets(
        &self,
        partitions: impl IntoIterator<Item = u32>,
        from: StartAt,
    ) -> Outcome<BTreeMap<u32, i64>> {
        let layout = self.find().await?;
        let mut offsets = BTreeMap::new();
        for (leader, partitions) in layout.by_leader(partitions)? {
            let mut wire = layout.connect(leader).await?;
            offsets.extend(self.offsets_at(&mut wire, &partitions, from).await?);
        }
        Ok(offsets)
    }

    /// The same for partitions with one leader.
    async fn offsets_at(
        &self,
        leader: &mut Wire,
        partitions: &[u32],
        from: StartAt,
    ) -> Outcome<BTreeMap<u32, i64>> {
        let timestamp = match from {
            StartAt::Latest => -1,
            StartAt::Earliest => -2,
        };
        let wanted = partitions.iter().map(|partition| {
            ListOffsetsPartition::default()
                .with_partition_index(i32::try_from(*partition).expect("the broker numbered it"))
                .with_timestamp(timestamp)
        });
        let topic = ListOffsetsTopic::default()
            .with_name(self.topic.clone())
            .with_partitions(wanted.collect());
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let mut offsets = BTreeMap::new();
        for topic in leader.call(&request).await?.topics {
            for found in topic.partitions {
                check(found.error_code)?;
                let partition = u32::try_from(found.partition_index);
                offsets.insert(partition.map_err(|_| "unreadable answer")?, found.offset);
            }
        }
        Ok(offsets)
    }
}

/// Name and version of the broker, as far as the protocol tells.
pub(super) async fn system_of(wire: &mut Wire, layout: &Layout) -> Outcome<String> {
    if is_redpanda(layout) {
        return Ok("Redpanda (its version cannot be asked)".to_owned());
    }
    let answer = wire.call(&ApiVersionsRequest::default()).await?;
    let features = answer.finalized_features.iter();
    let metadata = features
        .clone()
        .find(|feature| &*feature.name == "metadata.version");
    Ok(match metadata {
        Some(feature) => format!(
            "Kafka, metadata.version level {}",
            feature.max_version_level
        ),
        None => "Kafka protocol (name and version cannot be asked)".to_owned(),
    })
}

/// Redpanda begins its cluster's id with its name so that clients can tell.
pub(super) fn is_redpanda(layout: &Layout) -> bool {
    layout.cluster_id.starts_with("redpanda.")
}

fn layout_of(answer: MetadataResponse) -> Outcome<Layout> {
    let topic = answer.topics.first().ok_or("unreadable answer")?;
    let leaders = if topic.error_code == ResponseError::UnknownTopicOrPartition.code() {
        None
    } else {
        check(topic.error_code)?;
        Some(leaders_of(topic)?)
    };
    let replicas = topic
        .partitions
        .iter()
        .map(|partition| partition.replica_nodes.len());
    Ok(Layout {
        leaders,
        replicas: replicas.max().unwrap_or(0),
        cluster_id: answer
            .cluster_id
            .map_or_else(String::new, |id| id.to_string()),
        controller: answer.controller_id.0,
        addresses: answer
            .brokers
            .iter()
            .map(|broker| (broker.node_id.0, format!("{}:{}", broker.host, broker.port)))
            .collect(),
    })
}

fn leaders_of(topic: &MetadataResponseTopic) -> Outcome<Vec<i32>> {
    let mut leaders = vec![None; topic.partitions.len()];
    for partition in &topic.partitions {
        let index = usize::try_from(partition.partition_index).ok();
        let place = index.and_then(|index| leaders.get_mut(index));
        *place.ok_or("partitions without numbers")? = Some(partition.leader_id.0);
    }
    leaders
        .into_iter()
        .collect::<Option<_>>()
        .ok_or_else(|| "unreadable answer".to_owned())
}

/// Asks again and again until there is something, within bounds.
async fn until<T>(mut ask: impl AsyncFnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let asking = async {
        loop {
            if let Some(found) = ask().await? {
                return Ok(found);
            }
            sleep(CHANGE_CHECK).await;
        }
    };
    timeout(CHANGE_TIME_MAX, asking)
        .await
        .unwrap_or_else(|_| Err("the change of the topic does not come about".to_owned()))
}
