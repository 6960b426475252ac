//! Each way in which a disk fails, once, under a broker with clients.
//!
//! A scenario says what must be seen while the disk fails: the error that producers get, what
//! health says, whether it ends by itself. Afterwards the power goes, the broker starts on what is
//! left, and the history of all clients must be as it should: nothing acknowledged is lost,
//! nothing that failed for certain is there.

mod rot;

use std::io;
use std::time::Duration;

use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, TopicId};
use catena_protocol::messages::{FetchRequest, TopicConfig};
use rustix::io::Errno;

use crate::clients::{Clients, Load};
use crate::cuts::{Report, judge, judge_kept};
use crate::filler::FILLER_BYTES;
use crate::history::Outcome;
use crate::machine::{Boot, Build, Machine};
use crate::peer::{Peer, batch, interest};
use crate::powerfs::{Effect, Fault, Loss, Operation};
use crate::wait::comes_true;

pub use rot::run as run_rot;

/// The journal of the only shard; the metadata journal stays well.
const JOURNAL: &str = "journals/000/";

/// How long a reader waits for what comes.
const FETCH_WAIT: Duration = Duration::from_millis(10);

const ACKS: u64 = 30;

/// Fillers that leave nothing else in a cache of 8 MiB, which these brokers have.
const CACHE_FILLERS: usize = 16;

/// Fillers that are more than the space there is left when a disk is full.
const SPACE_FILLERS: usize = 100;

/// What a broker does wrong whose journal takes writes although one failed.
pub(crate) const NOT_LATCHED: &str = "health does not say that the journal failed";

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write fails.
    WriteError,
    /// A flush fails and changes nothing.
    FlushError,
    /// A flush fails, the data is gone, and the next flush succeeds.
    FlushErrorWithLoss,
    /// Reads fail for a while.
    ReadError,
    /// Reads have a wrong bit for a while.
    FlippedBit,
    /// There is no space for a while.
    NoSpace,
    /// Everything takes long for a while.
    Slow,
    /// Nothing is answered for a while.
    Hung,
    /// Every change is refused.
    ReadOnly,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::WriteError,
        Self::FlushError,
        Self::FlushErrorWithLoss,
        Self::ReadError,
        Self::FlippedBit,
        Self::NoSpace,
        Self::Slow,
        Self::Hung,
        Self::ReadOnly,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WriteError => "write error",
            Self::FlushError => "flush error",
            Self::FlushErrorWithLoss => "flush error with loss",
            Self::ReadError => "read error",
            Self::FlippedBit => "flipped bit on read",
            Self::NoSpace => "no space",
            Self::Slow => "slow disk",
            Self::Hung => "hung disk",
            Self::ReadOnly => "read-only disk",
        }
    }

    fn begin(self, machine: &Machine) {
        let disk = machine.disk();
        let always = |on, effect| disk.inject(Fault::always(on, effect).in_path(JOURNAL));
        let once = |on, effect| disk.inject(Fault::once(on, effect).in_path(JOURNAL));
        let slowly = Effect::Delay(Duration::from_millis(200));
        match self {
            Self::WriteError => once(Operation::Write, Effect::Fail(Errno::IO)),
            Self::FlushError => once(Operation::Flush, Effect::Fail(Errno::IO)),
            Self::FlushErrorWithLoss => once(Operation::Flush, Effect::FailAndLose),
            Self::ReadError => always(Operation::Read, Effect::Fail(Errno::IO)),
            Self::FlippedBit => always(Operation::Read, Effect::FlipBit),
            Self::NoSpace => disk.set_space(disk.used_bytes()),
            Self::Slow => {
                always(Operation::Write, slowly);
                always(Operation::Flush, slowly);
            }
            Self::Hung => always(Operation::Write, Effect::Hang),
            Self::ReadOnly => disk.set_read_only(),
        }
    }

    /// Whether it shows only on what is not in the broker's cache.
    const fn needs_cold_data(self) -> bool {
        matches!(self, Self::ReadError | Self::FlippedBit)
    }

    /// Whether the broker must take no more writes until it is restarted, and say so.
    const fn latches(self) -> bool {
        match self {
            Self::WriteError | Self::FlushError | Self::FlushErrorWithLoss | Self::ReadOnly => true,
            Self::ReadError | Self::FlippedBit | Self::NoSpace | Self::Slow | Self::Hung => false,
        }
    }
}

