//! What is known to be lost: how many ranges, and what of them turns up again.

use catena_protocol::ids::{ChainId, Offset};

use super::harness::{Harness, batch, log_from, tp};
use crate::index::Extent;
use crate::limits::LOST_RANGES_MAX;
use crate::log::ShardLog;

/// A log in which every second of its frames, of ten records each, is missing: so many are.
fn with_losses(count: usize) -> (ShardLog, Vec<Extent>) {
    let mut harness = Harness::new();
    let frames = u32::try_from(2 * count + 1).expect("a few thousand");
    for round in 0..frames {
        let batch = batch(9, 0, round * 10, 10);
        harness.produce(tp(0), &batch, 0).expect("valid");
        harness.place_all();
        harness.commit_all();
    }
    let mut log = log_from(&Harness::new().sections());
    for frame in harness.committed.iter().step_by(2) {
        log.fold(frame).expect("a gap is no error");
    }
    let missing = harness.committed.iter().skip(1).step_by(2);
    (log, missing.map(|frame| frame.rows[0].1).collect())
}

#[test]
fn what_turns_up_again_is_not_lost() {
    let (mut log, missing) = with_losses(3);
    let range = |base, end| Offset(base)..Offset(end);
    assert_eq!(
        log.lost_ranges(tp(0)),
        [range(10, 20), range(30, 40), range(50, 60)]
    );
    let part = Extent {
        base_offset: Offset(33),
        end_offset: Offset(36),
        ..missing[1]
    };
    for extent in [missing[0], part] {
        let restored = log.restore_moved(tp(0), ChainId(1), &extent);
        restored.expect("it is of this chain");
    }
    assert_eq!(
        log.lost_ranges(tp(0)),
        [range(30, 33), range(36, 40), range(50, 60)]
    );
}

#[test]
fn lost_ranges_stay_within_their_limit_whatever_divides_them() {
    for more in [0, 1] {
        let (mut log, missing) = with_losses(LOST_RANGES_MAX + more);
        let end = missing[missing.len() - 1].end_offset;
        let check = |log: &ShardLog| {
            let ranges = log.lost_ranges(tp(0));
            assert_eq!(ranges.len(), LOST_RANGES_MAX);
            assert_eq!(ranges[LOST_RANGES_MAX - 1].end, end, "the last is widened");
        };
        check(&log);
        for extent in &missing[..3] {
            let part = Extent {
                base_offset: Offset(extent.base_offset.0 + 4),
                end_offset: Offset(extent.base_offset.0 + 6),
                ..*extent
            };
            let restored = log.restore_moved(tp(0), ChainId(1), &part);
            restored.expect("it is of this chain");
            check(&log);
        }
        let first = &log.lost_ranges(tp(0))[..2];
        assert_eq!(first, [Offset(10)..Offset(14), Offset(16)..Offset(20)]);
    }
}
