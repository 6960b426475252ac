//! What the client knows of topics, chains and nodes, and how it learns more.
//!
//! Invariant: a lookup never waits for the network; whoever finds the table wrong asks for a
//! refresh of the generation it saw, and all who saw the same one share one refresh.

mod table;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use catena_protocol::ids::{NodeId, ShardId, TopicId, TopicPartition};
use catena_protocol::messages::{MetadataRequest, MetadataResponse};

pub(crate) use table::{Table, TopicMetadata};

use crate::client::core::{Attempts, Core};
use crate::connection::Endpoint;
use crate::error::RequestError;
use crate::limits::METADATA_PAUSE_MIN;
use crate::locking::lock;

/// The table, and the right to refresh it.
#[derive(Debug, Default)]
pub(crate) struct MetadataCache {
    table: Mutex<Table>,
    /// Counts the refreshes; read for every record sent.
    generation: AtomicU64,
    /// Topics in use; a refresh asks for these.
    wanted: Mutex<BTreeSet<Arc<str>>>,
    /// Held during a refresh: when the last one ended.
    refreshed: tokio::sync::Mutex<Option<Instant>>,
}

impl MetadataCache {
    /// Rises with every refresh.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The connection that serves the partition: address, node, shard.
    pub(crate) fn owner(&self, place: TopicPartition) -> Option<Endpoint> {
        lock(&self.table).owner(place)
    }

    /// The address of a node.
    pub(crate) fn node(&self, node: NodeId, shard: Option<ShardId>) -> Option<Endpoint> {
        let address = lock(&self.table).address(node)?;
        Some(Endpoint {
            address,
            node: Some(node),
            shard,
        })
    }

    /// All nodes known.
    pub(crate) fn nodes(&self) -> Vec<Endpoint> {
        lock(&self.table).nodes()
    }

    /// A topic that was looked up before.
    pub(crate) fn known_topic(&self, name: &str) -> Option<Arc<TopicMetadata>> {
        lock(&self.table).topic(name)
    }

    /// Whether a topic with this id exists, as far as the table knows.
    pub(crate) fn holds(&self, topic: TopicId) -> bool {
        lock(&self.table).holds(topic)
    }

    /// This client made, changed or deleted the topic of this name, in this version of metadata:
    /// the next lookup asks the cluster, and takes no older answer.
    pub(crate) fn note_change(&self, name: &str, version: u64) {
        if lock(&self.table).note_change(name, version) {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Takes the owner that a refusal named; whether that is news.
    pub(crate) fn follow_hint(&self, place: TopicPartition, node: NodeId, shard: ShardId) -> bool {
        lock(&self.table).follow_hint(place, node, shard)
    }

    /// A topic by name, from the table or the cluster.
    pub(crate) async fn topic(
        &self,
        core: &Core,
        name: &str,
    ) -> Result<Arc<TopicMetadata>, RequestError> {
        if let Some(topic) = self.known_topic(name) {
            return Ok(topic);
        }
        let name: Arc<str> = name.into();
        lock(&self.wanted).insert(name.clone());
        self.refresh(core, self.generation()).await?;
        if let Some(topic) = self.known_topic(&name) {
            return Ok(topic);
        }
        // A refresh that was under way already may have asked without this name.
        self.refresh(core, self.generation()).await?;
        self.known_topic(&name).ok_or_else(|| {
            lock(&self.wanted).remove(&name);
            RequestError::TopicNotFound { topic: name }
        })
    }

    /// Fetches the topics in use, unless the table is newer than `seen`. Cancel safe: the table
    /// changes at once or not at all.
    pub(crate) async fn refresh(&self, core: &Core, seen: u64) -> Result<(), RequestError> {
        let mut refreshed = self.refreshed.lock().await;
        if self.generation() > seen {
            return Ok(());
        }
        if let Some(last) = *refreshed {
            tokio::time::sleep_until((last + METADATA_PAUSE_MIN).into()).await;
        }
        let names: Vec<Arc<str>> = lock(&self.wanted).iter().cloned().collect();
        let result = self.fetch(core, &names).await;
        *refreshed = Some(Instant::now());
        result?;
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Fetches until a node answers that knows of the changes this client made.
    async fn fetch(&self, core: &Core, names: &[Arc<str>]) -> Result<(), RequestError> {
        let mut attempts = Attempts::new(core.timeouts.request);
        loop {
            let topics: Vec<String> = names.iter().map(ToString::to_string).collect();
            let pages = fetch_metadata(core, Some(topics)).await?;
            if lock(&self.table).replace(names, pages) {
                return Ok(());
            }
            attempts
                .pause(&"metadata is older than a change that was made")
                .await?;
        }
    }
}

/// All pages of the metadata of some topics, or of all.
pub(crate) async fn fetch_metadata(
    core: &Core,
    topics: Option<Vec<String>>,
) -> Result<Vec<MetadataResponse>, RequestError> {
    let mut request = MetadataRequest { topics, page: 0 };
    let mut pages = Vec::new();
    loop {
        let page = core.ask_any(&request, true).await?;
        let next = page.next_page.filter(|next| *next > request.page);
        pages.push(page);
        match next {
            Some(next) => request.page = next,
            None => return Ok(pages),
        }
    }
}
