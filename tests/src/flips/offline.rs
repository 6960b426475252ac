//! Tries flips without a broker: `verify` must notice, and the broker's rules must still read back
//! every batch that is intact, byte for byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use catena_core::block::parse_block;
use catena_core::checkpoint::ShardCheckpoint;
use catena_core::ids::{BlockLocation, JournalId, JournalPos, SegmentSeq};
use catena_core::index::Extent;
use catena_core::index::run::RunPage;
use catena_core::one_bit;
use catena_core::recover::FrameSummary;
use catena_core::scan::Damage;
use catena_core::segment::SegmentHeader;
use catena_protocol::batch::split;
use catena_protocol::ids::{Offset, TopicPartition};

use super::places::{JournalBytes, Kind, Place, journals};

/// A batch, by partition and first offset.
type Key = (TopicPartition, u64);

/// What became of an offset that the index knows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    /// The crc of the batch's bytes, and the block it came from.
    Bytes(u32, BlockLocation),
    /// It would be answered with an error.
    Refused,
}

/// What can be read of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contents {
    batches: BTreeMap<Key, Read>,
    /// Whether a page of the index could not be read: then batches are missing above that are
    /// there, and readers wait for a repair.
    page_is_lost: bool,
}

/// A store on disk, and its journals in memory as they are without damage.
pub struct Offline {
    store: PathBuf,
    journals: BTreeMap<JournalId, (JournalBytes, Contents)>,
}

impl Offline {
    /// Takes an intact store.
    ///
    /// # Panics
    /// If `verify` finds anything wrong with it, or a batch cannot be read.
    pub fn new(store: &Path) -> Self {
        let report = catena_tools::journal::verify_store(store).expect("a store");
        assert_eq!(report.problems, 0, "{report}");
        let journals = journals(store).into_iter().map(|id| {
            let bytes = JournalBytes::read(store, id);
            let contents = read_all(&bytes);
            let refused = contents.batches.values().any(|read| *read == Read::Refused);
            assert!(!refused && !contents.page_is_lost, "all of it can be read");
            assert!(id == JournalId::METADATA || !contents.batches.is_empty());
            (id, (bytes, contents))
        });
        Self {
            store: store.to_owned(),
            journals: journals.collect(),
        }
    }

    /// Flips a bit, looks, and flips it back. Gives whether it was noticed, or what went wrong.
    ///
    /// # Errors
    /// What was wrong.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn try_place(&mut self, place: &Place) -> Result<bool, String> {
        let path = self.store.join(&place.file);
        let file = File::options().read(true).write(true).open(path);
        let file = file.expect("the file is there");
        let mut byte = [0];
        file.read_exact_at(&mut byte, place.at)
            .expect("the byte is there");
        let flipped = [byte[0] ^ (1 << place.bit)];
        file.write_all_at(&flipped, place.at)
            .expect("it can be written");
        let noticed = self.is_noticed(place);
        file.write_all_at(&byte, place.at)
            .expect("it can be written");
        let noticed = noticed?;
        if let Some(id) = place.journal {
            self.check_reads(id, place, flipped[0])?;
        }
        Ok(noticed)
    }

    fn is_noticed(&self, place: &Place) -> Result<bool, String> {
        let dir = match place.journal {
            Some(id) => self.store.join(format!("journals/{:03}", id.0)),
            None => self.store.clone(),
        };
        let report =
            catena_tools::journal::verify_store(&dir).map_err(|error| error.to_string())?;
        let has_notes = report
            .journals
            .iter()
            .any(|journal| !journal.notes.is_empty());
        Ok(report.problems > 0 || has_notes)
    }

    fn check_reads(&mut self, id: JournalId, place: &Place, flipped: u8) -> Result<(), String> {
        let (bytes, intact) = self.journals.get_mut(&id).expect("a journal of the store");
        let at = usize::try_from(place.at).expect("a file fits memory");
        let file = bytes
            .files
            .get_mut(&place.file)
            .expect("a file of the journal");
        let before = std::mem::replace(&mut file[at], flipped);
        let found = read_all(bytes);
        bytes.files.get_mut(&place.file).expect("it is still there")[at] = before;
        compare(place, intact, &found)
    }
}

/// Every batch must read as before, or be refused because the damage lies in its own block.
fn compare(place: &Place, intact: &Contents, found: &Contents) -> Result<(), String> {
    if found.page_is_lost && place.kind == Kind::BatchBody {
        return Err("a page of the index is lost to a flip elsewhere".to_owned());
    }
    for (key, read) in &intact.batches {
        let Read::Bytes(crc, block) = read else {
            continue;
        };
        match found.batches.get(key) {
            Some(Read::Bytes(now, _)) if now == crc => {}
            Some(Read::Bytes(..)) => return Err(format!("other bytes are read for {key:?}")),
            Some(Read::Refused) | None if found.page_is_lost => {}
            Some(Read::Refused) | None if place.block == Some(*block) => {}
            Some(Read::Refused) => return Err(format!("{key:?} is intact and refused")),
            None => return Err(format!("{key:?} is intact and not found")),
        }
    }
    Ok(())
}

