//! Each produced batch gets the verdict that the rules of idempotence give, against a plain model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::codec::Reader;

const SLOT: PartitionSlot = PartitionSlot(3);

fn batch(epoch: u16, sequence: u32, record_count: u16) -> ProducerBatch {
    let (producer, epoch) = (ProducerId(9), ProducerEpoch(epoch));
    ProducerBatch {
        producer,
        epoch,
        sequence: Sequence(sequence),
        record_count,
    }
}

/// Appends batches of 10 records one after the other, `gap` foreign records between them.
fn appended(first_sequence: u32, batches: u32, gap: u64) -> ProducerTable {
    let mut table = ProducerTable::default();
    let mut sequence = first_sequence;
    let mut offset = 1_000;
    for _ in 0..batches {
        table.record(SLOT, &batch(1, sequence, 10), Offset(offset), 5_000);
        sequence = sequence.wrapping_add(10);
        offset += 10 + gap;
    }
    table
}

#[test]
fn each_event_has_its_verdict() {
    // Sequences 0..50 in five batches; offsets 1000, 1015, ..., 1060; three runs are known.
    let table = appended(0, 5, 5);
    let end_offset = Offset(1_070);
    let duplicate = |base: Option<u64>| Verdict::Duplicate {
        base_offset: base.map(Offset),
        end_offset,
    };
    let cases = [
        ("the next batch", batch(1, 50, 7), Verdict::Append),
        (
            "a batch after a gap",
            batch(1, 51, 7),
            Verdict::Gap {
                expected: Sequence(50),
            },
        ),
        (
            "the last batch again",
            batch(1, 40, 10),
            duplicate(Some(1_060)),
        ),
        (
            "an earlier batch again",
            batch(1, 20, 10),
            duplicate(Some(1_030)),
        ),
        (
            "a part of a batch again",
            batch(1, 42, 3),
            duplicate(Some(1_062)),
        ),
        ("a batch over two runs", batch(1, 35, 10), duplicate(None)),
        (
            "a batch older than the runs",
            batch(1, 0, 10),
            duplicate(None),
        ),
        (
            "a batch that straddles the end",
            batch(1, 45, 10),
            Verdict::Gap {
                expected: Sequence(50),
            },
        ),
        (
            "a newer epoch's first batch",
            batch(2, 0, 1),
            Verdict::Append,
        ),
        (
            "a newer epoch's later batch",
            batch(2, 50, 1),
            Verdict::Gap {
                expected: Sequence(0),
            },
        ),
        (
            "an older epoch",
            batch(0, 50, 1),
            Verdict::Fenced {
                current: ProducerEpoch(1),
            },
        ),
    ];
    for (what, batch, verdict) in cases {
        assert_eq!(table.check(SLOT, &batch), verdict, "{what}");
    }
    let elsewhere = PartitionSlot(4);
    assert_eq!(table.check(elsewhere, &batch(1, 0, 1)), Verdict::Append);
    assert_eq!(table.check(elsewhere, &batch(1, 50, 1)), Verdict::Unknown);
    let anonymous = ProducerBatch {
        producer: ProducerId(0),
        ..batch(7, 99, 1)
    };
    assert_eq!(table.check(SLOT, &anonymous), Verdict::Append);
}

#[test]
fn sequences_wrap() {
    let table = appended(u32::MAX - 24, 5, 0);
    assert_eq!(table.check(SLOT, &batch(1, 25, 1)), Verdict::Append);
    let across = batch(1, u32::MAX - 4, 10);
    let (base_offset, end_offset) = (Some(Offset(1_020)), Offset(1_050));
    assert_eq!(
        table.check(SLOT, &across),
        Verdict::Duplicate {
            base_offset,
            end_offset
        }
    );
    assert_eq!(
        table.check(SLOT, &batch(1, 26, 1)),
        Verdict::Gap {
            expected: Sequence(25)
        }
    );
}

