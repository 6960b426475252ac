//! Requests that break the protocol: an error or the end of that connection, and nothing else.

use catena_protocol::error::ErrorCode;
use catena_protocol::frame::{Api, FramePrefix, PREFIX_BYTES, PROTOCOL_VERSION, encode_frame};
use catena_protocol::ids::{
    CorrelationId, Durability, PartitionId, SessionId, TopicId, TopicPartition,
};
use catena_protocol::limits::{BATCH_BYTES_MAX, FETCH_INTERESTS_MAX, REQUEST_BYTES_MAX};
use catena_protocol::messages::{
    CreateTopicRequest, DescribeTopicRequest, FetchInterest, FetchRequest, InitProducerRequest,
    ListOffsetsItem, ListOffsetsRequest, MetadataRequest, OffsetSpec, ProduceItem, TopicConfig,
    encode_produce_header,
};
use catena_tests::broker::Broker;
use catena_tests::peer::{Frame, Peer, batch, interest, produce_frame};
use catena_tests::seeded::Seeded;
use catena_tests::witness::Witness;

fn metadata_frame(correlation: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let request = MetadataRequest {
        topics: None,
        page: 0,
    };
    request.encode(CorrelationId(correlation), &mut frame);
    frame
}

/// Whether a connection still answers.
fn is_usable(peer: &mut Peer) -> bool {
    peer.ask(&InitProducerRequest {}).is_ok()
}

/// Sends a whole frame that has to be refused, and checks that the connection stays usable.
fn refused(peer: &mut Peer, frame: &[u8], correlation: CorrelationId) -> ErrorCode {
    peer.send(frame);
    let answer = peer.receive();
    assert_eq!(answer.prefix.correlation, correlation);
    let error = answer.error().expect("an error");
    assert!(is_usable(peer), "after {error:?}");
    error.code
}

#[test]
fn a_connection_has_to_begin_with_a_hello() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut peer = Peer::silent(broker.addr());
    peer.send(&metadata_frame(9));
    let said = peer.until_closed();
    let errors: Vec<_> = said.iter().filter_map(Frame::error).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].code, ErrorCode::HelloRequired);
    assert_eq!(said[0].prefix.correlation, CorrelationId(9));
    witness.check("after a request without a hello");
    broker.stop();
}

#[test]
fn bytes_that_are_no_frame_end_their_connection_only() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut random = Seeded::new(7);
    let mut garbage = random.bytes(1 << 20);
    // A length that no frame can have.
    garbage[..4].copy_from_slice(&[0xff; 4]);
    for greeted in [false, true] {
        let mut peer = if greeted {
            Peer::connect(broker.addr())
        } else {
            Peer::silent(broker.addr())
        };
        // The broker may close before all is sent.
        let _ = peer.try_send(&garbage);
        peer.until_closed();
        witness.check("after garbage");
    }
    let mut peer = Peer::silent(broker.addr());
    let _ = peer.try_send(b"GET / HTTP/1.1\r\nhost: broker\r\n\r\n");
    peer.until_closed();
    witness.check("after a web browser");
    broker.stop();
}

#[test]
fn lengths_and_checksums_that_are_wrong_end_their_connection_only() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let whole = metadata_frame(1);
    let prefix = FramePrefix::decode(whole.first_chunk().expect("a prefix")).expect("a frame");
    let length = |length: u32| FramePrefix { length, ..prefix }.encode().to_vec();
    let too_long = u32::try_from(REQUEST_BYTES_MAX + 1).expect("16 MiB");
    let mut wrong_crc = whole.clone();
    wrong_crc[16] ^= 1;
    let mut wrong_header = whole.clone();
    *wrong_header.last_mut().expect("a header") ^= 1;
    let mut long_header = prefix;
    long_header.header_bytes = u32::MAX;
    let cases = [
        ("longer than a request may be", length(too_long)),
        ("as long as can be", length(u32::MAX)),
        ("shorter than its prefix", length(23)),
        ("no length", length(0)),
        (
            "a header longer than the frame",
            long_header.encode().to_vec(),
        ),
        ("a wrong checksum", wrong_crc),
        ("another header than was summed", wrong_header),
    ];
    for (case, frame) in cases {
        let mut peer = Peer::connect(broker.addr());
        peer.send(&frame);
        let said = peer.until_closed();
        assert!(
            said.iter().all(|frame| frame.error().is_some()),
            "{case}: {said:?}"
        );
        witness.check(case);
    }
    broker.stop();
}

