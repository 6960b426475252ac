//! What the shards of a node start from: which checkpoints count and which journals are read.
//!
//! Normally each shard reads its own journal from its own checkpoint. When the number of shards has
//! changed (or the broker died before every shard had a checkpoint of the new layout), chains are
//! dealt anew: from the checkpoints of the newest deal that every shard of it completed and from
//! what every journal holds since, and each shard gets all index runs of that deal. Runs on the
//! control executor and, for the dealing, on the thread that starts the broker.

mod losses;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use catena_core::checkpoint::{ChainSection, ShardCheckpoint};
use catena_core::ids::{JournalId, JournalPos, SegmentSeq};
use catena_core::index::run::RunDirectory;
use catena_core::metadata::{MetadataState, ShardLayout};
use catena_core::recover::{FrameSummary, MovedBatch, ScannedFrames, UnknownLoss};
use catena_protocol::ids::{ChainId, ShardId};

pub use self::losses::{account_for_losses, folded_to};

use crate::runtime::file::FileAgent;
use crate::shard::checkpointer::{self, KEPT};
use crate::shard::files::journal_dir;
use crate::shard::owner_of;

/// What is known before any journal is read.
#[derive(Debug, Clone)]
pub struct BootPlan {
    /// How chains are dealt now.
    pub layout: ShardLayout,
    /// Topics and chain epochs.
    pub metadata: MetadataState,
    /// The newest checkpoint of each journal that counts, none for one that has none. Those of a
    /// deal of chains that was not completed do not count.
    pub checkpoints: BTreeMap<JournalId, Option<ShardCheckpoint>>,
    /// Where the older of the two newest checkpoints that count has a journal read: a later start
    /// begins there if the newest is damaged by then. None for a journal that has none.
    pub kept_from: BTreeMap<JournalId, JournalPos>,
    /// Whether every shard has a checkpoint of this layout, so that older journals need no reading.
    pub settled: bool,
    /// Journals that nobody has written to since the newest complete deal of chains: what they hold
    /// is in its checkpoints and runs.
    pub retired: BTreeSet<JournalId>,
    /// Other journals that had checkpoints of which none counts, because some cannot be read. What
    /// was freed of them is known no more.
    pub forgotten: BTreeSet<JournalId>,
}

/// What one shard starts from.
#[derive(Debug)]
pub struct ShardInput {
    /// Its chains as of their newest checkpoint.
    pub sections: Vec<ChainSection>,
    /// The frames of its chains that were read back, by chain and LSN.
    pub frames: Vec<FrameSummary>,
    /// The index runs that it may need.
    pub runs: Vec<RunDirectory>,
    /// Acknowledged bytes of which nothing is known, in journals where its chains may have lived.
    pub unknown: Vec<UnknownLoss>,
    /// What the cleaner wrote anew of its partitions, if no checkpoint says where it is.
    pub moved: Vec<MovedBatch>,
}

impl BootPlan {
    /// Reads the newest checkpoint of every journal.
    pub async fn read(
        agent: &FileAgent,
        journals: &Path,
        store_uuid: [u8; 16],
        metadata: MetadataState,
    ) -> io::Result<BootPlan> {
        let layout = metadata.layout();
        let mut ids: Vec<JournalId> = (0..layout.shards).map(JournalId::new).collect();
        for entry in agent.list(journals).await? {
            let id = entry.name.parse().ok().map(JournalId::new);
            ids.extend(id.filter(|id| *id != JournalId::METADATA && id.get() >= layout.shards));
        }
        let (mut found, mut written) = (BTreeMap::new(), BTreeSet::new());
        for id in ids {
            let dir = journal_dir(journals, id);
            found.insert(id, checkpointer::load_all(agent, &dir, store_uuid).await?);
            if !checkpointer::sequences(agent, &dir).await?.is_empty() {
                written.insert(id);
            }
        }
        Ok(BootPlan::of(metadata, found, &written))
    }

