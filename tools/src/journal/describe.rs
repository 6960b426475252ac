//! Blocks, frames, records and batches in words and in JSON: one line each.

use std::fmt::Write as _;

use catena_core::block::BlockHeader;
use catena_core::entry::control::{DropTopic, ProducerExpiry, Trim, Truncate};
use catena_core::entry::{
    BatchRows, BatchView, EntryView, FrameHeader, FrameKind, RecordHeader, RecordKind,
};
use catena_core::ids::BlockLocation;
use catena_core::scan::{CorruptRange, TornTail};
use serde_json::{Value, json};

use crate::quantity::format_time;

/// A line of a dump, in both forms.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) json: Value,
}

pub(crate) fn block(location: &BlockLocation, header: &BlockHeader) -> Line {
    let text = format!(
        "  block {:>10}  {:>7} bytes  group {} ({}/{})  {} entries  flushed {}",
        location.offset,
        location.bytes,
        header.group_seq,
        header.group_index + 1,
        header.group_count,
        header.entry_count,
        header.flushed,
    );
    let json = json!({
        "kind": "block",
        "journal": location.journal.0,
        "segment": location.segment.0,
        "offset": location.offset,
        "bytes": location.bytes,
        "used": header.used,
        "group": header.group_seq,
        "group_index": header.group_index,
        "group_count": header.group_count,
        "entries": header.entry_count,
        "flushed_segment": header.flushed.segment.0,
        "flushed_offset": header.flushed.offset,
    });
    Line { text, json }
}

pub(crate) fn entry(view: &EntryView<'_>) -> Line {
    match view {
        EntryView::Batches(header, rows) => {
            let batches = rows.batches().count();
            let text = format!("{} partitions, {batches} batches", rows.row_count());
            let detail = json!({ "partitions": rows.row_count(), "batches": batches });
            frame(header, &text, &detail)
        }
        EntryView::Frame(header, body) => {
            let (text, detail) = control(header.kind, body);
            frame(header, &text, &detail)
        }
        EntryView::Record(header, body) => {
            let name = match header.kind {
                RecordKind::Promise => "promise",
                RecordKind::Truncate => "truncate",
                RecordKind::IndexPage => "index page",
                RecordKind::IndexDirectory => "index directory",
                RecordKind::Relocation => "relocation",
            };
            let mut text = format!("    record {name:<15}  {} bytes", header.bytes);
            let mut json = json!({
                "kind": "record",
                "record": name,
                "offset_in_block": header.offset_in_block,
                "bytes": header.bytes,
            });
            if matches!(header.kind, RecordKind::Promise | RecordKind::Truncate) {
                append(
                    &mut text,
                    &format!("  chain {} epoch {}", header.chain, header.epoch),
                );
                json["chain"] = header.chain.0.into();
                json["epoch"] = header.epoch.0.into();
            }
            if let Some(truncate) = Truncate::decode(body)
                .ok()
                .filter(|_| header.kind == RecordKind::Truncate)
            {
                append(&mut text, &format!("  keep lsn {}", truncate.keep));
                json["keep_lsn"] = truncate.keep.0.into();
            }
            Line { text, json }
        }
        EntryView::Relocation(header, rows) => relocation(header, rows),
        EntryView::Unknown(header, _) => {
            let number = header.kind.number();
            let weight = if header.kind.is_critical() {
                "critical"
            } else {
                "not critical"
            };
            Line {
                text: format!(
                    "    entry of unknown kind {number} ({weight})  {} bytes",
                    header.length
                ),
                json: json!({
                    "kind": "unknown",
                    "number": number,
                    "critical": header.kind.is_critical(),
                    "bytes": header.length,
                }),
            }
        }
    }
}

/// Batches that the cleaner copied from elsewhere.
fn relocation(header: &RecordHeader, rows: &BatchRows<'_>) -> Line {
    let batches = rows.batches().count();
    let (partitions, bytes) = (rows.row_count(), header.bytes);
    let text = format!(
        "    record relocation       {bytes} bytes  {partitions} partitions, {batches} batches"
    );
    let json = json!({
        "kind": "record",
        "record": "relocation",
        "offset_in_block": header.offset_in_block,
        "bytes": bytes,
        "detail": { "partitions": partitions, "batches": batches },
    });
    Line { text, json }
}

