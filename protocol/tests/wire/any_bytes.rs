//! Whatever bytes arrive, every decoder answers; none panics.

use catena_protocol::batch::{
    BATCH_HEADER_BYTES, BatchHeader, BatchReader, Decompressor, Records, split, verify_body,
    verify_header,
};
use catena_protocol::frame::{FramePrefix, PREFIX_BYTES};
use catena_protocol::messages::{
    AckView, AlterTopicRequest, AlterTopicResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse,
    ErrorResponse, FetchRequest, FetchView, HelloRequest, HelloResponse, InitProducerRequest,
    InitProducerResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
    MetadataResponse, ProduceView,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::{golden, samples};

/// Gives `bytes` to every decoder, as a frame, a header and a batch.
fn decode_everything(bytes: &[u8]) {
    if let Some((prefix, header)) = bytes.split_first_chunk::<PREFIX_BYTES>() {
        if let Ok(prefix) = FramePrefix::decode(prefix) {
            let _ = prefix.verify(header);
            decode_header(header, prefix.payload_bytes());
        }
        decode_header(header, 0);
    }
    decode_header(bytes, 0);
    decode_batch(bytes);
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

fn decode_batch(bytes: &[u8]) {
    split(bytes).for_each(drop);
    let _ = verify_body(bytes);
    if let Some(header) = bytes.first_chunk::<BATCH_HEADER_BYTES>() {
        let _ = verify_header(header, samples::PLACE);
    }
    let mut decompressor = Decompressor::default();
    if let Ok(reader) = BatchReader::open(bytes, &mut decompressor) {
        reader
            .flatten()
            .for_each(|record| record.headers.for_each(drop));
    }
}

fn golden_bytes() -> impl Strategy<Value = Vec<u8>> {
    let mut names: Vec<_> = samples::all().into_iter().map(|(name, _)| name).collect();
    if cfg!(feature = "compression") {
        names.extend(["batch_lz4", "batch_zstd"]);
    }
    let all: Vec<_> = names.into_iter().map(golden::read).collect();
    proptest::sample::select(all)
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_everything(&bytes);
    }

    #[test]
    fn damaged_bytes_never_panic(
        mut bytes in golden_bytes(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..8),
        keep in proptest::option::of(any::<Index>()),
    ) {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        decode_everything(&bytes);
    }

    #[test]
    fn random_records_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        record_count in 0_u16..20,
        last_offset_delta: u16,
    ) {
        let header = BatchHeader { record_count, last_offset_delta, ..BatchHeader::default() };
        let records = Records::new(&header, &bytes);
        prop_assert!(records.clone().count() <= usize::from(record_count));
        records.flatten().for_each(|record| record.headers.for_each(drop));
    }
}
