//! The hand-written layouts against the schema, and what the verifier's limits refuse.

use super::*;
use crate::error::ErrorCode;
use crate::frame::PREFIX_BYTES;
use crate::generated::wire;
use crate::ids::{ChainEpoch, Durability, Offset, PartitionId, SessionId, TopicId};

#[test]
fn produce_and_acks_have_the_layout_of_the_schema() {
    let item = ProduceItem {
        topic: TopicId(1),
        partition: PartitionId(2),
        batch_bytes: 3,
        chain_epoch: ChainEpoch(4),
    };
    let mut out = Vec::new();
    encode_produce_header(&mut out, CorrelationId(0), Durability::None, 7, &[item]);
    let head = wire::ProduceHead::new(2, 0, 1, 7);
    assert_eq!(out[PREFIX_BYTES..][..8], head.0);
    assert_eq!(
        out[PREFIX_BYTES + 8..],
        wire::ProduceItem::new(1, 2, 3, 4).0
    );

    out.clear();
    let (correlation, error) = (CorrelationId(1), ErrorCode::NotOwner);
    encode_produce_ack(
        &mut out,
        &[AckItem {
            correlation,
            item: 2,
            error,
            detail: 3,
        }],
    );
    assert_eq!(out[PREFIX_BYTES..], wire::AckItem::new(1, 2, 20, 3).0);
}

#[test]
fn fetch_responses_have_the_layout_of_the_schema() {
    let item = FetchItem {
        topic: TopicId(1),
        partition: PartitionId(2),
        fetch_offset: Offset(3),
        high_watermark: Offset(4),
        log_start: Offset(5),
        bytes: 6,
        error: ErrorCode::OffsetOutOfRange,
    };
    let mut out = Vec::new();
    encode_fetch_header(&mut out, CorrelationId(0), SessionId(9), &[item]);
    assert_eq!(out.len(), fetch_header_frame_bytes(1));
    assert_eq!(out[PREFIX_BYTES..][..8], wire::FetchHead::new(9, 1).0);
    assert_eq!(
        out[PREFIX_BYTES + 8..],
        wire::FetchItem::new(1, 2, 3, 4, 5, 6, 40, 0).0
    );
}

/// A header of `count` topics that all share one table with a name of `name_bytes`.
fn shared_topics(count: usize, name_bytes: usize) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let name = builder.create_string(&"n".repeat(name_bytes));
    let args = wire::TopicInfoArgs {
        name: Some(name),
        ..Default::default()
    };
    let topic = wire::TopicInfo::create(&mut builder, &args);
    let topics = builder.create_vector(&vec![topic; count]);
    let cluster_id = wire::ClusterId::new(&[0; 16]);
    let args = wire::MetadataResponseArgs {
        topics: Some(topics),
        cluster_id: Some(&cluster_id),
        ..Default::default()
    };
    let root = wire::MetadataResponse::create(&mut builder, &args);
    builder.finish_minimal(root);
    builder.finished_data().to_vec()
}

#[test]
fn a_header_that_swells_is_refused_before_it_is_read() {
    assert!(MetadataResponse::decode(&shared_topics(10, 100)).is_ok());
    // 200 KB of name behind 4,096 references: 800 MB once it is read.
    let swollen = MetadataResponse::decode(&shared_topics(4_096, 200_000));
    assert!(matches!(swollen, Err(DecodeError::Table { .. })));
    let tables = MetadataResponse::decode(&shared_topics(200_000, 1));
    assert!(matches!(tables, Err(DecodeError::Table { .. })));
    let count = MetadataResponse::decode(&shared_topics(5_000, 1));
    assert!(matches!(
        count,
        Err(DecodeError::TooMany { what: "topics", .. })
    ));
}

#[test]
fn a_long_name_is_refused_by_its_limit() {
    let request = DeleteTopicRequest {
        name: "n".repeat(250),
    };
    let mut out = Vec::new();
    request.encode(CorrelationId(1), &mut out);
    let (what, actual, max) = ("topic name", 250, 249);
    let expected = Err(DecodeError::TooMany { what, actual, max });
    assert_eq!(DeleteTopicRequest::decode(&out[PREFIX_BYTES..]), expected);
}

#[test]
fn unknown_numbers_are_refused() {
    let mut builder = FlatBufferBuilder::new();
    let args = wire::HelloRequestArgs {
        purpose: 9,
        ..Default::default()
    };
    let root = wire::HelloRequest::create(&mut builder, &args);
    builder.finish_minimal(root);
    let expected = Err(DecodeError::UnknownValue {
        what: "hello purpose",
        value: 9,
    });
    assert_eq!(HelloRequest::decode(builder.finished_data()), expected);
}
