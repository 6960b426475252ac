//! Redis (or Valkey): one stream for each partition, under the keys `TOPIC:0`, `TOPIC:1`, ….
//!
//! The key `TOPIC` holds the number of partitions. An entry has the field `v` with the value and,
//! if the record has a key, the field `k`. Everything of a producer or consumer runs on the
//! runtime of the load thread that made it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisError, RedisResult, Value,
};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::background::{Batch, Feed, Owned, Spawned};
use super::{Facts, Message, Prepared, Producer, System, Target};
use crate::args::{Acks, Codec, StartAt};
use crate::workload::Workload;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts of a consumer to read on after an error.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Calls that wait in the client for its task, at most.
const CALLS_QUEUED_MAX: usize = 4_096;

/// What the client collects before it writes to its socket.
const WRITE_BYTES: usize = 256 << 10;

/// Entries of a partition that one read asks for, at most.
const ENTRIES_PER_READ_MAX: u64 = 1_000;

/// Entries of a partition that the first read asks for, when their size is not known yet.
const ENTRIES_OF_FIRST_READ: u64 = 16;

/// What one read is to bring of all partitions together, by the size of the entries before.
const READ_BYTES: u64 = 4 << 20;

/// The bytes of an XADD besides the key of its stream and the record.
const COMMAND_BYTES_MAX: usize = 64;

/// The fields of an entry.
const VALUE: &[u8] = b"v";
const KEY: &[u8] = b"k";

/// One Redis server.
#[derive(Clone, Debug)]
pub(crate) struct Redis {
    address: String,
    topic: Arc<str>,
}

impl Redis {
    /// The address is `HOST:PORT`, or an URL `redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]`.
    pub(crate) fn new(target: &Target) -> Self {
        Self {
            address: url(&target.address),
            topic: target.topic.clone(),
        }
    }

    fn client(&self) -> Result<Client> {
        let info = self.address.as_str().into_connection_info()?;
        // The replies are read in the form they have in this version.
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(ProtocolVersion::RESP2);
        let info = info
            .set_tcp_settings(TcpSettings::default().set_nodelay(true))
            .set_redis_settings(settings);
        Ok(Client::open(info)?)
    }

    async fn connect(&self) -> Result<MultiplexedConnection> {
        connect(&self.client()?)
            .await
            .with_context(|| format!("cannot connect to {}", self.address))
    }

    /// Makes sure of the number of partitions; their streams are made by the first record.
    async fn partitions(
        &self,
        connection: &mut MultiplexedConnection,
        asked: Option<u32>,
    ) -> Result<u32> {
        let mut create = Cmd::new();
        create
            .arg("SET")
            .arg(&*self.topic)
            .arg(asked.unwrap_or(1))
            .arg("NX");
        create.exec_async(connection).await?;
        let partitions = self.known_partitions(connection).await?;
        let partitions = partitions.context("the topic was removed meanwhile")?;
        if let Some(asked) = asked {
            ensure!(
                partitions == asked,
                "the topic {} has {partitions} partitions, not {asked}",
                self.topic
            );
        }
        Ok(partitions)
    }

    async fn known_partitions(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<u32>> {
        let mut get = Cmd::new();
        get.arg("GET").arg(&*self.topic);
        get.query_async(connection)
            .await
            .with_context(|| format!("the key {} is no number of partitions", self.topic))
    }
}

impl System for Redis {
    type Producer = RedisProducer;
    type Consumer = Feed;

    async fn prepare(&self, workload: &Workload) -> Result<Prepared> {
        ensure!(
            workload.acks != Acks::None,
            "Redis answers every command: ask for --acks received"
        );
        ensure!(
            workload.compression == Codec::None && !workload.client_batching,
            "a client of Redis neither compresses nor groups records"
        );
        let mut connection = self.connect().await?;
        let mut server = Cmd::new();
        server.arg("INFO").arg("server");
        let server: String = server.query_async(&mut connection).await?;
        let flushing = Flushing::ask(&mut connection).await?;
        if workload.acks == Acks::Durable {
            check_durable(flushing.as_ref())?;
        }
        Ok(Prepared {
            partitions: self
                .partitions(&mut connection, workload.partitions)
                .await?,
            facts: Facts {
                system: name_and_version(&server),
                durability: describe(flushing.as_ref()),
                verified: flushing.map(|_| format!("CONFIG GET {}", SETTINGS.join(", "))),
                batch: (workload.records_per_call() > 1).then(|| {
                    "a pipeline: an XADD for each record, written together, executed one by one"
                        .to_owned()
                }),
            },
        })
    }

