//! Fetch sessions: every request is answered, also those with limits and at moments that are odd.

use std::fs;
use std::path::{Path, PathBuf};

use catena_protocol::batch::split;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Offset, PartitionId, SessionId, TopicId};
use catena_protocol::limits::FETCH_INTERESTS_MAX;
use catena_protocol::messages::{FetchInterest, FetchRequest};

use crate::support::{Peer, TestBroker, batch_of};

/// Far longer than any test takes.
const LONG_MS: u32 = 600_000;

fn interest(topic: TopicId, partition: u32, from: u64) -> FetchInterest {
    FetchInterest {
        topic,
        partition: PartitionId(partition),
        offset: Offset::new(from),
        ..FetchInterest::default()
    }
}

fn request(add: Vec<FetchInterest>) -> FetchRequest {
    FetchRequest {
        session: SessionId(1),
        max_wait_ms: LONG_MS,
        min_bytes: 1,
        max_bytes: 1 << 20,
        add,
        ..FetchRequest::default()
    }
}

#[test]
fn a_request_for_no_bytes_gets_one_batch() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    for _ in 0..3 {
        peer.produce(&[(topic, 0, &batch_of(2, b"value"))]);
    }
    for (round, max_bytes) in [(0, 0), (1, 1)] {
        let add = if round == 0 {
            vec![interest(topic, 0, 0)]
        } else {
            Vec::new()
        };
        let (items, payload) = peer.fetch_with(&FetchRequest {
            max_bytes,
            ..request(add)
        });
        assert_eq!(items[0].fetch_offset, Offset::new(2 * round));
        assert_eq!(split(&payload).count(), 1);
    }
    broker.stop();
}

#[test]
fn a_request_whose_least_is_above_its_most_is_answered_when_it_is_full() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    let batch = batch_of(1, &[1; 2000]);
    for _ in 0..3 {
        peer.produce(&[(topic, 0, &batch)]);
    }
    let (_, payload) = peer.fetch_with(&FetchRequest {
        min_bytes: u32::MAX,
        max_bytes: u32::try_from(batch.len()).expect("small"),
        ..request(vec![interest(topic, 0, 0)])
    });
    assert_eq!(payload.len(), batch.len());
    broker.stop();
}

#[test]
fn requests_that_wait_in_a_session_are_answered_when_it_ends() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    let mut expected = vec![peer.send_fetch(&request(vec![interest(topic, 0, 0)]))];
    for _ in 0..2 {
        expected.push(peer.send_fetch(&request(Vec::new())));
    }
    let close = FetchRequest {
        close: true,
        ..request(Vec::new())
    };
    expected.push(peer.send_fetch(&close));
    for correlation in expected {
        let (prefix, _, _) = peer.receive();
        assert_eq!(prefix.correlation, correlation);
    }
    broker.stop();
}

#[test]
fn a_waiting_consumer_is_told_when_its_topic_is_deleted() {
    let broker = TestBroker::start(1);
    let mut admin = Peer::connect(&broker);
    let topic = admin.create_topic("orders", 2);
    let mut reader = Peer::connect(&broker);
    let interests = vec![interest(topic, 0, 0), interest(topic, 1, 0)];
    reader.send_fetch(&request(interests));
    admin.delete_topic("orders");
    let mut told = 0;
    while told < 2 {
        let (items, _) = reader.receive_fetch();
        assert!(
            items
                .iter()
                .all(|item| item.error == ErrorCode::TopicNotFound),
            "{items:?}"
        );
        told += items.len();
        if told < 2 {
            reader.send_fetch(&request(Vec::new()));
        }
    }
    broker.stop();
}

#[test]
fn a_session_refuses_more_partitions_than_it_takes() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    let most = u32::try_from(FETCH_INTERESTS_MAX).expect("100,000");
    // Partition 0 has nothing, so nothing is answered before the others are refused below.
    let waiting = peer.send_fetch(&request(vec![interest(topic, 0, 0)]));
    let others = (1..=most).map(|partition| interest(topic, partition, 0));
    let refused = peer.send_fetch(&request(others.collect()));
    let (prefix, header, _) = peer.receive();
    assert_eq!(prefix.correlation, refused);
    let error = catena_protocol::messages::ErrorResponse::decode(&header).expect("an error");
    assert_eq!(error.code, ErrorCode::RequestTooLarge);
    peer.send_fetch(&request(vec![interest(topic, 5, 0)]));
    let (prefix, _, _) = peer.receive();
    assert_eq!(prefix.correlation, waiting, "the session goes on");
    broker.stop();
}

