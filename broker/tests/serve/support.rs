//! A broker in this process and a peer that speaks frames over a blocking socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use catena_broker::metrics::ShardMetrics;
use catena_broker::server::{Broker, NodeOptions, Storage};
use catena_protocol::batch::{BatchBuilder, BatchOptions, split};
use catena_protocol::frame::{Api, FramePrefix, PREFIX_BYTES};
use catena_protocol::ids::{
    CorrelationId, Durability, Offset, PartitionId, SessionId, ShardId, TopicId,
};
use catena_protocol::messages::{
    AckItem, AckView, CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest,
    DescribeTopicRequest, DescribeTopicResponse, ErrorResponse, FetchInterest, FetchItem,
    FetchRequest, FetchView, HelloRequest, ProduceItem, Purpose, TopicConfig,
    encode_produce_header,
};
use catena_protocol::record::Record;
use tempfile::TempDir;

/// A running broker with a directory of its own.
pub(crate) struct TestBroker {
    dir: TempDir,
    broker: Broker,
}

impl TestBroker {
    pub(crate) fn start(shards: usize) -> TestBroker {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let broker = start_in(&dir, shards);
        TestBroker { dir, broker }
    }

    pub(crate) fn restart(self, shards: usize) -> TestBroker {
        self.broker.stop().expect("a clean stop");
        let broker = start_in(&self.dir, shards);
        TestBroker {
            dir: self.dir,
            broker,
        }
    }

    /// Restarts after `change` was made to the data directory.
    pub(crate) fn restart_after(self, shards: usize, change: impl FnOnce(&Path)) -> TestBroker {
        self.broker.stop().expect("a clean stop");
        change(self.dir.path());
        let broker = start_in(&self.dir, shards);
        TestBroker {
            dir: self.dir,
            broker,
        }
    }

    pub(crate) fn stop(self) {
        self.broker.stop().expect("a clean stop");
    }

    pub(crate) fn shard_metrics(&self, shard: usize) -> Arc<ShardMetrics> {
        Arc::clone(self.broker.status().shards()[shard].metrics())
    }
}

fn start_in(dir: &TempDir, shards: usize) -> Broker {
    let options = NodeOptions {
        cores: vec![None; shards],
        ..NodeOptions::embedded(Storage::Directory(dir.path().to_owned()))
    };
    Broker::start(&options).expect("the broker starts")
}

/// A batch of equal records.
pub(crate) fn batch_of(records: usize, value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..records {
        builder
            .push(&Record {
                value: Some(value),
                ..Record::default()
            })
            .expect("it fits");
    }
    builder.finish().expect("a batch").to_vec()
}

/// One connection.
pub(crate) struct Peer {
    socket: TcpStream,
    next: u32,
}

impl Peer {
    pub(crate) fn connect(broker: &TestBroker) -> Peer {
        Peer::connect_to(broker, None)
    }

    pub(crate) fn connect_to(broker: &TestBroker, shard: Option<ShardId>) -> Peer {
        let addr = broker.broker.addr().expect("it listens");
        let socket = TcpStream::connect(addr).expect("a connection");
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let mut peer = Peer { socket, next: 1 };
        let hello = HelloRequest {
            purpose: Purpose::Client,
            version_min: 1,
            version_max: 1,
            shard,
            client_name: "test".to_owned(),
            ..HelloRequest::default()
        };
        let mut frame = Vec::new();
        hello.encode(CorrelationId(0), &mut frame);
        peer.send(&frame);
        let (prefix, _, _) = peer.receive();
        assert_eq!(Api::from_wire(prefix.api), Some(Api::Hello));
        peer
    }

    /// A connection to the shard that owns the partition.
    pub(crate) fn connect_to_owner(broker: &TestBroker, topic: TopicId, partition: u32) -> Peer {
        let mut any = Peer::connect(broker);
        let described = any.describe();
        let chain = described
            .ranges
            .iter()
            .filter(|range| range.topic == topic)
            .find_map(|range| range.chain_of(PartitionId(partition)))
            .expect("the partition has a chain");
        let info = described
            .chains
            .iter()
            .find(|info| info.chain == chain)
            .expect("an owner");
        Peer::connect_to(broker, Some(info.shard))
    }

    pub(crate) fn describe(&mut self) -> DescribeTopicResponse {
        let frame = self.describe_frame();
        self.send(&frame);
        let header = self.expect(Api::DescribeTopic);
        DescribeTopicResponse::decode(&header).expect("a description")
    }

    pub(crate) fn describe_frame(&mut self) -> Vec<u8> {
        let mut frame = Vec::new();
        DescribeTopicRequest {
            name: "orders".to_owned(),
        }
        .encode(self.correlation(), &mut frame);
        frame
    }

    pub(crate) fn create_topic(&mut self, name: &str, partitions: u32) -> TopicId {
        let request = CreateTopicRequest {
            name: name.to_owned(),
            partitions,
            config: TopicConfig::default(),
        };
        let mut frame = Vec::new();
        request.encode(self.correlation(), &mut frame);
        self.send(&frame);
        let header = self.expect(Api::CreateTopic);
        CreateTopicResponse::decode(&header).expect("a topic").topic
    }

