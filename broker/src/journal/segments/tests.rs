//! What a start finds in the directory is either a segment that counts or space to use again.

use std::fs;

use catena_core::ids::JournalId;
use tempfile::TempDir;

use super::*;
use crate::runtime::testing::run;

const SEGMENT_BYTES: u32 = 4 << 20;

fn config(dir: &TempDir) -> JournalConfig {
    JournalConfig {
        id: JournalId::new(0),
        dir: dir.path().to_owned(),
        store: [7; 16],
        segment_bytes_min: SEGMENT_BYTES,
        segment_bytes_max: SEGMENT_BYTES,
        space_bytes: 64 << 20,
        prepared_target: RESERVED_SEGMENTS + 1,
    }
}

fn sealed(number: u32) -> SealedSegment {
    SealedSegment {
        segment: SegmentSeq::new(number),
        file_bytes: SEGMENT_BYTES,
        end: SEGMENT_BYTES,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names
}

#[test]
fn segments_that_do_not_count_are_used_again_and_counted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for number in 1..=5 {
        let path = segment_path(dir.path(), SegmentSeq::new(number));
        let file = fs::File::create(path).expect("a file");
        file.set_len(SEGMENT_BYTES.into()).expect("a sparse file");
    }
    let config = config(&dir);
    run(move || async move {
        // No header leads to 2 and 4; 5 was prepared and never begun.
        let tail = JournalTail {
            sealed: vec![sealed(1), sealed(3)],
            highest_segment: Some(SegmentSeq::new(4)),
            ..JournalTail::default()
        };
        let agent = Rc::new(FileAgent::start().expect("a helper"));
        let metrics = Arc::new(ShardMetrics::default());
        let set = SegmentSet::open(&config, &tail, agent, metrics).await;
        let set = set.expect("the directory can be read");
        let segment = u64::from(SEGMENT_BYTES);
        assert_eq!(set.total_bytes(), 5 * segment);
        assert_eq!(set.used_bytes(), 2 * segment);
        assert!(set.is_sealed(SegmentSeq::new(3)) && !set.is_sealed(SegmentSeq::new(4)));
        // 64 MiB less what is there; spares count as space, two segments are the reserve.
        assert_eq!(set.room_bytes(), (64 << 20) - 4 * segment);
        assert_eq!(set.cleaning_room(), (64 << 20) - 3 * segment);
        set.stop().await;
    });
    assert_eq!(
        names(dir.path()),
        [
            "0000000001.seg",
            "0000000003.seg",
            "spare-0001.seg",
            "spare-0002.seg",
            "spare-0003.seg"
        ]
    );
}
