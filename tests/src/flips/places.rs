//! Where in a store a bit can be flipped, by what the byte means.
//!
//! Found by reading the intact store with the formats' own parsers, before anything is damaged.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use catena_core::block::{BLOCK_HEADER_BYTES, BlockView};
use catena_core::checkpoint::ShardCheckpoint;
use catena_core::entry::{ENTRY_HEADER_BYTES, EntryView};
use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::ledger::{LEDGER_PAGE_BYTES, LedgerSlot};
use catena_core::scan::{JournalScan, ScanInput, ScanOutcome, ScanStep};
use catena_core::segment::SegmentHeader;
use catena_protocol::batch::BATCH_HEADER_BYTES;

use crate::seeded::Seeded;

/// What a byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The header page of a segment: its fields and its zeros.
    SegmentHeader,
    BlockHeader,
    EntryHeader,
    /// A row of a frame's directory.
    Row,
    BatchHeader,
    BatchBody,
    /// The body of any other frame: a trim, a command.
    ControlBody,
    /// A page or directory of the index, a promise.
    RecordBody,
    /// Up to seven bytes behind a body.
    EntryPad,
    BlockPad,
    /// Behind the last block.
    BehindEnd,
    /// A segment file that holds nothing yet.
    Unstarted,
    LedgerNewest,
    LedgerOlder,
    CheckpointNewest,
    CheckpointOlder,
    CheckpointPad,
    /// Metadata beside a checkpoint.
    Snapshot,
    /// `store.toml`.
    Identity,
}

impl Kind {
    /// Whether nothing ever looks at the byte.
    pub const fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::EntryPad
                | Self::BlockPad
                | Self::BehindEnd
                | Self::Unstarted
                | Self::CheckpointPad
        )
    }
}

/// A bit of a store.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file, from the store's directory on.
    pub file: PathBuf,
    pub at: u64,
    pub bit: u8,
    pub kind: Kind,
    /// The journal, if it is in one.
    pub journal: Option<JournalId>,
    /// The block that holds it.
    pub block: Option<BlockLocation>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, at, bit, .. } = self;
        write!(f, "{:?}, {} byte {at} bit {bit}", self.kind, file.display())
    }
}

/// Bytes that mean the same.
#[derive(Clone, Debug)]
struct Region {
    file: PathBuf,
    journal: Option<JournalId>,
    block: Option<BlockLocation>,
    range: Range<usize>,
}

/// All bytes of a store.
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<Kind, Vec<Region>>);

impl Places {
    fn add(&mut self, kind: Kind, region: Region) {
        if !region.range.is_empty() {
            self.0.entry(kind).or_default().push(region);
        }
    }

    /// How many bytes of each kind there are.
    pub fn bytes(&self) -> BTreeMap<Kind, usize> {
        let bytes = |regions: &Vec<Region>| regions.iter().map(|it| it.range.len()).sum();
        self.0
            .iter()
            .map(|(kind, regions)| (*kind, bytes(regions)))
            .collect()
    }

    /// About `count` places: as many of each kind, the harmless kinds a tenth of that. A kind with
    /// few bytes is tried bit by bit.
    pub fn choose(&self, seed: u64, count: usize) -> Vec<Place> {
        let mut random = Seeded::new(seed);
        let weight = |kind: Kind| if kind.is_harmless() { 1 } else { 10 };
        let weights: usize = self.0.keys().map(|kind| weight(*kind)).sum();
        let mut chosen = Vec::new();
        for (kind, regions) in &self.0 {
            let share = (count * weight(*kind)).div_ceil(weights.max(1));
            let bits = 8 * regions.iter().map(|it| it.range.len()).sum::<usize>();
            if share >= bits {
                chosen.extend((0..bits).map(|index| place(*kind, regions, index)));
            } else {
                let indexes = (0..share).map(|_| random.below(bits));
                chosen.extend(indexes.map(|index| place(*kind, regions, index)));
            }
        }
        chosen
    }
}

/// The place of a bit, counted over all regions of a kind.
fn place(kind: Kind, regions: &[Region], bit_index: usize) -> Place {
    let mut rest = bit_index / 8;
    for region in regions {
        if rest < region.range.len() {
            return Place {
                file: region.file.clone(),
                at: (region.range.start + rest) as u64,
                bit: u8::try_from(bit_index % 8).expect("below 8"),
                kind,
                journal: region.journal,
                block: region.block,
            };
        }
        rest -= region.range.len();
    }
    unreachable!("the index is below the number of bits")
}