    async fn producer(&self, workload: &Workload, _index: u32) -> Result<RedisProducer> {
        Ok(RedisProducer {
            connection: self.connect().await?,
            topic: self.topic.clone(),
            streams: Vec::new(),
            entries_max: workload
                .retention_bytes
                .map(|bytes| (bytes / workload.values.bytes_mean().max(1)).max(1)),
        })
    }

    async fn consumer(&self, partitions: Vec<u32>, from: StartAt) -> Result<Feed> {
        let client = self.client()?;
        let mut connection = self.connect().await?;
        let mut cursors = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let stream = stream_name(&self.topic, partition);
            let last = match from {
                StartAt::Earliest => BEFORE_ALL.to_vec(),
                StartAt::Latest => last_entry(&mut connection, &stream).await?,
            };
            cursors.push(Cursor {
                partition,
                stream,
                last,
            });
        }
        let reader = Reader {
            cursors,
            entries: ENTRIES_OF_FIRST_READ,
        };
        Ok(Feed::new(|batches| {
            follow(client, connection, reader, batches)
        }))
    }

    async fn remove(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        let Some(partitions) = self.known_partitions(&mut connection).await? else {
            return Ok(());
        };
        let mut unlink = Cmd::new();
        unlink.arg("UNLINK").arg(&*self.topic);
        for partition in 0..partitions {
            unlink.arg(stream_name(&self.topic, partition));
        }
        unlink.exec_async(&mut connection).await?;
        Ok(())
    }
}

/// Adds entries over a connection of its own.
pub(crate) struct RedisProducer {
    connection: MultiplexedConnection,
    topic: Arc<str>,
    /// The streams of the partitions below the highest one written to so far.
    streams: Vec<String>,
    /// About how many entries a stream keeps.
    entries_max: Option<u64>,
}

impl RedisProducer {
    fn add(&mut self, message: &Message) -> Cmd {
        let index = usize::try_from(message.partition).expect("u32 fits usize");
        while self.streams.len() <= index {
            let next = u32::try_from(self.streams.len()).expect("no more than the partition");
            self.streams.push(stream_name(&self.topic, next));
        }
        let stream = self.streams[index].as_str();
        let key_bytes = message.key.as_ref().map_or(0, Bytes::len);
        let bytes = COMMAND_BYTES_MAX + stream.len() + key_bytes + message.value.len();
        let mut add = Cmd::with_capacity(10, bytes);
        add.arg("XADD").arg(stream);
        if let Some(entries_max) = self.entries_max {
            add.arg("MAXLEN").arg("~").arg(entries_max);
        }
        add.arg("*").arg(VALUE).arg(&*message.value);
        if let Some(key) = &message.key {
            add.arg(KEY).arg(&**key);
        }
        add
    }
}

impl Producer for RedisProducer {
    // The client queues a command when it is first polled. Tasks of a thread are polled first in
    // the order they were made, and those that wait for room in the queue get it in that order.
    type Ack = Spawned;

    async fn send_one(&mut self, message: Message) -> Result<Spawned, String> {
        let add = self.add(&message);
        let mut connection = self.connection.clone();
        Ok(Spawned::new(async move {
            outcome(connection.send_packed_command(&add).await.map(Some))
        }))
    }

    async fn send_many(
        &mut self,
        messages: impl Iterator<Item = Message>,
    ) -> Result<Spawned, String> {
        let mut pipeline = Pipeline::with_capacity(messages.size_hint().0);
        for message in messages {
            pipeline.add_command(self.add(&message));
        }
        let mut connection = self.connection.clone();
        Ok(Spawned::new(async move {
            let count = pipeline.len();
            outcome(connection.send_packed_commands(&pipeline, 0, count).await)
        }))
    }
}

/// The first refusal among the answers, or what happened to the connection.
fn outcome(answers: RedisResult<impl IntoIterator<Item = Value>>) -> Result<(), String> {
    for answer in answers.map_err(|error| kind_of(&error))? {
        if let Value::ServerError(refusal) = answer {
            return Err(kind_of(&refusal.into()));
        }
    }
    Ok(())
}

