//! The cleaner under fire: kills at any moment, damaged checkpoints, and readers who looked up
//! places that were freed since.

use std::fs;

use catena_protocol::batch::split;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, Offset, SessionId, TopicId};
use catena_protocol::messages::{FetchInterest, FetchRequest, TopicConfig};
use catena_tests::broker::{Broker, Settings};
use catena_tests::filler::append;
use catena_tests::peer::{Peer, batch};
use catena_tests::seeded::Seeded;
use catena_tests::wait;

const MIB: u64 = 1 << 20;

fn small_store() -> Broker {
    Broker::start_with(Settings {
        space: "64MiB".to_owned(),
        cache: "8MiB".to_owned(),
        ..Settings::default()
    })
}

fn limited_to(bytes: u64) -> TopicConfig {
    TopicConfig {
        retention_bytes: Some(bytes),
        ..TopicConfig::default()
    }
}

fn value(number: u64) -> Vec<u8> {
    format!("record {number:040}").into_bytes()
}

/// Appends kept records from `from` to `to`, each in a commit of its own.
fn keep(peer: &mut Peer, topic: TopicId, from: u64, to: u64) {
    for number in from..to {
        let ack = append(peer, topic, &batch(&[&value(number)]));
        assert_eq!((ack.error, ack.detail), (ErrorCode::None, number));
    }
}

fn pass_by(peer: &mut Peer, topic: TopicId, batches: usize) {
    let large = batch(&[&vec![b'p'; 256 << 10]]);
    for _ in 0..batches {
        let ack = append(peer, topic, &large);
        assert_eq!(ack.error, ErrorCode::None);
    }
}

fn check(broker: &Broker, topic: TopicId, records: u64) {
    let mut peer = Peer::connect(broker.addr());
    let count = usize::try_from(records).expect("few records");
    let expected: Vec<Vec<u8>> = (0..records).map(value).collect();
    assert_eq!(peer.values(topic, count), expected);
}

/// Damages the newest checkpoints, as many as there are of `count`.
fn damage_checkpoints(broker: &Broker, count: usize) {
    let checkpoints = broker.checkpoints();
    assert!(!checkpoints.is_empty(), "a checkpoint was taken");
    for path in checkpoints.iter().rev().take(count) {
        let mut bytes = fs::read(path).expect("the checkpoint");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x18;
        bytes[100] ^= 0x81;
        fs::write(path, bytes).expect("it can be written");
    }
}

#[test]
fn a_kill_at_any_moment_of_cleaning_loses_nothing() {
    let mut broker = small_store();
    let mut random = Seeded::new(0xc1ea);
    let mut peer = Peer::connect(broker.addr());
    let kept = peer.create_topic("kept", 1, TopicConfig::default());
    let traffic = peer.create_topic("traffic", 1, limited_to(MIB));
    let mut records = 0;
    let mut emptied = 0;
    for round in 0..12 {
        let mut peer = Peer::connect(broker.addr());
        for _ in 0..8 {
            keep(&mut peer, kept, records, records + 10);
            records += 10;
            pass_by(&mut peer, traffic, 8 + random.below(8));
        }
        emptied += broker.metric("catena_cleaner_segments_total");
        broker.kill();
        if round % 3 == 2 {
            damage_checkpoints(&broker, 1);
        }
        broker.start_again();
        check(&broker, kept, records);
    }
    assert!(emptied > 12, "the cleaner was at work: {emptied}");
    broker.stop();
}

#[test]
fn what_was_moved_is_found_again_without_any_checkpoint() {
    let mut broker = small_store();
    let mut peer = Peer::connect(broker.addr());
    let kept = peer.create_topic("kept", 1, TopicConfig::default());
    let traffic = peer.create_topic("traffic", 1, limited_to(MIB));
    let records = 500;
    keep(&mut peer, kept, 0, records);
    wait::until("the segments that the records came in are freed", || {
        pass_by(&mut peer, traffic, 40);
        broker.metric("catena_cleaner_segments_total") >= 2
            && broker.metric("catena_segments_freed_total") > 20
    });
    broker.kill();
    damage_checkpoints(&broker, usize::MAX);
    broker.start_again();
    Reader::new(&broker, kept).read(records);
    let ack = Peer::connect(broker.addr()).produce(kept, Durability::Durable, &batch(&[b"next"]));
    assert_eq!(ack.error, ErrorCode::None);
    assert!(ack.detail >= records, "no offset is given out again");
    broker.stop();
}

#[test]
fn a_reader_that_looked_ahead_follows_batches_that_were_moved() {
    let mut broker = small_store();
    let mut peer = Peer::connect(broker.addr());
    let kept = peer.create_topic("kept", 1, TopicConfig::default());
    let traffic = peer.create_topic("traffic", 1, limited_to(MIB));
    let records = 2_500;
    keep(&mut peer, kept, 0, records);
    // The records are read from runs of the index: those in memory would be looked up again.
    pass_by(&mut peer, traffic, 40);

    let mut reader = Reader::new(&broker, kept);
    reader.read(1);
    let emptied_before = broker.metric("catena_cleaner_segments_total");
    let freed_before = broker.metric("catena_segments_freed_total");
    pass_by(&mut peer, traffic, 300);
    wait::until("what was looked up is emptied and freed", || {
        broker.metric("catena_cleaner_segments_total") >= emptied_before.max(2)
            && broker.metric("catena_segments_freed_total") > freed_before + 12
    });
    assert!(broker.metric("catena_segments_recycled_total") > 0);
    reader.read(records);
    broker.stop();
}

/// A fetch session that reads one batch at a time.
struct Reader {
    peer: Peer,
    topic: TopicId,
    next: u64,
    has_begun: bool,
}

impl Reader {
    fn new(broker: &Broker, topic: TopicId) -> Self {
        let peer = Peer::connect(broker.addr());
        Self {
            peer,
            topic,
            next: 0,
            has_begun: false,
        }
    }

    /// Reads on until `end`, which is checked record by record.
    fn read(&mut self, end: u64) {
        while self.next < end {
            let interest = FetchInterest {
                topic: self.topic,
                offset: Offset(0),
                ..FetchInterest::default()
            };
            let add = if self.has_begun {
                vec![]
            } else {
                vec![interest]
            };
            self.has_begun = true;
            let (items, payload) = self.peer.fetch_with(&FetchRequest {
                session: SessionId(7),
                max_wait_ms: 5_000,
                min_bytes: 1,
                max_bytes: 100,
                add,
                ..FetchRequest::default()
            });
            for item in &items {
                assert_eq!(item.error, ErrorCode::None, "at {}", self.next);
            }
            for found in split(&payload) {
                let (header, bytes) = found.expect("whole batches");
                assert_eq!(header.base_offset, Offset(self.next));
                let expected = value(self.next);
                let holds_it = bytes.windows(expected.len()).any(|part| part == expected);
                assert!(holds_it, "another record at {}", self.next);
                self.next = header.next_offset().get();
            }
        }
    }
}
