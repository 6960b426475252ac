//! How the result of a batch reaches the handles of its records.
//!
//! Invariant: a completion is set once; every handle that waits is woken then. One allocation per
//! batch, shared by all its handles; no task and no channel per record. Any thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use crate::error::ProduceError;
use crate::locking::lock;

/// Where an acknowledged record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The partition.
    pub partition: u32,
    /// The record's offset. `None` in the weaker durability classes, and where a repeated attempt
    /// found the record written but its offset no longer known.
    pub offset: Option<u64>,
}

/// One batch of a call to [`Producer::send_all`](crate::Producer::send_all).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMetadata {
    /// The partition.
    pub partition: u32,
    /// The offset of the batch's first record; `None` as in [`RecordMetadata`].
    pub base_offset: Option<u64>,
    /// Records in the batch.
    pub record_count: u32,
}

/// The result of one batch, and who waits for it.
#[derive(Debug)]
pub(crate) struct Completion {
    partition: u32,
    outcome: OnceLock<Result<Option<u64>, ProduceError>>,
    wakers: Mutex<Vec<Waker>>,
}

impl Completion {
    pub(crate) fn new(partition: u32) -> Arc<Self> {
        Arc::new(Self {
            partition,
            outcome: OnceLock::new(),
            wakers: Mutex::default(),
        })
    }

    /// Sets the result and wakes. A second result is ignored.
    pub(crate) fn complete(&self, outcome: Result<Option<u64>, ProduceError>) {
        if self.outcome.set(outcome).is_ok() {
            let wakers = std::mem::take(&mut *lock(&self.wakers));
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// The batch's base offset, or its error, once known. `slot` remembers where the waker lies.
    fn poll(
        &self,
        cx: &Context<'_>,
        slot: &mut Option<usize>,
    ) -> Poll<&Result<Option<u64>, ProduceError>> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        let mut wakers = lock(&self.wakers);
        // Set between the two looks: then nobody will wake us any more.
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        if let Some(waker) = slot.and_then(|slot| wakers.get_mut(slot)) {
            waker.clone_from(cx.waker());
        } else {
            *slot = Some(wakers.len());
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// The future result of one record.
///
/// Resolves when the broker has acknowledged the record in its durability class, or the producer
/// has given it up. Cancel safe: dropping it does not take the record back.
///
/// ```no_run
/// # use catena_client::{ProduceError, Producer};
/// # async fn example(producer: Producer) -> Result<(), ProduceError> {
/// use catena_client::Record;
///
/// let first = producer.send(Record::to("orders").value("a")).await?;
/// let second = producer.send(Record::to("orders").value("b")).await?;
/// println!("{:?} {:?}", first.await?.offset, second.await?.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the result of the delivery is known only to this handle"]
pub struct DeliveryHandle {
    completion: Arc<Completion>,
    index: u32,
    slot: Option<usize>,
}

impl DeliveryHandle {
    pub(crate) const fn new(completion: Arc<Completion>, index: u32) -> Self {
        Self {
            completion,
            index,
            slot: None,
        }
    }
}

impl Future for DeliveryHandle {
    type Output = Result<RecordMetadata, ProduceError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let partition = this.completion.partition;
        this.completion
            .poll(cx, &mut this.slot)
            .map(|outcome| match outcome {
                Ok(base) => {
                    let offset = base.map(|base| base + u64::from(this.index));
                    Ok(RecordMetadata { partition, offset })
                }
                Err(error) => Err(error.clone()),
            })
    }
}

/// The future result of one call to [`Producer::send_all`](crate::Producer::send_all): one
/// [`BatchMetadata`] per batch, in the order of the records, or the first error once every batch
/// has its result. Cancel safe.
#[derive(Debug)]
#[must_use = "the result of the delivery is known only to this handle"]
pub struct BatchHandle {
    batches: Vec<(Arc<Completion>, u32)>,
    next: usize,
    slot: Option<usize>,
}

impl BatchHandle {
    pub(crate) const fn new(batches: Vec<(Arc<Completion>, u32)>) -> Self {
        Self {
            batches,
            next: 0,
            slot: None,
        }
    }

    /// How many batches the records went into.
    pub fn batch_count(&self) -> usize {
        self.batches.len()
    }
}

impl Future for BatchHandle {
    type Output = Result<Vec<BatchMetadata>, ProduceError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        while let Some((completion, _)) = this.batches.get(this.next) {
            if completion.poll(cx, &mut this.slot).is_pending() {
                return Poll::Pending;
            }
            this.next += 1;
            this.slot = None;
        }
        let metadata = |(completion, record_count): &(Arc<Completion>, u32)| {
            let outcome = completion
                .outcome
                .get()
                .expect("all completions were polled as ready");
            outcome.clone().map(|base_offset| BatchMetadata {
                partition: completion.partition,
                base_offset,
                record_count: *record_count,
            })
        };
        Poll::Ready(this.batches.iter().map(metadata).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handle_of_a_batch_gets_its_own_offset() {
        let completion = Completion::new(3);
        let handles: Vec<_> = (0..3)
            .map(|index| DeliveryHandle::new(completion.clone(), index))
            .collect();
        completion.complete(Ok(Some(40)));
        completion.complete(Ok(Some(99)));
        let mut cx = Context::from_waker(Waker::noop());
        for (index, mut handle) in (0..).zip(handles) {
            let expected = RecordMetadata {
                partition: 3,
                offset: Some(40 + index),
            };
            let polled = Pin::new(&mut handle).poll(&mut cx);
            assert!(matches!(polled, Poll::Ready(Ok(metadata)) if metadata == expected));
        }
    }

    #[test]
    fn polling_again_keeps_one_waker() {
        let completion = Completion::new(0);
        let mut handle = DeliveryHandle::new(completion.clone(), 0);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(Pin::new(&mut handle).poll(&mut cx).is_pending());
        }
        assert_eq!(lock(&completion.wakers).len(), 1);
    }
}
