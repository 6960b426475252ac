//! A consumer of the client crate.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::task::Poll;

use catena_client::{ConsumeError, Consumer as ClientConsumer, RecordBatch};
use tokio::task::yield_now;

use crate::limits::BATCHES_PER_TURN_MAX;
use crate::systems::{Consumer, Received};

/// Receives and decodes every record.
pub(crate) struct CatenaConsumer(ClientConsumer);

impl CatenaConsumer {
    pub(super) fn new(consumer: ClientConsumer) -> Self {
        Self(consumer)
    }
}

impl Consumer for CatenaConsumer {
    async fn receive(&mut self, take: &mut dyn FnMut(Result<Received<'_>, String>)) {
        let _ = receive_batches(&mut self.0, |batch| {
            hand_over(batch, take);
            ControlFlow::Continue(())
        })
        .await;
        yield_now().await;
    }
}

/// Waits for batches and hands over those that are there, a bounded number of them and none after
/// `take` breaks. Cancel safe.
pub(crate) async fn receive_batches(
    consumer: &mut ClientConsumer,
    mut take: impl FnMut(Result<RecordBatch, ConsumeError>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    poll_fn(|context| {
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
    })
    .await
}

fn hand_over(
    batch: Result<RecordBatch, ConsumeError>,
    take: &mut dyn FnMut(Result<Received<'_>, String>),
) {
    let batch = match batch {
        Ok(batch) => batch,
        Err(error) => return take(Err(kind_of(&error))),
    };
    let partition = batch.partition();
    let visited = batch.for_each(|record| {
        take(Ok(Received {
            partition,
            key_bytes: record.key.map_or(0, <[u8]>::len),
            value: record.value.unwrap_or_default(),
        }));
    });
    if let Err(error) = visited {
        take(Err(format!("not decodable: {error}")));
    }
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
