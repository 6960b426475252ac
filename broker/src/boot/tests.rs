//! Which checkpoints count after a change of the shard count, also when it was cut short.

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
