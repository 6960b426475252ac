//! A long run in which everything comes and goes: power, processes, connections, topics, segments,
//! space. Round after round on the same data, by a schedule that a seed gives.
//!
//! A *stormy* round does everything once, in random order, under clients that record their history;
//! in the end the broker is stopped cleanly and started, gets a fixed load, and is looked at. So
//! brokers of different rounds can be compared although each is a process of its own. A *calm*
//! round is one long life of the broker, looked at after each of its sessions. Each session has a
//! topic of its own, whose history is checked before it is deleted. All the while another topic is
//! written that keeps little. Run by hand: `catena-tests churn`.

mod events;
mod findings;
pub mod schedule;
mod turnover;

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use catena_client::Client;

use crate::clients::{Clients, Load};
use crate::cuts::judge;
use crate::history::checker::{Anomaly, Kind};
use crate::machine::{Boot, Build, Layout, Machine};
use crate::process::{self, Cores, Sample};
use crate::seeded::Seeded;
use crate::stalls;
use crate::steal::Recorder;
use schedule::{Round, Schedule};
use turnover::Turnover;

pub use findings::{Counts, Findings, Row};

/// Generous, as in `clients`: a request may wait for a broker that starts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// About 250 sends a second and 2 MiB/s: a round is a small part of the store's space.
const PAUSE: Duration = Duration::from_millis(10);

/// How the run is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long it lasts, but for the round that is under way. The last sixth is one calm round.
    pub duration: Duration,
    /// Decides everything that is random.
    pub seed: u64,
    /// What the data lies on.
    pub layout: Layout,
    /// Sends that are acknowledged between two events, at the least.
    pub acknowledged: u64,
    /// Connections of a wave.
    pub connections: usize,
}

impl Plan {
    /// The usual load for so long.
    pub const fn new(duration: Duration, seed: u64, layout: Layout) -> Self {
        Self {
            duration,
            seed,
            layout,
            acknowledged: 300,
            connections: 300,
        }
    }

    /// How long calm rounds last, besides the last.
    fn calm_duration(&self) -> Duration {
        self.duration / 30
    }
}

/// Runs it and prints what it sees.
///
/// # Errors
/// What the host refuses, in words. What the broker does wrong is a finding.
///
/// # Panics
/// If the kernel does not tell about processes of its own.
pub fn run(plan: &Plan) -> Result<Findings, String> {
    let cores = Cores::of_this_thread();
    let thefts = Recorder::start(cores.first);
    process::allow(&cores.others);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(move || process::allow(&cores.others))
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let build = Build {
        layout: plan.layout,
        ..Build::new(plan.seed)
    };
    let mut churn = Churn {
        machine: Machine::build(&build)?,
        plan: *plan,
        flush_delay: build.flush_delay,
        cores,
        began: Instant::now(),
        excused: Vec::new(),
        findings: Findings::default(),
    };
    let ended = runtime.block_on(churn.all_rounds());
    let mut findings = churn.findings;
    if let Err(error) = ended {
        findings.anomalies.push(stuck(error));
    }
    let log = churn.machine.broker().log();
    drop(churn.machine);
    process::allow(&cores.all);
    findings.stalls = stalls::judge(&log, &thefts.finish(), &churn.excused);
    findings.print();
    Ok(findings)
}

fn stuck(detail: String) -> Anomaly {
    let kind = Kind::Stuck;
    Anomaly { kind, detail }
}

/// A run under way.
struct Churn {
    machine: Machine,
    plan: Plan,
    /// That of the machine when nothing is injected.
    flush_delay: Duration,
    cores: Cores,
    began: Instant,
    /// When something was done to the broker that makes executors stand still.
    excused: Vec<Range<SystemTime>>,
    findings: Findings,
}

/// What a session came to.
struct Session {
    acknowledged: u64,
    polled: u64,
    ready: Sample,
    loaded: Sample,
    harness: Sample,
}

impl Churn {
    async fn all_rounds(&mut self) -> Result<(), String> {
        self.boot()?;
        let turnover = Turnover::start(self.machine.broker().addr()).await?;
        let mut schedule = Schedule::new(self.plan.seed, self.plan.layout);
        let is_over = |churn: &Self| churn.began.elapsed() >= churn.plan.duration * 5 / 6;
        while self.findings.rows.is_empty() || !is_over(self) {
            let round = schedule.next_round();
            if round.is_calm {
                self.calm(round, self.plan.calm_duration()).await?;
            } else {
                self.stormy(round).await?;
            }
        }
        let rest = self.plan.duration.saturating_sub(self.began.elapsed());
        self.calm(schedule.last_round(), rest).await?;
        self.findings.turned_over_bytes = turnover.finish().await?;
        self.end_cleanly()
    }