    /// Plans from the checkpoints that can be read, the newest of each journal first, and the
    /// journals that have any at all.
    fn of(
        metadata: MetadataState,
        found: BTreeMap<JournalId, Vec<ShardCheckpoint>>,
        written: &BTreeSet<JournalId>,
    ) -> BootPlan {
        let layout = metadata.layout();
        let complete = newest_complete_generation(&found);
        let retired = retired(&found, complete);
        let is_unreadable = |id: &JournalId| found[id].is_empty();
        let written = written.difference(&retired).copied();
        let is_any_unreadable = written.clone().any(|id| is_unreadable(&id));
        let counts = |c: &ShardCheckpoint| c.layout_generation <= complete;
        let kept_from = found
            .iter()
            .filter_map(|(id, of_journal)| {
                let kept = of_journal.iter().filter(|c| counts(c)).take(KEPT);
                Some((*id, kept.map(|c| c.scan_from).min()?))
            })
            .collect();
        let checkpoints: BTreeMap<_, _> = found
            .into_iter()
            .map(|(id, of_journal)| (id, of_journal.into_iter().find(counts)))
            .collect();
        let is_forgotten = |id: &JournalId| is_any_unreadable && checkpoints[id].is_none();
        let forgotten = written.filter(is_forgotten).collect();
        BootPlan {
            layout,
            metadata,
            checkpoints,
            kept_from,
            settled: complete == layout.generation,
            retired,
            forgotten,
        }
    }

    /// The journals that a shard reads back: its own, and older ones when nothing is settled.
    pub fn journals_to_scan(&self, shard: ShardId) -> Vec<JournalId> {
        self.kept_by(shard)
            .filter(|id| !self.settled || id.get() < self.layout.shards)
            .collect()
    }

    /// Where the scan of a journal starts.
    pub fn scan_from(&self, journal: JournalId) -> Option<JournalPos> {
        let checkpoint = self.checkpoints.get(&journal)?.as_ref()?;
        (checkpoint.scan_from != JournalPos::default()).then_some(checkpoint.scan_from)
    }

    /// Extents of this journal before the position are in index runs.
    pub fn index_covered(&self, journal: JournalId) -> JournalPos {
        let all = JournalPos::new(SegmentSeq::new(u32::MAX), u32::MAX);
        match self.checkpoints.get(&journal) {
            Some(Some(of_newest)) if Some(of_newest.layout_generation) == self.newest_deal() => {
                of_newest.index_covered
            }
            // Nobody wrote to it since a later deal was completed, and that one wrote runs.
            Some(Some(_)) => all,
            Some(None) | None if self.retired.contains(&journal) => all,
            Some(None) | None => JournalPos::default(),
        }
    }

    /// Deals what all shards have read to the shards that own it now.
    pub fn deal(&self, scanned: Vec<ScannedFrames>) -> Vec<ShardInput> {
        let shards = self.layout.shards;
        let mut inputs: Vec<ShardInput> = (0..shards)
            .map(|shard| ShardInput {
                sections: Vec::new(),
                frames: Vec::new(),
                runs: self.runs_for(ShardId::new(shard)),
                unknown: Vec::new(),
                moved: Vec::new(),
            })
            .collect();
        let place = |chain: ChainId| usize::from(owner_of(chain, shards).get());
        for section in self.newest_sections().into_values() {
            inputs[place(section.chain)].sections.push(section);
        }
        let mut unknown = Vec::new();
        for found in scanned {
            let is_open = |loss: &UnknownLoss| !self.retired.contains(&loss.journal);
            unknown.extend(found.unknown.into_iter().filter(is_open));
            for frame in found.frames {
                inputs[place(frame.chain)].frames.push(frame);
            }
            let is_news = |(_, extent): &MovedBatch| !self.retired.contains(&extent.block.journal);
            for (tp, extent) in found.moved.into_iter().filter(is_news) {
                if let Some(chain) = self.metadata.chain_of(tp) {
                    inputs[place(chain)].moved.push((tp, extent));
                }
            }
        }
        let forgotten = self.forgotten.iter().map(|journal| UnknownLoss {
            journal: *journal,
            at: JournalPos::default(),
            bytes: 0,
        });
        unknown.extend(forgotten);
        for (shard, input) in (0..shards).zip(&mut inputs) {
            let concerns = |loss: &&UnknownLoss| !self.settled || loss.journal.get() == shard;
            input.unknown = unknown.iter().filter(concerns).copied().collect();
            // A chain that moved between journals and back has its frames in several of them.
            input.frames.sort_by_key(|frame| (frame.chain, frame.lsn));
            input.frames.dedup_by_key(|frame| (frame.chain, frame.lsn));
        }
        inputs
    }