#[test]
fn a_frame_that_is_cut_off_writes_nothing() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let value = vec![b'x'; 500 << 10];
    let batch = batch(&[&value]);
    let frame = produce_frame(
        CorrelationId(1),
        witness.topic(),
        Durability::Durable,
        &batch,
    );
    for end in [
        1,
        PREFIX_BYTES - 1,
        PREFIX_BYTES,
        40,
        100,
        200 << 10,
        frame.len() - 1,
    ] {
        let mut peer = Peer::connect(broker.addr());
        peer.send(&frame[..end]);
        peer.end_sending();
        let said = peer.until_closed();
        assert!(said.is_empty(), "cut off at {end}: {said:?}");
        witness.check("after a frame that was cut off");
    }
    broker.stop();
}

#[test]
fn unknown_apis_and_versions_get_an_error_and_leave_the_connection_usable() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut peer = Peer::connect(broker.addr());
    for (api, version, expected) in [
        (99, PROTOCOL_VERSION, ErrorCode::UnknownApi),
        (u16::MAX, 200, ErrorCode::UnknownApi),
        (Api::Metadata.to_wire(), 2, ErrorCode::UnsupportedVersion),
        (Api::Produce.to_wire(), 0, ErrorCode::UnsupportedVersion),
    ] {
        let correlation = peer.correlation();
        let mut frame = Vec::new();
        encode_frame(
            &mut frame,
            Api::Metadata,
            version,
            0,
            correlation,
            b"what?",
            3,
        );
        let mut prefix =
            FramePrefix::decode(frame.first_chunk().expect("a prefix")).expect("a frame");
        prefix.api = api;
        let mut summed = prefix.encode()[..16].to_vec();
        summed.extend_from_slice(&[0; 4]);
        summed.extend_from_slice(b"what?");
        prefix.crc = crc32fast::hash(&summed);
        frame[..PREFIX_BYTES].copy_from_slice(&prefix.encode());
        frame.extend_from_slice(b"and");
        assert_eq!(
            refused(&mut peer, &frame, correlation),
            expected,
            "api {api}"
        );
    }
    witness.check("after unknown apis");
    broker.stop();
}

#[test]
fn headers_that_do_not_decode_get_an_error_and_leave_the_connection_usable() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut peer = Peer::connect(broker.addr());
    for api in [
        Api::Hello,
        Api::Metadata,
        Api::CreateTopic,
        Api::DeleteTopic,
        Api::AlterTopic,
        Api::DescribeTopic,
        Api::Produce,
        Api::Fetch,
        Api::ListOffsets,
        Api::InitProducer,
    ] {
        for header in [&b""[..], b"no table", &[0xff; 64], &[1; 64]] {
            let correlation = peer.correlation();
            let mut frame = Vec::new();
            encode_frame(&mut frame, api, PROTOCOL_VERSION, 0, correlation, header, 0);
            peer.send(&frame);
            let answer = peer.receive();
            assert_eq!(answer.prefix.correlation, correlation, "{api:?} {header:?}");
            let error = answer
                .error()
                .unwrap_or_else(|| panic!("{api:?} {header:?}"));
            assert!(
                error.code != ErrorCode::Internal,
                "{api:?} {header:?}: {error:?}"
            );
            assert!(is_usable(&mut peer), "{api:?} {header:?}");
        }
    }
    witness.check("after headers that do not decode");
    broker.stop();
}

#[test]
fn a_batch_that_is_damaged_or_invalid_is_refused_and_not_written() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut peer = Peer::connect(broker.addr());
    let good = batch(&[b"some value", b"another"]);
    let changed = |at: usize, bytes: &[u8]| {
        let mut batch = good.clone();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        batch
    };
    let cases = [
        (
            "a body that changed",
            changed(good.len() - 9, b"X"),
            ErrorCode::BatchCorrupt,
        ),
        (
            "another checksum",
            changed(24, &[0; 4]),
            ErrorCode::BatchCorrupt,
        ),
    ];
    for (case, batch, expected) in cases {
        let ack = peer.produce(witness.topic(), Durability::Durable, &batch);
        assert_eq!(ack.error, expected, "{case}");
        assert!(is_usable(&mut peer), "{case}");
        witness.check(case);
    }
    // Which of the rules is named first is the broker's choice.
    let cases = [
        ("no bytes", Vec::new()),
        ("half a header", good[..32].to_vec()),
        ("shorter than it says", good[..good.len() - 8].to_vec()),
        ("longer than it says", [&good[..], &[0; 8]].concat()),
        ("length 0", changed(20, &[0; 4])),
        ("no records", changed(58, &[0; 2])),
        ("more offsets than records", changed(60, &[0xff; 2])),
        ("an unknown codec", changed(62, &[0x0f])),
        ("flags of the broker", changed(63, &[0b1110])),
    ];
    for (case, batch) in cases {
        let ack = peer.produce(witness.topic(), Durability::Durable, &batch);
        let named = [ErrorCode::InvalidBatch, ErrorCode::BatchCorrupt];
        assert!(named.contains(&ack.error), "{case}: {ack:?}");
        assert!(is_usable(&mut peer), "{case}");
        witness.check(case);
    }
    broker.stop();
}