/// The files of a journal, in memory.
#[derive(Clone, Debug)]
pub struct JournalBytes {
    pub id: JournalId,
    /// From the store's directory on.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
}

impl JournalBytes {
    /// Reads all files of a journal.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn read(store: &Path, id: JournalId) -> Self {
        let dir = store.join(format!("journals/{:03}", id.0));
        let entries = fs::read_dir(&dir).expect("a journal");
        let files = entries.filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let bytes = match fs::read(&path) {
                // A broker that runs renames and removes files.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                read => read.expect("a file"),
            };
            let name = path.strip_prefix(store).expect("below the store");
            Some((name.to_owned(), bytes))
        });
        let files = files.collect();
        Self { id, files }
    }

    /// The file of a segment.
    pub fn segment_file(&self, segment: SegmentSeq) -> PathBuf {
        PathBuf::from(format!("journals/{:03}/{:010}.seg", self.id.0, segment.0))
    }

    /// The files with a numbered name, in order.
    pub fn numbered(&self, prefix: &str, suffix: &str) -> Vec<(u64, &PathBuf, &[u8])> {
        let number = |path: &PathBuf| -> Option<u64> {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix(prefix)?
                .strip_suffix(suffix)?
                .parse()
                .ok()
        };
        let files = self.files.iter();
        let numbered = files.filter_map(|(path, bytes)| Some((number(path)?, path, &bytes[..])));
        numbered.collect()
    }

    /// The flush ledger.
    pub fn ledger(&self) -> Option<LedgerSlot> {
        let ledger = self.files.iter().find(|(path, _)| path.ends_with("ledger"));
        LedgerSlot::newest(ledger?.1, self.id)
    }

    /// Scans the segments with these headers.
    pub fn scan(
        &self,
        segments: Vec<SegmentHeader>,
        start: Option<catena_core::ids::JournalPos>,
        visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
    ) -> ScanOutcome {
        let mut scan = JournalScan::new(ScanInput {
            journal: self.id,
            segments,
            ledger: self.ledger(),
            start,
        });
        loop {
            match scan.next() {
                ScanStep::Read {
                    segment,
                    offset,
                    bytes,
                } => {
                    let file = &self.files[&self.segment_file(segment)];
                    let [from, to] =
                        [offset, offset + bytes].map(|at| to_usize(at).min(file.len()));
                    scan.supply(&file[from..to], visit);
                }
                ScanStep::Done(outcome) => return outcome,
            }
        }
    }
}

/// The journals of a store, in order.
pub fn journals(store: &Path) -> Vec<JournalId> {
    let entries = fs::read_dir(store.join("journals")).expect("journals");
    let mut ids: Vec<JournalId> = entries
        .filter_map(|entry| entry.expect("an entry").file_name().to_str()?.parse().ok())
        .map(JournalId)
        .collect();
    ids.sort_unstable();
    ids
}

/// Finds out what each byte of an intact store means.
///
/// # Panics
/// If the store is not intact.
pub fn of_store(store: &Path) -> Places {
    let mut places = Places::default();
    let identity = fs::read(store.join("store.toml")).expect("an identity");
    places.add(
        Kind::Identity,
        Region {
            file: "store.toml".into(),
            journal: None,
            block: None,
            range: 0..identity.len(),
        },
    );
    for id in journals(store) {
        let journal = JournalBytes::read(store, id);
        segments(&journal, &mut places);
        small_files(&journal, &mut places);
    }
    places
}