    fn kept_by(&self, shard: ShardId) -> impl Iterator<Item = JournalId> {
        let shards = self.layout.shards;
        self.checkpoints
            .keys()
            .copied()
            .filter(move |id| id.get() % shards == shard.get())
    }

    /// The checkpoints of the newest deal that was completed. They hold each chain once, and all
    /// that earlier deals knew: an older one says nothing more, and may name what was freed since.
    /// Not by LSN: what a start had to presume lost changes a section without a frame.
    fn current(&self) -> impl Iterator<Item = (&JournalId, &ShardCheckpoint)> {
        let newest = self.newest_deal();
        self.checkpoints
            .iter()
            .filter_map(|(id, checkpoint)| Some((id, checkpoint.as_ref()?)))
            .filter(move |(_, checkpoint)| Some(checkpoint.layout_generation) == newest)
    }

    fn newest_deal(&self) -> Option<u64> {
        let found = self.checkpoints.values().flatten();
        found.map(|checkpoint| checkpoint.layout_generation).max()
    }

    fn newest_sections(&self) -> BTreeMap<ChainId, ChainSection> {
        let mut newest: BTreeMap<ChainId, ChainSection> = BTreeMap::new();
        for info in self.metadata.chains() {
            newest.insert(info.chain, ChainSection::fresh(info.chain));
        }
        for section in self.current().flat_map(|(_, found)| &found.chains) {
            newest.insert(section.chain, section.clone());
        }
        newest
    }

    fn runs_for(&self, shard: ShardId) -> Vec<RunDirectory> {
        self.current()
            .filter(|(id, _)| !self.settled || id.get() == shard.get())
            .flat_map(|(_, checkpoint)| checkpoint.runs.iter().cloned())
            .collect()
    }
}

/// The newest deal of chains for which every shard has a checkpoint; 0 if there is none.
///
/// A checkpoint holds only the chains that its shard owns. One of a deal that was not completed
/// therefore stands for nothing: what it leaves out is in the checkpoints before it.
fn newest_complete_generation(found: &BTreeMap<JournalId, Vec<ShardCheckpoint>>) -> u64 {
    let mut deals: BTreeMap<u64, (u16, BTreeSet<JournalId>)> = BTreeMap::new();
    for (id, checkpoints) in found {
        for checkpoint in checkpoints {
            let (shards, ids) = deals.entry(checkpoint.layout_generation).or_default();
            *shards = checkpoint.shard_count;
            ids.insert(*id);
        }
    }
    let is_complete = |deal: &(u64, (u16, BTreeSet<JournalId>))| {
        let (shards, ids) = &deal.1;
        (0..*shards).all(|shard| ids.contains(&JournalId::new(shard)))
    };
    deals
        .into_iter()
        .rev()
        .find(is_complete)
        .map_or(0, |(generation, _)| generation)
}

/// The journals that are in no deal from the `complete` one on, be it that some of a later one
/// were written.
fn retired(
    found: &BTreeMap<JournalId, Vec<ShardCheckpoint>>,
    complete: u64,
) -> BTreeSet<JournalId> {
    let since = found.values().flatten();
    let since = since.filter(|c| complete > 0 && c.layout_generation >= complete);
    let Some(shards) = since.map(|checkpoint| checkpoint.shard_count).max() else {
        return BTreeSet::new();
    };
    let ids = found.keys().copied();
    ids.filter(|id| id.get() >= shards).collect()
}

#[cfg(test)]
mod tests;
