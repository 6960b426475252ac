//! A soak of one hazard of the runtime: an executor that goes to sleep although tasks are runnable.
//!
//! It happens when a preemption is already pending as the executor's loop begins, so it takes a
//! core that others take away in slices of milliseconds, and a request that nothing follows. Here
//! *spinners* share the shard's core and connections ask for one small record, again and again,
//! each time after the answer. A request is *stranded* if it waits although the shard's thread
//! sleeps. The heartbeat of the runtime ends such a sleep; with the planted bug `no-heartbeat` the
//! run has to see strandings. Run by hand: `catena-tests strand`.

mod shard;
mod spinners;

use std::io::ErrorKind;
use std::time::{Duration, Instant, SystemTime};

use catena_protocol::ids::{Durability, TopicId};
use catena_protocol::messages::{FetchRequest, TopicConfig};

use crate::broker::{Broker, Settings};
use crate::peer::{Peer, batch, interest};
use crate::process;
use crate::steal::Recorder;
use crate::wait::LIMIT;
use shard::Shard;
use spinners::Spinners;

/// The planted bug.
pub const BUG: &str = "no-heartbeat";

/// No request waits longer while the heartbeat is on: the idle heartbeat comes every 100 ms, its
/// first backstops some milliseconds later, and between them spinners have the core for a few
/// slices. Without the heartbeat nothing wakes an idle shard but its maintenance, once a second.
pub const WAIT_MAX: Duration = Duration::from_millis(250);

const BROKER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

const SPINNERS: usize = 2;

/// Requests on so many connections are sent together, then their answers awaited; one number after
/// the other, for a second each. Many keep the shard busy, one leaves nothing that could wake it.
const CONNECTIONS: [usize; 4] = [1, 2, 1, 8];
const TURN: Duration = Duration::from_secs(1);

/// How the run is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long requests are sent.
    pub duration: Duration,
    /// Whether the broker has no heartbeat.
    pub planted: bool,
}

/// A request that waited longer than [`WAIT_MAX`].
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// When it was answered, since the beginning of the run.
    pub at: Duration,
    /// How long it waited.
    pub waited: Duration,
    /// What of that the host kept, of either core.
    pub stolen: Duration,
    /// Whether the shard's thread slept meanwhile.
    pub asleep: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Requests that were answered.
    pub requests: u64,
    /// The longest that one waited.
    pub longest: Duration,
    /// Those that waited too long.
    pub late: Vec<Late>,
}

impl Findings {
    /// Late requests of which the host is not the cause, and during which the shard slept.
    pub fn stranded(&self) -> impl Iterator<Item = &Late> {
        let late = self.late.iter();
        late.filter(|late| late.asleep && late.waited.saturating_sub(late.stolen) > WAIT_MAX)
    }

    /// Why the run failed: without the bug, whatever waited too long through no fault of the host;
    /// with it, if nothing was stranded.
    pub fn wrong(&self, planted: bool) -> Option<String> {
        if planted {
            let missed = self.stranded().next().is_none();
            return missed.then(|| format!("{BUG} is planted, and no request was stranded"));
        }
        let own = |late: &&Late| late.waited.saturating_sub(late.stolen) > WAIT_MAX;
        let count = self.late.iter().filter(own).count();
        let most_ms = WAIT_MAX.as_millis();
        (count > 0).then(|| format!("{count} requests waited for more than {most_ms} ms"))
    }
}

/// Runs it and prints what it sees.
///
/// # Panics
/// If the broker does not answer at all.
pub fn run(plan: Plan) -> Findings {
    let settings = Settings::default().with_bug(plan.planted.then_some(BUG));
    let mut broker = Broker::start_with(settings);
    process::keep_to(LOAD_CORE);
    let cores = [BROKER_CORE, LOAD_CORE].map(Recorder::start);
    let spinners = Spinners::start(BROKER_CORE, SPINNERS);
    let mut asking = Asking::begin(&broker);
    let mut ended = Vec::new();
    while asking.began.elapsed() < plan.duration {
        for connections in CONNECTIONS {
            asking.turn(connections, &mut ended);
        }
    }
    spinners.stop();
    let thefts = cores.map(Recorder::finish);
    let mut findings = asking.findings;
    for (late, ended) in findings.late.iter_mut().zip(ended) {
        let of = thefts
            .iter()
            .map(|thefts| thefts.before(ended, late.waited));
        late.stolen = of.sum();
    }
    print(&findings);
    if plan.planted {
        broker.kill();
    } else {
        broker.stop();
    }
    findings
}

