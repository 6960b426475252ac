//! `ListOffsets`: the ends of a partition, and the offset at a time.
//!
//! Runs on the shard's executor; a look-up by time may read index pages and one block.

use std::rc::Rc;

use catena_protocol::batch::split;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Offset, TopicPartition};
use catena_protocol::messages::{
    ListOffsetsItem, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsResult, OffsetSpec,
};

use super::Shard;
use super::reader::ReadError;
use super::topics::ReplyTo;
use crate::runtime::executor::{self, Queue};

/// `timestamp_ms` of an answer that has none.
const TIMESTAMP_NONE: i64 = -1;

/// Answers a request; in a task of its own when it has to read.
pub fn list(shard: &Rc<Shard>, to: ReplyTo, request: ListOffsetsRequest) {
    let by_time = request
        .items
        .iter()
        .any(|item| matches!(item.spec, OffsetSpec::Time(_)));
    if !by_time {
        let items = request
            .items
            .iter()
            .map(|item| end_of(shard, item))
            .collect();
        return reply(&to, items);
    }
    let shard_in_task = Rc::clone(shard);
    shard.tasks.spawn(Queue::Cold, async move {
        let mut items = Vec::with_capacity(request.items.len());
        for item in &request.items {
            items.push(match item.spec {
                OffsetSpec::Time(at_ms) => at_time(&shard_in_task, item.tp(), at_ms).await,
                OffsetSpec::Earliest | OffsetSpec::Latest => end_of(&shard_in_task, item),
            });
            executor::yield_if_needed().await;
        }
        reply(&to, items);
    });
}

fn reply(to: &ReplyTo, items: Vec<ListOffsetsResult>) {
    let mut frame = Vec::new();
    ListOffsetsResponse { items }.encode(to.correlation, &mut frame);
    to.connection.send(frame);
}

fn end_of(shard: &Shard, item: &ListOffsetsItem) -> ListOffsetsResult {
    let log = shard.log.borrow();
    let partition = log.partition(item.tp());
    match partition.filter(|_| shard.has_topic(item.topic)) {
        None => refused(item.tp(), shard.not_here(item.tp())),
        Some(partition) => found(
            item.tp(),
            match item.spec {
                OffsetSpec::Earliest => partition.log_start,
                OffsetSpec::Latest | OffsetSpec::Time(_) => partition.high_watermark,
            },
            TIMESTAMP_NONE,
        ),
    }
}

/// The first record with a timestamp of at least `at_ms`; the high watermark if there is none.
async fn at_time(shard: &Rc<Shard>, tp: TopicPartition, at_ms: i64) -> ListOffsetsResult {
    let ends = shard
        .log
        .borrow()
        .partition(tp)
        .filter(|_| shard.has_topic(tp.topic))
        .map(|p| (p.log_start, p.high_watermark));
    let Some((log_start, high_watermark)) = ends else {
        return refused(tp, shard.not_here(tp));
    };
    match search(shard, tp, log_start, at_ms).await {
        Ok(Some((offset, timestamp_ms))) => found(tp, offset.max(log_start), timestamp_ms),
        Ok(None) => found(tp, high_watermark, TIMESTAMP_NONE),
        Err(error) => {
            shard.report_read_error(tp, log_start, &error);
            let code = match error {
                ReadError::Io { .. } | ReadError::Rebuilding { .. } => ErrorCode::Internal,
                ReadError::Corrupt { .. }
                | ReadError::Unindexed { .. }
                | ReadError::Missing { .. } => ErrorCode::DataCorrupt,
            };
            refused(tp, (code, 0))
        }
    }
}

async fn search(
    shard: &Rc<Shard>,
    tp: TopicPartition,
    log_start: Offset,
    at_ms: i64,
) -> Result<Option<(Offset, i64)>, ReadError> {
    let Some(mut extent) = shard.extent_at_time(tp, log_start, at_ms).await? else {
        return Ok(None);
    };
    let batches = loop {
        match shard.reader.extent(std::iter::once((tp, extent))).await {
            Ok(batches) => break batches,
            Err(error) => {
                // It may have been moved, and the place freed, since it was looked up.
                let again = shard.extent_at_time(tp, log_start, at_ms).await?;
                extent = again.filter(|e| e.block != extent.block).ok_or(error)?;
            }
        }
    };
    // Records are inside compressed batches, so the answer is exact to a batch, not to a record.
    for batch in split(batches.as_slice()) {
        let Ok((header, _)) = batch else { break };
        if header.max_timestamp_ms() >= at_ms {
            return Ok(Some((header.base_offset, header.max_timestamp_ms())));
        }
    }
    Ok(Some((extent.base_offset, extent.max_timestamp_ms)))
}

fn found(tp: TopicPartition, offset: Offset, timestamp_ms: i64) -> ListOffsetsResult {
    let (topic, partition) = (tp.topic, tp.partition);
    ListOffsetsResult {
        topic,
        partition,
        error: ErrorCode::None,
        offset,
        timestamp_ms,
    }
}

fn refused(tp: TopicPartition, (error, detail): (ErrorCode, u64)) -> ListOffsetsResult {
    let (topic, partition) = (tp.topic, tp.partition);
    let offset = Offset::new(detail);
    ListOffsetsResult {
        topic,
        partition,
        error,
        offset,
        timestamp_ms: TIMESTAMP_NONE,
    }
}
