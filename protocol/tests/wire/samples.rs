//! One example of everything that goes over the wire, with its bytes. `tests/golden` holds the
//! same bytes, and `docs/PROTOCOL.md` points there.

use catena_protocol::batch::{BatchBuilder, BatchOptions, stamp};
use catena_protocol::compression::Codec;
use catena_protocol::error::{ErrorCode, owner_to_detail};
use catena_protocol::frame::{Api, PROTOCOL_VERSION, encode_frame};
use catena_protocol::ids::{
    ChainEpoch, ChainId, CorrelationId, Durability, NodeId, Offset, PartitionId, ProducerEpoch,
    ProducerId, Sequence, SessionId, ShardId, TopicId, TopicPartition,
};
use catena_protocol::messages::{
    AckItem, AlterTopicRequest, AlterTopicResponse, ChainInfo, Cleanup, CreateTopicRequest,
    CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest,
    DescribeTopicResponse, ErrorResponse, FetchInterest, FetchItem, FetchRequest, HelloRequest,
    HelloResponse, InitProducerRequest, InitProducerResponse, ListOffsetsItem, ListOffsetsRequest,
    ListOffsetsResponse, ListOffsetsResult, Message, MetadataRequest, MetadataResponse, NodeInfo,
    OffsetSpec, PartitionRange, ProduceItem, Purpose, TopicConfig, TopicInfo, encode_fetch_header,
    encode_produce_ack, encode_produce_header,
};
use catena_protocol::record::{Record, RecordHeader};

pub(crate) const CLUSTER: [u8; 16] = *b"catena-cluster-1";
pub(crate) const PLACE: TopicPartition = TopicPartition::new(TopicId(7), PartitionId(3));
pub(crate) const CORRELATION: CorrelationId = CorrelationId(0x0102_0304);

/// Every sample: the name of its golden file, and its bytes.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let mut samples = tables();
    samples.extend([
        ("frame", frame()),
        ("produce_request", produce_request()),
        ("produce_ack", produce_ack()),
        ("fetch_response", fetch_response()),
        ("batch", batch(Codec::None)),
    ]);
    samples
}

/// The messages whose header is a table.
pub(crate) fn tables() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("error_response", encoded(&error_response())),
        ("hello_request", encoded(&hello_request())),
        ("hello_response", encoded(&hello_response())),
        ("metadata_request", encoded(&metadata_request())),
        ("metadata_response", encoded(&metadata_response())),
        ("create_topic_request", encoded(&create_topic_request())),
        ("create_topic_response", encoded(&create_topic_response())),
        ("delete_topic_request", encoded(&delete_topic_request())),
        (
            "delete_topic_response",
            encoded(&DeleteTopicResponse {
                metadata_version: 12,
            }),
        ),
        ("alter_topic_request", encoded(&alter_topic_request())),
        (
            "alter_topic_response",
            encoded(&AlterTopicResponse {
                metadata_version: 13,
            }),
        ),
        (
            "describe_topic_request",
            encoded(&DescribeTopicRequest {
                name: "orders".into(),
            }),
        ),
        (
            "describe_topic_response",
            encoded(&describe_topic_response()),
        ),
        ("fetch_request", encoded(&fetch_request())),
        ("list_offsets_request", encoded(&list_offsets_request())),
        ("list_offsets_response", encoded(&list_offsets_response())),
        ("init_producer_request", encoded(&InitProducerRequest {})),
        ("init_producer_response", encoded(&init_producer_response())),
    ]
}

pub(crate) fn encoded<M: Message>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(CORRELATION, &mut out);
    out
}

fn frame() -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(
        &mut out,
        Api::Error,
        PROTOCOL_VERSION,
        1,
        CORRELATION,
        b"header",
        7,
    );
    out.extend_from_slice(b"payload");
    out
}

pub(crate) fn error_response() -> ErrorResponse {
    let detail = owner_to_detail(NodeId(2), ShardId(5));
    ErrorResponse {
        code: ErrorCode::NotOwner,
        message: "moved".into(),
        detail,
    }
}

pub(crate) fn hello_request() -> HelloRequest {
    HelloRequest {
        purpose: Purpose::Admin,
        version_min: 1,
        version_max: 3,
        cluster_id: Some(CLUSTER),
        expected_node: Some(NodeId(1)),
        shard: Some(ShardId(4)),
        client_name: "sample".into(),
        auth: vec![1, 2, 3],
    }
}

