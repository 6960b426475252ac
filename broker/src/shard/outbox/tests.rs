//! What is parked is sent and counted like everything else, and pins nothing.

use std::fs;

use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::segment::SegmentHeader;
use catena_protocol::ids::{Offset, PartitionId, TopicId};

use super::*;
use crate::runtime::buffer;
use crate::runtime::file::LogFile;
use crate::runtime::testing::run;

const SLICE_BYTES: usize = 256 << 10;

async fn segment(directory: &tempfile::TempDir) -> Rc<OpenSegment> {
    let path = directory.path().join("0000000001.seg");
    fs::write(&path, vec![0; 8192]).expect("room for the file");
    let header = SegmentHeader {
        store_uuid: [0; 16],
        journal: JournalId(0),
        segment: SegmentSeq(1),
        salt: 1,
        segment_bytes: 8192,
        previous: None,
        created_ms: 0,
    };
    Rc::new(OpenSegment {
        journal: header.journal,
        header,
        file: LogFile::open(&path, false).await.expect("the file exists"),
    })
}

fn slice(segment: &Rc<OpenSegment>, offset: u32) -> ResponseSlice {
    ResponseSlice::Block(BlockSlice {
        bytes: CachedBytes {
            buffer: Rc::new(buffer::allocate(SLICE_BYTES)),
            start: 0,
            bytes: SLICE_BYTES,
        },
        segment: Rc::clone(segment),
        tp: TopicPartition::new(TopicId(1), PartitionId(0)),
        extent: Extent {
            base_offset: Offset(0),
            end_offset: Offset(1),
            block: BlockLocation {
                journal: JournalId(0),
                segment: SegmentSeq(1),
                offset,
                bytes: 256 << 10,
            },
            offset_in_block: 0,
            bytes: 256 << 10,
            max_timestamp_ms: 0,
        },
        offset,
    })
}

/// An outbox with two slices of a segment, at 0 and at 1,000,000.
async fn two_slices(directory: &tempfile::TempDir) -> (Outbox, Rc<Budget>) {
    let memory = Budget::new(2 * SLICE_BYTES);
    let outbox = Outbox::new(Rc::clone(&memory));
    let segment = segment(directory).await;
    let slices = [slice(&segment, 0), slice(&segment, 1_000_000)];
    outbox.push_response(Bytes::new(), slices.into_iter());
    (outbox, memory)
}

#[test]
fn a_send_that_ends_after_the_outbox_was_parked_counts_in_full() {
    run(|| async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (outbox, memory) = two_slices(&directory).await;
        let first = outbox.first();
        assert_eq!(memory.used_bytes(), 2 * SLICE_BYTES);
        outbox.park();
        assert_eq!(memory.used_bytes(), 0);
        // The writer was waiting with the slice as it was before.
        let sent = 200 << 10;
        assert!(sent < first.as_slice().len());
        outbox.advance(sent);
        assert_eq!(outbox.queued_bytes(), 2 * SLICE_BYTES - sent);
        let Front::Parked(rest) = outbox.front() else {
            panic!("the rest of the first slice is parked");
        };
        assert_eq!((rest.offset, rest.bytes), (200 << 10, SLICE_BYTES - sent));
        assert_eq!(outbox.queued_bytes(), SLICE_BYTES);
    });
}

#[test]
fn a_send_of_a_whole_parked_slice_goes_on_with_the_next() {
    run(|| async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (outbox, _) = two_slices(&directory).await;
        outbox.park();
        outbox.advance(SLICE_BYTES);
        let Front::Parked(next) = outbox.front() else {
            panic!("the second slice is parked");
        };
        assert_eq!((next.offset, next.bytes), (1_000_000, SLICE_BYTES));
        assert!(matches!(outbox.front(), Front::Empty));
    });
}

#[test]
fn what_finds_no_room_is_parked_as_it_is_queued() {
    run(|| async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (outbox, memory) = two_slices(&directory).await;
        let segment = segment(&directory).await;
        outbox.push_response(Bytes::new(), [slice(&segment, 2_000_000)].into_iter());
        assert_eq!(memory.used_bytes(), 2 * SLICE_BYTES, "the limit is kept");
        outbox.advance(SLICE_BYTES);
        assert_eq!(memory.used_bytes(), SLICE_BYTES);
        outbox.advance(SLICE_BYTES);
        let Front::Parked(third) = outbox.front() else {
            panic!("the third slice is parked");
        };
        assert_eq!((third.offset, third.bytes), (2_000_000, SLICE_BYTES));
        assert_eq!(memory.used_bytes(), 0);
    });
}
