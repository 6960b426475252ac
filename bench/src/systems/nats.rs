//! NATS `JetStream`: one stream for the topic, one subject for each partition.
//!
//! Everything of a producer or consumer runs on the runtime of the load thread that made it. The
//! client keeps the order of publishes and of deliveries over its one connection, and its own
//! task sends and receives while nothing here is polled.

use std::error::Error;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig, OrderedError};
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, StorageType};
use async_nats::jetstream::{self, ContextBuilder};
use async_nats::{Client, ConnectOptions, HeaderName, ServerInfo, Subject};
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Consumer, Facts, Message, Prepared, Producer, Received, System, Target};
use crate::args::{Acks, Codec, StartAt};
use crate::workload::Workload;

/// How long a publish or a request of the driver may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the monitoring port may take to answer.
const MONITOR_PATIENCE: Duration = Duration::from_secs(5);

/// Largest page read from the monitoring port.
const MONITOR_BYTES_MAX: u64 = 1 << 20;

/// Acknowledgements the client waits for at least before it holds publishes back: an open loop
/// must not be slowed by the client before the broker is seconds behind.
const ACKS_PENDING_MIN: u32 = 1 << 20;

/// Messages the client keeps for a consumer; it drops what is beyond. The server has 32 MiB of
/// deliveries on the way to a push consumer, and one of them is at least 64 bytes of subjects.
const DELIVERIES_KEPT_MAX: usize = 1 << 20;

/// Records handed over before the runtime sees to its sockets.
const RECORDS_PER_TURN_MAX: usize = 1_024;

/// The header a record's key is in. Header values are text, so it holds hexadecimal digits.
const KEY: HeaderName = HeaderName::from_static("Key");

/// What the description of a stream made here begins with, before its number of partitions.
const DESCRIPTION: &str = "catena-bench partitions=";

/// A NATS server with `JetStream`.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    server: String,
    /// Its monitoring port, which alone tells when it flushes.
    monitor: Option<String>,
    topic: Arc<str>,
}

impl Nats {
    /// The address is `HOST:PORT`, or `HOST:PORT?monitor=HOST:PORT`.
    pub(crate) fn new(target: &Target) -> Self {
        let (server, monitor) = split_address(&target.address);
        Self {
            server: server.to_owned(),
            monitor: monitor.map(str::to_owned),
            topic: target.topic.clone(),
        }
    }

    async fn connect(&self) -> Result<Client> {
        ConnectOptions::new()
            .subscription_capacity(DELIVERIES_KEPT_MAX)
            // The server has checked the subjects when it made the stream.
            .skip_subject_validation(true)
            .request_timeout(Some(PATIENCE))
            .connect(self.server.as_str())
            .await
            .with_context(|| format!("cannot connect to NATS at {}", self.server))
    }

    /// When the server flushes, if it can be asked. A cluster may keep the stream on a server
    /// other than the one that is asked.
    async fn flushing(&self, info: &ServerInfo) -> Result<Option<Flushing>> {
        let Some(monitor) = self.monitor.as_ref().filter(|_| info.cluster.is_none()) else {
            return Ok(None);
        };
        let page = timeout(MONITOR_PATIENCE, varz(monitor))
            .await
            .with_context(|| format!("{monitor}/varz did not answer in {MONITOR_PATIENCE:?}"))?
            .with_context(|| format!("http://{monitor}/varz gave no usable answer"))?;
        ensure!(
            page.server_id == info.server_id,
            "{monitor} is the monitoring port of another server than {}",
            self.server
        );
        let config = page.jetstream.config;
        Ok(config.filter(|flushing| flushing.sync_interval > 0))
    }

    /// Makes sure of the stream; its configuration and the number of its partitions.
    async fn stream(&self, client: &Client, workload: &Workload) -> Result<(Config, u32)> {
        let partitions = workload.partitions.unwrap_or(1);
        let max_bytes = match workload.retention_bytes {
            Some(bytes) => i64::try_from(bytes.saturating_mul(u64::from(partitions)))?,
            None => -1,
        };
        let stream = jetstream::new(client.clone())
            .get_or_create_stream(Config {
                name: self.topic.to_string(),
                description: Some(format!("{DESCRIPTION}{partitions}")),
                subjects: vec![format!("{}.*", self.topic)],
                storage: StorageType::File,
                discard: DiscardPolicy::Old,
                max_bytes,
                num_replicas: 1,
                ..Config::default()
            })
            .await
            .with_context(|| format!("cannot make the stream {}", self.topic))?;
        let config = stream.cached_info().config.clone();
        let partitions = check_storage(&config, workload.acks)
            .and_then(|()| check_partitions(&config, workload.partitions))
            .with_context(|| format!("the stream {} is there already", self.topic))?;
        Ok((config, partitions))
    }
}