/// Lets the disk of a machine fail in one way.
///
/// # Errors
/// What the host refuses, or what the broker does otherwise than it must, in words.
pub async fn run(failure: Failure, build: &Build) -> Result<Report, String> {
    let mut machine = Machine::build(build)?;
    machine.boot()?;
    // Short, so that sends end with errors while the disk fails.
    let load = Load {
        seed: build.seed,
        delivery_timeout: Duration::from_secs(2),
        ..Load::default()
    };
    let mut clients = Clients::start(machine.broker().addr(), load).await?;
    let acknowledged = clients.until_acknowledged(ACKS).await;
    seen(acknowledged, &machine, "no send is acknowledged")?;
    if failure.needs_cold_data() {
        machine.cut(Loss::Drop, build.seed)?;
        machine.boot()?;
        let acknowledged = clients.until_acknowledged(ACKS).await;
        seen(acknowledged, &machine, "no send is acknowledged")?;
        let refused = fill(&machine, CACHE_FILLERS)?;
        seen(
            refused.is_none(),
            &machine,
            "what fills the cache is refused",
        )?;
    }
    failure.begin(&machine);
    if failure.needs_cold_data() {
        // This one reads what is on the disk only; those that tail may have to.
        clients.read_again().await?;
    }
    let watched = if failure.latches() {
        watch_latch(&machine, &clients).await.map(|()| 0)
    } else {
        watch_recovery(failure, &machine, &clients).await
    };
    machine.disk().clear_faults();
    let times_full = watched?;
    let mut injected = machine.disk().injected();
    if times_full > 0 {
        // The broker asks how much there is before it tries, so the disk alone does not tell.
        *injected.entry("no space").or_default() += times_full;
    }
    seen(!injected.is_empty(), &machine, "the fault never hit")?;
    machine.cut(Loss::Drop, build.seed)?;
    if machine.boot()? == Boot::Frozen {
        return Err("nothing freezes this disk".to_owned());
    }
    let acknowledged = clients.until_acknowledged(ACKS).await;
    seen(acknowledged, &machine, "it does not go on after the fault")?;
    let acknowledged = clients.recorder().acknowledged();
    let history = clients.finish().await;
    let anomalies = if failure == Failure::FlippedBit {
        // Readers are told of damage while it lasts; everything is there afterwards. A disk that
        // gives nothing at all is away, not damaged.
        judge_kept(&history)
    } else {
        judge(&history)
    };
    if !anomalies.is_empty() {
        eprintln!("{}", machine.failure("the history is wrong"));
    }
    Ok(Report {
        survived: 1,
        acknowledged,
        injected,
        anomalies,
        ..Report::default()
    })
}

/// Writes so many large records to a topic of their own; gives the error that ended it.
fn fill(machine: &Machine, count: usize) -> Result<Option<ErrorCode>, String> {
    let mut peer = Peer::try_connect(machine.broker().addr()).map_err(|error| error.to_string())?;
    let filler = peer.create_topic("filler", 1, TopicConfig::default());
    let filling = batch(&[&vec![b'f'; FILLER_BYTES]]);
    let mut acks = (0..count).map(|_| peer.produce(filler, Durability::Durable, &filling).error);
    Ok(acks.find(|error| *error != ErrorCode::None))
}

/// Reads a partition from an offset on, over a connection of its own.
fn read_at(machine: &Machine, topic: TopicId, offset: u64) -> io::Result<()> {
    let mut peer = Peer::try_connect(machine.broker().addr())?;
    peer.try_fetch(&FetchRequest {
        max_wait_ms: u32::try_from(FETCH_WAIT.as_millis()).expect("a short wait"),
        min_bytes: 1,
        max_bytes: 4 << 20,
        add: vec![interest(topic, offset)],
        ..FetchRequest::default()
    })?;
    Ok(())
}

