//! Good bytes to start from, made from the golden files and by the formats' own encoders; and the
//! checksums that a fuzzer cannot guess.
//!
//! Sealing makes the checksums of damaged bytes right again, as far as the damage lets the fields
//! be found, so that what the checksums guard is tried as well.

use std::fs;
use std::path::{Path, PathBuf};

use catena_core::block::{BLOCK_HEADER_BYTES, BlockSeal, seal_block};
use catena_core::checkpoint::{ChainSection, ShardCheckpoint};
use catena_core::entry::{ENTRY_HEADER_BYTES, ROW_BYTES};
use catena_core::ids::{JournalId, JournalPos, SegmentSeq};
use catena_core::ledger::LedgerSlot;
use catena_core::metadata::{Command, MetadataState};
use catena_core::segment::{PreviousSegment, SEGMENT_PAGE_BYTES, SegmentHeader};
use catena_protocol::batch::BATCH_HEADER_BYTES;
use catena_protocol::ids::ChainId;
use catena_protocol::messages::TopicConfig;

/// The salt of the golden block and of every segment here.
pub const SALT: u64 = 0x1122_3344_5566_7788;

/// Of an envelope, before its body.
const ENVELOPE_BYTES: usize = 20;

/// The seeds of a target.
///
/// # Panics
/// If the golden files are not where this crate expects them, or there is no such target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let wire = golden_dir("protocol/tests/golden");
    let with_length = |bytes: &[u8]| [&[64, 0], bytes].concat();
    match target {
        "frame" => wire,
        "requests" => wire.iter().map(|bytes| with_length(bytes)).collect(),
        "batch" => wire.into_iter().chain(batches()).collect(),
        "block" => {
            let block = golden_block();
            let entries = block[BLOCK_HEADER_BYTES..].to_vec();
            vec![block, entries]
        }
        "scan" => vec![scan_image()],
        "checkpoint" => [golden_dir("broker/core/src"), vec![checkpoint().encode()]].concat(),
        "ledger" => vec![
            ledger_slot().encode().to_vec(),
            segment_header().encode().to_vec(),
        ],
        "metadata" => commands()
            .iter()
            .map(Command::encode)
            .chain([snapshot().encode()])
            .collect(),
        "config" => vec![CONFIG.as_bytes().to_vec()],
        other => panic!("no target {other}"),
    }
}

const CONFIG: &str = "data-dir = \"/var/lib/catena\"\nlisten = \"0.0.0.0:9640\"\nadmin = \"off\"\n\
    advertise = \"broker-1.example:9640\"\ncores = \"0,2-3\"\nsegment-bytes = \"64MiB\"\n\
    cache-bytes = \"2GiB\"\nspace-bytes = 68719476736\nlog-format = \"json\"\n\
    log-level = \"info,catena_broker::journal=debug\"\n";

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The bytes of every golden file below a directory, in the order of their names.
fn golden_dir(dir: &str) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    find_golden(&root().join(dir), &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "golden files below {dir}");
    paths.iter().map(|path| read_hex(path)).collect()
}

fn find_golden(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of the source tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find_golden(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "hex") {
            found.push(path);
        }
    }
}

/// Hex digits, blanks and line ends between them ignored.
fn read_hex(path: &Path) -> Vec<u8> {
    let text = fs::read_to_string(path).expect("a golden file");
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hex digits are ASCII");
        u8::from_str_radix(pair, 16).expect("two hex digits are a byte")
    };
    digits.chunks(2).map(byte).collect()
}

fn golden_block() -> Vec<u8> {
    let mut block = read_hex(&root().join("broker/core/src/block/tests/golden_block.hex"));
    block.resize(block.len().next_multiple_of(4096), 0);
    block
}

/// The batches out of the golden files, where they stand alone.
fn batches() -> Vec<Vec<u8>> {
    ["batch", "batch_lz4", "batch_zstd"]
        .map(|name| read_hex(&root().join(format!("protocol/tests/golden/{name}.hex"))))
        .to_vec()
}

/// The header in front of the blocks that the target `scan` makes of its input.
pub fn segment_header() -> SegmentHeader {
    SegmentHeader {
        store_uuid: [7; 16],
        journal: JournalId(3),
        segment: SegmentSeq(5),
        salt: SALT,
        segment_bytes: 4 << 20,
        previous: Some(PreviousSegment {
            segment: SegmentSeq(4),
            end: 8192,
            last_block_crc: 0,
        }),
        created_ms: 0,
    }
}