impl System for Nats {
    type Producer = NatsProducer;
    type Consumer = NatsConsumer;

    async fn prepare(&self, workload: &Workload) -> Result<Prepared> {
        ensure!(
            workload.compression == Codec::None && !workload.client_batching,
            "a client of NATS neither compresses nor groups records"
        );
        let client = self.connect().await?;
        let info = client.server_info();
        ensure!(info.jetstream, "{} runs without JetStream", self.server);
        let flushing = self.flushing(&info).await?;
        if workload.acks == Acks::Durable {
            check_durable(&info, self.monitor.is_some(), flushing.as_ref())?;
        }
        let (config, partitions) = self.stream(&client, workload).await?;
        let (durability, verified) = describe(workload.acks, &config, flushing.as_ref());
        Ok(Prepared {
            partitions,
            facts: Facts {
                system: format!("NATS {} (JetStream)", info.version),
                durability,
                verified,
                batch: (workload.records_per_call() > 1).then(|| {
                    "a publish for each record, acknowledged each by itself and awaited together"
                        .to_owned()
                }),
            },
        })
    }

    async fn producer(&self, workload: &Workload, _index: u32) -> Result<NatsProducer> {
        let client = self.connect().await?;
        let pending = workload
            .in_flight
            .saturating_mul(workload.records_per_call())
            .max(ACKS_PENDING_MIN);
        let context = ContextBuilder::new()
            .timeout(PATIENCE)
            .max_ack_inflight(usize::try_from(pending)?)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Ok(NatsProducer {
            client,
            context,
            is_acknowledged: workload.acks != Acks::None,
            topic: self.topic.clone(),
            subjects: Vec::new(),
        })
    }

    async fn consumer(&self, partitions: Vec<u32>, from: StartAt) -> Result<NatsConsumer> {
        let client = self.connect().await?;
        let stream = jetstream::new(client.clone())
            .get_stream(&*self.topic)
            .await?;
        let info = stream.cached_info();
        let start = match from {
            StartAt::Earliest => 0,
            StartAt::Latest => info.state.last_sequence + 1,
        };
        let mut config = OrderedConfig {
            deliver_subject: client.new_inbox(),
            deliver_policy: match from {
                StartAt::Earliest => DeliverPolicy::All,
                StartAt::Latest => DeliverPolicy::ByStartSequence {
                    start_sequence: start,
                },
            },
            ..OrderedConfig::default()
        };
        let is_whole = described_partitions(&info.config)
            .is_some_and(|all| usize::try_from(all).is_ok_and(|all| all == partitions.len()));
        match partitions.as_slice() {
            _ if is_whole => config.filter_subject = format!("{}.*", self.topic),
            [one] => config.filter_subject = format!("{}.{one}", self.topic),
            some => {
                // An older server takes no notice of the list and delivers everything.
                ensure!(
                    client.is_server_compatible(2, 10, 0),
                    "a consumer of some partitions needs NATS 2.10 or later"
                );
                let subject = |partition| format!("{}.{partition}", self.topic);
                config.filter_subjects = some.iter().map(subject).collect();
            }
        }
        let messages = stream.create_consumer(config).await?.messages().await?;
        Ok(NatsConsumer {
            messages,
            prefix_bytes: self.topic.len() + 1,
            start,
            _client: client,
        })
    }

    async fn remove(&self) -> Result<()> {
        let client = self.connect().await?;
        jetstream::new(client)
            .delete_stream(&*self.topic)
            .await
            .with_context(|| format!("cannot delete the stream {}", self.topic))?;
        Ok(())
    }
}

/// Publishes over a connection of its own.
pub(crate) struct NatsProducer {
    client: Client,
    context: jetstream::Context,
    is_acknowledged: bool,
    topic: Arc<str>,
    /// The subjects of the partitions below the highest one written to so far.
    subjects: Vec<Subject>,
}

