//! Takes batches from consumers of the client crate.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::task::Poll;

use anyhow::Result;
use catena_client::{Client, ConsumeError, Consumer, RecordBatch, StartOffset};
use tokio::task::yield_now;
use tokio::time::timeout_at;

use super::target::Topic;
use crate::clock::Clock;
use crate::limits::BATCHES_PER_TURN_MAX;

/// Consumer `index` of `count`: every `count`-th partition from `index` on; `None` if none is
/// left for it. Its position is known when this returns.
pub(crate) async fn build_consumer(
    client: &Client,
    topic: &Topic,
    index: u32,
    count: u32,
    start: StartOffset,
) -> Result<Option<Consumer>> {
    if index >= topic.partitions {
        return Ok(None);
    }
    let partitions = (index..topic.partitions).step_by(usize::try_from(count)?);
    let consumer = client
        .consumer()
        .topic(&*topic.name)
        .partitions(partitions)
        .start(start);
    Ok(Some(consumer.build().await?))
}

/// Hands every batch to `take` until it breaks or `end_ns` is reached. Lets the runtime see to
/// its sockets every few batches.
pub(crate) async fn receive(
    consumer: &mut Consumer,
    clock: Clock,
    end_ns: u64,
    mut take: impl FnMut(Result<RecordBatch, ConsumeError>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let end = clock.instant(end_ns).into();
    while clock.now_ns() < end_ns {
        let turn = poll_fn(|context| {
            for batches in 0..BATCHES_PER_TURN_MAX {
                match consumer.poll_next_batch(context) {
                    Poll::Ready(batch) => {
                        if take(batch).is_break() {
                            return Poll::Ready(ControlFlow::Break(()));
                        }
                    }
                    Poll::Pending if batches == 0 => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(ControlFlow::Continue(()))
        });
        if let Ok(flow) = timeout_at(end, turn).await {
            flow?;
        }
        yield_now().await;
    }
    ControlFlow::Continue(())
}

/// The kind of an error, without what differs from one to the next.
pub(crate) fn kind_of(error: &ConsumeError) -> String {
    match error {
        ConsumeError::OffsetOutOfRange { .. } => "offset out of range".to_owned(),
        ConsumeError::DataCorrupt { .. } => "data corrupt on the broker".to_owned(),
        ConsumeError::BatchCorrupt { reason, .. } => format!("batch corrupt: {reason}"),
        ConsumeError::Refused { code, .. } => format!("refused: {code}"),
        other => other.to_string(),
    }
}

/// How far each partition is to be read. Pure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    ahead: BTreeMap<u32, u64>,
}

impl Ends {
    /// Reads each partition up to its end offset; those that hold nothing are done already.
    pub(crate) fn new(ends: impl IntoIterator<Item = (u32, u64, u64)>) -> Self {
        let ahead = ends
            .into_iter()
            .filter(|(_, position, end)| position < end)
            .map(|(partition, _, end)| (partition, end))
            .collect();
        Self { ahead }
    }

    /// Notes that `partition` was read up to `next_offset`.
    pub(crate) fn reached(&mut self, partition: u32, next_offset: u64) {
        if self
            .ahead
            .get(&partition)
            .is_some_and(|end| next_offset >= *end)
        {
            self.ahead.remove(&partition);
        }
    }

    /// Whether every partition has been read to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.ahead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_done_when_every_partition_has_reached_its_end() {
        let mut ends = Ends::new([(0, 0, 10), (1, 5, 5), (2, 0, 3)]);
        assert!(!ends.is_done());
        ends.reached(0, 9);
        ends.reached(2, 3);
        assert!(!ends.is_done());
        ends.reached(0, 12);
        assert!(ends.is_done());
    }

    #[test]
    fn an_empty_topic_is_read_at_once() {
        assert!(Ends::new([(0, 0, 0)]).is_done());
    }
}