/// The code of a refusal, such as `OOM`, or the category of another error.
fn kind_of(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("refused: {code}"),
        None => error.category().to_owned(),
    }
}

/// The identifier that all entries come after.
const BEFORE_ALL: &[u8] = b"0-0";

/// How far a consumer has read one stream.
#[derive(Debug)]
struct Cursor {
    partition: u32,
    stream: String,
    /// The identifier of the last entry read.
    last: Vec<u8>,
}

/// Reads several streams on from where it is.
#[derive(Debug)]
struct Reader {
    cursors: Vec<Cursor>,
    /// Entries to ask for of each stream.
    entries: u64,
}

/// Fills the feed of a consumer; reads on after an error as soon as the server answers again.
async fn follow(
    client: Client,
    mut connection: MultiplexedConnection,
    mut reader: Reader,
    batches: mpsc::Sender<Batch>,
) {
    let mut is_failing = false;
    loop {
        match reader.read(&mut connection).await {
            Ok(records) => {
                is_failing = false;
                if batches.send(Ok(records)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !is_failing && batches.send(Err(kind_of(&error))).await.is_err() {
                    return;
                }
                is_failing = true;
                sleep(RETRY_INTERVAL).await;
                if let Ok(another) = connect(&client).await {
                    connection = another;
                }
            }
        }
    }
}

impl Reader {
    /// Waits for entries; an error leaves the cursors where they were.
    async fn read(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<Vec<Owned>> {
        let mut read = Cmd::new();
        read.arg("XREAD").arg("COUNT").arg(self.entries);
        read.arg("BLOCK").arg(0).arg("STREAMS");
        for cursor in &self.cursors {
            read.arg(&cursor.stream);
        }
        for cursor in &self.cursors {
            read.arg(&cursor.last);
        }
        let reply = connection.send_packed_command(&read).await?;
        let records = self.advance(reply.extract_error()?)?;
        let bytes: usize = records.iter().map(|record| record.value.len()).sum();
        self.entries = entries_of_next_read(records.len(), bytes, self.cursors.len());
        Ok(records)
    }

    /// Takes the records out of a reply and moves the cursors past them.
    fn advance(&mut self, reply: Value) -> RedisResult<Vec<Owned>> {
        let mut records = Vec::new();
        let mut lasts = Vec::new();
        // The streams come in the order they were asked for, those without entries left out.
        let mut cursors = self.cursors.iter().enumerate();
        for stream in array(reply)? {
            let [name, entries] = fixed(stream)?;
            let name = string(name)?;
            let (index, cursor) = cursors
                .find(|(_, cursor)| cursor.stream.as_bytes() == name)
                .ok_or_else(unexpected)?;
            let entries = array(entries)?;
            records.reserve(entries.len());
            let mut last = None;
            for entry in entries {
                let [id, fields] = fixed(entry)?;
                last = Some(string(id)?);
                records.push(record(cursor.partition, fields)?);
            }
            lasts.extend(last.map(|last| (index, last)));
        }
        for (index, last) in lasts {
            self.cursors[index].last = last;
        }
        Ok(records)
    }
}

/// Entries to ask for of each of `streams`, after a read that brought `records` of `bytes`.
fn entries_of_next_read(records: usize, bytes: usize, streams: usize) -> u64 {
    let count = |number: usize| u64::try_from(number).expect("a length in memory fits 64 bits");
    let entry_bytes = count(bytes) / count(records).max(1) + 1;
    (READ_BYTES / entry_bytes / count(streams).max(1)).clamp(1, ENTRIES_PER_READ_MAX)
}

/// The record in the fields of an entry. The value is the buffer the client read it into.
fn record(partition: u32, fields: Value) -> RedisResult<Owned> {
    let mut record = Owned {
        partition,
        key_bytes: 0,
        value: Bytes::new(),
    };
    let mut fields = array(fields)?.into_iter();
    while let Some(name) = fields.next() {
        let content = string(fields.next().ok_or_else(unexpected)?)?;
        match string(name)?.as_slice() {
            VALUE => record.value = Bytes::from(content),
            KEY => record.key_bytes = content.len(),
            _ => {}
        }
    }
    Ok(record)
}

fn array(value: Value) -> RedisResult<Vec<Value>> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(unexpected()),
    }
}

fn fixed<const COUNT: usize>(value: Value) -> RedisResult<[Value; COUNT]> {
    array(value)?.try_into().map_err(|_| unexpected())
}