impl NatsProducer {
    fn subject(&mut self, partition: u32) -> Subject {
        let index = usize::try_from(partition).expect("u32 fits usize");
        while self.subjects.len() <= index {
            let next = format!("{}.{}", self.topic, self.subjects.len());
            self.subjects.push(Subject::from(next));
        }
        self.subjects[index].clone()
    }

    /// Queues a publish in the client; the wait for its acknowledgement, if it has one.
    async fn publish(&mut self, message: Message) -> Result<Option<PublishAckFuture>, String> {
        let subject = self.subject(message.partition);
        let mut publish = PublishMessage::build().payload(message.value);
        if let Some(key) = message.key {
            publish = publish.header(KEY, hexadecimal(&key));
        }
        if self.is_acknowledged {
            let sent = self.context.send_publish(subject, publish).await;
            return sent.map(Some).map_err(|error| kind_of(&error));
        }
        let message = publish.outbound_message(subject);
        let sent = match message.headers {
            Some(headers) => {
                let subject = message.subject;
                self.client
                    .publish_with_headers(subject, headers, message.payload)
                    .await
            }
            None => self.client.publish(message.subject, message.payload).await,
        };
        sent.map_err(|error| error.kind().to_string())?;
        Ok(None)
    }
}

impl Producer for NatsProducer {
    // The request is on its way when this is made, and the client keeps the answer.
    type Ack = Pin<Box<dyn Future<Output = Result<(), String>>>>;

    async fn send_one(&mut self, message: Message) -> Result<Self::Ack, String> {
        let ack = self.publish(message).await?;
        Ok(Box::pin(acknowledged(ack)))
    }

    async fn send_many(
        &mut self,
        messages: impl Iterator<Item = Message>,
    ) -> Result<Self::Ack, String> {
        let mut acks = Vec::with_capacity(messages.size_hint().0);
        for message in messages {
            acks.extend(self.publish(message).await?);
        }
        Ok(Box::pin(acknowledged(acks)))
    }
}

async fn acknowledged(acks: impl IntoIterator<Item = PublishAckFuture>) -> Result<(), String> {
    for ack in acks {
        ack.await.map_err(|error| kind_of(&error))?;
    }
    Ok(())
}

/// What the client or the stream says is wrong; its texts hold no sequence numbers here, as no
/// publish expects one.
fn kind_of(error: &PublishError) -> String {
    let refusal = error
        .source()
        .and_then(|source| source.downcast_ref::<jetstream::Error>());
    match (error.kind(), refusal) {
        (PublishErrorKind::Other, Some(refusal)) => refusal.to_string(),
        (kind, _) => kind.to_string(),
    }
}

/// An ordered push consumer: the server sends on by itself, within its flow control, and the
/// client notices gaps and has the server start over after the last record it handed out. The
/// client receives ahead in its own task, so no feed is put between.
pub(crate) struct NatsConsumer {
    messages: Ordered,
    /// Bytes of a subject before the number of its partition.
    prefix_bytes: usize,
    /// Sequence number of the first record wanted; zero once one was handed over. A consumer
    /// that is started over before its first record is given everything there is.
    start: u64,
    /// Keeps the connection.
    _client: Client,
}

impl NatsConsumer {
    fn hand_over(
        &mut self,
        message: Result<jetstream::Message, OrderedError>,
        take: &mut dyn FnMut(Result<Received<'_>, String>),
    ) {
        let message = match message {
            Ok(message) => message,
            Err(error) => return take(Err(error.kind().to_string())),
        };
        if self.start > 0 {
            match message.info() {
                Ok(info) if info.stream_sequence < self.start => return,
                Ok(_) => self.start = 0,
                Err(_) => return take(Err("a delivery without its sequence number".to_owned())),
            }
        }
        let partition = message.subject.get(self.prefix_bytes..);
        let Some(partition) = partition.and_then(|number| number.parse().ok()) else {
            return take(Err("a subject that is no partition".to_owned()));
        };
        let key = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(KEY));
        take(Ok(Received {
            partition,
            key_bytes: key.map_or(0, |key| key.as_str().len() / 2),
            value: &message.payload,
        }));
    }
}

