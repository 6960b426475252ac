//! One connection of the fake broker: reads a request, answers it, in order.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use catena_protocol::error::{ErrorCode, owner_to_detail};
use catena_protocol::frame::{Api, FramePrefix, PREFIX_BYTES};
use catena_protocol::ids::{
    ChainEpoch, ChainId, CorrelationId, Durability, NodeId, Offset, PartitionId, ProducerEpoch,
    ShardId, TopicId, TopicPartition,
};
use catena_protocol::messages::{
    AckItem, AlterTopicRequest, AlterTopicResponse, ChainInfo, CreateTopicRequest,
    CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest,
    DescribeTopicResponse, ErrorResponse, FetchItem, FetchRequest, HelloRequest, HelloResponse,
    InitProducerResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsResult,
    MetadataRequest, MetadataResponse, NodeInfo, PartitionRange, ProduceView, TopicInfo,
    encode_fetch_header, encode_produce_ack,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::log::Topic;
use super::{CHAINS, CLUSTER, FetchFault, ProduceFault, SHARDS, Shared, State};

const NODE: NodeId = NodeId(1);

struct Connection<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    shard: Option<u16>,
    out: Vec<u8>,
    /// The session: positions by partition.
    session: BTreeMap<TopicPartition, u64>,
    /// Requests that came while another one waited.
    early: VecDeque<Request>,
}

struct Request {
    api: Api,
    correlation: CorrelationId,
    header: Vec<u8>,
    payload: Vec<u8>,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        // A lock that is poisoned belongs to a test that failed already.
        if self.shard.is_some()
            && let Ok(mut state) = self.shared.state.lock()
        {
            state.open_with_shard -= 1;
        }
    }
}

pub(crate) async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut connection = Connection {
        stream,
        shared,
        shard: None,
        out: Vec::new(),
        session: BTreeMap::new(),
        early: VecDeque::new(),
    };
    loop {
        let request = match connection.early.pop_front() {
            Some(request) => request,
            None => connection.read().await?,
        };
        let is_change = matches!(
            request.api,
            Api::CreateTopic | Api::AlterTopic | Api::DeleteTopic
        );
        if is_change && shared.lock().drops_changes {
            return Err(broken("dropped on command"));
        }
        match request.api {
            Api::Produce => connection.produce(&request).await?,
            Api::Fetch => connection.fetch(&request).await?,
            _ => connection.answer(&request),
        }
        let out = std::mem::take(&mut connection.out);
        connection.stream.write_all(&out).await?;
    }
}

fn broken<E: std::fmt::Display>(error: E) -> io::Error {
    io::Error::other(error.to_string())
}

