//! Run pages give back every extent, name their pages exactly, find damage, and have golden bytes.

use std::collections::BTreeMap;

use catena_protocol::ids::{PartitionId, TopicId};
use proptest::prelude::*;

use super::*;
use crate::codec::Put;
use crate::ids::{BlockLocation, JournalId, SegmentSeq};

/// Extents of some partitions, in order.
pub(in crate::index) fn sorted_extents() -> impl Strategy<Value = Vec<(TopicPartition, Extent)>> {
    let part = (0..20u32, 0..4u32, any::<u16>());
    let piece = (
        prop_oneof![8 => Just(0u64), 1 => 1..1_000_000_000u64],
        1..70_000u64,
        any::<u32>(),
        any::<(u32, u32, u32)>(),
        any::<i64>(),
    );
    let pieces = prop::collection::vec(piece, 1..30);
    prop::collection::btree_map(part, pieces, 0..30).prop_map(|partitions| {
        let mut all: BTreeMap<TopicPartition, Vec<Extent>> = BTreeMap::new();
        for ((topic, number, journal), pieces) in partitions {
            let tp = TopicPartition {
                topic: TopicId(topic),
                partition: PartitionId(number),
            };
            let mut end = 0;
            let extents = all.entry(tp).or_default();
            extents.clear();
            for (gap, length, offset_in_block, (segment, offset, bytes), max_timestamp_ms) in pieces
            {
                let base = end + gap;
                end = base + length;
                let block = BlockLocation {
                    journal: JournalId(journal),
                    segment: SegmentSeq(segment),
                    offset,
                    bytes,
                };
                let (base_offset, end_offset) = (Offset(base), Offset(end));
                let bytes = offset_in_block.rotate_left(3);
                extents.push(Extent {
                    base_offset,
                    end_offset,
                    block,
                    offset_in_block,
                    bytes,
                    max_timestamp_ms,
                });
            }
        }
        let flat = all.into_iter();
        flat.flat_map(|(tp, extents)| extents.into_iter().map(move |e| (tp, e)))
            .collect()
    })
}

/// A run of these extents, with the bytes of its pages.
pub(in crate::index) fn build_run(
    extents: &[(TopicPartition, Extent)],
) -> (RunDirectory, Vec<Vec<u8>>) {
    let mut builder = RunBuilder::default();
    let mut built: Vec<BuiltPage> = extents
        .iter()
        .filter_map(|(tp, extent)| builder.push(*tp, extent))
        .collect();
    built.extend(builder.finish());
    let mut directory = RunDirectory::default();
    for (number, page) in (1u32..).zip(&built) {
        let block = BlockLocation {
            journal: JournalId(1),
            segment: SegmentSeq(number),
            offset: 4096,
            bytes: 20_480,
        };
        let bytes = codec::length_u32(page.bytes.len());
        let place = PagePlace {
            block,
            offset_in_block: 112,
            bytes,
        };
        directory.push(page.placed(place), page.extents);
    }
    (
        directory,
        built.into_iter().map(|page| page.bytes).collect(),
    )
}

proptest! {
    #[test]
    fn extents_come_back_from_their_pages(extents in sorted_extents()) {
        let (directory, pages) = build_run(&extents);
        let mut found = Vec::new();
        for (bytes, entry) in pages.iter().zip(&directory.pages) {
            prop_assert!(bytes.len() <= INDEX_PAGE_BYTES_MAX);
            let page = RunPage::decode(bytes).expect("just built");
            prop_assert_eq!((page.first(), page.last()), (entry.first, entry.last));
            found.extend((0..page.len()).filter_map(|index| page.get(index)));
        }
        prop_assert_eq!(&found, &extents);
        prop_assert_eq!(directory.extents, u64::try_from(extents.len()).expect("small"));
        let mut encoded = Vec::new();
        directory.encode(&mut encoded);
        prop_assert_eq!(RunDirectory::decode(&encoded), Ok(directory));
    }

    #[test]
    fn candidates_are_the_pages_that_hold_the_extents(
        extents in sorted_extents(),
        topic in 0..20u32,
        number in 0..4u32,
        offset in 0..1_000_000u64,
        time: i64,
    ) {
        let (directory, pages) = build_run(&extents);
        let tp = TopicPartition { topic: TopicId(topic), partition: PartitionId(number) };
        let wanted = |extent: &Extent| extent.end_offset > Offset(offset);
        let expected: Vec<Extent> =
            extents.iter().filter(|(t, e)| *t == tp && wanted(e)).map(|(_, e)| *e).collect();
        let mut found = Vec::new();
        for index in directory.candidates(tp, Offset(offset)) {
            let page = RunPage::decode(&pages[index]).expect("just built");
            found.extend(page.extents(tp, Offset(offset)));
        }
        prop_assert_eq!(found, expected);

        let first_at = extents.iter().find(|(t, e)| *t == tp && e.max_timestamp_ms >= time);
        let found_at = directory.candidates_by_time(tp, time).find_map(|index| {
            let page = RunPage::decode(&pages[index]).expect("just built");
            page.extents(tp, Offset(0)).find(|extent| extent.max_timestamp_ms >= time)
        });
        prop_assert_eq!(found_at, first_at.map(|(_, extent)| *extent));
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes: Vec<u8>) {
        let _ = RunPage::decode(&bytes);
        let _ = RunDirectory::decode(&bytes);
    }

    #[test]
    fn no_page_body_makes_the_decoder_panic(body: Vec<u8>, count in 0..300u32) {
        let mut page = Vec::new();
        let start = codec::begin_envelope(&mut page);
        page.put(&body);
        codec::seal_envelope(&mut page, start, PAGE_MAGIC, count);
        if let Ok(decoded) = RunPage::decode(&page) {
            let order: Vec<_> = (0..decoded.len())
                .filter_map(|index| decoded.get(index))
                .map(|(tp, extent)| ((tp, extent.base_offset), (tp, extent.end_offset)))
                .collect();
            prop_assert!(order.is_sorted_by(|one, two| one.1 <= two.0));
        }
    }
}