impl Consumer for NatsConsumer {
    async fn receive(&mut self, take: &mut dyn FnMut(Result<Received<'_>, String>)) {
        let Some(first) = self.messages.next().await else {
            // The client closed for good; there is nothing more to wait for.
            return pending().await;
        };
        self.hand_over(first, take);
        for _ in 1..RECORDS_PER_TURN_MAX {
            let Some(Some(next)) = self.messages.next().now_or_never() else {
                break;
            };
            self.hand_over(next, take);
        }
    }
}

/// What the monitoring port's `/varz` says of interest.
#[derive(Debug, Deserialize)]
struct Varz {
    server_id: String,
    jetstream: JetStreamVarz,
}

#[derive(Debug, Deserialize)]
struct JetStreamVarz {
    config: Option<Flushing>,
}

/// When the server flushes. Servers before 2.10 have no such settings.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Flushing {
    #[serde(default)]
    sync_always: bool,
    /// In nanoseconds; zero if the server does not tell.
    #[serde(default)]
    sync_interval: u64,
}

/// Reads `/varz`. HTTP/1.0, so that the answer is neither chunked nor kept open.
async fn varz(monitor: &str) -> Result<Varz> {
    let mut stream = TcpStream::connect(monitor).await?;
    let request = format!("GET /varz HTTP/1.0\r\nHost: {monitor}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(MONITOR_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    parse_varz(&answer)
}

fn parse_varz(answer: &[u8]) -> Result<Varz> {
    let answer = std::str::from_utf8(answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the headers")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "status {status:?}");
    Ok(serde_json::from_str(body)?)
}

/// Splits the monitoring port off an address.
fn split_address(address: &str) -> (&str, Option<&str>) {
    match address.split_once("?monitor=") {
        Some((server, monitor)) => (server, Some(monitor)),
        None => (address, None),
    }
}

/// Fails unless the server is known to flush before it acknowledges.
fn check_durable(info: &ServerInfo, is_asked: bool, flushing: Option<&Flushing>) -> Result<()> {
    ensure!(
        is_asked,
        "NATS tells clients nothing of when it flushes: give its monitoring port as \
         HOST:PORT?monitor=HOST:PORT, or ask for --acks received"
    );
    ensure!(
        info.cluster.is_none(),
        "a cluster may keep the stream on a server other than the one that is asked when it \
         flushes: measure a server by itself, or ask for --acks received"
    );
    ensure!(
        flushing.is_some_and(|flushing| flushing.sync_always),
        "NATS {} acknowledges before it flushes: set sync_interval: always in the jetstream \
         block of its configuration (2.10 or later), or ask for --acks received",
        info.version
    );
    Ok(())
}

/// When a record is acknowledged, and how that is known.
fn describe(acks: Acks, config: &Config, flushing: Option<&Flushing>) -> (String, Option<String>) {
    if acks == Acks::None {
        let durability = "not acknowledged: published without a subject for replies";
        return (durability.to_owned(), None);
    }
    // Overrides the server's setting.
    if is_written_late(config) {
        let durability = "acknowledged before it is written (persist_mode: async)";
        return (
            durability.to_owned(),
            Some("stream configuration".to_owned()),
        );
    }
    let Some(flushing) = flushing else {
        let durability = "acknowledged once written; when it is flushed is not known";
        return (durability.to_owned(), None);
    };
    let durability = if flushing.sync_always {
        "flushed before the acknowledgement (sync_interval: always)".to_owned()
    } else {
        let interval = Duration::from_nanos(flushing.sync_interval);
        format!("acknowledged once written to the page cache, flushed every {interval:?}")
    };
    let verified = "jetstream.config of /varz at the monitoring port";
    (durability, Some(verified.to_owned()))
}

/// Fails if the stream keeps or acknowledges records in another way than one made here.
fn check_storage(config: &Config, acks: Acks) -> Result<()> {
    ensure!(
        config.storage == StorageType::File,
        "it is kept in memory, not in files"
    );
    ensure!(
        acks == Acks::None || !config.no_ack,
        "it does not acknowledge (no_ack)"
    );
    ensure!(
        acks != Acks::Durable || !is_written_late(config),
        "it acknowledges before it writes: set its persist_mode to default"
    );
    Ok(())
}

fn is_written_late(config: &Config) -> bool {
    config.persist_mode == Some(PersistenceMode::Async)
}

/// The partitions the stream was made for; those asked for if it was made by other means.
fn check_partitions(config: &Config, asked: Option<u32>) -> Result<u32> {
    match (described_partitions(config), asked) {
        (Some(made), Some(asked)) if made != asked => {
            bail!("it has {made} partitions, not {asked}")
        }
        (Some(made), _) => Ok(made),
        (None, Some(asked)) => Ok(asked),
        (None, None) => bail!("it does not tell the number of its partitions: name it"),
    }
}

fn described_partitions(config: &Config) -> Option<u32> {
    let description = config.description.as_deref()?;
    description.strip_prefix(DESCRIPTION)?.parse().ok()
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    let digits = |byte: &u8| [digit(byte >> 4), digit(byte & 0xf)];
    bytes.iter().flat_map(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_name_the_monitoring_port() {
        assert_eq!(split_address("a:4222"), ("a:4222", None));
        assert_eq!(
            split_address("nats://u:p@a:4222?monitor=b:8222"),
            ("nats://u:p@a:4222", Some("b:8222"))
        );
    }

    #[test]
    fn what_the_monitoring_port_says_of_flushing_is_understood() {
        let flushing = |config: &str| {
            let answer = format!(
                "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n\
                 {{\"server_id\": \"NA\", \"jetstream\": {{{config}}}}}"
            );
            let page = parse_varz(answer.as_bytes()).expect("a page");
            assert_eq!(page.server_id, "NA");
            page.jetstream.config
        };
        let setting = |sync_always, sync_interval| {
            Some(Flushing {
                sync_always,
                sync_interval,
            })
        };
        assert_eq!(flushing(""), None);
        assert_eq!(
            flushing("\"config\": {\"max_memory\": 1}"),
            setting(false, 0)
        );
        assert_eq!(
            flushing("\"config\": {\"sync_interval\": 120000000000}"),
            setting(false, 120_000_000_000)
        );
        assert_eq!(
            flushing("\"config\": {\"sync_interval\": 5, \"sync_always\": true}"),
            setting(true, 5)
        );
        assert!(parse_varz(b"HTTP/1.0 404 Not Found\r\n\r\n{}").is_err());
        assert!(parse_varz(b"HTTP/1.0 200 OK\r\n").is_err());
    }

    #[test]
    fn durable_is_refused_unless_the_server_flushes_first() {
        let info = ServerInfo {
            version: "2.12.0".to_owned(),
            ..ServerInfo::default()
        };
        let flushing = |sync_always| Flushing {
            sync_always,
            sync_interval: 1,
        };
        let error = |is_asked, flushing| {
            check_durable(&info, is_asked, flushing)
                .expect_err("not durable")
                .to_string()
        };
        assert!(error(false, None).contains("?monitor="));
        assert!(error(true, None).contains("sync_interval: always"));
        assert!(error(true, Some(&flushing(false))).contains("sync_interval: always"));
        assert!(check_durable(&info, true, Some(&flushing(true))).is_ok());
        let clustered = ServerInfo {
            cluster: Some("c".to_owned()),
            ..info.clone()
        };
        assert!(check_durable(&clustered, true, Some(&flushing(true))).is_err());
    }

    #[test]
    fn a_stream_that_is_written_late_is_not_called_flushed() {
        let always = Flushing {
            sync_always: true,
            sync_interval: 1,
        };
        let late = Config {
            persist_mode: Some(PersistenceMode::Async),
            ..Config::default()
        };
        let described = |config| describe(Acks::Received, config, Some(&always)).0;
        let usual = Config::default();
        assert!(described(&usual).starts_with("flushed before"));
        assert!(described(&late).starts_with("acknowledged before it is written"));
        assert!(check_storage(&late, Acks::Durable).is_err());
        assert!(check_storage(&late, Acks::Received).is_ok());
    }

    #[test]
    fn a_stream_that_is_there_must_have_the_partitions_asked_for() {
        let config = |description: Option<&str>| Config {
            description: description.map(str::to_owned),
            ..Config::default()
        };
        let made = config(Some("catena-bench partitions=4"));
        assert_eq!(check_partitions(&made, None).expect("known"), 4);
        assert_eq!(check_partitions(&made, Some(4)).expect("equal"), 4);
        assert!(check_partitions(&made, Some(3)).is_err());
        assert_eq!(check_partitions(&config(None), Some(3)).expect("asked"), 3);
        assert!(check_partitions(&config(Some("mine")), None).is_err());
    }

    #[test]
    fn keys_are_written_in_hexadecimal() {
        assert_eq!(hexadecimal(&[0, 0x1f, 0xff]), "001fff");
        assert_eq!(hexadecimal(&[]), "");
    }
}
