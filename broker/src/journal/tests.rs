//! A journal that cannot be opened leaves nothing running.

use catena_core::limits::SEGMENT_BYTES_MIN;

use super::*;
use crate::runtime::testing::run;

#[test]
fn a_journal_that_cannot_be_opened_lets_go_of_its_helper_threads() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = JournalConfig {
        id: JournalId::new(0),
        dir: dir.path().to_owned(),
        store: [7; 16],
        segment_bytes_min: SEGMENT_BYTES_MIN,
        segment_bytes_max: SEGMENT_BYTES_MIN,
        space_bytes: 64 << 20,
        prepared_target: 1,
    };
    // A segment that is not there.
    let tail = JournalTail {
        previous: Some(PreviousSegment {
            segment: SegmentSeq::new(1),
            end: SEGMENT_HEADER_BYTES,
            last_block_crc: 0,
        }),
        highest_segment: Some(SegmentSeq::new(1)),
        ..JournalTail::default()
    };
    run(move || async move {
        let agent = Rc::new(FileAgent::start().expect("a helper"));
        let metrics = Arc::new(ShardMetrics::default());
        let opened = Journal::open(config, tail, Rc::clone(&agent), metrics).await;
        let words = opened.err().expect("a segment is missing").to_string();
        assert!(words.contains("open the last segment"), "{words}");
        assert_eq!(Rc::strong_count(&agent), 1);
    });
}
