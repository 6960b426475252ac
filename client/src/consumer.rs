//! The consumer: reads explicitly assigned partitions in offset order.
//!
//! A task per connection keeps a fetch session going ([`lane`]) and delivers into one queue; a
//! task of the consumer finds connections ([`router`]); the caller takes batches or records and
//! verifies their checksums. Invariant: per partition, records come in offset order, none twice
//! and none left out, unless an error says so.

mod builder;
mod judge;
mod lane;
mod record;
mod router;
mod shared;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use catena_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader, verify_body, verify_header};
use futures_core::Stream;

pub use builder::{ConsumerBuilder, StartOffset};
pub use record::{ConsumerRecord, RecordBatch};
pub use shared::ResetPolicy;

use crate::error::ConsumeError;
use crate::locking::lock;
use shared::{Batches, Fetched, Mode, Shared};

/// Reads partitions, as a [`Stream`] of records or batch by batch.
///
/// The stream never ends. After an error it goes on where the error says. Dropping the consumer
/// ends its connections.
///
/// ```no_run
/// # async fn example(client: catena_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::StreamExt;
///
/// let mut consumer = client.consumer().topic("orders").build().await?;
/// while let Some(record) = consumer.next().await {
///     let record = record?;
///     println!("{}/{}: {:?}", record.partition, record.offset, record.value);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    /// The offset of the next record the caller will see, per partition.
    positions: Vec<u64>,
    /// What is being taken apart.
    current: Option<Current>,
    /// Records of the batch taken last, for the stream.
    records: VecDeque<ConsumerRecord>,
    /// The batch these records are from, and its partition's index.
    records_of: Option<(usize, RecordBatch)>,
}

#[derive(Debug)]
struct Current {
    index: usize,
    batches: Batches,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Consumer {
    pub(crate) fn start(shared: Arc<Shared>, positions: Vec<u64>) -> Self {
        tokio::spawn(router::run(shared.clone()));
        let records = VecDeque::new();
        Self {
            shared,
            positions,
            current: None,
            records,
            records_of: None,
        }
    }

    /// The next batch, of any partition. Its bytes are those of the response: nothing is copied.
    /// Waits until there is one.
    ///
    /// # Errors
    /// See [`ConsumeError`]; the next call goes on behind the error.
    ///
    /// # Cancel safety
    /// Nothing is lost if the call is dropped.
    pub async fn next_batch(&mut self) -> Result<RecordBatch, ConsumeError> {
        std::future::poll_fn(|cx| self.poll_next_batch(cx)).await
    }

    /// As [`next_batch`](Self::next_batch), for hand-written futures.
    pub fn poll_next_batch(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecordBatch, ConsumeError>> {
        if let Some(rest) = self.rest_of_records() {
            return Poll::Ready(Ok(rest));
        }
        self.poll_batch(cx).map_ok(|(index, batch)| {
            self.positions[index] = batch.next_offset();
            batch
        })
    }

    /// The assigned partitions, as topic and partition.
    pub fn assignment(&self) -> impl Iterator<Item = (&str, u32)> {
        let assigned = self.shared.assigned.iter();
        assigned.map(|assigned| (&*assigned.topic, assigned.place.partition.0))
    }

    /// The offset of the next record this consumer will give of a partition.
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn position(&self, topic: &str, partition: u32) -> Result<u64, ConsumeError> {
        Ok(self.positions[self.index(topic, partition)?])
    }

    /// The end of what readers may see of a partition, as the broker told last. The lag is this
    /// less the [`position`](Self::position).
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn high_watermark(&self, topic: &str, partition: u32) -> Result<u64, ConsumeError> {
        let index = self.index(topic, partition)?;
        Ok(lock(&self.shared.state).partitions[index].high_watermark)
    }

    /// Goes on at `offset`; drops what was fetched of the partition. Also ends a pause, and lets
    /// a partition go on that stands still after an error.
    ///
    /// ```no_run
    /// # use catena_client::{ConsumeError, Consumer};
    /// # fn example(consumer: &mut Consumer) -> Result<(), ConsumeError> {
    /// consumer.seek("orders", 0, 0)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn seek(&mut self, topic: &str, partition: u32, offset: u64) -> Result<(), ConsumeError> {
        let index = self.index(topic, partition)?;
        self.drop_current(index);
        self.positions[index] = offset;
        self.shared.seek(index, offset, Mode::Reading, false);
        Ok(())
    }

    /// Gives no more of a partition until [`resume`](Self::resume); drops what was fetched of it.
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn pause(&mut self, topic: &str, partition: u32) -> Result<(), ConsumeError> {
        let index = self.index(topic, partition)?;
        self.drop_current(index);
        self.shared
            .seek(index, self.positions[index], Mode::Paused, false);
        Ok(())
    }

    /// Goes on with a partition at its [`position`](Self::position).
    ///
    /// # Errors
    /// [`ConsumeError::NotAssigned`].
    pub fn resume(&mut self, topic: &str, partition: u32) -> Result<(), ConsumeError> {
        let position = self.position(topic, partition)?;
        self.seek(topic, partition, position)
    }

    fn index(&self, topic: &str, partition: u32) -> Result<usize, ConsumeError> {
        let is_it = |(name, number): (&str, u32)| name == topic && number == partition;
        self.assignment()
            .position(is_it)
            .ok_or_else(|| ConsumeError::NotAssigned {
                topic: topic.into(),
                partition,
            })
    }

    fn drop_current(&mut self, index: usize) {
        if let Some(current) = self.current.take_if(|current| current.index == index) {
            current.batches.lane.release(current.batches.charge_bytes);
        }
        if self.records_of.take_if(|(of, _)| *of == index).is_some() {
            self.records.clear();
        }
    }

    /// What the stream has not yet given of the batch it is in.
    fn rest_of_records(&mut self) -> Option<RecordBatch> {
        let (index, mut batch) = self.records_of.take()?;
        let next = self.records.front().map(|record| record.offset);
        self.records.clear();
        batch.start_offset = next?;
        self.positions[index] = batch.next_offset();
        Some(batch)
    }

    /// The next batch that holds something at or behind the position.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(usize, RecordBatch), ConsumeError>> {
        loop {
            let Some(current) = &mut self.current else {
                let Fetched { index, content, .. } = ready!(self.poll_fetched(cx));
                match content {
                    Ok(batches) => self.current = Some(Current { index, batches }),
                    Err(error) => {
                        if let ConsumeError::DataCorrupt { next_offset, .. } = &error {
                            let position = &mut self.positions[index];
                            *position = (*position).max(*next_offset);
                        }
                        return Poll::Ready(Err(error));
                    }
                }
                continue;
            };
            let index = current.index;
            if current.batches.bytes.is_empty() {
                self.drop_current_batches();
                continue;
            }
            let position = self.positions[index];
            let batch = take_batch(&self.shared, current, position);
            match batch {
                Ok(batch) if batch.next_offset() <= position => {}
                Ok(batch) => return Poll::Ready(Ok((index, batch))),
                Err(reason) => return Poll::Ready(Err(self.batch_corrupt(index, reason))),
            }
        }
    }