    pub(crate) fn delete_topic(&mut self, name: &str) {
        let request = DeleteTopicRequest {
            name: name.to_owned(),
        };
        let mut frame = Vec::new();
        request.encode(self.correlation(), &mut frame);
        self.send(&frame);
        self.expect(Api::DeleteTopic);
    }

    /// Produces and waits for all acks.
    pub(crate) fn produce(&mut self, batches: &[(TopicId, u32, &[u8])]) -> Vec<AckItem> {
        self.send_produce(Durability::Durable, batches);
        let mut acks = Vec::new();
        while acks.len() < batches.len() {
            let header = self.expect(Api::Produce);
            acks.extend(AckView::decode(&header).expect("acks").items());
        }
        acks.sort_by_key(|ack| ack.item);
        acks
    }

    pub(crate) fn send_produce(
        &mut self,
        durability: Durability,
        batches: &[(TopicId, u32, &[u8])],
    ) {
        let frame = self.produce_frame(durability, batches);
        self.send(&frame);
    }

    pub(crate) fn produce_frame(
        &mut self,
        durability: Durability,
        batches: &[(TopicId, u32, &[u8])],
    ) -> Vec<u8> {
        let items: Vec<ProduceItem> = batches
            .iter()
            .map(|(topic, partition, bytes)| ProduceItem {
                topic: *topic,
                partition: PartitionId(*partition),
                batch_bytes: u32::try_from(bytes.len()).expect("small"),
                ..ProduceItem::default()
            })
            .collect();
        let mut frame = Vec::new();
        encode_produce_header(&mut frame, self.correlation(), durability, 0, &items);
        for (_, _, bytes) in batches {
            frame.extend_from_slice(bytes);
        }
        frame
    }

    /// One fetch of up to 1 MiB in a session of its own.
    pub(crate) fn fetch(
        &mut self,
        topic: TopicId,
        at: u32,
        from: Offset,
    ) -> (Vec<FetchItem>, Vec<u8>) {
        let request = FetchRequest {
            session: SessionId(1),
            max_wait_ms: 5_000,
            min_bytes: 1,
            max_bytes: 4 << 20,
            add: vec![FetchInterest {
                topic,
                partition: PartitionId(at),
                offset: from,
                ..FetchInterest::default()
            }],
            ..FetchRequest::default()
        };
        self.fetch_with(&request)
    }

    /// Sends a fetch request and waits for its answer.
    pub(crate) fn fetch_with(&mut self, request: &FetchRequest) -> (Vec<FetchItem>, Vec<u8>) {
        self.send_fetch(request);
        self.receive_fetch()
    }

    pub(crate) fn send_fetch(&mut self, request: &FetchRequest) -> CorrelationId {
        let correlation = self.correlation();
        let mut frame = Vec::new();
        request.encode(correlation, &mut frame);
        self.send(&frame);
        correlation
    }

    pub(crate) fn receive_fetch(&mut self) -> (Vec<FetchItem>, Vec<u8>) {
        let (prefix, header, payload) = self.receive();
        assert_eq!(
            Api::from_wire(prefix.api),
            Some(Api::Fetch),
            "{}",
            explain(&header)
        );
        let view = FetchView::decode(&header, prefix.payload_bytes()).expect("a response");
        (view.items().collect(), payload)
    }

    /// Reads a partition from its start to its high watermark and counts the records.
    pub(crate) fn count_records(&mut self, topic: TopicId, partition: u32) -> u64 {
        let mut at = Offset::new(0);
        let mut records = 0;
        loop {
            let (items, payload) = self.fetch(topic, partition, at);
            assert_eq!(items[0].error, ErrorCode::None);
            for batch in split(&payload) {
                let (header, bytes) = batch.expect("whole batches");
                assert_eq!(header.base_offset, at, "no gap, no overlap");
                catena_protocol::batch::verify_body(bytes).expect("intact");
                at = header.next_offset();
                records += u64::from(header.record_count);
            }
            if at >= items[0].high_watermark {
                return records;
            }
        }
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.socket.write_all(frame).expect("sent");
    }

    pub(crate) fn receive(&mut self) -> (FramePrefix, Vec<u8>, Vec<u8>) {
        let mut bytes = [0; PREFIX_BYTES];
        self.socket.read_exact(&mut bytes).expect("a prefix");
        let prefix = FramePrefix::decode(&bytes).expect("a frame");
        let mut header = vec![0; usize::try_from(prefix.header_bytes).expect("small")];
        self.socket.read_exact(&mut header).expect("a header");
        prefix.verify(&header).expect("a sound frame");
        let mut payload = vec![0; usize::try_from(prefix.payload_bytes()).expect("small")];
        self.socket.read_exact(&mut payload).expect("a payload");
        (prefix, header, payload)
    }

    fn expect(&mut self, api: Api) -> Vec<u8> {
        let (prefix, header, _) = self.receive();
        assert_eq!(
            Api::from_wire(prefix.api),
            Some(api),
            "{}",
            explain(&header)
        );
        header
    }

    pub(crate) fn correlation(&mut self) -> CorrelationId {
        self.next += 1;
        CorrelationId(self.next)
    }
}

use catena_protocol::error::ErrorCode;

fn explain(header: &[u8]) -> String {
    ErrorResponse::decode(header).map_or_else(|_| String::new(), |error| format!("{error:?}"))
}
