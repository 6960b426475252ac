//! The bytes of every sample, pinned. A failure here means that old peers or old data would no
//! longer be understood. To add a sample, run the tests with `CATENA_GOLDEN_WRITE=1` and read the
//! new file; a file that is there is never to change within a version.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use catena_protocol::batch::{
    BATCH_HEADER_BYTES, BatchReader, Decompressor, verify_body, verify_header,
};
use catena_protocol::compression::Codec;
use catena_protocol::error::DecodeError;
use catena_protocol::frame::{FramePrefix, PREFIX_BYTES};
use catena_protocol::ids::{Durability, Offset, SessionId};
use catena_protocol::messages::{
    AckView, AlterTopicRequest, AlterTopicResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse,
    ErrorResponse, FetchRequest, FetchView, HelloRequest, HelloResponse, InitProducerRequest,
    InitProducerResponse, ListOffsetsRequest, ListOffsetsResponse, Message, MetadataRequest,
    MetadataResponse, ProduceView,
};

use crate::samples;

fn path_of(name: &str) -> PathBuf {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    PathBuf::from(golden).join(name).with_extension("hex")
}

/// The bytes of a golden file: hex digits, blanks and line ends between them ignored.
pub(crate) fn read(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(path_of(name)).expect("the golden file is in the source tree");
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let pair = str::from_utf8(pair).expect("hex digits are ASCII");
        u8::from_str_radix(pair, 16).expect("two hex digits are a byte")
    };
    digits.chunks(2).map(byte).collect()
}