fn segments(journal: &JournalBytes, places: &mut Places) {
    let mut headers = Vec::new();
    for (number, path, bytes) in journal.numbered("", ".seg") {
        let header = SegmentHeader::decode(&bytes[..4096]).ok();
        match header.filter(|header| u64::from(header.segment.0) == number) {
            Some(header) => headers.push(header),
            None => places.add(Kind::Unstarted, region(journal, path, None, 0..bytes.len())),
        }
    }
    for (_, path, bytes) in journal.numbered("spare-", ".seg") {
        places.add(Kind::Unstarted, region(journal, path, None, 0..bytes.len()));
    }
    let mut ends: BTreeMap<SegmentSeq, usize> = BTreeMap::new();
    for header in &headers {
        let file = journal.segment_file(header.segment);
        places.add(Kind::SegmentHeader, region(journal, &file, None, 0..4096));
        ends.insert(header.segment, 4096);
    }
    let outcome = journal.scan(headers, None, &mut |at, view| {
        let file = journal.segment_file(at.segment);
        block(journal, &file, at, view, places);
        ends.insert(at.segment, to_usize(at.offset + at.bytes));
    });
    assert_eq!(outcome.corrupt, [], "an intact journal");
    assert_eq!(outcome.torn, None, "all of it was flushed");
    assert_eq!(outcome.unlinked, [], "all of it counts");
    for (segment, end) in ends {
        let file = journal.segment_file(segment);
        let bytes = journal.files[&file].len();
        places.add(Kind::BehindEnd, region(journal, &file, None, end..bytes));
    }
}

fn block(
    journal: &JournalBytes,
    file: &Path,
    at: BlockLocation,
    view: &BlockView<'_>,
    places: &mut Places,
) {
    let start = to_usize(at.offset);
    let mut add = |kind, range: Range<usize>| {
        let range = start + range.start..start + range.end;
        places.add(kind, region(journal, file, Some(at), range));
    };
    add(Kind::BlockHeader, 0..BLOCK_HEADER_BYTES);
    let mut entry_at = BLOCK_HEADER_BYTES;
    for entry in view.entries() {
        let body = entry_at + ENTRY_HEADER_BYTES;
        let end = entry_at + to_usize(entry.bytes());
        add(Kind::EntryHeader, entry_at..body);
        let used = match entry {
            EntryView::Batches(_, rows) | EntryView::Relocation(_, rows) => {
                let directory = rows.row_count() * 16;
                add(Kind::Row, body..body + directory);
                let mut used = body + directory;
                for batch in rows.batches() {
                    let batch_at = body + to_usize(batch.offset_in_body);
                    used = batch_at + batch.bytes.len();
                    add(Kind::BatchHeader, batch_at..batch_at + BATCH_HEADER_BYTES);
                    add(Kind::BatchBody, batch_at + BATCH_HEADER_BYTES..used);
                }
                used
            }
            EntryView::Frame(_, bytes) => {
                add(Kind::ControlBody, body..body + bytes.len());
                body + bytes.len()
            }
            EntryView::Record(_, bytes) => {
                add(Kind::RecordBody, body..body + bytes.len());
                body + bytes.len()
            }
            EntryView::Unknown(..) => end,
        };
        add(Kind::EntryPad, used..end);
        entry_at = end;
    }
    add(Kind::BlockPad, entry_at..to_usize(at.bytes));
}

fn small_files(journal: &JournalBytes, places: &mut Places) {
    let checkpoints = journal.numbered("checkpoint-", "");
    let newest = checkpoints.last().map(|(number, ..)| *number);
    for (number, path, bytes) in checkpoints {
        let decoded = ShardCheckpoint::decode(bytes).expect("an intact checkpoint");
        let used = decoded.encode().len();
        let kind = if Some(number) == newest {
            Kind::CheckpointNewest
        } else {
            Kind::CheckpointOlder
        };
        places.add(kind, region(journal, path, None, 0..used));
        places.add(
            Kind::CheckpointPad,
            region(journal, path, None, used..bytes.len()),
        );
    }
    for (_, path, bytes) in journal.numbered("metadata-", "") {
        places.add(Kind::Snapshot, region(journal, path, None, 0..bytes.len()));
    }
    let newest = journal.ledger();
    for (path, bytes) in journal
        .files
        .iter()
        .filter(|(path, _)| path.ends_with("ledger"))
    {
        for (number, page) in bytes.chunks(LEDGER_PAGE_BYTES).enumerate() {
            let kind = if LedgerSlot::decode(page) == newest {
                Kind::LedgerNewest
            } else {
                Kind::LedgerOlder
            };
            let start = number * LEDGER_PAGE_BYTES;
            places.add(kind, region(journal, path, None, start..start + page.len()));
        }
    }
}

fn region(
    journal: &JournalBytes,
    file: &Path,
    block: Option<BlockLocation>,
    range: Range<usize>,
) -> Region {
    Region {
        file: file.to_owned(),
        journal: Some(journal.id),
        block,
        range,
    }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("u32 fits usize")
}
