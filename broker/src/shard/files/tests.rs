//! A lease lasts from the moment a segment begins to be opened, and ends before it is freed.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use catena_core::ids::{JournalId, SegmentSeq};
use tempfile::TempDir;

use super::*;
use crate::runtime::testing::run;

const JOURNAL: JournalId = JournalId(0);
const SEGMENT: SegmentSeq = SegmentSeq(1);

/// A directory of journals with one segment.
fn store() -> TempDir {
    let journals = tempfile::tempdir().expect("a temporary directory");
    let dir = journal_dir(journals.path(), JOURNAL);
    std::fs::create_dir(&dir).expect("a directory");
    let header = SegmentHeader {
        store_uuid: [7; 16],
        journal: JOURNAL,
        segment: SEGMENT,
        salt: 1,
        segment_bytes: 4 << 20,
        previous: None,
        created_ms: 0,
    };
    let mut bytes = header.encode().to_vec();
    bytes.resize(4 * BLOCK_ALIGN, 0);
    std::fs::write(segment_path(&dir, SEGMENT), bytes).expect("room for the segment");
    journals
}

#[test]
fn a_segment_that_is_being_opened_or_read_is_leased() {
    let journals = store();
    let path = journals.path().to_owned();
    run(move || async move {
        let files = SegmentFiles::new(path);
        assert!(!files.leased(JOURNAL, SEGMENT));
        {
            let mut opening = pin!(files.open(JOURNAL, SEGMENT));
            let begun = opening
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(begun.is_pending(), "it takes a read");
            assert!(files.leased(JOURNAL, SEGMENT));
        }
        assert!(!files.leased(JOURNAL, SEGMENT), "given up");
        let open = files.open(JOURNAL, SEGMENT).await.expect("it is there");
        assert!(files.leased(JOURNAL, SEGMENT));
        drop(open);
        assert!(!files.leased(JOURNAL, SEGMENT));
    });
    drop(journals);
}

#[test]
fn a_segment_that_is_being_freed_is_not_opened_any_more() {
    let journals = store();
    let path = journals.path().to_owned();
    run(move || async move {
        let files = SegmentFiles::new(path);
        files.retire(JOURNAL, SEGMENT);
        let refused = files.open(JOURNAL, SEGMENT).await.map(|_| ());
        let refused = refused.expect_err("it is about to become another segment");
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        files.retired(JOURNAL, SEGMENT);
        let again = files.open(JOURNAL, SEGMENT).await;
        assert!(again.is_ok(), "it could not be freed");
    });
    drop(journals);
}
