//! Every bound of the wire and batch formats.
//!
//! Invariant: sizes are checked against these before anything is allocated, and the assertions
//! below hold the bounds in their relations at compile time. Units are in the names.

/// Bytes of a response frame, prefix and payload included.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Bytes of a request frame, prefix and payload included.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// Bytes of a frame's header (what lies between the prefix and the payload).
pub const HEADER_BYTES_MAX: usize = 4 << 20;

/// Bytes of a batch, header and padding included. 16 KiB less than the 1 MiB of a commit block,
/// so that a batch always fits into one with its frame.
pub const BATCH_BYTES_MAX: usize = (1 << 20) - (16 << 10);

/// Offsets that one batch spans (the last is a u16, relative to the first).
pub const BATCH_OFFSETS_MAX: u64 = 1 << 16;

/// Bytes, before compression, from which on compaction begins another batch for the rest of the
/// records of one: small enough to be compressed in well below a millisecond.
pub const REWRITTEN_BYTES_MIN: usize = 64 << 10;

/// Bytes of a batch's record section after decompression.
pub const DECOMPRESSED_BYTES_MAX: usize = 8 << 20;

/// Bytes of a batch's record section after decompression, in a topic that is compacted by key: the
/// broker looks at every record of it.
pub const KEYED_RECORDS_BYTES_MAX: usize = 1 << 20;

/// Records of one batch (the count is a u16).
pub const RECORDS_PER_BATCH_MAX: usize = 65_535;

/// Headers of one record.
pub const HEADERS_PER_RECORD_MAX: usize = 1_024;

/// Bytes of the name of a record's header.
pub const HEADER_NAME_BYTES_MAX: usize = 32_767;

/// Items of one produce request (the count is a u16).
pub const PRODUCE_ITEMS_MAX: usize = 65_535;

/// Items of one produce ack frame.
pub const ACK_ITEMS_MAX: usize = 65_535;

/// Items of one fetch response.
pub const FETCH_ITEMS_MAX: usize = 65_535;

/// Partitions that one fetch request adds, and that it removes; also the most of one session.
pub const FETCH_INTERESTS_MAX: usize = 100_000;

/// Requests of one fetch session that may wait for their answers.
pub const FETCH_REQUESTS_OUTSTANDING_MAX: usize = 4;

/// Items of one list-offsets request.
pub const LIST_OFFSETS_ITEMS_MAX: usize = 65_535;

/// Topic names in one metadata request.
pub const METADATA_TOPICS_MAX: usize = 10_000;

/// Topics in one page of a metadata response.
pub const METADATA_PAGE_TOPICS_MAX: usize = 4_096;

/// Partition ranges in one page of a metadata response.
pub const METADATA_PAGE_RANGES_MAX: usize = 65_536;

/// Chains in one metadata response.
pub const METADATA_CHAINS_MAX: usize = 16_384;

/// Nodes in one metadata response.
pub const METADATA_NODES_MAX: usize = 1_024;

/// Bytes of a topic's name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Bytes of a class's name.
pub const CLASS_NAME_BYTES_MAX: usize = 64;

/// Bytes of a host name in metadata.
pub const HOST_BYTES_MAX: usize = 255;

/// Bytes of the client's and the server's name in a hello.
pub const PEER_NAME_BYTES_MAX: usize = 255;

/// Bytes of authentication in one hello.
pub const AUTH_BYTES_MAX: usize = 64 << 10;

/// Bytes of the text in an error reply.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 1_024;

/// Tables in one flatbuffers header, at any depth.
pub const VERIFIER_TABLES_MAX: usize = 100_000;

/// Depth of tables in a flatbuffers header.
pub const VERIFIER_DEPTH_MAX: usize = 8;

/// Bytes of a flatbuffers header if everything that is shared in it were written out.
pub const VERIFIER_APPARENT_BYTES_MAX: usize = 4 * HEADER_BYTES_MAX;

const _: () = {
    assert!(
        size_of::<usize>() >= size_of::<u32>(),
        "u32 sizes fit into usize"
    );
    assert!(FRAME_BYTES_MAX <= u32::MAX as usize);
    assert!(HEADER_BYTES_MAX < REQUEST_BYTES_MAX && REQUEST_BYTES_MAX <= FRAME_BYTES_MAX);
    assert!(BATCH_BYTES_MAX.is_multiple_of(8) && BATCH_BYTES_MAX < REQUEST_BYTES_MAX);
    assert!(BATCH_BYTES_MAX <= DECOMPRESSED_BYTES_MAX);
    assert!(BATCH_BYTES_MAX <= KEYED_RECORDS_BYTES_MAX);
    assert!(KEYED_RECORDS_BYTES_MAX <= DECOMPRESSED_BYTES_MAX);
    assert!(BATCH_OFFSETS_MAX == u16::MAX as u64 + 1);
    assert!(REWRITTEN_BYTES_MIN < BATCH_BYTES_MAX);
    assert!(8 + PRODUCE_ITEMS_MAX * 16 <= HEADER_BYTES_MAX);
    assert!(ACK_ITEMS_MAX * 16 <= HEADER_BYTES_MAX);
    assert!(8 + FETCH_ITEMS_MAX * 40 <= HEADER_BYTES_MAX);
    assert!(FETCH_INTERESTS_MAX * (24 + 8) + 1_024 <= HEADER_BYTES_MAX);
    assert!(LIST_OFFSETS_ITEMS_MAX * 32 + 1_024 <= HEADER_BYTES_MAX);
    assert!(METADATA_TOPICS_MAX * (TOPIC_NAME_BYTES_MAX + 16) <= HEADER_BYTES_MAX);
    let topics = METADATA_PAGE_TOPICS_MAX * (TOPIC_NAME_BYTES_MAX + CLASS_NAME_BYTES_MAX + 128);
    let nodes = METADATA_NODES_MAX * (HOST_BYTES_MAX + 64);
    let structs = METADATA_PAGE_RANGES_MAX * 24 + METADATA_CHAINS_MAX * 16;
    assert!(topics + nodes + structs <= HEADER_BYTES_MAX);
    assert!(2 * METADATA_PAGE_TOPICS_MAX + METADATA_NODES_MAX < VERIFIER_TABLES_MAX);
};