fn frame(header: &FrameHeader, what: &str, detail: &Value) -> Line {
    let name = match header.kind {
        FrameKind::Batches => "batches",
        FrameKind::Trim => "trim",
        FrameKind::DropTopic => "drop topic",
        FrameKind::ProducerExpiry => "producer expiry",
        FrameKind::Metadata => "metadata",
    };
    let FrameHeader {
        chain,
        epoch,
        lsn,
        bytes,
        ..
    } = *header;
    let text = format!(
        "    frame {name:<16}  {bytes} bytes  chain {chain} epoch {epoch} lsn {lsn}  {what}"
    );
    let json = json!({
        "kind": "frame",
        "frame": name,
        "offset_in_block": header.offset_in_block,
        "bytes": bytes,
        "chain": chain.0,
        "epoch": epoch.0,
        "lsn": lsn.0,
        "commit_lsn_hint": header.commit_lsn_hint.0,
        "prev_frame_crc": header.prev_frame_crc,
        "crc": header.crc,
        "detail": detail,
    });
    Line { text, json }
}

/// What a control frame does.
fn control(kind: FrameKind, body: &[u8]) -> (String, Value) {
    let unreadable = |error: &dyn std::fmt::Display| {
        (
            format!("unreadable: {error}"),
            json!({ "unreadable": error.to_string() }),
        )
    };
    match kind {
        FrameKind::Trim => match Trim::decode(body) {
            Ok(Trim {
                tp,
                log_start,
                dropped_bytes,
                ..
            }) => (
                format!("{tp} starts at {log_start}, {dropped_bytes} bytes dropped"),
                json!({
                    "topic": tp.topic.0,
                    "partition": tp.partition.0,
                    "log_start": log_start.0,
                    "dropped_bytes": dropped_bytes,
                }),
            ),
            Err(error) => unreadable(&error),
        },
        FrameKind::DropTopic => match DropTopic::decode(body) {
            Ok(DropTopic { topic }) => (format!("topic {topic}"), json!({ "topic": topic.0 })),
            Err(error) => unreadable(&error),
        },
        FrameKind::ProducerExpiry => match ProducerExpiry::decode(body) {
            Ok(ProducerExpiry { rows }) => (
                format!("{} producers", rows.len()),
                json!({ "producers": rows.len() }),
            ),
            Err(error) => unreadable(&error),
        },
        FrameKind::Batches | FrameKind::Metadata => (
            format!("{} bytes of body", body.len()),
            json!({ "body_bytes": body.len() }),
        ),
    }
}

pub(crate) fn batch(view: &BatchView<'_>) -> Line {
    let header = &view.header;
    let text = format!(
        "      batch {}  offsets [{}, {})  {} bytes  {} records  {:?}  appended {}",
        view.tp,
        header.base_offset,
        header.next_offset(),
        header.length,
        header.record_count,
        header.codec,
        format_time(header.append_time_ms),
    );
    let json = json!({
        "kind": "batch",
        "topic": view.tp.topic.0,
        "partition": view.tp.partition.0,
        "base_offset": header.base_offset.0,
        "next_offset": header.next_offset().0,
        "bytes": header.length,
        "records": header.record_count,
        "codec": format!("{:?}", header.codec).to_lowercase(),
        "append_time_ms": header.append_time_ms,
        "max_timestamp_ms": header.max_timestamp_ms(),
        "producer": header.producer_id.0,
        "producer_epoch": header.producer_epoch.0,
        "sequence": header.sequence.0,
        "batch_crc": header.batch_crc,
    });
    Line { text, json }
}

pub(crate) fn corrupt(range: &CorruptRange) -> Line {
    let CorruptRange {
        segment,
        start,
        end,
        what,
    } = range;
    Line {
        text: format!("corrupt {segment} [{start}, {end})  {what}"),
        json: json!({
            "kind": "corrupt",
            "segment": segment.0,
            "start": start,
            "end": end,
            "what": what.to_string(),
        }),
    }
}

pub(crate) fn torn(tail: &TornTail) -> Line {
    Line {
        text: format!("torn {}  {} bytes", tail.at, tail.bytes),
        json: json!({
            "kind": "torn",
            "segment": tail.at.segment.0,
            "offset": tail.at.offset,
            "bytes": tail.bytes,
        }),
    }
}

fn append(text: &mut String, more: &str) {
    write!(text, "{more}").expect("writing to a string succeeds");
}