/// One byte that says how far is flushed, then three blocks.
fn scan_image() -> Vec<u8> {
    let golden = golden_block();
    let used = usize::try_from(u32_at(&golden, 36)).expect("u32 fits usize");
    let entries = u32_at(&golden, 32);
    let mut image = vec![2];
    for number in 1..=3u16 {
        let mut block = golden.clone();
        let seal = BlockSeal {
            salt: SALT,
            segment: SegmentSeq(5),
            position: 4096 * u32::from(number),
            group_seq: number.into(),
            group_index: 0,
            group_count: 1,
            flushed: JournalPos::new(SegmentSeq(5), 4096 * u32::from(number)),
        };
        seal_block(&mut block, &seal, used, entries);
        image.extend(block);
    }
    image
}

fn ledger_slot() -> LedgerSlot {
    LedgerSlot {
        journal: JournalId(3),
        sequence: 2,
        flushed: JournalPos::new(SegmentSeq(5), 8192),
        group_seq: 9,
    }
}

fn checkpoint() -> ShardCheckpoint {
    ShardCheckpoint {
        store_uuid: [7; 16],
        sequence: 3,
        shard_count: 1,
        chains: vec![
            ChainSection::fresh(ChainId(1)),
            ChainSection::fresh(ChainId(2)),
        ],
        ..ShardCheckpoint::default()
    }
}

fn commands() -> Vec<Command> {
    let named = |name: &str| name.to_owned();
    vec![
        Command::InitCluster {
            cluster_id: [1; 16],
        },
        Command::OpenNode {
            node: catena_protocol::ids::NodeId(1),
            host: named("broker-1.example"),
            port: 9640,
            shards: 2,
        },
        Command::CreateTopic {
            name: named("orders"),
            partitions: 3,
            config: TopicConfig::default(),
            created_ms: 1,
        },
        Command::DeleteTopic {
            name: named("orders"),
        },
        Command::AllocateProducers { count: 100 },
    ]
}

fn snapshot() -> MetadataState {
    let mut state = MetadataState::default();
    for command in commands().into_iter().take(3) {
        state.apply(&command);
    }
    state
}

/// Makes the crc of a page that carries one in its last four bytes right.
pub fn seal_page(page: &mut [u8; SEGMENT_PAGE_BYTES]) {
    let crc_at = SEGMENT_PAGE_BYTES - 4;
    let crc = crc32fast::hash(&page[..crc_at]);
    page[crc_at..].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the crc of the entry at the start of `bytes` right, if its lengths let it be found.
pub fn seal_entry(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = bytes.get(..ENTRY_HEADER_BYTES)?;
    let body_bytes = usize::try_from(u32_at(header, 36)).ok()?;
    let body = bytes[ENTRY_HEADER_BYTES..].get(..body_bytes)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..44]);
    if header[0] == 1 {
        let rows = usize::from(u16::from_le_bytes([header[40], header[41]])) * ROW_BYTES;
        hasher.update(body.get(..rows)?);
        let mut rest = &body[rows..];
        while !rest.is_empty() {
            hasher.update(rest.get(..BATCH_HEADER_BYTES)?);
            let length = usize::try_from(u32_at(rest, 20)).ok()?;
            rest = rest.get(length.max(BATCH_HEADER_BYTES)..)?;
        }
    } else {
        hasher.update(body);
    }
    let mut sealed = bytes.to_vec();
    sealed[44..48].copy_from_slice(&hasher.finalize().to_le_bytes());
    Some(sealed)
}

/// Makes the checksums of a sequence of envelopes right, and those inside chain sections and at
/// the end of a checkpoint, as far as their lengths let them be found.
pub fn seal_envelopes(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    let mut at = 0;
    while let Some(header) = sealed.get(at..at + ENVELOPE_BYTES) {
        let body_bytes = usize::try_from(u32_at(header, 8)).unwrap_or(usize::MAX);
        let body = at + ENVELOPE_BYTES;
        let Some(end) = body
            .checked_add(body_bytes)
            .filter(|end| *end <= sealed.len())
        else {
            break;
        };
        seal_inside(&mut sealed, at, body, end);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&sealed[at..at + 16]);
        hasher.update(&sealed[body..end]);
        sealed[at + 16..body].copy_from_slice(&hasher.finalize().to_le_bytes());
        at = end;
    }
    sealed
}

/// What lies in the body of an envelope and is a checksum, too.
fn seal_inside(bytes: &mut [u8], at: usize, body: usize, end: usize) {
    match &bytes[at..at + 4] {
        b"CtCs" if end - body >= 20 => {
            let fold_bytes = usize::try_from(u32_at(bytes, body + 16)).unwrap_or(usize::MAX);
            if let Some(fold) = bytes[body + 20..end].get(..fold_bytes) {
                let hash = xxhash_rust::xxh3::xxh3_128(fold);
                bytes[body..body + 16].copy_from_slice(&hash.to_le_bytes());
            }
        }
        b"CtCe" if end - body == 12 => {
            let crc = crc32fast::hash(&bytes[..at]);
            bytes[body + 8..end].copy_from_slice(&crc.to_le_bytes());
        }
        _ => {}
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(field)
}
