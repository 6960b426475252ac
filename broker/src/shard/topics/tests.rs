//! A metadata response never exceeds what its frame takes and its receiver decodes.

use catena_protocol::ids::NodeId;

use super::*;

fn initialized() -> MetadataState {
    let mut state = MetadataState::default();
    state.apply(&Command::InitCluster {
        cluster_id: [1; 16],
    });
    state.apply(&Command::OpenNode {
        node: NodeId(0),
        host: "localhost".to_owned(),
        port: 1,
        shards: 1,
    });
    state
}

fn create(state: &mut MetadataState, name: &str) {
    let created = state.apply(&Command::CreateTopic {
        name: name.to_owned(),
        partitions: 1,
        config: TopicConfig::default(),
        created_ms: 0,
    });
    assert!(
        matches!(created, Outcome::TopicCreated { .. }),
        "{created:?}"
    );
}

/// A topic that grew as often as it may.
fn create_grown(state: &mut MetadataState, name: &str) {
    create(state, name);
    for partitions in 2..=u32::try_from(PARTITION_RANGES_PER_TOPIC_MAX).expect("small") {
        state.apply(&Command::AlterTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            retention_bytes: None,
            retention_ms: None,
            min_durability: None,
            cleanup: None,
        });
    }
    let topic = state.topic_by_name(name).expect("created");
    assert_eq!(topic.ranges.len(), PARTITION_RANGES_PER_TOPIC_MAX);
}

fn response_bytes(page: Page) -> usize {
    let response = MetadataResponse {
        topics: page.topics,
        ranges: page.ranges,
        ..MetadataResponse::default()
    };
    let mut frame = Vec::new();
    Message::encode(&response, CorrelationId(1), &mut frame);
    let header = &frame[catena_protocol::frame::PREFIX_BYTES..];
    MetadataResponse::decode(header).expect("a client decodes it");
    frame.len()
}

#[test]
fn a_name_that_is_asked_for_many_times_is_answered_once() {
    let mut state = initialized();
    create_grown(&mut state, "grown");
    let names: Vec<String> = (0..10_000)
        .map(|index| if index % 2 == 0 { "grown" } else { "absent" }.to_owned())
        .collect();
    let page = named(&state, &names).expect("two names fit");
    let found: Vec<_> = page
        .topics
        .iter()
        .map(|info| (&*info.name, info.error))
        .collect();
    let expected = [
        ("grown", ErrorCode::None),
        ("absent", ErrorCode::TopicNotFound),
    ];
    assert_eq!(found, expected);
    assert_eq!(page.ranges.len(), PARTITION_RANGES_PER_TOPIC_MAX);
    response_bytes(page);
}

#[test]
fn more_names_than_a_response_takes_are_refused() {
    let state = initialized();
    let mut names: Vec<String> = (0..METADATA_PAGE_TOPICS_MAX)
        .map(|index| format!("{index:0>249}"))
        .collect();
    response_bytes(named(&state, &names).expect("as many as fit"));
    names.push("one more".to_owned());
    assert!(named(&state, &names).is_none());
}

#[test]
fn a_page_ends_before_the_topic_whose_ranges_do_not_fit() {
    let mut state = initialized();
    let per_page = METADATA_PAGE_RANGES_MAX / PARTITION_RANGES_PER_TOPIC_MAX;
    for index in 0..=per_page {
        create_grown(&mut state, &format!("grown-{index}"));
    }
    let first = page(&state, 0);
    assert_eq!(first.topics.len(), per_page);
    let next = first.next.expect("a topic is left");
    response_bytes(first);
    let second = page(&state, next);
    assert_eq!((second.topics.len(), second.next), (1, None));

    let names: Vec<String> = state.topics().map(|topic| topic.name.clone()).collect();
    assert!(named(&state, &names).is_none());
    response_bytes(named(&state, &names[1..]).expect("as many as fit"));
}