#[test]
fn a_batch_above_the_limit_is_refused_as_too_large_and_not_written() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut peer = Peer::connect(broker.addr());
    let mut too_large = batch(&[b"value"]);
    too_large[20..24].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    too_large.resize(1 << 20, 0);
    assert!(too_large.len() > BATCH_BYTES_MAX);
    let ack = peer.produce(witness.topic(), Durability::Durable, &too_large);
    witness.check("after a batch above the limit");
    assert_eq!(ack.error, ErrorCode::BatchTooLarge);
    broker.stop();
}

#[test]
fn absurd_counts_in_headers_are_refused_or_served_within_bounds() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut peer = Peer::connect(broker.addr());

    let correlation = peer.correlation();
    let mut frame = Vec::new();
    let no_items = [0; 8];
    encode_frame(
        &mut frame,
        Api::Produce,
        PROTOCOL_VERSION,
        0,
        correlation,
        &no_items,
        0,
    );
    let code = refused(&mut peer, &frame, correlation);
    assert_eq!(
        code,
        ErrorCode::MalformedRequest,
        "a produce request without items"
    );

    let correlation = peer.correlation();
    let mut many_items = no_items;
    many_items[2..4].copy_from_slice(&u16::MAX.to_le_bytes());
    frame.clear();
    encode_frame(
        &mut frame,
        Api::Produce,
        PROTOCOL_VERSION,
        0,
        correlation,
        &many_items,
        0,
    );
    let code = refused(&mut peer, &frame, correlation);
    assert_eq!(
        code,
        ErrorCode::MalformedRequest,
        "65,535 items that are not there"
    );

    let item = ProduceItem {
        topic: witness.topic(),
        batch_bytes: 4096,
        ..ProduceItem::default()
    };
    let correlation = peer.correlation();
    frame.clear();
    encode_produce_header(&mut frame, correlation, Durability::Durable, 0, &[item]);
    let header = frame[PREFIX_BYTES..].to_vec();
    frame.clear();
    encode_frame(
        &mut frame,
        Api::Produce,
        PROTOCOL_VERSION,
        0,
        correlation,
        &header,
        0,
    );
    let code = refused(&mut peer, &frame, correlation);
    assert_eq!(
        code,
        ErrorCode::MalformedRequest,
        "sizes that are not those of the payload"
    );

    let items = |count: usize| ListOffsetsRequest {
        items: vec![
            ListOffsetsItem {
                topic: TopicId(77),
                partition: PartitionId(u32::MAX),
                spec: OffsetSpec::Time(i64::MIN),
            };
            count
        ],
    };
    let listed = peer.ask(&items(65_535)).expect("as many as are allowed");
    assert_eq!(listed.items.len(), 65_535);
    assert!(
        listed
            .items
            .iter()
            .all(|item| item.error != ErrorCode::None)
    );
    assert!(peer.ask(&items(65_536)).is_err(), "one more");
    assert!(is_usable(&mut peer));
    witness.check("after absurd counts");
    broker.stop();
}

