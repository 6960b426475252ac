//! How long tombstones stay.

use super::*;

#[test]
fn a_tombstone_stays_for_its_time_after_it_became_the_newest_and_no_longer() {
    let policy = CompactionPolicy::default();
    let mut partition = Partition::default();
    let start_ms = 100 * HOUR_MS;
    partition.append(&[vec![keyed(1, 5), keyed(2, 6)]], Codec::None, start_ms);
    partition.append(&[vec![(Some(1), None)]], Codec::None, start_ms);
    let offsets = |partition: &Partition| -> Vec<u64> {
        partition
            .readable()
            .iter()
            .map(|read| read.offset)
            .collect()
    };
    partition.compact(&policy, start_ms + HOUR_MS, 100);
    assert_eq!(
        offsets(&partition),
        [1, 2],
        "the value goes, the tombstone stays"
    );
    partition.compact(&policy, start_ms + 24 * HOUR_MS, 100);
    assert_eq!(offsets(&partition), [1, 2], "23 hours later");
    let late_ms = start_ms + 25 * HOUR_MS;
    assert!(
        partition
            .known
            .is_due(&policy, late_ms, partition.known.clean_bytes, start_ms)
    );
    partition.compact(&policy, late_ms, 100);
    assert_eq!(offsets(&partition), [1]);
    assert!(
        !partition
            .known
            .is_due(&policy, late_ms + 1, partition.known.clean_bytes, start_ms)
    );
    assert_tiles(&partition);
}

#[test]
fn tombstones_count_their_time_from_the_first_pass_and_not_from_later_ones() {
    let policy = CompactionPolicy::default();
    let mut partition = Partition::default();
    let start_ms = 100 * HOUR_MS;
    partition.append(&[vec![keyed(2, 5)]], Codec::None, start_ms);
    partition.append(&[vec![(Some(2), None)]], Codec::None, start_ms);
    partition.append(&[vec![keyed(3, 5)]], Codec::None, start_ms);
    // From here on something had to be left as it is: no later pass gets beyond it.
    partition.stored[2].is_damaged = true;
    for hour in 1..24 {
        let now_ms = start_ms + hour * HOUR_MS;
        partition.append(&[vec![keyed(1, 7)]], Codec::None, now_ms);
        partition.compact(&policy, now_ms, 100);
        assert_eq!(partition.readable()[0].offset, 1, "after {hour} hours");
    }
    partition.compact(&policy, start_ms + 25 * HOUR_MS, 100);
    let left = partition.readable();
    assert!(
        left.iter().all(|read| read.key != Some(vec![b'k', 2])),
        "a day after the first pass: {left:?}"
    );
}

#[test]
fn a_pass_that_dropped_old_tombstones_is_not_begun_again_for_younger_ones() {
    let policy = CompactionPolicy::default();
    let mut partition = Partition::default();
    let start_ms = 100 * HOUR_MS;
    partition.append(&[vec![(Some(1), None)]], Codec::None, start_ms);
    partition.compact(&policy, start_ms, 100);
    partition.append(&[vec![(Some(2), None)]], Codec::None, start_ms);
    partition.compact(&policy, start_ms + 12 * HOUR_MS, 100);
    let late_ms = start_ms + 25 * HOUR_MS;
    partition.compact(&policy, late_ms, 100);
    assert_eq!(partition.readable().len(), 1, "the older of the two went");
    let keys = KeyMap::with_limit(100, 100);
    let mut pass = Pass::with_keys(TP, &partition.known, &policy, late_ms + 1, ([1, 2], keys));
    pass.end_noting(None);
    assert!(!pass.is_of_use(), "nothing is new, and nothing became old");
}

#[test]
fn a_tombstone_stays_as_long_as_what_it_deleted_cannot_be_written_anew() {
    let policy = CompactionPolicy::default();
    let mut partition = Partition::default();
    append_wide(&mut partition);
    let deletes: Vec<Planned> = (0..17).map(|key| (Some(key), None)).collect();
    partition.append(&[deletes], Codec::None, HOUR_MS);
    for day in 1..5 {
        partition.compact(&policy, day * 25 * HOUR_MS, 1000);
        let found = partition.readable();
        assert_eq!(
            found.len(),
            partition.appended.len(),
            "nothing went on day {day}"
        );
        assert_eq!(replayed(&found), replayed(&partition.appended));
    }
}
