//! What is done with foreign bytes: one function for each parser of them.
//!
//! Each takes any bytes and must return: no panic, no overflow, no memory beyond a small multiple
//! of the input. Where the parser has an inverse, what was accepted must come back the same.
//! `cargo fuzz` drives them with coverage; `tests/smoke.rs` feeds them seeds and damaged seeds
//! without it. The seeds are made from the golden files of the formats (`seeds`).

pub mod seeds;

use catena_core::block::{BLOCK_HEADER_BYTES, BlockHeader, parse_block};
use catena_core::checkpoint::ShardCheckpoint;
use catena_core::entry::EntryView;
use catena_core::entry::control::{DropTopic, ProducerExpiry, Trim, Truncate};
use catena_core::ids::{BlockLocation, JournalId, JournalPos, SegmentSeq};
use catena_core::index::run::{RunDirectory, RunPage};
use catena_core::ledger::LedgerSlot;
use catena_core::log::ShardLog;
use catena_core::metadata::{Command, MetadataState};
use catena_core::one_bit;
use catena_core::recover::FrameSummary;
use catena_core::scan::{JournalScan, ScanInput, ScanStep};
use catena_core::sealed_text;
use catena_core::segment::{SEGMENT_PAGE_BYTES, SegmentHeader};
use catena_protocol::batch::{
    BATCH_HEADER_BYTES, BatchHeader, BatchReader, Decompressor, Records, split, verify_body,
    verify_header,
};
use catena_protocol::frame::{FramePrefix, PREFIX_BYTES};
use catena_protocol::ids::{ChainEpoch, PartitionId, TopicId, TopicPartition};
use catena_protocol::messages::{
    AckView, AlterTopicRequest, AlterTopicResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse,
    ErrorResponse, FetchRequest, FetchView, HelloRequest, HelloResponse, InitProducerRequest,
    InitProducerResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
    MetadataResponse, ProduceView,
};

/// A target: its name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("frame", frame),
    ("requests", requests),
    ("batch", batch),
    ("block", block),
    ("scan", scan),
    ("checkpoint", checkpoint),
    ("ledger", ledger),
    ("metadata", metadata),
    #[cfg(feature = "config")]
    ("config", config),
];

/// The partition that batches are checked against.
const PLACE: TopicPartition = TopicPartition {
    topic: TopicId(1),
    partition: PartitionId(2),
};

/// A frame as it comes off a socket: prefix, header, payload.
pub fn frame(data: &[u8]) {
    let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_BYTES>() else {
        return;
    };
    let Ok(prefix) = FramePrefix::decode(prefix) else {
        return;
    };
    let header_bytes = usize::try_from(prefix.header_bytes).expect("u32 fits usize");
    if let Some(header) = rest.get(..header_bytes) {
        let _ = prefix.verify(header);
        decode_header(header, prefix.payload_bytes());
    }
    let again = FramePrefix::decode(&prefix.encode());
    assert_eq!(
        again.as_ref(),
        Ok(&prefix),
        "what was accepted is what is sent"
    );
}

/// A header of any api, as if its checksum had been right. The first two bytes say how long the
/// payload behind it is.
pub fn requests(data: &[u8]) {
    let Some((payload_bytes, header)) = data.split_first_chunk::<2>() else {
        return;
    };
    decode_header(header, u16::from_le_bytes(*payload_bytes).into());
}