/// Producers get the error for a failed store, health says it, readers read on.
async fn watch_latch(machine: &Machine, clients: &Clients) -> Result<(), String> {
    let says_it = || {
        let health = machine.broker().admin_get("/healthz");
        health.contains("a write or flush failed")
    };
    let unwell = comes_true(says_it).await;
    seen(unwell, machine, NOT_LATCHED)?;
    let latched = clients.recorder().tick();
    let mut peer = Peer::try_connect(machine.broker().addr()).map_err(|error| error.to_string())?;
    let ack = peer.try_produce(clients.target().topic_id, &batch(&[b"after the failure"]));
    let ack = ack.map_err(|error| error.to_string())?;
    let is_refused = ack.error == ErrorCode::StoreFailed;
    seen(
        is_refused,
        machine,
        &format!("a producer is told {:?} instead of StoreFailed", ack.error),
    )?;
    let (item, payload) = peer.fetch(clients.target().topic_id, 0, FETCH_WAIT);
    let is_readable = item.error == ErrorCode::None && !payload.is_empty();
    seen(is_readable, machine, "what was committed cannot be read")?;
    // Acks from before the failure may be noted late: only later sends are proof of one after it.
    let outcomes = || clients.recorder().outcomes_after(latched);
    let answered = comes_true(|| !outcomes().is_empty()).await;
    seen(
        answered,
        machine,
        "no send ends while the journal has failed",
    )?;
    let is_acknowledged = |outcome: &Outcome| matches!(outcome, Outcome::Acknowledged(_));
    seen(
        !outcomes().iter().any(is_acknowledged),
        machine,
        "a send was acknowledged although the journal had failed",
    )
}

/// Health stays well, and what was refused or waited goes on by itself when the fault is over.
/// Gives how often a producer was told that there is no space.
async fn watch_recovery(
    failure: Failure,
    machine: &Machine,
    clients: &Clients,
) -> Result<u64, String> {
    let mut times_full = 0;
    match failure {
        Failure::NoSpace => {
            let refused = fill(machine, SPACE_FILLERS)?;
            let is_full = refused == Some(ErrorCode::StorageFull);
            seen(is_full, machine, "no producer is told StorageFull")?;
            times_full += 1;
        }
        Failure::ReadError | Failure::FlippedBit => {
            // From the beginning: that is on the disk only.
            for offset in 0..ACKS {
                // Whatever it says, be it nothing, when an answer cannot be brought to its end: the
                // reader that began anew shows wrong bytes.
                let _ = read_at(machine, clients.target().topic_id, offset);
            }
            if failure == Failure::FlippedBit {
                let goes_on = comes_true(|| clients.recorder().has_gone_on_behind_damage()).await;
                seen(goes_on, machine, "no reader goes on behind damage")?;
            }
        }
        Failure::Slow => {
            let goes_on = clients.until_acknowledged(1).await;
            seen(goes_on, machine, "a slow disk stops everything")?;
        }
        Failure::Hung => {
            let hangs =
                comes_true(|| machine.disk().injected().contains_key("hung operation")).await;
            seen(hangs, machine, "nothing is written")?;
        }
        _ => {}
    }
    let health = || machine.broker().admin_get("/healthz");
    // A shard that gets no core for a moment counts as stalled; a journal that failed stays so.
    let well = comes_true(|| health().contains(" 200 ")).await;
    seen(well, machine, &format!("health says: {}", health()))?;
    machine.disk().clear_faults();
    let goes_on = clients.until_acknowledged(ACKS).await;
    seen(goes_on, machine, "it does not go on by itself")?;
    Ok(times_full)
}

fn seen(holds: bool, machine: &Machine, otherwise: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(machine.failure(otherwise))
    }
}
