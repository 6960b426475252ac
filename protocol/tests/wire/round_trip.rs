//! What is encoded decodes to the same value, for any value inside the limits.

use catena_protocol::batch::{
    BatchBuilder, BatchHeader, BatchOptions, BatchReader, Decompressor, PushError, split,
    verify_body,
};
use catena_protocol::compression::Codec;
use catena_protocol::error::ErrorCode;
use catena_protocol::frame::{FramePrefix, PREFIX_BYTES};
use catena_protocol::ids::{
    ChainEpoch, ChainId, CorrelationId, Durability, NodeId, Offset, PartitionId, SessionId,
    ShardId, TopicId, TopicPartition,
};
use catena_protocol::messages::{
    AckItem, AckView, AlterTopicRequest, ChainInfo, Cleanup, DescribeTopicResponse, ErrorResponse,
    FetchInterest, FetchItem, FetchRequest, FetchView, HelloRequest, ListOffsetsItem,
    ListOffsetsRequest, Message, MetadataRequest, MetadataResponse, NodeInfo, OffsetSpec,
    PartitionRange, ProduceItem, ProduceView, Purpose, TopicConfig, TopicInfo, encode_fetch_header,
    encode_produce_ack, encode_produce_header,
};
use catena_protocol::record::{Record, RecordHeader};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

fn assert_round_trip<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
    let mut out = b"before".to_vec();
    message.encode(CorrelationId(9), &mut out);
    let (prefix, header) = frame(&out[6..]);
    assert_eq!(
        (prefix.api, prefix.is_response()),
        (M::API.to_wire(), M::IS_RESPONSE)
    );
    assert_eq!(M::decode(header).as_ref(), Ok(message));
}

fn frame(bytes: &[u8]) -> (FramePrefix, &[u8]) {
    let (prefix, header) = bytes
        .split_first_chunk::<PREFIX_BYTES>()
        .expect("a prefix is there");
    let prefix = FramePrefix::decode(prefix).expect("the frame is inside the limits");
    prefix.verify(header).expect("the frame is whole");
    (prefix, header)
}

fn code() -> impl Strategy<Value = ErrorCode> {
    select(ErrorCode::ALL)
}

fn durability() -> impl Strategy<Value = Durability> {
    select(&[Durability::Durable, Durability::Received, Durability::None])
}

fn config() -> impl Strategy<Value = TopicConfig> {
    (
        any::<Option<u64>>(),
        any::<Option<u64>>(),
        "[a-z]{1,20}",
        durability(),
        select(&Cleanup::ALL),
    )
        .prop_map(
            |(retention_bytes, retention_ms, class, min_durability, cleanup)| TopicConfig {
                retention_bytes,
                retention_ms,
                class,
                min_durability,
                cleanup,
            },
        )
}

fn topic() -> impl Strategy<Value = TopicInfo> {
    (".{0,30}", any::<u32>(), any::<u32>(), config(), code()).prop_map(
        |(name, id, partitions, config, error)| {
            let id = TopicId(id);
            TopicInfo {
                name,
                id,
                partitions,
                config,
                error,
            }
        },
    )
}

fn range() -> impl Strategy<Value = PartitionRange> {
    any::<[u32; 6]>().prop_map(
        |[topic, first, count, chain_first, chain_count, chain_start]| PartitionRange {
            topic: TopicId(topic),
            first_partition: PartitionId(first),
            partition_count: count,
            chain_first: ChainId(chain_first),
            chain_count,
            chain_start,
        },
    )
}

fn chain() -> impl Strategy<Value = ChainInfo> {
    any::<([u32; 3], u16)>().prop_map(|([chain, epoch, node], shard)| ChainInfo {
        chain: ChainId(chain),
        epoch: ChainEpoch(epoch),
        node: NodeId(node),
        shard: ShardId(shard),
    })
}

fn node() -> impl Strategy<Value = NodeInfo> {
    (any::<u32>(), ".{0,20}", any::<u16>(), any::<u16>()).prop_map(|(node, host, port, shards)| {
        NodeInfo {
            node: NodeId(node),
            host,
            port,
            shards,
        }
    })
}