    async fn stormy(&mut self, round: Round) -> Result<(), String> {
        let topic = format!("round-{}", round.number);
        let session = self.session(&round, &topic).await?;
        self.note(round, &session);
        Ok(())
    }

    async fn calm(&mut self, round: Round, duration: Duration) -> Result<(), String> {
        self.restart()?;
        let ready = process::sample(self.machine.broker().pid());
        let born = Instant::now();
        let mut total: Option<Session> = None;
        let mut life = Vec::new();
        while total.is_none() || born.elapsed() < duration {
            let topic = format!("round-{}-{}", round.number, life.len());
            let session = self.session(&round, &topic).await?;
            life.push((born.elapsed(), session.loaded));
            let before = total.as_ref();
            total = Some(Session {
                acknowledged: session.acknowledged + before.map_or(0, |total| total.acknowledged),
                polled: session.polled + before.map_or(0, |total| total.polled),
                ready,
                ..session
            });
        }
        self.findings.lives.push(life);
        let total = total.expect("one session at the least");
        self.note(round, &total);
        Ok(())
    }

    /// Clients on a topic of their own, and the events of a round with steady load between them.
    /// That of a stormy round ends in a new life of the broker, looked at as it begins and after a
    /// load that is the same each time.
    async fn session(&mut self, round: &Round, topic: &str) -> Result<Session, String> {
        let mut random = Seeded::new(round.seed);
        let load = Load {
            seed: random.next(),
            pause: PAUSE,
            ..Load::default()
        };
        let clients = Clients::start_on(self.machine.broker().addr(), topic, load).await;
        let clients = clients.map_err(|error| self.machine.failure(&error))?;
        self.steady(&clients, 1).await?;
        for event in &round.events {
            self.carry_out(*event, &clients, &mut random).await?;
            self.steady(&clients, 1).await?;
        }
        if !round.is_calm {
            self.restart()?;
        }
        let ready = process::sample(self.machine.broker().pid());
        self.steady(&clients, 3).await?;
        let loaded = process::sample(self.machine.broker().pid());
        let harness = process::sample(std::process::id());
        let acknowledged = clients.recorder().acknowledged();
        let history = clients.finish().await;
        let anomalies = judge(&history);
        if !anomalies.is_empty() {
            eprintln!("{}", self.machine.failure("the history is wrong"));
        }
        self.findings.anomalies.extend(anomalies);
        self.delete(topic).await?;
        let polled = history.polls.iter().map(|poll| poll.records.len() as u64);
        Ok(Session {
            acknowledged,
            polled: polled.sum(),
            ready,
            loaded,
            harness,
        })
    }

    fn note(&mut self, round: Round, session: &Session) {
        let row = Row {
            at: self.began.elapsed(),
            round,
            acknowledged: session.acknowledged,
            polled: session.polled,
            ready: session.ready,
            loaded: session.loaded,
            harness: session.harness,
        };
        println!("{row}");
        self.findings.rows.push(row);
    }

    /// Waits until sends are acknowledged, so many times as the plan says.
    async fn steady(&self, clients: &Clients, times: u64) -> Result<(), String> {
        if clients
            .until_acknowledged(self.plan.acknowledged * times)
            .await
        {
            Ok(())
        } else {
            Err(self.machine.failure("no send is acknowledged"))
        }
    }

    /// The broker may use all cores, whatever this thread keeps to.
    fn boot(&mut self) -> Result<(), String> {
        process::allow(&self.cores.all);
        let boot = self.machine.boot();
        process::allow(&self.cores.others);
        match boot? {
            Boot::Ready => Ok(()),
            Boot::Frozen => Err("nothing freezes this disk".to_owned()),
        }
    }

    fn restart(&mut self) -> Result<(), String> {
        self.end_cleanly()?;
        self.boot()
    }

    fn end_cleanly(&mut self) -> Result<(), String> {
        self.machine.broker().terminate();
        let status = self.machine.broker_mut().exited();
        if !status.success() {
            let what = format!("a stop ended with {status}");
            return Err(self.machine.failure(&what));
        }
        self.findings.counts.stops += 1;
        Ok(())
    }

    async fn delete(&self, topic: &str) -> Result<(), String> {
        let client = connect(self.machine.broker().addr()).await?;
        let deleted = client.admin().delete_topic(topic).await;
        deleted.map_err(|error| self.machine.failure(&format!("{topic}: {error}")))
    }
}

async fn connect(addr: &str) -> Result<Client, String> {
    let client = Client::builder().request_timeout(REQUEST_TIMEOUT);
    let client = client.connect(addr).await;
    client.map_err(|error| error.to_string())
}