#[test]
fn a_row_fits_a_cache_line_and_its_encoding_has_golden_bytes() {
    assert_eq!(PRODUCER_ENTRY_BYTES, 64);
    let row = appended(0, 2, 5)
        .row(ProducerKey {
            slot: SLOT,
            producer: ProducerId(9),
        })
        .copied();
    let mut out = Vec::new();
    row.expect("just recorded").encode(&mut out);
    let golden = [
        1, 0, 2, 0, 20, 0, 0, 0, 5, 0, 0, 0, // epoch, runs, next sequence, last append
        0, 0, 0, 0, 232, 3, 0, 0, 0, 0, 0, 0, // sequence 0 at offset 1000
        10, 0, 0, 0, 247, 3, 0, 0, 0, 0, 0, 0, // sequence 10 at offset 1015
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(out, golden);
    assert_eq!(
        ProducerRow::decode(&mut Reader::new(&out)),
        Ok(row.expect("just recorded"))
    );
}

#[test]
fn expiry_takes_the_idle_and_then_the_least_recently_used() {
    let mut table = ProducerTable::default();
    for number in 1..=10u64 {
        let one = ProducerBatch {
            producer: ProducerId(number),
            ..batch(1, 0, 1)
        };
        let time_ms = i64::try_from(number).expect("small") * 1_000;
        table.record(SLOT, &one, Offset(number), time_ms);
    }
    let producers = |keys: Vec<ProducerKey>| -> Vec<u64> {
        keys.into_iter().map(|key| key.producer.get()).collect()
    };
    let any = |_: &ProducerKey, _: &ProducerRow| true;
    assert_eq!(producers(table.expired(4, 100, 100, any)), [1, 2, 3]);
    assert_eq!(producers(table.expired(0, 8, 100, any)), [1, 2]);
    assert_eq!(producers(table.expired(4, 5, 100, any)), [1, 2, 3, 4, 5]);
    assert_eq!(producers(table.expired(4, 100, 2, any)), [1, 2]);
    let odd = |key: &ProducerKey, _: &ProducerRow| key.producer.get() % 2 == 1;
    assert_eq!(producers(table.expired(4, 100, 100, odd)), [1, 3]);
}

/// Every record ever appended, by epoch and sequence.
#[derive(Default)]
struct History {
    epoch: u16,
    records: Vec<(u32, u64)>,
    next: u32,
}

proptest! {
    #[test]
    fn a_record_is_appended_once_and_in_order(
        start in prop_oneof![Just(0u32), Just(u32::MAX - 30)],
        sends in prop::collection::vec((0..8u32, 0..4u32, 1..12u16, 0..20u32, 0..3u64), 1..80),
    ) {
        let mut table = ProducerTable::default();
        let mut history = History::default();
        let mut offset = 0u64;
        if start != 0 {
            table.record(SLOT, &batch(0, start, 1), Offset(0), 0);
            history = History { epoch: 0, records: vec![(start, 0)], next: start + 1 };
            offset = 1;
        }
        for (back, forward, count, newer_epoch, foreign) in sends {
            offset += foreign;
            let epoch = history.epoch + u16::from(newer_epoch == 0);
            let sequence = if newer_epoch <= 1 {
                0
            } else {
                history.next.wrapping_sub(back * 3).wrapping_add(forward)
            };
            let sent = batch(epoch, sequence, count);
            let known = !history.records.is_empty();
            match table.check(SLOT, &sent) {
                Verdict::Append => {
                    let first = sequence == 0 && (epoch > history.epoch || !known);
                    prop_assert!(first || (known && sequence == history.next));
                    if epoch > history.epoch || !known {
                        history = History { epoch, records: Vec::new(), next: 0 };
                    }
                    table.record(SLOT, &sent, Offset(offset), 0);
                    for _ in 0..count {
                        history.records.push((history.next, offset));
                        history.next = history.next.wrapping_add(1);
                        offset += 1;
                    }
                }
                Verdict::Duplicate { base_offset, end_offset } => {
                    let end = sequence.wrapping_add(count.into());
                    prop_assert!(history.next.wrapping_sub(end) < 1 << 31, "its end is stored");
                    let by_sequence: BTreeMap<u32, u64> = history.records.iter().copied().collect();
                    let (_, last_offset) = history.records.last().expect("it was appended");
                    prop_assert_eq!(end_offset, Offset(last_offset + 1));
                    for index in 0..count {
                        if let Some(base) = base_offset {
                            let sequence = sequence.wrapping_add(index.into());
                            let offset = base.get() + u64::from(index);
                            prop_assert_eq!(by_sequence.get(&sequence), Some(&offset));
                        }
                    }
                }
                Verdict::Gap { expected } => {
                    let wanted = if epoch > history.epoch { 0 } else { history.next };
                    prop_assert_eq!(expected, Sequence(wanted));
                    prop_assert_ne!(sequence, wanted);
                }
                Verdict::Unknown => prop_assert!(!known && sequence != 0),
                Verdict::Fenced { .. } => prop_assert!(false, "no older epoch was sent"),
            }
            let key = ProducerKey { slot: SLOT, producer: ProducerId(9) };
            if let Some(row) = table.row(key) {
                let mut out = Vec::new();
                row.encode(&mut out);
                prop_assert_eq!(out.len(), PRODUCER_ROW_BYTES);
                prop_assert_eq!(ProducerRow::decode(&mut Reader::new(&out)), Ok(*row));
            }
        }
    }

    #[test]
    fn no_bytes_make_the_row_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(row) = ProducerRow::decode(&mut Reader::new(&bytes)) {
            let _ = row.check(&batch(1, 7, 3));
            let _ = row.end_offset();
        }
    }
}