fn decode_header(header: &[u8], payload_bytes: u32) {
    let _ = ErrorResponse::decode(header);
    let _ = HelloRequest::decode(header);
    let _ = HelloResponse::decode(header);
    let _ = MetadataRequest::decode(header);
    let _ = MetadataResponse::decode(header);
    let _ = CreateTopicRequest::decode(header);
    let _ = CreateTopicResponse::decode(header);
    let _ = DeleteTopicRequest::decode(header);
    let _ = DeleteTopicResponse::decode(header);
    let _ = AlterTopicRequest::decode(header);
    let _ = AlterTopicResponse::decode(header);
    let _ = DescribeTopicRequest::decode(header);
    let _ = DescribeTopicResponse::decode(header);
    let _ = FetchRequest::decode(header);
    let _ = ListOffsetsRequest::decode(header);
    let _ = ListOffsetsResponse::decode(header);
    let _ = InitProducerRequest::decode(header);
    let _ = InitProducerResponse::decode(header);
    if let Ok(view) = ProduceView::decode(header, payload_bytes) {
        view.items_in_payload().for_each(drop);
    }
    if let Ok(view) = AckView::decode(header) {
        view.items().for_each(drop);
    }
    if let Ok(view) = FetchView::decode(header, payload_bytes) {
        view.items_in_payload().for_each(drop);
    }
}

/// A batch, its checksums, its records, compressed or not. The records are also read as if the
/// body's checksum had been right, which a fuzzer does not find.
pub fn batch(data: &[u8]) {
    split(data).for_each(drop);
    let _ = verify_body(data);
    if let Some(header) = data.first_chunk::<BATCH_HEADER_BYTES>() {
        let _ = verify_header(header, PLACE);
    }
    let mut decompressor = Decompressor::default();
    if let Ok(reader) = BatchReader::open(data, &mut decompressor) {
        for record in reader.flatten() {
            record.headers.for_each(drop);
        }
    }
    if let Ok(header) = BatchHeader::decode(data) {
        let records = data.get(BATCH_HEADER_BYTES..).unwrap_or_default();
        let found = Records::new(&header, records);
        assert!(found.clone().count() <= usize::from(header.record_count));
        for record in found.flatten() {
            record.headers.for_each(drop);
        }
    }
}

/// A commit block. The checksums of block and entries are made right first, so that what they
/// guard is reached; then the block is read as it came, too.
pub fn block(data: &[u8]) {
    let _ = parse_block(data, 0, SegmentSeq(1), 4096);
    read_entry(data);
    let Some(header) = data.get(..BLOCK_HEADER_BYTES) else {
        return;
    };
    let BlockHeader {
        segment, position, ..
    } = BlockHeader::decode(header);
    if let Ok(view) = parse_block(data, seeds::SALT, segment, position) {
        assert!(view.entries().count() <= data.len());
        view.damaged_batches().for_each(drop);
    }
}

/// An entry alone, with the checksum that its bytes ask for.
fn read_entry(data: &[u8]) {
    let Some(sealed) = seeds::seal_entry(data) else {
        return;
    };
    let Ok(entry) = EntryView::parse(&sealed, 64) else {
        return;
    };
    let block = BlockLocation {
        journal: JournalId(1),
        segment: SegmentSeq(1),
        offset: 4096,
        bytes: 1 << 20,
    };
    let frame = FrameSummary::from_entry(&entry, block);
    match entry {
        EntryView::Batches(_, rows) | EntryView::Relocation(_, rows) => {
            for batch in rows.batches() {
                let _ = batch.verify();
            }
        }
        EntryView::Frame(_, body) | EntryView::Record(_, body) => {
            let _ = Trim::decode(body);
            let _ = DropTopic::decode(body);
            let _ = ProducerExpiry::decode(body);
            let _ = Truncate::decode(body);
            let _ = RunPage::decode(body);
            let _ = RunDirectory::decode(body);
            let _ = Command::decode(body);
        }
        EntryView::Unknown(..) => {}
    }
    let Some(frame) = frame else { return };
    let mut log = ShardLog::default();
    let section = catena_core::checkpoint::ChainSection::fresh(frame.chain);
    if log.open_chain(section, ChainEpoch(1)).is_ok() {
        let _ = log.fold(&frame);
    }
}