fn write(name: &str, bytes: &[u8]) {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        for byte in line {
            write!(text, "{byte:02x} ").expect("writing to a string can not fail");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    fs::write(path_of(name), text).expect("the golden directory can be written");
}

fn assert_golden(name: &str, bytes: &[u8]) {
    if std::env::var_os("CATENA_GOLDEN_WRITE").is_some() && !path_of(name).exists() {
        write(name, bytes);
    }
    assert_eq!(read(name), bytes, "the bytes of {name} changed");
}

#[test]
fn samples_have_their_golden_bytes() {
    for (name, bytes) in samples::all() {
        assert_golden(name, &bytes);
    }
}

#[test]
fn every_golden_file_is_tested() {
    let golden = fs::read_dir(path_of("x").parent().expect("the file has a directory"));
    let mut names: Vec<String> = golden
        .expect("the golden directory is in the source tree")
        .map(|entry| entry.expect("the directory can be read").path())
        .map(|path| {
            path.file_stem()
                .expect("a file")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    let mut tested: Vec<_> = samples::all()
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    tested.extend(["batch_lz4", "batch_zstd"].map(str::to_owned));
    tested.sort();
    assert_eq!(names, tested);
}

/// The header of the golden frame, its prefix and checksum checked.
fn golden_header(name: &str) -> (FramePrefix, Vec<u8>, Vec<u8>) {
    let bytes = read(name);
    let (prefix, rest) = bytes
        .split_first_chunk::<PREFIX_BYTES>()
        .expect("a frame has a prefix");
    let prefix = FramePrefix::decode(prefix).expect("the golden prefix is inside the limits");
    assert_eq!(prefix.length as usize, bytes.len());
    let (header, payload) = rest.split_at(prefix.header_bytes as usize);
    prefix.verify(header).expect("the golden frame is whole");
    (prefix, header.to_vec(), payload.to_vec())
}

fn assert_decodes<M: Message + PartialEq + std::fmt::Debug>(name: &str, expected: &M) {
    let (prefix, header, payload) = golden_header(name);
    assert_eq!(prefix.api, M::API.to_wire());
    assert_eq!(prefix.is_response(), M::IS_RESPONSE);
    assert_eq!(prefix.correlation, samples::CORRELATION);
    assert_eq!(payload, b"");
    assert_eq!(M::decode(&header).as_ref(), Ok(expected), "{name}");
}

#[test]
fn golden_tables_decode_to_the_samples() {
    assert_decodes::<ErrorResponse>("error_response", &samples::error_response());
    assert_decodes::<HelloRequest>("hello_request", &samples::hello_request());
    assert_decodes::<HelloResponse>("hello_response", &samples::hello_response());
    assert_decodes::<MetadataRequest>("metadata_request", &samples::metadata_request());
    assert_decodes::<MetadataResponse>("metadata_response", &samples::metadata_response());
    assert_decodes::<CreateTopicRequest>("create_topic_request", &samples::create_topic_request());
    assert_decodes::<CreateTopicResponse>(
        "create_topic_response",
        &samples::create_topic_response(),
    );
    assert_decodes::<DeleteTopicRequest>("delete_topic_request", &samples::delete_topic_request());
    assert_decodes(
        "delete_topic_response",
        &DeleteTopicResponse {
            metadata_version: 12,
        },
    );
    assert_decodes::<AlterTopicRequest>("alter_topic_request", &samples::alter_topic_request());
    assert_decodes(
        "alter_topic_response",
        &AlterTopicResponse {
            metadata_version: 13,
        },
    );
    assert_decodes(
        "describe_topic_request",
        &DescribeTopicRequest {
            name: "orders".into(),
        },
    );
    assert_decodes::<DescribeTopicResponse>(
        "describe_topic_response",
        &samples::describe_topic_response(),
    );
    assert_decodes::<FetchRequest>("fetch_request", &samples::fetch_request());
    assert_decodes::<ListOffsetsRequest>("list_offsets_request", &samples::list_offsets_request());
    assert_decodes::<ListOffsetsResponse>(
        "list_offsets_response",
        &samples::list_offsets_response(),
    );
    assert_decodes("init_producer_request", &InitProducerRequest {});
    assert_decodes::<InitProducerResponse>(
        "init_producer_response",
        &samples::init_producer_response(),
    );
}

#[test]
fn the_golden_produce_request_decodes() {
    let (prefix, header, payload) = golden_header("produce_request");
    let view = ProduceView::decode(&header, prefix.payload_bytes()).expect("it is well formed");
    assert_eq!(view.durability(), Durability::Received);
    assert_eq!(view.timeout_ms(), 30_000);
    assert_eq!(view.items().collect::<Vec<_>>(), samples::produce_items());
    for (_, place) in view.items_in_payload() {
        assert_eq!(payload[place], samples::batch(Codec::None));
    }
    let short = ProduceView::decode(&header, prefix.payload_bytes() - 8);
    assert!(matches!(
        short,
        Err(DecodeError::Length {
            what: "produce payload",
            ..
        })
    ));
}

#[test]
fn the_golden_ack_decodes() {
    let (prefix, header, _) = golden_header("produce_ack");
    assert_eq!(prefix.correlation.get(), 0);
    let view = AckView::decode(&header).expect("it is well formed");
    assert_eq!(view.items().collect::<Vec<_>>(), samples::ack_items());
}

#[test]
fn the_golden_fetch_response_decodes() {
    let (prefix, header, payload) = golden_header("fetch_response");
    let view = FetchView::decode(&header, prefix.payload_bytes()).expect("it is well formed");
    assert_eq!(view.session(), SessionId(6));
    let items: Vec<_> = view.items_in_payload().collect();
    assert_eq!(
        items.iter().map(|(item, _)| *item).collect::<Vec<_>>(),
        samples::fetch_items()
    );
    assert_eq!(payload[items[0].1.clone()], samples::batch(Codec::None));
    assert!(items[1].1.is_empty());
}

fn assert_batch_reads(batch: &[u8], codec: Codec) {
    let header = batch
        .first_chunk::<BATCH_HEADER_BYTES>()
        .expect("a batch has a header");
    assert_eq!(verify_header(header, samples::PLACE), Ok(()));
    assert_eq!(verify_body(batch), Ok(()));
    let mut decompressor = Decompressor::default();
    let reader = BatchReader::open(batch, &mut decompressor).expect("it is well formed");
    assert_eq!(reader.header().codec, codec);
    let records: Vec<_> = reader
        .map(|record| record.expect("it is well formed"))
        .collect();
    assert_eq!(records.len(), samples::records().len());
    for ((record, sample), offset) in records.iter().zip(samples::records()).zip(1_000..) {
        assert_eq!(record.offset, Offset(offset));
        assert_eq!(record.timestamp_ms, sample.timestamp_ms);
        assert_eq!((record.key, record.value), (sample.key, sample.value));
        assert_eq!(record.headers.clone().collect::<Vec<_>>(), sample.headers);
        assert_eq!(record.extensions, sample.extensions);
    }
}

#[test]
fn the_golden_batch_reads() {
    assert_batch_reads(&read("batch"), Codec::None);
}

/// Compressed bytes may change with a codec's version, so only the reading is pinned.
#[cfg(feature = "compression")]
#[test]
fn golden_compressed_batches_read() {
    for (name, codec) in [("batch_lz4", Codec::Lz4), ("batch_zstd", Codec::Zstd)] {
        if std::env::var_os("CATENA_GOLDEN_WRITE").is_some() && !path_of(name).exists() {
            write(name, &samples::batch(codec));
        }
        assert_batch_reads(&read(name), codec);
    }
}