proptest! {
    #[test]
    fn hello_survives(
        purpose in select(&[Purpose::Client, Purpose::Admin, Purpose::Replica, Purpose::Control]),
        (version_min, version_max) in any::<(u8, u8)>(),
        cluster_id: Option<[u8; 16]>,
        (node, shard) in any::<(Option<u32>, Option<u16>)>(),
        client_name in ".{0,60}",
        auth in vec(any::<u8>(), 0..100),
    ) {
        let (expected_node, shard) = (node.map(NodeId), shard.map(ShardId));
        assert_round_trip(&HelloRequest {
            purpose, version_min, version_max, cluster_id, expected_node, shard, client_name, auth,
        });
    }

    #[test]
    fn metadata_survives(
        (version, page) in any::<(u64, u32)>(),
        names in of(vec(".{0,30}", 0..5)),
        cluster_id: [u8; 16],
        nodes in vec(node(), 0..4),
        topics in vec(topic(), 0..5),
        ranges in vec(range(), 0..5),
        chains in vec(chain(), 0..5),
        next_page: Option<u32>,
    ) {
        assert_round_trip(&MetadataRequest { topics: names, page });
        assert_round_trip(&DescribeTopicResponse {
            topic: topics.first().cloned().unwrap_or_default(),
            ranges: ranges.clone(),
            chains: chains.clone(),
            created_ms: version.cast_signed(),
        });
        assert_round_trip(&MetadataResponse {
            version, cluster_id, nodes, topics, ranges, chains, next_page,
        });
    }

    #[test]
    fn alter_and_error_survive(
        name in ".{0,40}",
        partitions: Option<u32>,
        (retention_bytes, retention_ms) in any::<(Option<Option<u64>>, Option<Option<u64>>)>(),
        min_durability in of(durability()),
        cleanup in of(select(&Cleanup::ALL)),
        code in code(),
        detail: u64,
    ) {
        assert_round_trip(&ErrorResponse { code, message: name.clone(), detail });
        assert_round_trip(&AlterTopicRequest {
            name, partitions, retention_bytes, retention_ms, min_durability, cleanup,
        });
    }

    #[test]
    fn fetch_requests_survive(
        [session, max_wait_ms, min_bytes, max_bytes] in any::<[u32; 4]>(),
        close: bool,
        add in vec(any::<([u32; 4], u64)>(), 0..6),
        remove in vec(any::<[u32; 2]>(), 0..6),
    ) {
        let add = add.into_iter().map(|([topic, partition, max_bytes, epoch], offset)| {
            FetchInterest {
                topic: TopicId(topic),
                partition: PartitionId(partition),
                offset: Offset(offset),
                max_bytes,
                chain_epoch: ChainEpoch(epoch),
            }
        });
        let remove = remove.into_iter().map(|[topic, partition]| {
            TopicPartition::new(TopicId(topic), PartitionId(partition))
        });
        assert_round_trip(&FetchRequest {
            session: SessionId(session),
            max_wait_ms,
            min_bytes,
            max_bytes,
            close,
            add: add.collect(),
            remove: remove.collect(),
        });
    }

    #[test]
    fn list_offsets_survives(items in vec(any::<(u32, u32, u8, i64)>(), 0..9)) {
        let items = items.into_iter().map(|(topic, partition, spec, time_ms)| ListOffsetsItem {
            topic: TopicId(topic),
            partition: PartitionId(partition),
            spec: match spec % 3 {
                0 => OffsetSpec::Earliest,
                1 => OffsetSpec::Latest,
                _ => OffsetSpec::Time(time_ms),
            },
        });
        assert_round_trip(&ListOffsetsRequest { items: items.collect() });
    }

    #[test]
    fn produce_and_acks_survive(
        durability in durability(),
        timeout_ms: u32,
        items in vec((any::<[u32; 3]>(), 0_u32..1000), 1..20),
        acks in vec((any::<u32>(), any::<u16>(), code(), any::<u64>()), 0..20),
    ) {
        let items: Vec<_> = items
            .into_iter()
            .map(|([topic, partition, epoch], batch_bytes)| ProduceItem {
                topic: TopicId(topic),
                partition: PartitionId(partition),
                batch_bytes,
                chain_epoch: ChainEpoch(epoch),
            })
            .collect();
        let mut out = Vec::new();
        encode_produce_header(&mut out, CorrelationId(1), durability, timeout_ms, &items);
        let (prefix, header) = frame(&out);
        let view = ProduceView::decode(header, prefix.payload_bytes()).expect("well formed");
        prop_assert_eq!((view.durability(), view.timeout_ms()), (durability, timeout_ms));
        prop_assert_eq!(view.items().collect::<Vec<_>>(), items);

        let acks: Vec<_> = acks
            .into_iter()
            .map(|(correlation, item, error, detail)| AckItem {
                correlation: CorrelationId(correlation), item, error, detail,
            })
            .collect();
        out.clear();
        encode_produce_ack(&mut out, &acks);
        let view = AckView::decode(frame(&out).1).expect("well formed");
        prop_assert_eq!(view.items().collect::<Vec<_>>(), acks);
    }

    #[test]
    fn fetch_responses_survive(
        items in vec((any::<[u32; 2]>(), any::<[u64; 3]>(), 0_u32..1000, code()), 0..20),
    ) {
        let items: Vec<_> = items
            .into_iter()
            .map(|([topic, partition], [at, high, low], bytes, error)| FetchItem {
                topic: TopicId(topic),
                partition: PartitionId(partition),
                fetch_offset: Offset(at),
                high_watermark: Offset(high),
                log_start: Offset(low),
                bytes,
                error,
            })
            .collect();
        let mut out = Vec::new();
        encode_fetch_header(&mut out, CorrelationId(1), SessionId(2), &items);
        let (prefix, header) = frame(&out);
        let view = FetchView::decode(header, prefix.payload_bytes()).expect("well formed");
        prop_assert_eq!(view.session(), SessionId(2));
        prop_assert_eq!(view.items().collect::<Vec<_>>(), items);
    }
}

