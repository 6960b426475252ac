//! Receives messages by asking one partition after another.

use std::sync::Arc;
use std::time::Duration;

use iggy::prelude::{IggyError, PollingStrategy, TcpClient};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::background::{Batch, Owned};
use super::route::{Route, kind_of};

/// Messages of the first poll of a partition, before their size is known.
const FIRST_POLL_MESSAGES: u32 = 100;

/// Most messages of a poll.
const POLL_MESSAGES_MAX: u64 = 10_000;

/// Bytes a poll should bring; the server counts messages only.
const POLL_BYTES: u64 = 4 << 20;

/// Pause after no partition had anything; the timer's resolution.
const POLLING_INTERVAL: Duration = Duration::from_millis(1);

/// Between an error and the next try.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Where a consumer is in a partition.
#[derive(Debug)]
pub(super) struct Reader {
    partition: u32,
    id: u32,
    /// The first record there is, if none.
    pub(super) next: Option<u64>,
    count: u32,
}

impl Reader {
    pub(super) fn new(partition: u32, id: u32) -> Self {
        Self {
            partition,
            id,
            next: None,
            count: FIRST_POLL_MESSAGES,
        }
    }

    async fn poll(&mut self, route: &Route, client: &TcpClient) -> Result<Vec<Owned>, IggyError> {
        let from = self
            .next
            .map_or_else(PollingStrategy::first, PollingStrategy::offset);
        let messages = route
            .poll(client, self.id, from, self.count)
            .await?
            .messages;
        if let Some(last) = messages.last() {
            self.next = Some(last.header.offset + 1);
            let bytes = messages.iter().map(|message| message.payload.len()).sum();
            self.count = next_count(messages.len(), bytes);
        }
        let partition = self.partition;
        let owned = messages.into_iter().map(|message| Owned {
            partition,
            key_bytes: 0,
            value: message.payload,
        });
        Ok(owned.collect())
    }
}

/// Messages to ask for after some of this size.
fn next_count(messages: usize, bytes: usize) -> u32 {
    let average = u64::try_from(bytes.div_ceil(messages.max(1))).unwrap_or(u64::MAX);
    let count = (POLL_BYTES / average.max(1)).clamp(1, POLL_MESSAGES_MAX);
    u32::try_from(count).expect("it is bounded")
}

/// Receives until nobody takes it any more, with a new connection after each error.
pub(super) async fn receive(
    route: Arc<Route>,
    client: TcpClient,
    mut readers: Vec<Reader>,
    batches: mpsc::Sender<Batch>,
) {
    let mut connected = Ok(client);
    let mut told = None;
    loop {
        let error = match connected {
            Ok(client) => {
                let before = readers.iter().map(|reader| reader.next).collect::<Vec<_>>();
                let Err(error) = poll_until_error(&route, &client, &mut readers, &batches).await
                else {
                    return;
                };
                if before
                    .into_iter()
                    .ne(readers.iter().map(|reader| reader.next))
                {
                    told = None;
                }
                error
            }
            Err(error) => error,
        };
        // A server that stays away is told of once.
        let kind = kind_of(&error);
        if told.as_ref() != Some(&kind) && batches.send(Err(kind.clone())).await.is_err() {
            return;
        }
        told = Some(kind);
        sleep(RETRY_INTERVAL).await;
        connected = route.connect().await;
    }
}

async fn poll_until_error(
    route: &Route,
    client: &TcpClient,
    readers: &mut [Reader],
    batches: &mpsc::Sender<Batch>,
) -> Result<(), IggyError> {
    loop {
        let mut is_idle = true;
        for reader in &mut *readers {
            let messages = reader.poll(route, client).await?;
            if messages.is_empty() {
                continue;
            }
            is_idle = false;
            if batches.send(Ok(messages)).await.is_err() {
                return Ok(());
            }
        }
        if is_idle {
            sleep(POLLING_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_asks_for_as_many_messages_as_bring_the_bytes_wanted() {
        assert_eq!(next_count(100, 100 << 10), 4096);
        assert_eq!(next_count(1, 64 << 20), 1);
        assert_eq!(next_count(100, 100), 10_000);
        assert_eq!(next_count(0, 0), 10_000);
    }
}