impl Connection<'_> {
    async fn read(&mut self) -> io::Result<Request> {
        let mut prefix = [0; PREFIX_BYTES];
        self.stream.read_exact(&mut prefix).await?;
        let prefix = FramePrefix::decode(&prefix).map_err(broken)?;
        let mut header = vec![0; prefix.header_bytes as usize];
        self.stream.read_exact(&mut header).await?;
        prefix.verify(&header).map_err(broken)?;
        let mut payload = vec![0; prefix.payload_bytes() as usize];
        self.stream.read_exact(&mut payload).await?;
        let api = Api::from_wire(prefix.api).ok_or_else(|| broken("unknown api"))?;
        if api == Api::Fetch && !self.shared.lock().applies_changes_late {
            let fetch = FetchRequest::decode(&header).map_err(broken)?;
            self.change_session(&fetch);
        }
        Ok(Request {
            api,
            correlation: prefix.correlation,
            header,
            payload,
        })
    }

    fn answer(&mut self, request: &Request) {
        let shared = self.shared;
        let mut state = shared.lock();
        let (correlation, header) = (request.correlation, &request.header[..]);
        let result = match request.api {
            Api::Hello => self.hello(&mut state, correlation, header),
            Api::Metadata => {
                state.metadata_requests += 1;
                let request = MetadataRequest::decode(header).expect("a client's request");
                metadata(&state, request.topics.as_deref()).encode(correlation, &mut self.out);
                Ok(())
            }
            Api::InitProducer => {
                let producer = state.log.new_producer();
                let response = InitProducerResponse {
                    producer,
                    epoch: ProducerEpoch(0),
                };
                response.encode(correlation, &mut self.out);
                Ok(())
            }
            Api::ListOffsets => {
                self.list_offsets(&state, correlation, header);
                Ok(())
            }
            _ => self.administer(&mut state, request),
        };
        if let Err(code) = result {
            ErrorResponse::from_code(code).encode(correlation, &mut self.out);
        }
    }

    fn hello(
        &mut self,
        state: &mut State,
        correlation: CorrelationId,
        header: &[u8],
    ) -> Result<(), ErrorCode> {
        let request = HelloRequest::decode(header).expect("a client's request");
        if request.cluster_id.is_some_and(|cluster| cluster != CLUSTER) {
            return Err(ErrorCode::WrongCluster);
        }
        assert_eq!(self.shard, None, "a hello comes once");
        self.shard = request.shard.map(|shard| shard.0);
        state.open_with_shard += usize::from(self.shard.is_some());
        state.hellos.push(self.shard);
        let response = HelloResponse {
            version: 1,
            cluster_id: CLUSTER,
            node: NODE,
            shard: ShardId(self.shard.unwrap_or(0)),
            shard_count: SHARDS,
            produce_credit_bytes: 8 << 20,
            fetch_credit_bytes: 16 << 20,
            control_credit_requests: 64,
            request_bytes_max: 16 << 20,
            batch_bytes_max: 1 << 20,
            server: "fake".to_owned(),
        };
        response.encode(correlation, &mut self.out);
        Ok(())
    }

    fn administer(&mut self, state: &mut State, request: &Request) -> Result<(), ErrorCode> {
        let (correlation, header) = (request.correlation, &request.header[..]);
        let decoded = "a client's request";
        match request.api {
            Api::CreateTopic => {
                let request = CreateTopicRequest::decode(header).expect(decoded);
                let topic = state.log.create(&request.name, request.partitions)?;
                let metadata_version = state.log.version;
                CreateTopicResponse {
                    topic,
                    metadata_version,
                }
                .encode(correlation, &mut self.out);
            }
            Api::DeleteTopic => {
                state
                    .log
                    .delete(&DeleteTopicRequest::decode(header).expect(decoded).name)?;
                let metadata_version = state.log.version;
                DeleteTopicResponse { metadata_version }.encode(correlation, &mut self.out);
            }
            Api::AlterTopic => {
                let request = AlterTopicRequest::decode(header).expect(decoded);
                let topic = state.log.topics.get_mut(&request.name);
                let topic = topic.ok_or(ErrorCode::TopicNotFound)?;
                topic.partitions = request.partitions.unwrap_or(topic.partitions);
                if let Some(retention_ms) = request.retention_ms {
                    topic.config.retention_ms = retention_ms;
                }
                let metadata_version = state.log.version;
                AlterTopicResponse { metadata_version }.encode(correlation, &mut self.out);
            }
            Api::DescribeTopic => {
                let name = DescribeTopicRequest::decode(header).expect(decoded).name;
                let topic = state
                    .log
                    .topics
                    .get(&name)
                    .ok_or(ErrorCode::TopicNotFound)?;
                let response = DescribeTopicResponse {
                    topic: topic_info(&name, topic),
                    ranges: vec![range(topic)],
                    chains: chains(state),
                    created_ms: 5,
                };
                response.encode(correlation, &mut self.out);
            }
            _ => return Err(ErrorCode::UnknownApi),
        }
        Ok(())
    }

    fn list_offsets(&mut self, state: &State, correlation: CorrelationId, header: &[u8]) {
        let request = ListOffsetsRequest::decode(header).expect("a client's request");
        let result = |item: &catena_protocol::messages::ListOffsetsItem| {
            let (error, offset) = match self.refusal(state, item.tp()) {
                Some((error, detail)) => (error, detail),
                None => (ErrorCode::None, state.log.offset(item.tp(), item.spec)),
            };
            ListOffsetsResult {
                topic: item.topic,
                partition: item.partition,
                error,
                offset: Offset(offset),
                timestamp_ms: -1,
            }
        };
        let items = request.items.iter().map(result).collect();
        ListOffsetsResponse { items }.encode(correlation, &mut self.out);
    }

    /// Why this shard does not serve the partition.
    fn refusal(&self, state: &State, place: TopicPartition) -> Option<(ErrorCode, u64)> {
        if !state.log.exists(place) {
            return Some((state.code_of_unknown_ids, 0));
        }
        let owner = state.owner(State::chain_of(place.partition));
        (self.shard != Some(owner))
            .then(|| (ErrorCode::NotOwner, owner_to_detail(NODE, ShardId(owner))))
    }

    async fn produce(&mut self, request: &Request) -> io::Result<()> {
        let payload_bytes = u32::try_from(request.payload.len()).expect("small");
        let view = ProduceView::decode(&request.header, payload_bytes).map_err(broken)?;
        let mut acks = Vec::new();
        let mut must_drop = false;
        {
            let mut state = self.shared.lock();
            state.produce_requests += 1;
            for (index, (item, range)) in view.items_in_payload().enumerate() {
                let batch = &request.payload[range];
                let fault = Self::fault(&mut state);
                must_drop |= matches!(
                    fault,
                    Some(ProduceFault::DropBefore | ProduceFault::DropAfter)
                );
                let result = match fault {
                    Some(ProduceFault::DropBefore) => break,
                    Some(ProduceFault::Swallow) => continue,
                    Some(ProduceFault::Refuse(code, detail)) => Err((code, detail)),
                    Some(ProduceFault::DropAfter) | None => match self.refusal(&state, item.tp()) {
                        Some(refusal) => Err(refusal),
                        None => state.log.append(item.tp(), batch),
                    },
                };
                let result = result.map(|base| match view.durability() {
                    Durability::Durable => base,
                    _ => AckItem::OFFSET_UNKNOWN,
                });
                let (error, detail) = match result {
                    Ok(detail) => (ErrorCode::None, detail),
                    Err(refusal) => refusal,
                };
                let item = u16::try_from(index).expect("small");
                acks.push(AckItem {
                    correlation: request.correlation,
                    item,
                    error,
                    detail,
                });
                if must_drop {
                    break;
                }
            }
        }
        self.shared.changed.notify_waiters();
        if must_drop {
            return Err(broken("dropped on command"));
        }
        self.wait_while_stalled().await;
        if view.durability() != Durability::None {
            // An answer may be split anywhere.
            let (first, rest) = acks.split_at(acks.len() / 2);
            encode_produce_ack(&mut self.out, first);
            encode_produce_ack(&mut self.out, rest);
        }
        Ok(())
    }

    fn fault(state: &mut State) -> Option<ProduceFault> {
        let number = state.batches;
        state.batches += 1;
        let script = state.on_produce.as_mut();
        script.and_then(|script| script(number))
    }

    async fn wait_while_stalled(&self) {
        loop {
            let changed = self.shared.changed.notified();
            if !self.shared.lock().is_stalled {
                return;
            }
            changed.await;
        }
    }

    async fn fetch(&mut self, request: &Request) -> io::Result<()> {
        let fetch = FetchRequest::decode(&request.header).map_err(broken)?;
        if self.shared.lock().applies_changes_late {
            self.change_session(&fetch);
        }
        let wait = Duration::from_millis(fetch.max_wait_ms.into());
        let deadline = tokio::time::Instant::now() + wait;
        let (items, payload) = loop {
            let changed = self.shared.changed.notified();
            let (items, payload) = self.collect(fetch.max_bytes as usize)?;
            if !items.is_empty() {
                break (items, payload);
            }
            let shared = self.shared;
            let mut first = [0];
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(deadline) => break (items, payload),
                ready = self.stream.peek(&mut first), if !shared.lock().applies_changes_late => {
                    ready?;
                    let request = self.read().await?;
                    self.early.push_back(request);
                }
            }
        };
        self.shared.lock().fetch_bytes_sent += payload.len();
        encode_fetch_header(&mut self.out, request.correlation, fetch.session, &items);
        self.out.extend_from_slice(&payload);
        Ok(())
    }

    fn change_session(&mut self, fetch: &FetchRequest) {
        for place in &fetch.remove {
            self.session.remove(place);
        }
        for interest in &fetch.add {
            self.session.insert(interest.tp(), interest.offset.0);
        }
    }

    fn collect(&mut self, bytes_max: usize) -> io::Result<(Vec<FetchItem>, Vec<u8>)> {
        let mut items = Vec::new();
        let mut payload = Vec::new();
        let mut state = self.shared.lock();
        let positions: Vec<_> = self
            .session
            .iter()
            .map(|(place, at)| (*place, *at))
            .collect();
        for (place, position) in positions {
            if payload.len() >= bytes_max {
                break;
            }
            let fault = match self.refusal(&state, place) {
                Some((code, detail)) => Some(FetchFault::Refuse(code, detail)),
                None => state
                    .on_fetch
                    .as_mut()
                    .and_then(|script| script(place, position)),
            };
            let partition = state.log.partition(place);
            let mut item = FetchItem {
                topic: place.topic,
                partition: place.partition,
                fetch_offset: Offset(position),
                high_watermark: Offset(partition.end()),
                log_start: Offset(partition.log_start),
                ..FetchItem::default()
            };
            let is_outside = position < partition.log_start || position > partition.end();
            match fault {
                Some(FetchFault::Drop) => return Err(broken("dropped on command")),
                Some(FetchFault::Refuse(code, detail)) => {
                    item.error = code;
                    if code != ErrorCode::OffsetOutOfRange {
                        item.high_watermark = Offset(detail);
                    }
                }
                None | Some(FetchFault::Corrupt) if is_outside => {
                    item.error = ErrorCode::OffsetOutOfRange;
                }
                None | Some(FetchFault::Corrupt) => {
                    let start = payload.len();
                    for (header, batch) in &partition.batches {
                        if header.next_offset().0 > position
                            && (payload.is_empty() || payload.len() + batch.len() <= bytes_max)
                        {
                            payload.extend_from_slice(batch);
                            self.session.insert(place, header.next_offset().0);
                        }
                    }
                    if payload.len() == start {
                        continue;
                    }
                    if fault.is_some() {
                        payload[start + 70] ^= 1;
                    }
                    item.bytes = u32::try_from(payload.len() - start).expect("small");
                }
            }
            if item.error != ErrorCode::None {
                self.session.remove(&place);
            }
            items.push(item);
        }
        Ok((items, payload))
    }
}