pub(crate) fn hello_response() -> HelloResponse {
    HelloResponse {
        version: 1,
        cluster_id: CLUSTER,
        node: NodeId(1),
        shard: ShardId(4),
        shard_count: 8,
        produce_credit_bytes: 32 << 20,
        fetch_credit_bytes: 64 << 20,
        control_credit_requests: 16,
        request_bytes_max: 16 << 20,
        batch_bytes_max: 1_032_192,
        server: "catena 0.1.0".into(),
    }
}

pub(crate) fn metadata_request() -> MetadataRequest {
    MetadataRequest {
        topics: Some(vec!["orders".into(), "bills".into()]),
        page: 0,
    }
}

pub(crate) fn topic_info() -> TopicInfo {
    TopicInfo {
        name: "orders".into(),
        id: TopicId(7),
        partitions: 100,
        config: TopicConfig {
            retention_bytes: Some(1 << 30),
            retention_ms: None,
            class: "default".into(),
            min_durability: Durability::Received,
            cleanup: Cleanup::Delete,
        },
        error: ErrorCode::None,
    }
}

fn range() -> PartitionRange {
    PartitionRange {
        topic: TopicId(7),
        first_partition: PartitionId(0),
        partition_count: 100,
        chain_first: ChainId(1),
        chain_count: 64,
        chain_start: 9,
    }
}

fn chain() -> ChainInfo {
    ChainInfo {
        chain: ChainId(1),
        epoch: ChainEpoch(2),
        node: NodeId(1),
        shard: ShardId(1),
    }
}

pub(crate) fn metadata_response() -> MetadataResponse {
    MetadataResponse {
        version: 12,
        cluster_id: CLUSTER,
        nodes: vec![NodeInfo {
            node: NodeId(1),
            host: "127.0.0.1".into(),
            port: 9_320,
            shards: 8,
        }],
        topics: vec![
            topic_info(),
            TopicInfo {
                name: "bills".into(),
                error: ErrorCode::TopicNotFound,
                ..TopicInfo::default()
            },
        ],
        ranges: vec![range()],
        chains: vec![chain()],
        next_page: Some(8),
    }
}

pub(crate) fn create_topic_request() -> CreateTopicRequest {
    CreateTopicRequest {
        name: "orders".into(),
        partitions: 100,
        config: topic_info().config,
    }
}

pub(crate) fn create_topic_response() -> CreateTopicResponse {
    CreateTopicResponse {
        topic: TopicId(7),
        metadata_version: 11,
    }
}

pub(crate) fn delete_topic_request() -> DeleteTopicRequest {
    DeleteTopicRequest {
        name: "orders".into(),
    }
}

pub(crate) fn alter_topic_request() -> AlterTopicRequest {
    AlterTopicRequest {
        name: "orders".into(),
        partitions: Some(200),
        retention_bytes: Some(None),
        retention_ms: Some(Some(86_400_000)),
        min_durability: Some(Durability::Durable),
        cleanup: None,
    }
}

pub(crate) fn describe_topic_response() -> DescribeTopicResponse {
    DescribeTopicResponse {
        topic: topic_info(),
        ranges: vec![range()],
        chains: vec![chain()],
        created_ms: 1_700_000_000_000,
    }
}

pub(crate) fn fetch_request() -> FetchRequest {
    FetchRequest {
        session: SessionId(6),
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 8 << 20,
        close: false,
        add: vec![FetchInterest {
            topic: TopicId(7),
            partition: PartitionId(3),
            offset: Offset(1_000),
            max_bytes: 1 << 20,
            chain_epoch: ChainEpoch(2),
        }],
        remove: vec![TopicPartition::new(TopicId(7), PartitionId(4))],
    }
}

pub(crate) fn list_offsets_request() -> ListOffsetsRequest {
    let item = |spec| ListOffsetsItem {
        topic: TopicId(7),
        partition: PartitionId(3),
        spec,
    };
    ListOffsetsRequest {
        items: vec![
            item(OffsetSpec::Earliest),
            item(OffsetSpec::Latest),
            item(OffsetSpec::Time(1_700_000_000_000)),
        ],
    }
}

