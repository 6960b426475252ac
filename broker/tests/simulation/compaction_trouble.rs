//! Compaction of a partition a part of which the disk does not give any more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use catena_broker::runtime::clock;
use catena_broker::runtime::simulated::{self, Options, Simulation};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, TopicId};
use catena_protocol::messages::{
    AckView, AlterTopicRequest, Cleanup, CreateTopicRequest, ProduceItem, encode_produce_header,
};

use crate::model::{Keys, Value};
use crate::node::{JOURNALS, Node, NodeOptions};
use crate::payload;
use crate::wire::Wire;

const TOPIC: &str = "state";
const BATCHES: u32 = 40;
/// So long that each batch has pages of its own.
const RECORD_BYTES: usize = 20_000;

async fn append(wire: &mut Wire, topic: TopicId, number: u32) {
    let value = Value { sender: 0, number };
    let keys = Keys {
        count: 3,
        tombstones: 0,
    };
    let batch = payload::batch(&[value], RECORD_BYTES, Some(keys));
    let item = ProduceItem {
        topic,
        batch_bytes: u32::try_from(batch.len()).expect("below 1 MiB"),
        ..ProduceItem::default()
    };
    let mut frame = Vec::new();
    let correlation = wire.correlation();
    encode_produce_header(&mut frame, correlation, Durability::Durable, 0, &[item]);
    frame.extend_from_slice(&batch);
    wire.send(&frame).await.expect("it is taken");
    let answer = wire.receive().await.expect("an answer");
    let acks = AckView::decode(&answer.header).expect("acks are well formed");
    let errors: Vec<_> = acks.items().map(|ack| ack.error).collect();
    assert_eq!(errors, [ErrorCode::None]);
}

/// Makes a page in the middle of the stored record of this number unreadable.
fn spoil(number: u32) {
    let head: Vec<u8> = [0_u32.to_le_bytes(), number.to_le_bytes()].concat();
    let path: PathBuf = Path::new(JOURNALS).join("000/0000000001.seg");
    simulated::with_disk(|disk| {
        let stored = disk.contents(&path).expect("the first segment");
        // The head of the value, and behind it the filling.
        let found = stored.windows(head.len() + 64).position(|window| {
            let (start, filling) = window.split_at(head.len());
            start == head && filling.iter().all(|byte| *byte == filling[0])
        });
        let at = found.expect("it is stored") + RECORD_BYTES / 2;
        disk.spoil(&path, at as u64);
    });
}

#[test]
fn an_unreadable_page_is_left_and_the_rest_of_the_partition_is_compacted() {
    let simulation = Simulation::new(Options::with_seed(1));
    let ran = simulation.run(async {
        simulated::with_disk(|disk| disk.create_dir(JOURNALS.as_ref()));
        let options = NodeOptions {
            shards: 1,
            segment_bytes: 2 << 20,
            space_bytes: 64 << 20,
            cache_bytes: 8 << 20,
        };
        let create = CreateTopicRequest {
            name: TOPIC.to_owned(),
            partitions: 1,
            ..CreateTopicRequest::default()
        };
        let node = Node::start(options, 1);
        node.ready().await.expect("it starts");
        let mut wire = Wire::connect(None).await.expect("it answers");
        let made = wire.call(&create).await.expect("a topic");
        for number in 0..BATCHES {
            append(&mut wire, made.topic, number).await;
        }
        spoil(BATCHES / 2);
        let change = AlterTopicRequest {
            name: TOPIC.to_owned(),
            cleanup: Some(Cleanup::Compact),
            ..AlterTopicRequest::default()
        };
        wire.call(&change).await.expect("a change");
        for _ in 0..60 {
            clock::sleep(Duration::from_secs(1)).await;
        }
        assert!(node.sum(|metrics| metrics.compaction_passes.get()) > 0);
        assert!(node.sum(|metrics| metrics.compaction_extents_left.get()) > 0);
        let dropped = node.sum(|metrics| metrics.compaction_records_dropped.get());
        assert!(dropped >= u64::from(BATCHES) / 2, "{dropped}");
        node.stop().await;
    });
    ran.expect("nothing panics");
}