fn metadata(state: &State, topics: Option<&[String]>) -> MetadataResponse {
    let is_asked = |name: &str| topics.is_none_or(|topics| topics.iter().any(|t| t == name));
    let asked: Vec<_> = state
        .log
        .topics
        .iter()
        .filter(|(name, _)| is_asked(name))
        .collect();
    MetadataResponse {
        version: state.log.version,
        cluster_id: CLUSTER,
        nodes: vec![NodeInfo {
            node: NODE,
            host: "127.0.0.1".to_owned(),
            port: state.port,
            shards: SHARDS,
        }],
        topics: asked
            .iter()
            .map(|(name, topic)| topic_info(name, topic))
            .collect(),
        ranges: asked.iter().map(|(_, topic)| range(topic)).collect(),
        chains: chains(state),
        next_page: None,
    }
}

fn topic_info(name: &str, topic: &Topic) -> TopicInfo {
    TopicInfo {
        name: name.to_owned(),
        id: topic.id,
        partitions: topic.partitions,
        config: topic.config.clone(),
        error: ErrorCode::None,
    }
}

fn range(topic: &Topic) -> PartitionRange {
    PartitionRange {
        topic: TopicId(topic.id.0),
        first_partition: PartitionId(0),
        partition_count: topic.partitions,
        chain_first: ChainId(1),
        chain_count: CHAINS,
        chain_start: 0,
    }
}

fn chains(state: &State) -> Vec<ChainInfo> {
    let chain = |chain: u32| ChainInfo {
        chain: ChainId(chain),
        epoch: ChainEpoch(1),
        node: NODE,
        shard: ShardId(state.owner(ChainId(chain))),
    };
    (1..=CHAINS).map(chain).collect()
}