#[test]
fn a_seek_applies_to_a_request_that_waits_already() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    peer.produce(&[(topic, 0, &batch_of(5, b"value"))]);
    let waiting = peer.send_fetch(&request(vec![interest(topic, 0, 5)]));
    peer.send_fetch(&request(vec![interest(topic, 0, 0)]));
    let (prefix, _, payload) = peer.receive();
    assert_eq!(prefix.correlation, waiting);
    assert_eq!(split(&payload).count(), 1);
    broker.stop();
}

/// The segment that holds `marker`.
fn segment_with(dir: &Path, marker: &[u8]) -> PathBuf {
    let journal = fs::read_dir(dir.join("journals/000")).expect("a journal");
    journal
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .find(|path| {
            let bytes = fs::read(path).expect("a segment");
            bytes.windows(marker.len()).any(|here| here == marker)
        })
        .expect("some segment holds the marker")
}

/// What of a block is damaged.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// A batch in it; the journal's entries are still readable.
    Batch,
    /// Its header; what it held is known only from elsewhere.
    Header,
}

/// Changes a byte of the block, of one page, with the first `marker`.
fn damage(dir: &Path, marker: &[u8], what: Damage) {
    let path = segment_with(dir, marker);
    let mut bytes = fs::read(&path).expect("a segment");
    let found = bytes.windows(marker.len()).position(|here| here == marker);
    let batch = found.expect("it was found before");
    let at = match what {
        Damage::Batch => batch,
        Damage::Header => batch - batch % 4096,
    };
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
}

fn remove_checkpoints(dir: &Path) {
    for entry in fs::read_dir(dir.join("journals/000")).expect("a journal") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("checkpoint-")) {
            fs::remove_file(path).expect("removed");
        }
    }
}

/// What a consumer that goes on behind each error gets: offsets of batches, and of lost ranges.
fn read_around(peer: &mut Peer, topic: TopicId, end: u64) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut batches, mut lost) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < end {
        let (items, payload) = peer.fetch(topic, 0, Offset::new(at));
        let item = items[0];
        if item.error != ErrorCode::None {
            assert_eq!(item.error, ErrorCode::DataCorrupt);
            lost.push((at, item.high_watermark.get()));
            at = item.high_watermark.get();
            continue;
        }
        for batch in split(&payload) {
            let (header, _) = batch.expect("whole batches");
            assert_eq!(header.base_offset.get(), at, "nothing is left out silently");
            batches.push(at);
            at = header.next_offset().get();
        }
    }
    (batches, lost)
}

#[test]
fn exactly_what_is_damaged_is_answered_by_an_error() {
    let cases = [
        (Damage::Batch, true),
        (Damage::Batch, false),
        (Damage::Header, true),
        (Damage::Header, false),
    ];
    for (what, has_checkpoint) in cases {
        let broker = TestBroker::start(1);
        let mut peer = Peer::connect(&broker);
        let topic = peer.create_topic("orders", 1);
        for value in [&b"first value"[..], b"second value", b"third value"] {
            peer.produce(&[(topic, 0, &batch_of(10, value))]);
        }
        let broker = broker.restart_after(1, |dir| {
            damage(dir, b"second value", what);
            // Without a checkpoint the journal is read back, and a block may not be even known.
            if !has_checkpoint {
                remove_checkpoints(dir);
            }
        });
        let mut peer = Peer::connect(&broker);
        let read = read_around(&mut peer, topic, 30);
        let expected = (vec![0, 20], vec![(10, 20)]);
        assert_eq!(read, expected, "{what:?}, checkpoint: {has_checkpoint}");
        broker.stop();
    }
}

#[test]
fn what_cannot_be_read_for_a_moment_is_not_lost() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    peer.produce(&[(topic, 0, &batch_of(10, b"some value"))]);
    // Nothing is in memory after a restart, and no segment is open.
    let mut hidden = PathBuf::new();
    let mut segment = PathBuf::new();
    let broker = broker.restart_after(1, |dir| {
        segment = segment_with(dir, b"some value");
        hidden = dir.join("hidden");
    });
    let mut peer = Peer::connect(&broker);
    fs::rename(&segment, &hidden).expect("renamed");
    let (items, payload) = peer.fetch(topic, 0, Offset::new(3));
    assert_eq!((items[0].error, payload.len()), (ErrorCode::Internal, 0));
    assert_eq!(items[0].fetch_offset, Offset::new(3));
    fs::rename(&hidden, &segment).expect("renamed");
    let (items, payload) = peer.fetch(topic, 0, Offset::new(3));
    assert_eq!(items[0].error, ErrorCode::None);
    assert_eq!(split(&payload).count(), 1);
    broker.stop();
}
