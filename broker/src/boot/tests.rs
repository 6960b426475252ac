//! Which checkpoints count after a change of the shard count, also when it was cut short.

use catena_core::checkpoint::{LostRange, PartitionRow};
use catena_core::ids::{BlockLocation, Lsn};
use catena_core::index::Extent;
use catena_core::metadata::Command;
use catena_protocol::ids::{NodeId, Offset, PartitionId, TopicId, TopicPartition};
use catena_protocol::messages::TopicConfig;

use super::*;

fn checkpoint(journal: u16, generation: u64, shard_count: u16) -> ShardCheckpoint {
    ShardCheckpoint {
        journal: JournalId::new(journal),
        layout_generation: generation,
        shard_count,
        ..ShardCheckpoint::default()
    }
}

/// Journals with the generation and shard count of their checkpoints, the newest first.
fn found(journals: &[(u16, &[(u64, u16)])]) -> BTreeMap<JournalId, Vec<ShardCheckpoint>> {
    let of_journal = |(journal, checkpoints): &(u16, &[(u64, u16)])| {
        let all = checkpoints
            .iter()
            .map(|(g, count)| checkpoint(*journal, *g, *count));
        (JournalId::new(*journal), all.collect())
    };
    journals.iter().map(of_journal).collect()
}

#[test]
fn a_fresh_store_has_no_complete_deal() {
    assert_eq!(newest_complete_generation(&found(&[(0, &[]), (1, &[])])), 0);
}

#[test]
fn a_deal_counts_once_every_shard_has_a_checkpoint_of_it() {
    let both = found(&[(0, &[(1, 2)]), (1, &[(1, 2)])]);
    assert_eq!(newest_complete_generation(&both), 1);
    let one = found(&[(0, &[(1, 2)]), (1, &[])]);
    assert_eq!(newest_complete_generation(&one), 0);
}

#[test]
fn a_deal_that_was_cut_short_leaves_the_one_before_it_in_force() {
    // One shard became two; only shard 0 got its checkpoint, which lacks the other half.
    let cut_short = found(&[(0, &[(2, 2), (1, 1)]), (1, &[])]);
    assert_eq!(newest_complete_generation(&cut_short), 1);
}

#[test]
fn a_smaller_deal_is_complete_without_the_journals_it_gave_up() {
    let smaller = found(&[(0, &[(2, 1), (1, 2)]), (1, &[(1, 2)])]);
    assert_eq!(newest_complete_generation(&smaller), 2);
}

fn metadata() -> MetadataState {
    let mut metadata = MetadataState::default();
    metadata.apply(&Command::InitCluster {
        cluster_id: [7; 16],
    });
    metadata.apply(&Command::OpenNode {
        node: NodeId(1),
        host: "localhost".to_owned(),
        port: 9440,
        shards: 1,
    });
    metadata
}

/// A section of chain 1 up to this frame, in which so many offsets were presumed lost.
fn presumed(lsn: u64, count: u64) -> ChainSection {
    let tp = TopicPartition::new(TopicId(1), PartitionId(0));
    let range = Offset(0)..Offset(count);
    let row = PartitionRow {
        tp,
        log_start: range.start,
        log_end: range.end,
        bytes: 0,
        first_timestamp_ms: 0,
        append_time_ms: 0,
    };
    ChainSection {
        lsn: Lsn(lsn),
        partitions: vec![row],
        lost: vec![LostRange { tp, range }],
        ..ChainSection::fresh(ChainId(1))
    }
}

/// What chain 1 starts from if these are the newest checkpoints of journals 0, 1 and so on.
fn section_of(found: &[(u64, ChainSection)]) -> ChainSection {
    let with_section = |(journal, (generation, section)): (u16, &(u64, ChainSection))| {
        let found = ShardCheckpoint {
            chains: vec![section.clone()],
            ..checkpoint(journal, *generation, 1)
        };
        (JournalId::new(journal), Some(found))
    };
    let metadata = metadata();
    let plan = BootPlan {
        layout: metadata.layout(),
        metadata,
        checkpoints: (0..).zip(found).map(with_section).collect(),
        kept_from: BTreeMap::new(),
        settled: false,
        retired: BTreeSet::new(),
        forgotten: BTreeSet::new(),
    };
    let input = plan.deal(Vec::new()).remove(0);
    let of_chain = |section: &ChainSection| section.chain == ChainId(1);
    input.sections.into_iter().find(of_chain).expect("chain 1")
}

#[test]
fn what_was_presumed_lost_of_a_chain_without_a_frame_is_not_forgotten() {
    let section = presumed(0, 1 << 40);
    assert_eq!(section_of(&[(1, section.clone())]), section);
}