    fn poll_fetched(&self, cx: &Context<'_>) -> Poll<Fetched> {
        let mut state = lock(&self.shared.state);
        if let Some(fetched) = state.fetched.pop_front() {
            return Poll::Ready(fetched);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn drop_current_batches(&mut self) {
        if let Some(current) = self.current.take() {
            current.batches.lane.release(current.batches.charge_bytes);
        }
    }

    /// Fetches again from the position.
    fn batch_corrupt(&mut self, index: usize, reason: String) -> ConsumeError {
        self.drop_current_batches();
        let offset = self.positions[index];
        self.shared.seek(index, offset, Mode::Reading, true);
        let assigned = &self.shared.assigned[index];
        ConsumeError::BatchCorrupt {
            topic: assigned.topic.clone(),
            partition: assigned.place.partition.0,
            offset,
            reason: reason.into(),
        }
    }
}

/// Cuts the first batch off and verifies it.
fn take_batch(
    shared: &Shared,
    current: &mut Current,
    position: u64,
) -> Result<RecordBatch, String> {
    let assigned = &shared.assigned[current.index];
    let bytes = &mut current.batches.bytes;
    let header = BatchHeader::decode(bytes).map_err(|error| error.to_string())?;
    let head = bytes
        .first_chunk::<BATCH_HEADER_BYTES>()
        .ok_or("batch is cut off")?;
    verify_header(head, assigned.place).map_err(|error| error.to_string())?;
    verify_body(bytes).map_err(|error| error.to_string())?;
    let bytes = bytes.split_to(header.length as usize);
    Ok(RecordBatch {
        topic: assigned.topic.clone(),
        partition: assigned.place.partition.0,
        start_offset: header.base_offset.0.max(position),
        header,
        bytes,
    })
}

impl Stream for Consumer {
    type Item = Result<ConsumerRecord, ConsumeError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(record) = this.records.pop_front() {
                let index = this.records_of.as_ref().map(|(index, batch)| {
                    // Behind the last record the batch may span offsets without records.
                    (*index, batch.next_offset())
                });
                if let Some((index, batch_end)) = index {
                    let is_last = this.records.is_empty();
                    this.positions[index] = if is_last {
                        batch_end
                    } else {
                        record.offset + 1
                    };
                    if is_last {
                        this.records_of = None;
                    }
                }
                return Poll::Ready(Some(Ok(record)));
            }
            let (index, batch) = match ready!(this.poll_batch(cx)) {
                Ok(next) => next,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            match batch.records() {
                Ok(records) if records.is_empty() => this.positions[index] = batch.next_offset(),
                Ok(records) => {
                    this.records = records.into();
                    this.records_of = Some((index, batch));
                }
                Err(error) => {
                    let error = this.batch_corrupt(index, error.to_string());
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
