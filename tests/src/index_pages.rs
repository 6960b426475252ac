//! The pages of the index in a stopped broker's store, and damage to them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use catena_core::checkpoint::ShardCheckpoint;
use catena_core::ids::{BlockLocation, JournalId};
use catena_core::index::run::{PageEntry, RunDirectory, RunPage};

use crate::broker::Broker;
use crate::flips::places::JournalBytes;

/// The index runs of the first shard that its newest checkpoint names, the oldest first.
///
/// # Panics
/// If there is no checkpoint that can be read.
pub fn runs(broker: &Broker) -> Vec<RunDirectory> {
    let journal = JournalBytes::read(&broker.data_dir(), JournalId(0));
    let checkpoints = journal.numbered("checkpoint-", "");
    let (_, _, newest) = checkpoints.last().expect("a checkpoint");
    let checkpoint = ShardCheckpoint::decode(newest).expect("an intact checkpoint");
    checkpoint.runs
}

/// Reads a page.
///
/// # Panics
/// If it is damaged.
pub fn read(broker: &Broker, page: &PageEntry) -> RunPage {
    let place = page.place;
    let mut bytes = vec![0; usize::try_from(place.bytes).expect("a page is small")];
    let at = u64::from(place.block.offset + place.offset_in_block);
    let read = segment_of(broker, place.block).read_exact_at(&mut bytes, at);
    read.expect("the page is there");
    RunPage::decode(&bytes).expect("an intact page")
}

/// Damages a page beyond the one bit that its checksum can find.
///
/// # Panics
/// If the file cannot be written.
pub fn damage(broker: &Broker, page: &PageEntry) {
    damage_at(broker, page.place.block, page.place.offset_in_block);
}

/// Flips two bits behind a place in a block.
///
/// # Panics
/// If the file cannot be written.
pub fn damage_at(broker: &Broker, block: BlockLocation, offset_in_block: u32) {
    let file = segment_of(broker, block);
    let at = u64::from(block.offset + offset_in_block) + 24;
    let mut bytes = [0; 2];
    file.read_exact_at(&mut bytes, at)
        .expect("the block is there");
    let flipped = [bytes[0] ^ 0x10, bytes[1] ^ 0x80];
    file.write_all_at(&flipped, at).expect("it can be written");
}

fn segment_of(broker: &Broker, block: BlockLocation) -> File {
    let journal = JournalBytes::read(&broker.data_dir(), block.journal);
    let path = broker.data_dir().join(journal.segment_file(block.segment));
    let file = File::options().read(true).write(true).open(path);
    file.expect("the segment is there")
}