#[test]
fn a_hundred_thousand_interests_are_served_and_one_more_is_refused() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut peer = Peer::connect(broker.addr());
    let interests = |count: usize| FetchRequest {
        session: SessionId(1),
        max_wait_ms: 1_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        add: (0..u32::try_from(count).expect("some"))
            .map(|partition| FetchInterest {
                topic: TopicId(99),
                partition: PartitionId(partition),
                ..FetchInterest::default()
            })
            .collect(),
        ..FetchRequest::default()
    };
    let (mut refused, _) = peer.fetch_with(&interests(FETCH_INTERESTS_MAX));
    while refused.len() < FETCH_INTERESTS_MAX {
        let (more, _) = peer.fetch_with(&FetchRequest {
            add: Vec::new(),
            ..interests(0)
        });
        assert!(!more.is_empty(), "{} of them were answered", refused.len());
        refused.extend(more);
    }
    assert!(
        refused.iter().all(|item| item.error != ErrorCode::None),
        "no such topic"
    );
    witness.check("after 100,000 interests");

    let mut frame = Vec::new();
    let correlation = peer.correlation();
    interests(FETCH_INTERESTS_MAX + 1).encode(correlation, &mut frame);
    peer.send(&frame);
    let error = peer.receive().error().expect("an error");
    assert_eq!(error.code, ErrorCode::MalformedRequest);
    let absent = TopicPartition::new(TopicId(5), PartitionId(5));
    let (items, _) = peer.fetch_with(&FetchRequest {
        session: SessionId(2),
        remove: vec![absent; 1000],
        ..FetchRequest::default()
    });
    assert!(items.is_empty(), "removing what is not there");
    witness.check("after 100,001 interests");
    broker.stop();
}

/// Frames that are sound, with headers of valid requests in which some bytes changed: whatever
/// they come to mean, the broker answers or closes.
#[test]
fn requests_with_changed_bytes_disturb_nobody() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let mut random = Seeded::new(2026);
    let good = batch(&[b"value"]);
    for round in 0..400 {
        let mut peer = Peer::connect(broker.addr());
        let (api, mut header, payload) = valid_request(random.below(6), witness.topic(), &good);
        for _ in 0..=random.below(4) {
            let at = random.below(header.len());
            header[at] = random.next().to_le_bytes()[0];
        }
        let payload_bytes = u32::try_from(payload.len()).expect("small");
        let mut frame = Vec::new();
        let correlation = peer.correlation();
        encode_frame(
            &mut frame,
            api,
            PROTOCOL_VERSION,
            0,
            correlation,
            &header,
            payload_bytes,
        );
        frame.extend_from_slice(&payload);
        let _ = peer.try_send(&frame);
        let _ = peer.try_send(&metadata_frame(u32::MAX));
        // Either it answers what came after, or the connection is gone.
        while let Ok(answer) = peer.try_receive() {
            if answer.prefix.correlation == CorrelationId(u32::MAX) {
                break;
            }
        }
        if round % 50 == 0 {
            witness.check("among requests with changed bytes");
        }
    }
    witness.check("after requests with changed bytes");
    assert!(broker.is_alive());
    broker.stop();
}

/// Api, header and payload of one of six requests. None of them can touch the witness's topic.
fn valid_request(which: usize, topic: TopicId, batch: &[u8]) -> (Api, Vec<u8>, Vec<u8>) {
    let other = TopicId(topic.0 + (1 << 30));
    let to = CorrelationId(0);
    let mut frame = Vec::new();
    let api = match which {
        0 => {
            let request = CreateTopicRequest {
                name: "other".to_owned(),
                partitions: 3,
                config: TopicConfig::default(),
            };
            request.encode(to, &mut frame);
            Api::CreateTopic
        }
        1 => {
            let name = "other".to_owned();
            DescribeTopicRequest { name }.encode(to, &mut frame);
            Api::DescribeTopic
        }
        2 => {
            let request = FetchRequest {
                max_wait_ms: 10,
                min_bytes: 1,
                max_bytes: 1 << 20,
                add: vec![interest(topic, 0)],
                remove: vec![TopicPartition::new(other, PartitionId(1))],
                ..FetchRequest::default()
            };
            request.encode(to, &mut frame);
            Api::Fetch
        }
        3 => {
            let item = ListOffsetsItem {
                topic,
                partition: PartitionId(0),
                spec: OffsetSpec::Time(5),
            };
            let items = vec![item; 3];
            ListOffsetsRequest { items }.encode(to, &mut frame);
            Api::ListOffsets
        }
        4 => {
            frame = metadata_frame(0);
            Api::Metadata
        }
        _ => {
            frame = produce_frame(to, other, Durability::Durable, batch);
            frame.truncate(frame.len() - batch.len());
            return (Api::Produce, frame.split_off(PREFIX_BYTES), batch.to_vec());
        }
    };
    (api, frame.split_off(PREFIX_BYTES), Vec::new())
}