/// A segment file behind a good header: the scan must end, and never below what was flushed.
pub fn scan(data: &[u8]) {
    let Some((flushed, blocks)) = data.split_first_chunk::<1>() else {
        return;
    };
    let header = seeds::segment_header();
    let flushed = JournalPos::new(header.segment, u32::from(flushed[0] % 16) * 4096);
    let ledger = LedgerSlot {
        journal: header.journal,
        sequence: 1,
        flushed,
        group_seq: 0,
    };
    let mut file = header.encode().to_vec();
    file.extend_from_slice(blocks);
    let mut scan = JournalScan::new(ScanInput {
        journal: header.journal,
        segments: vec![header],
        ledger: Some(ledger),
        start: None,
    });
    let mut last = 0;
    loop {
        match scan.next() {
            ScanStep::Read { offset, bytes, .. } => {
                let [from, to] = [offset, offset + bytes]
                    .map(|at| usize::try_from(at).expect("u32 fits usize").min(file.len()));
                scan.supply(&file[from..to], &mut |at, view| {
                    assert!(at.offset >= last, "blocks come in order");
                    last = at.offset + at.bytes;
                    view.entries().for_each(drop);
                });
            }
            ScanStep::Done(outcome) => {
                assert!(outcome.end >= flushed, "what was flushed is not cut");
                return;
            }
        }
    }
}

/// A checkpoint file, and the directories of index runs.
pub fn checkpoint(data: &[u8]) {
    if let Ok(checkpoint) = ShardCheckpoint::decode(data) {
        let encoded = checkpoint.encode();
        assert_eq!(
            data.get(..encoded.len()),
            Some(&encoded[..]),
            "one form only"
        );
        let mut log = ShardLog::default();
        for section in checkpoint.chains {
            let epoch = section.epoch();
            let _ = log.open_chain(section, epoch);
        }
    }
    let sealed = seeds::seal_envelopes(data);
    if let Ok(checkpoint) = ShardCheckpoint::decode(&sealed) {
        let mut log = ShardLog::default();
        for section in checkpoint.chains {
            let epoch = section.epoch();
            let _ = log.open_chain(section, epoch);
        }
    }
    let _ = RunDirectory::decode(data);
    let _ = RunDirectory::decode(&sealed);
    let _ = RunPage::decode(&sealed);
}

/// The flush ledger, the header page of a segment, as they came and with their checksum right, and
/// a sealed text.
pub fn ledger(data: &[u8]) {
    let _ = sealed_text::check(data);
    let _ = LedgerSlot::newest(data, JournalId(3));
    let mut page = [0; SEGMENT_PAGE_BYTES];
    let bytes = data.len().min(page.len());
    page[..bytes].copy_from_slice(&data[..bytes]);
    let _ = SegmentHeader::decode(&page);
    let _ = one_bit::segment_header(&page);
    seeds::seal_page(&mut page);
    if let Some(slot) = LedgerSlot::decode(&page) {
        assert_eq!(LedgerSlot::decode(&slot.encode()), Some(slot));
    }
    if let Ok(header) = SegmentHeader::decode(&page) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
}

/// A metadata command and a snapshot; what is accepted is applied.
pub fn metadata(data: &[u8]) {
    if let Ok(command) = Command::decode(data) {
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
        let mut state = MetadataState::default();
        if state.validate(&command).is_ok() {
            state.apply(&command);
        }
    }
    for bytes in [data, &seeds::seal_envelopes(data)] {
        if let Ok(state) = MetadataState::decode(bytes) {
            let again = MetadataState::decode(&state.encode());
            assert!(again.is_ok(), "what was accepted can be written and read");
        }
    }
}

/// A config file.
#[cfg(feature = "config")]
pub fn config(data: &[u8]) {
    use std::path::Path;

    use catena_broker::config::Settings;

    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(settings) = Settings::from_toml(text, Path::new("broker.toml")) {
        let text = toml::to_string(&settings).expect("settings can be written");
        let again = Settings::from_toml(&text, Path::new("again.toml"));
        assert_eq!(
            again.ok(),
            Some(settings),
            "settings are read as they are written"
        );
    }
}
