//! Sends messages, one request after another.

use std::rc::Rc;
use std::sync::Arc;

use iggy::prelude::{IggyMessage, MessageClient, Partitioning, TcpClient};
use tokio::sync::Mutex;

use super::super::background::Spawned;
use super::super::{Message, Producer};
use super::route::{Route, id_of, is_lost, kind_of};

/// Sends over one connection.
#[derive(Debug)]
pub(crate) struct IggyProducer {
    line: Rc<Line>,
}

impl IggyProducer {
    /// `partitions` are the server's numbers of them.
    pub(super) fn new(route: Arc<Route>, client: TcpClient, partitions: Vec<u32>) -> Self {
        let client = Mutex::new(Some(client));
        Self {
            line: Rc::new(Line {
                route,
                partitions,
                client,
            }),
        }
    }
}

/// A connection and those who wait for it. The lock is fair, so calls keep their order.
#[derive(Debug)]
struct Line {
    route: Arc<Route>,
    partitions: Vec<u32>,
    client: Mutex<Option<TcpClient>>,
}

/// Messages by the server's number of their partition.
type Parts = Vec<(u32, Vec<IggyMessage>)>;

impl Producer for IggyProducer {
    type Ack = Spawned;

    async fn send_one(&mut self, message: Message) -> Result<Spawned, String> {
        self.send_many(std::iter::once(message)).await
    }

    async fn send_many(
        &mut self,
        messages: impl Iterator<Item = Message>,
    ) -> Result<Spawned, String> {
        let mut parts = Parts::with_capacity(1);
        for message in messages {
            let id = id_of(&self.line.partitions, message.partition)?;
            // Iggy's messages have no key.
            let message = IggyMessage::builder().payload(message.value).build();
            let message = message.map_err(|error| kind_of(&error))?;
            match parts.last_mut() {
                Some((last, messages)) if *last == id => messages.push(message),
                _ => parts.push((id, vec![message])),
            }
        }
        Ok(Spawned::new(self.line.clone().send(parts)))
    }
}

impl Line {
    /// Waits for the connection, then sends part after part.
    async fn send(self: Rc<Self>, parts: Parts) -> Result<(), String> {
        let mut place = self.client.lock().await;
        let client = match place.take() {
            Some(client) => client,
            None => self
                .route
                .connect()
                .await
                .map_err(|error| kind_of(&error))?,
        };
        let mut outcome = Ok(());
        for (id, mut messages) in parts {
            let (stream, topic) = (&self.route.stream, &self.route.topic);
            let to = Partitioning::partition_id(id);
            outcome = client
                .send_messages(stream, topic, &to, &mut messages)
                .await;
            if outcome.is_err() {
                break;
            }
        }
        // The next call makes a new connection in place of a lost one.
        if !matches!(&outcome, Err(error) if is_lost(error)) {
            *place = Some(client);
        }
        outcome.map_err(|error| kind_of(&error))
    }
}