/// Reads a journal as a broker that starts would, and then every batch.
fn read_all(journal: &JournalBytes) -> Contents {
    let checkpoint = newest_checkpoint(journal).unwrap_or_default();
    let headers = headers(journal);
    let start = checkpoint.scan_from;
    let start = (start != JournalPos::default()).then_some(start);
    let mut frames = Vec::new();
    let from_start: Vec<SegmentHeader> = headers
        .values()
        .filter(|header| start.is_none_or(|start| header.segment >= start.segment))
        .copied()
        .collect();
    let outcome = journal.scan(from_start, start, &mut |at, view| {
        let of_block = view.entries();
        frames.extend(of_block.filter_map(|entry| FrameSummary::from_entry(&entry, at)));
    });
    for range in &outcome.corrupt {
        let Some(header) = headers.get(&range.segment) else {
            continue;
        };
        if !matches!(range.what, Damage::Head(_)) {
            continue;
        }
        let file = &journal.files[&journal.segment_file(range.segment)];
        let mut held = file[to_usize(range.start)..to_usize(range.end)].to_vec();
        let place = (journal.id, range.segment, range.start);
        one_bit::visit_corrected(&mut held, header.salt, place, &mut |at, view, _| {
            let of_block = view.entries();
            frames.extend(of_block.filter_map(|entry| FrameSummary::from_entry(&entry, at)));
        });
    }
    let covered = checkpoint.index_covered;
    let recent = frames.iter().filter(|frame| frame.block.start() >= covered);
    let mut extents: Vec<(TopicPartition, Extent)> =
        recent.flat_map(|frame| frame.rows.clone()).collect();
    let mut contents = Contents::default();
    let partitions: Vec<TopicPartition> = checkpoint
        .chains
        .iter()
        .flat_map(|chain| chain.partitions.iter().map(|row| row.tp))
        .collect();
    for page in checkpoint.runs.iter().flat_map(|run| &run.pages) {
        let place = page.place;
        let block = read_block(journal, &headers, place.block);
        let start = to_usize(place.offset_in_block);
        let page = block
            .and_then(|block| RunPage::decode(&block[start..start + to_usize(place.bytes)]).ok());
        match page {
            Some(page) => {
                for tp in &partitions {
                    extents.extend(page.extents(*tp, Offset(0)).map(|extent| (*tp, extent)));
                }
            }
            None => contents.page_is_lost = true,
        }
    }
    for (tp, extent) in extents {
        read_extent(journal, &headers, tp, &extent, &mut contents);
    }
    contents
}

fn read_extent(
    journal: &JournalBytes,
    headers: &BTreeMap<SegmentSeq, SegmentHeader>,
    tp: TopicPartition,
    extent: &Extent,
    contents: &mut Contents,
) {
    let Some(block) = read_block(journal, headers, extent.block) else {
        // Which batches it holds is known only as a range.
        contents
            .batches
            .insert((tp, extent.base_offset.0), Read::Refused);
        return;
    };
    let start = to_usize(extent.offset_in_block);
    let batches = &block[start..start + to_usize(extent.bytes)];
    for (header, bytes) in split(batches).flatten() {
        let read = Read::Bytes(crc32fast::hash(bytes), extent.block);
        contents.batches.insert((tp, header.base_offset.0), read);
    }
}

/// The bytes of a block, if all checks hold that a broker makes before it serves it.
fn read_block<'a>(
    journal: &'a JournalBytes,
    headers: &BTreeMap<SegmentSeq, SegmentHeader>,
    place: BlockLocation,
) -> Option<&'a [u8]> {
    let header = headers.get(&place.segment)?;
    let file = &journal.files[&journal.segment_file(place.segment)];
    let start = to_usize(place.offset);
    let bytes = file.get(start..start + to_usize(place.bytes))?;
    let view = parse_block(bytes, header.salt, place.segment, place.offset).ok()?;
    view.verify_bodies().ok()?;
    Some(bytes)
}

fn headers(journal: &JournalBytes) -> BTreeMap<SegmentSeq, SegmentHeader> {
    let segments = journal.numbered("", ".seg").into_iter();
    let headers = segments.filter_map(|(number, _, bytes)| {
        let (header, _) = one_bit::segment_header(&bytes[..4096]).ok()?;
        let is_here = header.journal == journal.id && u64::from(header.segment.0) == number;
        is_here.then_some((header.segment, header))
    });
    headers.collect()
}

fn newest_checkpoint(journal: &JournalBytes) -> Option<ShardCheckpoint> {
    let checkpoints = journal.numbered("checkpoint-", "");
    let mut readable = checkpoints
        .iter()
        .rev()
        .filter_map(|(_, _, bytes)| ShardCheckpoint::decode(bytes).ok());
    readable.next()
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("u32 fits usize")
}