fn print(findings: &Findings) {
    for late in &findings.late {
        println!(
            "after {:.1} s: {} ms, of which the host kept {} ms; the shard {}",
            late.at.as_secs_f64(),
            late.waited.as_millis(),
            late.stolen.as_millis(),
            if late.asleep { "slept" } else { "ran" },
        );
    }
    let first = findings.stranded().next();
    println!(
        "requests {}, the longest waited {:.1} ms, stranded {}{}",
        findings.requests,
        findings.longest.as_secs_f64() * 1e3,
        findings.stranded().count(),
        first.map_or(String::new(), |first| format!(
            ", the first after {:.1} s",
            first.at.as_secs_f64()
        )),
    );
}

/// Connections, and what came of their requests.
struct Asking {
    addr: String,
    topic: TopicId,
    shard: Shard,
    began: Instant,
    findings: Findings,
}

impl Asking {
    /// Writes the record that everybody asks for.
    fn begin(broker: &Broker) -> Self {
        let mut peer = Peer::connect(broker.addr());
        let topic = peer.create_topic("small", 1, TopicConfig::default());
        peer.produce(topic, Durability::Durable, &batch(&[b"a small record"]));
        Self {
            addr: broker.addr().to_owned(),
            topic,
            shard: Shard::find(broker.pid()),
            began: Instant::now(),
            findings: Findings::default(),
        }
    }

    /// Asks on so many connections for a second. Adds when late answers came to `ended`.
    fn turn(&mut self, connections: usize, ended: &mut Vec<SystemTime>) {
        let peers = (0..connections).map(|_| Peer::connect(&self.addr));
        let mut peers: Vec<Peer> = peers.collect();
        let until = Instant::now() + TURN;
        while Instant::now() < until {
            let began = Instant::now();
            for peer in &mut peers {
                let mut frame = Vec::new();
                let request = FetchRequest {
                    min_bytes: 1,
                    max_bytes: 1 << 10,
                    add: vec![interest(self.topic, 0)],
                    ..FetchRequest::default()
                };
                request.encode(peer.correlation(), &mut frame);
                peer.send(&frame);
            }
            for peer in &mut peers {
                let asleep = self.await_answer(peer, began);
                let answer = peer.receive();
                assert!(answer.error().is_none(), "{:?}", answer.error());
                self.note(began.elapsed(), asleep, ended);
            }
        }
    }

    /// Waits for the first byte; tells whether the shard slept when that took too long.
    fn await_answer(&self, peer: &Peer, began: Instant) -> bool {
        let rest = WAIT_MAX.saturating_sub(began.elapsed());
        // Zero would mean for ever.
        if has_bytes(peer, rest.max(Duration::from_millis(1))) {
            return false;
        }
        let asleep = self.shard.sleeps();
        assert!(has_bytes(peer, LIMIT), "the broker answers");
        asleep
    }

    fn note(&mut self, waited: Duration, asleep: bool, ended: &mut Vec<SystemTime>) {
        self.findings.requests += 1;
        self.findings.longest = self.findings.longest.max(waited);
        if waited > WAIT_MAX {
            self.findings.late.push(Late {
                at: self.began.elapsed(),
                waited,
                stolen: Duration::ZERO,
                asleep,
            });
            ended.push(SystemTime::now());
        }
    }
}

/// Whether there is something to read within `limit`.
fn has_bytes(peer: &Peer, limit: Duration) -> bool {
    let peek = || {
        peer.socket().set_read_timeout(Some(limit))?;
        let peeked = peer.socket().peek(&mut [0]);
        peer.socket().set_read_timeout(Some(LIMIT))?;
        peeked
    };
    match peek() {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) => panic!("the connection is open: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(waited_ms: u64, stolen_ms: u64, asleep: bool) -> Findings {
        let late = Late {
            at: Duration::ZERO,
            waited: Duration::from_millis(waited_ms),
            stolen: Duration::from_millis(stolen_ms),
            asleep,
        };
        Findings {
            late: vec![late],
            ..Findings::default()
        }
    }

    #[test]
    fn a_run_without_the_bug_fails_for_any_wait_that_is_not_the_hosts() {
        assert!(Findings::default().wrong(false).is_none());
        assert!(with(800, 0, true).wrong(false).is_some());
        assert!(with(800, 0, false).wrong(false).is_some());
        assert!(with(800, 600, true).wrong(false).is_none());
    }

    #[test]
    fn a_run_with_the_bug_fails_unless_a_shard_slept_over_a_request() {
        assert!(Findings::default().wrong(true).is_some());
        assert!(with(800, 0, true).wrong(true).is_none());
        assert!(with(800, 0, false).wrong(true).is_some(), "it was starved");
        assert!(with(800, 600, true).wrong(true).is_some(), "it was stolen");
    }
}