#[test]
fn the_section_of_the_newest_deal_counts_also_at_the_same_frame() {
    let (before, after) = (presumed(5, 3), presumed(5, 1 << 40));
    for (first, second) in [(1, 2), (2, 1)] {
        let section = |deal: u64| if deal == 2 { &after } else { &before };
        let of = |deal| (deal, section(deal).clone());
        assert_eq!(section_of(&[of(first), of(second)]), after);
    }
}

#[test]
fn what_a_retired_journal_holds_is_in_the_deal_that_retired_it() {
    let (zero, one) = (JournalId::new(0), JournalId::new(1));
    let written = BTreeSet::from([zero, one]);
    let tp = TopicPartition::new(TopicId(1), PartitionId(0));
    let moved = |journal| {
        let extent = Extent {
            base_offset: Offset(0),
            end_offset: Offset(1),
            block: BlockLocation {
                journal,
                segment: SegmentSeq::new(1),
                offset: 4096,
                bytes: 4096,
            },
            offset_in_block: 128,
            bytes: 64,
            max_timestamp_ms: 0,
        };
        (tp, extent)
    };
    let mut metadata = metadata();
    metadata.apply(&Command::CreateTopic {
        name: "t".to_owned(),
        partitions: 1,
        config: TopicConfig::default(),
        created_ms: 0,
    });
    let unknown = |journal| UnknownLoss {
        journal,
        at: JournalPos::default(),
        bytes: 4096,
    };
    // The journals of which what was moved counts, and of which damage may have taken records.
    let counted = |plan: &BootPlan| {
        let scanned = ScannedFrames {
            moved: vec![moved(zero), moved(one)],
            unknown: vec![unknown(zero), unknown(one)],
            ..ScannedFrames::default()
        };
        let input = plan.deal(vec![scanned]).remove(0);
        let moved = input.moved.iter().map(|(_, extent)| extent.block.journal);
        let lost = input.unknown.iter().map(|loss| loss.journal);
        (moved.collect(), lost.collect::<BTreeSet<_>>())
    };
    // Two shards became one, and nothing of journal 1 can be read; then the number changed again,
    // to one, or to two of which the first was through.
    let retiring: [&[(u64, u16)]; 2] = [&[(3, 1)], &[(4, 1), (3, 1)]];
    for of_zero in retiring {
        let plan = BootPlan::of(metadata.clone(), found(&[(0, of_zero), (1, &[])]), &written);
        let (segment, offset) = (SegmentSeq::new(u32::MAX), u32::MAX);
        assert_eq!(plan.index_covered(one), JournalPos::new(segment, offset));
        assert_eq!(plan.forgotten, BTreeSet::new());
        assert_eq!(counted(&plan), (vec![zero], BTreeSet::from([zero])));
    }
    // It may be in the later deal: then what it holds may be nowhere else.
    for of_zero in [&[(4, 2), (3, 1)][..], &[(4, 2)]] {
        let plan = BootPlan::of(metadata.clone(), found(&[(0, of_zero), (1, &[])]), &written);
        assert_eq!(plan.index_covered(one), JournalPos::default());
        assert!(plan.forgotten.contains(&one));
        let both = BTreeSet::from([zero, one]);
        assert_eq!(counted(&plan), (vec![zero, one], both));
    }
}

#[test]
fn a_journal_that_was_given_up_is_kept_from_the_older_of_its_two_checkpoints_that_count() {
    let one = JournalId::new(1);
    let at = |segment| JournalPos::new(SegmentSeq::new(segment), 4096);
    // Journal 1 with these generations and segments, the newest first; one shard completed deal 3.
    let kept_from = |of_one: &[(u64, u32)]| {
        let reads_from = |(generation, segment): &(u64, u32)| ShardCheckpoint {
            scan_from: at(*segment),
            ..checkpoint(1, *generation, 2)
        };
        let mut found = found(&[(0, &[(3, 1), (3, 1)])]);
        found.insert(one, of_one.iter().map(reads_from).collect());
        let plan = BootPlan::of(metadata(), found, &BTreeSet::from([JournalId::new(0), one]));
        plan.kept_from.get(&one).copied()
    };
    assert_eq!(kept_from(&[(1, 9), (1, 7), (1, 2)]), Some(at(7)));
    assert_eq!(kept_from(&[(4, 20), (4, 20), (1, 9), (1, 7)]), Some(at(7)));
    assert_eq!(kept_from(&[(1, 9)]), Some(at(9)));
    assert_eq!(kept_from(&[]), None);
    assert_eq!(kept_from(&[(4, 20)]), None);
}
