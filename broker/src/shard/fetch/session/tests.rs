//! A change of mind of the client is never undone by what was read before it.

use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_protocol::ids::{PartitionId, TopicId};

use super::*;

fn tp(partition: u32) -> TopicPartition {
    TopicPartition::new(TopicId(1), PartitionId(partition))
}

fn interest(partition: u32, offset: u64) -> FetchInterest {
    FetchInterest {
        topic: TopicId(1),
        partition: PartitionId(partition),
        offset: Offset(offset),
        ..FetchInterest::default()
    }
}

fn extent(base: u64, end: u64) -> Extent {
    Extent {
        base_offset: Offset(base),
        end_offset: Offset(end),
        block: BlockLocation {
            journal: JournalId(0),
            segment: SegmentSeq(1),
            offset: 4096,
            bytes: 4096,
        },
        offset_in_block: 64,
        bytes: 64,
        max_timestamp_ms: 0,
    }
}

fn session() -> FetchSession {
    FetchSession::new(SessionId(1))
}

#[test]
fn a_seek_during_a_read_is_not_undone_by_it() {
    for offset in [10, 1000] {
        let session = session();
        session.add(&interest(0, 1000));
        let before = session.next_ready().expect("it is ready");
        session.add(&interest(0, offset));
        session.keep_ahead(&before, vec![extent(1000, 1100)]);
        session.set_cold(&before, true);
        assert!(!session.is_current(&before));
        assert!(!session.advance(&before, Offset(1100)));
        assert!(!session.end(&before));
        let after = session.next_ready().expect("it is ready again");
        assert_eq!(after.offset, Offset(offset));
        assert_eq!(session.ahead(&after, after.offset), None);
        assert!(!session.is_cold(&after));
        assert!(session.advance(&after, Offset(offset + 1)));
    }
}

#[test]
fn what_was_looked_up_is_used_only_where_it_holds_the_offset() {
    let session = session();
    session.add(&interest(0, 10));
    let position = session.next_ready().expect("it is ready");
    session.keep_ahead(&position, vec![extent(10, 20), extent(30, 40)]);
    assert_eq!(session.ahead(&position, Offset(15)), Some(extent(10, 20)));
    assert_eq!(session.ahead(&position, Offset(20)), None, "a hole");
    assert_eq!(session.ahead(&position, Offset(30)), Some(extent(30, 40)));
    assert_eq!(session.ahead(&position, Offset(40)), None);
}

#[test]
fn a_partition_is_on_the_ready_list_once_whatever_the_client_does() {
    let session = session();
    for _ in 0..3 {
        session.add(&interest(0, 1));
        session.mark_ready(tp(0));
        session.remove(&[tp(0), tp(7)]);
        session.mark_ready(tp(0));
        session.add(&interest(0, 2));
        session.add(&interest(1, 3));
    }
    let offsets: Vec<_> = std::iter::from_fn(|| session.next_ready())
        .map(|position| (position.tp, position.offset.get()))
        .collect();
    assert_eq!(offsets.len(), 2, "{offsets:?}");
    assert!(offsets.contains(&(tp(0), 2)) && offsets.contains(&(tp(1), 3)));
    session.mark_ready(tp(9));
    assert!(!session.has_ready(), "nobody asked for it");
}

#[test]
fn a_session_takes_no_more_partitions_than_its_limit() {
    let session = session();
    let most = u32::try_from(FETCH_INTERESTS_MAX).expect("100,000");
    (0..most).for_each(|partition| session.add(&interest(partition, 0)));
    let request = |add: u32, remove: Option<u32>| FetchRequest {
        add: vec![interest(add, 5)],
        remove: remove.into_iter().map(tp).collect(),
        ..FetchRequest::default()
    };
    assert!(session.takes(&request(3, None)), "a seek");
    assert!(!session.takes(&request(most, None)), "one more");
    assert!(session.takes(&request(most, Some(3))), "one for another");
    assert!(!session.takes(&request(most, Some(most + 1))));
    assert!(session.takes(&request(3, Some(3))));
}