fn string(value: Value) -> RedisResult<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> RedisError {
    RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "a reply of another form than expected",
    ))
}

/// The identifier of a stream's last entry; that before all if there is none.
async fn last_entry(connection: &mut MultiplexedConnection, stream: &str) -> Result<Vec<u8>> {
    let mut last = Cmd::new();
    last.arg("XREVRANGE").arg(stream).arg("+").arg("-");
    last.arg("COUNT").arg(1);
    let reply = connection.send_packed_command(&last).await?;
    match array(reply.extract_error()?)?.pop() {
        Some(entry) => {
            let [id, _] = fixed(entry)?;
            Ok(string(id)?)
        }
        None => Ok(BEFORE_ALL.to_vec()),
    }
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        // A read waits for records however long, and how late an answer is is for the generator
        // to find out.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(CALLS_QUEUED_MAX)
        .set_write_backpressure_boundary(WRITE_BYTES);
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// The settings that say when the server flushes.
const SETTINGS: [&str; 3] = ["appendonly", "appendfsync", "no-appendfsync-on-rewrite"];

/// What they are, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flushing {
    appendonly: String,
    appendfsync: String,
    /// `yes` leaves out flushes while the file is rewritten, even those of `always`.
    no_appendfsync_on_rewrite: String,
}

impl Flushing {
    /// Asks the server, which may not let everyone see its configuration.
    async fn ask(connection: &mut MultiplexedConnection) -> Result<Option<Self>> {
        let mut known = Vec::new();
        for setting in SETTINGS {
            let mut get = Cmd::new();
            get.arg("CONFIG").arg("GET").arg(setting);
            let answer: RedisResult<HashMap<String, String>> = get.query_async(connection).await;
            match answer {
                Ok(mut settings) => known.extend(settings.remove(setting)),
                Err(error) if error.code().is_some() => return Ok(None),
                Err(error) => bail!("cannot read the configuration of Redis: {error}"),
            }
        }
        let known = <[String; 3]>::try_from(known).ok();
        Ok(known.map(
            |[appendonly, appendfsync, no_appendfsync_on_rewrite]| Self {
                appendonly,
                appendfsync,
                no_appendfsync_on_rewrite,
            },
        ))
    }
}

/// Fails unless the server is known to flush before it acknowledges.
fn check_durable(flushing: Option<&Flushing>) -> Result<()> {
    let Some(flushing) = flushing else {
        bail!("the server does not tell its configuration: ask for --acks received");
    };
    ensure!(
        flushing.appendonly == "yes",
        "Redis keeps records in memory only: set appendonly yes and appendfsync always, or ask \
         for --acks received"
    );
    ensure!(
        flushing.appendfsync == "always",
        "Redis acknowledges before it flushes (appendfsync {}): set appendfsync always, or ask \
         for --acks received",
        flushing.appendfsync
    );
    ensure!(
        flushing.no_appendfsync_on_rewrite == "no",
        "Redis does not flush while it rewrites its file: set no-appendfsync-on-rewrite no, or \
         ask for --acks received"
    );
    Ok(())
}

fn describe(flushing: Option<&Flushing>) -> String {
    let Some(flushing) = flushing else {
        return "acknowledged once executed; the server does not tell when it flushes".to_owned();
    };
    match (flushing.appendonly.as_str(), flushing.appendfsync.as_str()) {
        ("no", _) => "memory only (appendonly no)".to_owned(),
        (_, "always") if flushing.no_appendfsync_on_rewrite == "no" => {
            "flushed before the acknowledgement (appendfsync always)".to_owned()
        }
        (_, policy) => format!(
            "acknowledged before it is flushed (appendfsync {policy}, \
             no-appendfsync-on-rewrite {})",
            flushing.no_appendfsync_on_rewrite
        ),
    }
}

/// What `INFO server` calls the server.
fn name_and_version(info: &str) -> String {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    match (field("valkey_version"), field("redis_version")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, version) => format!("Redis {}", version.unwrap_or("of unknown version")),
    }
}

fn stream_name(topic: &str, partition: u32) -> String {
    format!("{topic}:{partition}")
}