#[derive(Clone, Debug)]
struct OwnedRecord {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    extensions: Vec<u8>,
}

fn owned_record() -> impl Strategy<Value = OwnedRecord> {
    let bytes = || of(vec(any::<u8>(), 0..200));
    // Times near each other, and some anywhere: those end a batch.
    let time = prop_oneof![9 => -1_000_000_i64..1_000_000, 1 => any::<i64>()];
    let headers = vec((".{0,10}", bytes()), 0..4);
    (time, bytes(), bytes(), headers, vec(any::<u8>(), 0..10)).prop_map(
        |(timestamp_ms, key, value, headers, extensions)| OwnedRecord {
            timestamp_ms,
            key,
            value,
            headers,
            extensions,
        },
    )
}

fn push(builder: &mut BatchBuilder, record: &OwnedRecord) -> Result<(), PushError> {
    let headers: Vec<_> = record
        .headers
        .iter()
        .map(|(name, value)| RecordHeader {
            name,
            value: value.as_deref(),
        })
        .collect();
    builder.push(&Record {
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
        extensions: &record.extensions,
    })
}

/// Reads all batches back and compares them with what was pushed.
fn assert_records(log: &[u8], pushed: &[OwnedRecord]) {
    let mut decompressor = Decompressor::default();
    let mut expected = pushed.iter();
    for batch in split(log) {
        let (header, batch) = batch.expect("the builder makes well-formed batches");
        assert_eq!(verify_body(batch), Ok(()));
        assert_eq!(header.check_produced(), Ok(()));
        let reader = BatchReader::open(batch, &mut decompressor).expect("well formed");
        let mut newest_ms = header.first_timestamp_ms;
        for (record, index) in reader.zip(0..) {
            let (record, expected) = (record.expect("well formed"), expected.next().expect("one"));
            assert_eq!(record.offset, Offset(index));
            assert_eq!(record.timestamp_ms, expected.timestamp_ms);
            assert_eq!(record.key, expected.key.as_deref());
            assert_eq!(record.value, expected.value.as_deref());
            let headers: Vec<_> = record
                .headers
                .map(|header| (header.name.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect();
            assert_eq!(headers, expected.headers);
            assert_eq!(record.extensions, expected.extensions);
            newest_ms = newest_ms.max(record.timestamp_ms);
        }
        assert_eq!(header.max_timestamp_ms(), newest_ms);
    }
    assert!(expected.next().is_none(), "every record came back");
}

proptest! {
    #[test]
    fn records_survive_their_batches(
        records in vec(owned_record(), 1..60),
        batch_bytes_max in 1_500_usize..8_000,
        codec in select(&[Codec::None, Codec::Lz4, Codec::Zstd]),
    ) {
        let codec = if codec.is_compiled_in() { codec } else { Codec::None };
        let options = BatchOptions { batch_bytes_max, codec, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        let mut log = Vec::new();
        for record in &records {
            if push(&mut builder, record).is_err() {
                prop_assert!(builder.size_bytes() <= batch_bytes_max);
                builder.finish_into(&mut log).expect("the codec is compiled in");
                prop_assert_eq!(push(&mut builder, record), Ok(()));
            }
        }
        log.extend_from_slice(&builder.finish().expect("the codec is compiled in"));
        assert_records(&log, &records);
    }

    #[test]
    fn batch_headers_survive(bytes: [u8; 64]) {
        if let Ok(header) = BatchHeader::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
        let mut sane = bytes;
        sane[20..24].copy_from_slice(&64_u32.to_le_bytes());
        sane[62] &= 1;
        sane[63] = 0;
        sane[47] &= 0x3f;
        sane[7] &= 0x7f;
        sane[58..62].copy_from_slice(&[1, 0, 0, 0]);
        let header = BatchHeader::decode(&sane);
        prop_assert_eq!(header.expect("it is sane").encode(), sane);
    }
}