pub(crate) fn list_offsets_response() -> ListOffsetsResponse {
    let result = |error, offset, timestamp_ms| ListOffsetsResult {
        topic: TopicId(7),
        partition: PartitionId(3),
        error,
        offset: Offset(offset),
        timestamp_ms,
    };
    ListOffsetsResponse {
        items: vec![
            result(ErrorCode::None, 17, -1),
            result(ErrorCode::None, 1_000, 1_700_000_000_005),
            result(ErrorCode::UnknownPartition, 0, -1),
        ],
    }
}

pub(crate) fn init_producer_response() -> InitProducerResponse {
    InitProducerResponse {
        producer: ProducerId(4_096),
        epoch: ProducerEpoch(1),
    }
}

pub(crate) fn produce_items() -> [ProduceItem; 2] {
    let batch_bytes = u32::try_from(batch(Codec::None).len()).expect("the sample is small");
    [3, 5].map(|partition| ProduceItem {
        topic: TopicId(7),
        partition: PartitionId(partition),
        batch_bytes,
        chain_epoch: ChainEpoch(2),
    })
}

/// Prefix, header, and the sample batch twice as the payload.
fn produce_request() -> Vec<u8> {
    let mut out = Vec::new();
    let items = produce_items();
    encode_produce_header(&mut out, CORRELATION, Durability::Received, 30_000, &items);
    out.extend_from_slice(&batch(Codec::None));
    out.extend_from_slice(&batch(Codec::None));
    out
}

pub(crate) fn ack_items() -> [AckItem; 3] {
    let item = |correlation, item, error, detail| AckItem {
        correlation: CorrelationId(correlation),
        item,
        error,
        detail,
    };
    [
        item(5, 0, ErrorCode::None, 1_000),
        item(5, 1, ErrorCode::OutOfOrderSequence, 42),
        item(6, 0, ErrorCode::None, AckItem::OFFSET_UNKNOWN),
    ]
}

fn produce_ack() -> Vec<u8> {
    let mut out = Vec::new();
    encode_produce_ack(&mut out, &ack_items());
    out
}

pub(crate) fn fetch_items() -> [FetchItem; 2] {
    let bytes = u32::try_from(batch(Codec::None).len()).expect("the sample is small");
    [
        FetchItem {
            topic: TopicId(7),
            partition: PartitionId(3),
            fetch_offset: Offset(1_001),
            high_watermark: Offset(1_003),
            log_start: Offset(17),
            bytes,
            error: ErrorCode::None,
        },
        FetchItem {
            topic: TopicId(7),
            partition: PartitionId(5),
            fetch_offset: Offset(8),
            high_watermark: Offset(owner_to_detail(NodeId(2), ShardId(5))),
            log_start: Offset(0),
            bytes: 0,
            error: ErrorCode::NotOwner,
        },
    ]
}

/// Prefix, header, and the sample batch as the payload.
fn fetch_response() -> Vec<u8> {
    let mut out = Vec::new();
    encode_fetch_header(&mut out, CORRELATION, SessionId(6), &fetch_items());
    out.extend_from_slice(&batch(Codec::None));
    out
}

pub(crate) const RECORD_HEADERS: [RecordHeader<'static>; 2] = [
    RecordHeader {
        name: "trace",
        value: Some(b"abc"),
    },
    RecordHeader {
        name: "empty",
        value: None,
    },
];

/// The records of the sample batch: null against empty, times before and after the first,
/// headers, extensions, and enough repetition to be worth compressing.
pub(crate) fn records() -> [Record<'static>; 3] {
    let now_ms = 1_700_000_000_000;
    [
        Record {
            timestamp_ms: now_ms,
            key: Some(b"key"),
            ..Record::from_value(&[b'v'; 150])
        },
        Record {
            timestamp_ms: now_ms + 200,
            key: Some(b""),
            headers: &RECORD_HEADERS,
            ..Record::from_value(b"")
        },
        Record {
            timestamp_ms: now_ms - 1,
            value: None,
            extensions: b"ext",
            ..Record::default()
        },
    ]
}

/// A batch as it lies in the log, stamped for [`PLACE`] at offset 1,000.
pub(crate) fn batch(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        ..BatchOptions::default()
    });
    builder.set_producer(ProducerId(4_096), ProducerEpoch(1), Sequence(40));
    for record in &records() {
        builder.push(record).expect("the samples fit");
    }
    let mut batch = Vec::new();
    builder
        .finish_into(&mut batch)
        .expect("the codec is compiled in");
    stamp(
        &mut batch,
        Offset(1_000),
        1_700_000_000_300,
        ChainEpoch(2),
        PLACE,
    );
    batch
}