fn url(address: &str) -> String {
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("redis://{address}/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flushing(appendonly: &str, appendfsync: &str, no_appendfsync_on_rewrite: &str) -> Flushing {
        Flushing {
            appendonly: appendonly.to_owned(),
            appendfsync: appendfsync.to_owned(),
            no_appendfsync_on_rewrite: no_appendfsync_on_rewrite.to_owned(),
        }
    }

    #[test]
    fn durable_is_refused_unless_every_flush_comes_first() {
        let error = |flushing: Option<Flushing>| {
            check_durable(flushing.as_ref())
                .expect_err("not durable")
                .to_string()
        };
        assert!(error(None).contains("does not tell"));
        assert!(error(Some(flushing("no", "always", "no"))).contains("appendonly yes"));
        assert!(error(Some(flushing("yes", "everysec", "no"))).contains("appendfsync always"));
        assert!(error(Some(flushing("yes", "always", "yes"))).contains("on-rewrite no"));
        assert!(check_durable(Some(&flushing("yes", "always", "no"))).is_ok());
    }

    #[test]
    fn the_durability_is_described_as_it_is() {
        let described = |appendonly, appendfsync, on_rewrite| {
            describe(Some(&flushing(appendonly, appendfsync, on_rewrite)))
        };
        assert!(described("no", "always", "no").starts_with("memory only"));
        assert!(described("yes", "always", "no").starts_with("flushed before"));
        assert!(described("yes", "always", "yes").starts_with("acknowledged before"));
        assert!(described("yes", "everysec", "no").starts_with("acknowledged before"));
    }

    #[test]
    fn the_server_is_called_by_its_own_name() {
        let redis = "# Server\r\nredis_version:7.0.15\r\nos:Linux\r\n";
        assert_eq!(name_and_version(redis), "Redis 7.0.15");
        let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\n";
        assert_eq!(name_and_version(valkey), "Valkey 8.1.0");
    }

    #[test]
    fn a_read_asks_for_as_many_entries_as_fit_its_bytes() {
        assert_eq!(
            entries_of_next_read(100, 100 << 10, 1),
            ENTRIES_PER_READ_MAX
        );
        assert_eq!(entries_of_next_read(10, 10 << 20, 2), 1);
        assert_eq!(entries_of_next_read(1, 64 << 10, 4), 15);
        assert_eq!(entries_of_next_read(0, 0, 0), ENTRIES_PER_READ_MAX);
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entry(id: &str, fields: &[&str]) -> Value {
        let fields = fields.iter().map(|field| text(field)).collect();
        Value::Array(vec![text(id), Value::Array(fields)])
    }

    fn reader() -> Reader {
        let cursor = |partition| Cursor {
            partition,
            stream: stream_name("t", partition),
            last: BEFORE_ALL.to_vec(),
        };
        Reader {
            cursors: [3, 5, 7].map(cursor).into(),
            entries: 1,
        }
    }

    #[test]
    fn records_are_taken_out_of_a_reply_and_the_cursors_follow() {
        let mut reader = reader();
        let reply = Value::Array(vec![
            Value::Array(vec![
                text("t:3"),
                Value::Array(vec![
                    entry("1-0", &["v", "a"]),
                    entry("1-1", &["v", "b", "k", "key"]),
                ]),
            ]),
            Value::Array(vec![
                text("t:7"),
                Value::Array(vec![entry("2-0", &["v", "c"])]),
            ]),
        ]);
        let records = reader.advance(reply).expect("a reply");
        let seen: Vec<_> = records
            .iter()
            .map(|record| (record.partition, record.key_bytes, &*record.value))
            .collect();
        assert_eq!(seen, [(3, 0, &b"a"[..]), (3, 3, b"b"), (7, 0, b"c")]);
        let lasts: Vec<_> = reader.cursors.iter().map(|cursor| &*cursor.last).collect();
        assert_eq!(lasts, [&b"1-1"[..], b"0-0", b"2-0"]);
    }

    #[test]
    fn a_reply_of_another_form_leaves_the_cursors_where_they_were() {
        let mut reader = reader();
        let reply = Value::Array(vec![
            Value::Array(vec![
                text("t:3"),
                Value::Array(vec![entry("1-0", &["v", "a"])]),
            ]),
            Value::Array(vec![text("t:4"), Value::Array(Vec::new())]),
        ]);
        assert!(reader.advance(reply).is_err());
        assert!(
            reader
                .cursors
                .iter()
                .all(|cursor| cursor.last == BEFORE_ALL)
        );
    }
}
