//! `catena offsets`: what each partition of a topic holds.

use std::fmt::Display;

use catena_client::{Admin, OffsetSpec};
use serde::Serialize;
use serde_json::json;

use crate::cli::{Connection, Offsets};
use crate::connect::connect;
use crate::exit::Failure;
use crate::stdout;

/// The offsets of one partition: readers may see `[log_start, high_watermark)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct PartitionOffsets {
    pub(crate) partition: u32,
    pub(crate) log_start: u64,
    pub(crate) high_watermark: u64,
}

pub(crate) async fn run(connection: &Connection, args: Offsets) -> anyhow::Result<()> {
    let client = connect(connection).await?;
    let offsets = read(&client.admin(), &args.topic).await?;
    if args.format.json {
        return stdout::print_line(json!(offsets));
    }
    let mut text = line("PARTITION", "LOG START", "HIGH WATERMARK", "MESSAGES");
    for PartitionOffsets {
        partition,
        log_start,
        high_watermark,
    } in offsets
    {
        let messages = high_watermark.saturating_sub(log_start);
        text += &line(partition, log_start, high_watermark, messages);
    }
    stdout::print(text)
}

fn line(
    partition: impl Display,
    log_start: impl Display,
    high_watermark: impl Display,
    messages: impl Display,
) -> String {
    format!("{partition:>9}  {log_start:>16}  {high_watermark:>16}  {messages:>16}\n")
}

/// The offsets of all partitions, by partition.
pub(crate) async fn read(admin: &Admin, topic: &str) -> Result<Vec<PartitionOffsets>, Failure> {
    let starts = admin.list_offsets(topic, OffsetSpec::Earliest).await?;
    let ends = admin.list_offsets(topic, OffsetSpec::Latest).await?;
    // Both are sorted by partition; partitions added in between have no start yet.
    let offsets = starts
        .iter()
        .zip(&ends)
        .map(|(start, end)| PartitionOffsets {
            partition: start.partition,
            log_start: start.offset,
            high_watermark: end.offset,
        });
    Ok(offsets.collect())
}
