//! Carries out the events of a round.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use catena_client::{OffsetSpec, Record, TopicConfig};

use super::schedule::Event;
use super::{Churn, connect};
use crate::clients::Clients;
use crate::crowd;
use crate::filler::VALUE_BYTES;
use crate::powerfs::Loss;
use crate::seeded::Seeded;
use crate::wait::comes_true;

/// A cut comes at one of so many operations of the disk.
const CUT_WITHIN: usize = 40;

const TOPIC_PARTITIONS: u32 = 16;
const TOPIC_RECORDS: u32 = 128;

/// So many sends are acknowledged while flushes are slow.
const SLOW_SENDS: u64 = 50;

/// Sends so many times without space, unless the disk refuses something before.
const FULL_SENDS: u64 = 200;

/// Connections of the clients that come and go by themselves.
const CONNECTIONS_SLACK: u64 = 8;

impl Churn {
    pub(super) async fn carry_out(
        &mut self,
        event: Event,
        clients: &Clients,
        random: &mut Seeded,
    ) -> Result<(), String> {
        match event {
            Event::CutDrop => self.cut(Loss::Drop, random),
            Event::CutTear => self.cut(Loss::Tear, random),
            Event::Kill => self.kill(),
            Event::Stop => self.restart(),
            Event::Wave => self.wave(random).await,
            Event::Topic => self.fill_and_delete().await,
            Event::SlowFlushes => self.flush_slowly(clients, random).await,
            Event::NoSpace => self.run_out_of_space(clients).await,
        }
    }

    fn cut(&mut self, loss: Loss, random: &mut Seeded) -> Result<(), String> {
        let began = SystemTime::now();
        let after = 1 + random.below(CUT_WITHIN) as u64;
        let disk = self.machine.disk();
        disk.freeze_at(disk.operations() + after);
        self.machine.until_frozen()?;
        self.machine.cut(loss, random.next())?;
        self.boot()?;
        self.excused.push(began..SystemTime::now());
        self.findings.counts.cuts += 1;
        Ok(())
    }

    fn kill(&mut self) -> Result<(), String> {
        self.machine.broker_mut().kill();
        self.boot()?;
        self.findings.counts.kills += 1;
        Ok(())
    }

    async fn wave(&mut self, random: &mut Seeded) -> Result<(), String> {
        let broker = self.machine.broker();
        let open = || broker.metric("catena_connections");
        let before = open();
        let taken = crowd::wave(broker.addr(), self.plan.connections, random);
        if !comes_true(|| open() <= before + CONNECTIONS_SLACK).await {
            let what = format!(
                "of {taken} connections some stay open: {} with them, {before} before",
                open()
            );
            return Err(self.machine.failure(&what));
        }
        self.findings.counts.waves += 1;
        self.findings.counts.connections += taken as u64;
        Ok(())
    }

    async fn fill_and_delete(&mut self) -> Result<(), String> {
        let name = format!("filled-{}", self.findings.counts.topics);
        let filled = self.fill(&name).await;
        filled.map_err(|error| self.machine.failure(&format!("{name}: {error}")))?;
        self.delete(&name).await?;
        self.findings.counts.topics += 1;
        Ok(())
    }

    async fn fill(&self, name: &str) -> Result<(), String> {
        fn words(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        let client = connect(self.machine.broker().addr()).await?;
        let admin = client.admin();
        let made = admin.create_topic(name, TOPIC_PARTITIONS, TopicConfig::default());
        made.await.map_err(words)?;
        let producer = client.producer().build().await.map_err(words)?;
        let value = Bytes::from(vec![b't'; VALUE_BYTES]);
        let mut handles = Vec::new();
        for number in 0..TOPIC_RECORDS {
            let record = Record::to(name).partition(number % TOPIC_PARTITIONS);
            let sent = producer.send(record.value(value.clone())).await;
            handles.push(sent.map_err(words)?);
        }
        for handle in handles {
            handle.await.map_err(words)?;
        }
        let ends = admin.list_offsets(name, OffsetSpec::Latest).await;
        let records: u64 = ends.map_err(words)?.iter().map(|end| end.offset).sum();
        if records == u64::from(TOPIC_RECORDS) {
            Ok(())
        } else {
            Err(format!(
                "{TOPIC_RECORDS} records were acknowledged, {records} are there"
            ))
        }
    }

    async fn flush_slowly(&mut self, clients: &Clients, random: &mut Seeded) -> Result<(), String> {
        let began = SystemTime::now();
        let slow_ms = 20 + random.below(60) as u64;
        self.machine
            .disk()
            .set_flush_delay(Duration::from_millis(slow_ms));
        let goes_on = clients.until_acknowledged(SLOW_SENDS).await;
        self.machine.disk().set_flush_delay(self.flush_delay);
        self.excused.push(began..SystemTime::now());
        if !goes_on {
            return Err(self.machine.failure("slow flushes stop everything"));
        }
        self.findings.counts.slow_spells += 1;
        Ok(())
    }

    /// Files that are there can be written on, so whether anything is refused depends on whether
    /// the broker needs a new one just now.
    async fn run_out_of_space(&mut self, clients: &Clients) -> Result<(), String> {
        let disk = self.machine.disk();
        let refused = || disk.injected().get("no space").copied().unwrap_or(0);
        let before = refused();
        let wanted = clients.recorder().acknowledged() + FULL_SENDS;
        disk.set_space(disk.used_bytes());
        let is_over = || refused() > before || clients.recorder().acknowledged() >= wanted;
        let went_on = comes_true(is_over).await;
        let refusals = refused() - before;
        disk.clear_faults();
        let health = || self.machine.broker().admin_get("/healthz");
        // A shard that gets no core for a moment counts as stalled; a journal that failed stays so.
        let is_well = comes_true(|| health().contains(" 200 ")).await;
        if !went_on || !is_well {
            let what = format!("without space everything stops; health says: {}", health());
            return Err(self.machine.failure(&what));
        }
        self.findings.counts.full_spells += 1;
        self.findings.counts.refusals += refusals;
        Ok(())
    }
}