fn golden_extents() -> Vec<(TopicPartition, Extent)> {
    let extent = |base: u64, end: u64, offset: u32, bytes: u32| Extent {
        base_offset: Offset(base),
        end_offset: Offset(end),
        block: BlockLocation {
            journal: JournalId(2),
            segment: SegmentSeq(5),
            offset,
            bytes: 8192,
        },
        offset_in_block: 128,
        bytes,
        max_timestamp_ms: 1_000,
    };
    let tp = |topic, number| TopicPartition {
        topic: TopicId(topic),
        partition: PartitionId(number),
    };
    vec![
        (tp(7, 0), extent(0, 3, 4096, 512)),
        (tp(7, 0), extent(3, 4, 12_288, 64)),
        (tp(7, 2), extent(10, 12, 12_288, 64)),
    ]
}

#[test]
fn a_page_has_golden_bytes() {
    let (directory, pages) = build_run(&golden_extents());
    let expected = [
        0x43, 0x74, 0x49, 0x70, 1, 0, 0, 0, 31, 0, 0, 0, 3, 0, 0, 0, // envelope
    ];
    assert_eq!(pages[0][..16], expected);
    let body = [
        29, 7, 0, 3, 2, 10, 2, 2, 128, 1, 128, 4, 208, 15, // 7/0 [0, 3)
        16, 1, 4, 2, 128, 1, 64, 0, // 7/0 [3, 4)
        3, 0, 2, 10, 2, 128, 1, 64, 0, // 7/2 [10, 12)
    ];
    assert_eq!(pages[0][codec::ENVELOPE_BYTES..], body);
    let mut encoded = Vec::new();
    directory.encode(&mut encoded);
    assert_eq!(encoded[..4], *b"CtId");
    assert_eq!(encoded.len(), codec::ENVELOPE_BYTES + 16 + 66);
}

#[test]
fn a_dense_page_spends_few_bytes_on_an_extent() {
    let mut builder = RunBuilder::default();
    let tp = TopicPartition {
        topic: TopicId(9),
        partition: PartitionId(1),
    };
    let page = (0..u32::MAX).find_map(|number| {
        let block = BlockLocation {
            journal: JournalId(1),
            segment: SegmentSeq(4 + number / 256),
            offset: 4096 + number % 256 * 262_144,
            bytes: 262_144,
        };
        let base = u64::from(number) * 100;
        let extent = Extent {
            base_offset: Offset(base),
            end_offset: Offset(base + 100),
            block,
            offset_in_block: 112 + number % 4096,
            bytes: 100_000 + number % 8192,
            max_timestamp_ms: 1_700_000_000_000 + i64::from(number) * 20,
        };
        builder.push(tp, &extent)
    });
    let page = page.expect("a page fills up");
    assert!(page.bytes.len() > INDEX_PAGE_BYTES_MAX - 32);
    assert!(page.extents > 1_250, "{} extents in a page", page.extents);
}

#[test]
fn a_page_that_ends_at_the_offset_is_not_read() {
    let mut directory = RunDirectory::default();
    for extents in golden_extents().chunks(1) {
        directory.pages.extend(build_run(extents).0.pages);
    }
    let (tp, other) = (golden_extents()[0].0, golden_extents()[2].0);
    for (offset, pages) in [(0, 0..2), (2, 0..2), (3, 1..2), (4, 2..2)] {
        assert_eq!(
            directory.candidates(tp, Offset(offset)),
            pages,
            "from {offset}"
        );
    }
    assert_eq!(directory.candidates(other, Offset(11)), 2..3);
}

#[test]
fn any_damaged_byte_of_a_page_is_found() {
    let (_, pages) = build_run(&golden_extents());
    for at in 0..pages[0].len() {
        let mut damaged = pages[0].clone();
        damaged[at] ^= 0x10;
        assert!(
            RunPage::decode(&damaged).is_err(),
            "byte {at} is not covered"
        );
    }
}
