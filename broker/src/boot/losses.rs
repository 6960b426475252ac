//! After the frames are folded: names what is lost, and keeps the offsets of what may be lost from
//! being given out again.
//!
//! Runs on the shard's executor, before anything is served.

use std::collections::BTreeMap;

use catena_core::ids::Lsn;
use catena_core::log::ShardLog;
use catena_core::recover::{FrameSummary, UnknownLoss, presumed_offsets, spared};
use catena_protocol::ids::{ChainId, ShardId};
use tracing::warn;

use super::BootPlan;

/// Lost ranges that a start names one by one.
const NAMED_MAX: usize = 1_000;

/// What was read back: frames in order of chain and LSN, and what is unknown.
type Found<'a> = (&'a [FrameSummary], &'a [UnknownLoss]);

/// How far each chain of a log is folded.
pub fn folded_to(log: &ShardLog) -> BTreeMap<ChainId, Lsn> {
    log.chains()
        .filter_map(|chain| Some((chain, log.commit_lsn(chain)?)))
        .collect()
}

/// Accounts for what damage took from the chains of `shard`, which were folded to `folded` before
/// the frames in `found`, and are folded to their end now. Gives whether anything was presumed
/// lost: that must be in a checkpoint before anything is served, for the next start could not know
/// it again once new frames follow.
pub fn account_for_losses(
    log: &mut ShardLog,
    plan: &BootPlan,
    shard: ShardId,
    folded: &BTreeMap<ChainId, Lsn>,
    found: Found<'_>,
) -> bool {
    let presumed = presume(log, plan, shard, folded, found);
    let mut named = 0;
    let partitions: Vec<_> = log.partitions().map(|partition| partition.tp).collect();
    for tp in partitions {
        let name = plan.metadata.topic(tp.topic).map(|topic| &topic.name);
        for range in log.lost_ranges(tp) {
            named += 1;
            if named <= NAMED_MAX {
                warn!(
                    topic = tp.topic.get(),
                    name = name.map_or("", String::as_str),
                    partition = tp.partition.get(),
                    from = range.start.get(),
                    to = range.end.get(),
                    "offsets are lost; reading there is answered with an error"
                );
            }
        }
    }
    if named > NAMED_MAX {
        warn!(
            ranges = named - NAMED_MAX,
            "more ranges of offsets are lost"
        );
    }
    presumed
}

/// Moves the end of every partition that may have lost records nobody knows of.
fn presume(
    log: &mut ShardLog,
    plan: &BootPlan,
    shard: ShardId,
    folded: &BTreeMap<ChainId, Lsn>,
    (frames, unknown): Found<'_>,
) -> bool {
    let count = presumed_offsets(unknown);
    let mut presumed = false;
    for (&chain, &folded) in folded {
        let from = frames.partition_point(|frame| frame.chain < chain);
        let to = frames.partition_point(|frame| frame.chain <= chain);
        let Some(spared) = spared(chain, folded, &frames[from..to], unknown) else {
            continue;
        };
        let in_chain = plan.metadata.partitions_on(shard);
        let in_chain = in_chain.filter(|(tp, of)| *of == chain && !spared.contains(tp));
        for (tp, chain) in in_chain {
            match log.presume_lost(tp, chain, count) {
                Ok(range) => {
                    presumed = true;
                    warn!(
                        topic = tp.topic.get(),
                        partition = tp.partition.get(),
                        from = range.start.get(),
                        to = range.end.get(),
                        "the end of a partition is unknown; its next offset is behind this range"
                    );
                }
                Err(error) => warn!(%error, "a partition does not fit its chain"),
            }
        }
    }
    presumed
}
