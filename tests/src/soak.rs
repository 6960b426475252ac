//! A long run under mixed load, with readers that are stalled all the while: no shard may stall,
//! and memory, descriptors and threads must be flat.
//!
//! The broker has one core and everything else another. Run by hand: `catena-tests soak`.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use catena_protocol::ids::TopicId;
use catena_protocol::messages::DescribeTopicRequest;

use crate::broker::{Broker, Settings};
use crate::crowd::StalledReaders;
use crate::growth::{Growth, RESIDENT_RISE_MAX, mib};
use crate::peer::Peer;
use crate::process::{self, Sample};
use crate::stalls::{self, Stalls};
use crate::steal::Recorder;
use crate::{programs, wait};

/// A quarter of it may be pinned by readers.
const CACHE: &str = "256MiB";
const PINNED_BYTES_MAX: u64 = (256 << 20) / 4;

const BROKER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// How the run is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long the load runs.
    pub duration: Duration,
    /// Readers that take nothing.
    pub stalled_readers: usize,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Each is a reason to fail.
    pub wrong: Vec<String>,
}

struct Look {
    at: Duration,
    process: Sample,
    pinned_bytes: u64,
}

/// Runs it and prints what it sees.
///
/// # Panics
/// If a program cannot be run.
pub fn run(plan: &Plan) -> Findings {
    let mut broker = Broker::start_with(Settings {
        cache: CACHE.to_owned(),
        space: "12GiB".to_owned(),
        ..Settings::default()
    });
    // From here on: the broker has its core to itself.
    process::keep_to(LOAD_CORE);
    let recorder = Recorder::start(BROKER_CORE);
    let mut loads = start_loads(&broker, plan.duration);
    let topic = topic_of(&broker, "soak-batches");
    let mut stalled = StalledReaders::attach(broker.addr(), topic, plan.stalled_readers);
    let began = Instant::now();
    let mut looks = Vec::new();
    while began.elapsed() < plan.duration {
        wait::measure_for(SAMPLE_INTERVAL);
        stalled.renew(plan.stalled_readers / 5);
        let look = Look {
            at: began.elapsed(),
            process: process::sample(broker.pid()),
            pinned_bytes: broker.metric("catena_pinned_bytes"),
        };
        println!(
            "{:>5} s  {:>6.1} MiB resident  {:>6.1} MiB pinned  {:>5} descriptors  {:>3} threads",
            look.at.as_secs(),
            mib(look.process.resident_bytes),
            mib(look.pinned_bytes),
            look.process.descriptors,
            look.process.threads,
        );
        looks.push(look);
    }
    let mut findings = Findings::default();
    for (name, load) in &mut loads {
        let status = load.wait().expect("the load can be waited for");
        if !status.success() {
            findings
                .wrong
                .push(format!("load `{name}` ended with {status}"));
        }
    }
    let counted = Counted::by(&broker);
    drop(stalled);
    let stopping = SystemTime::now();
    broker.stop();
    // What was logged is written by now. The stop itself is no part of the run.
    let stop = stopping..SystemTime::now();
    let stalls = stalls::judge(&broker.log(), &recorder.finish(), &[stop]);
    judge_stalls(stalls, &counted, &mut findings);
    judge_memory(&looks, &mut findings);
    findings
}

/// What the broker itself counts of stalls. Asked for before its log is read, which then tells of
/// all that are counted.
struct Counted {
    late: u64,
    by_watchdog: u64,
    longest_ms: f64,
}

impl Counted {
    fn by(broker: &Broker) -> Self {
        Self {
            late: broker.metric("catena_stalls_total"),
            by_watchdog: broker.metric("catena_watchdog_stalls_total"),
            longest_ms: longest_stall_ms(&broker.admin_get("/metrics")),
        }
    }
}

fn judge_stalls(stalls: Stalls, counted: &Counted, findings: &mut Findings) {
    for line in &stalls.lines {
        println!("{line}");
    }
    println!(
        "stalls {}, seen by the watchdog {}, the longest {:.1} ms",
        counted.late, counted.by_watchdog, counted.longest_ms
    );
    findings.wrong.extend(stalls.missing(counted.late));
    findings.wrong.extend(stalls.wrong);
    if counted.by_watchdog > 0 {
        findings.wrong.push("the watchdog saw a stall".to_owned());
    }
}

/// Only memory has to be flat: descriptors come and go with the stalled readers.
fn judge_memory(looks: &[Look], findings: &mut Findings) {
    let samples: Vec<_> = looks.iter().map(|look| (look.at, look.process)).collect();
    if let Some(growth) = Growth::of_warm(&samples) {
        println!("the last two thirds: {growth}");
        if growth.resident.rise > RESIDENT_RISE_MAX {
            findings.wrong.push("memory grows".to_owned());
        }
    }
    let pinned = looks.iter().map(|look| look.pinned_bytes).max();
    let pinned = pinned.unwrap_or_default();
    println!(
        "pinned at most {:.1} of {:.1} MiB",
        mib(pinned),
        mib(PINNED_BYTES_MAX),
    );
    if pinned > PINNED_BYTES_MAX {
        findings
            .wrong
            .push("readers pin more than their budget".to_owned());
    }
}

/// Small keyed messages, large batches, weaker acks, readers of the tail and of everything.
fn start_loads(broker: &Broker, duration: Duration) -> Vec<(&'static str, Child)> {
    let shapes: [(&str, &str); 5] = [
        (
            "batches",
            "produce --topic soak-batches --partitions 1 --rate 40000 --batch-records 400 \
             --retention-bytes 1500000000",
        ),
        (
            "messages",
            "produce --topic soak-messages --partitions 64 --rate 20000 --key-mode random-keys \
             --retention-bytes 16000000",
        ),
        (
            "received",
            "produce --topic soak-received --partitions 4 --rate 5000 --record-bytes 300 \
             --acks received --retention-bytes 16000000",
        ),
        (
            "tail",
            "e2e --topic soak-tail --partitions 8 --rate 2000 --retention-bytes 16000000",
        ),
        ("replay", "consume --topic soak-batches --from earliest"),
    ];
    let seconds = format!("{}s", duration.as_secs());
    let mut loads = Vec::new();
    for (name, arguments) in shapes {
        if name == "replay" {
            wait::until("the topic is there", || {
                broker.metric("catena_produce_bytes_total") > 64 << 20
            });
        }
        let child = Command::new(programs::bench())
            .args(arguments.split_whitespace())
            .args([
                "--broker",
                broker.addr(),
                "--core",
                &LOAD_CORE.to_string(),
                "--duration",
                &seconds,
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("the load generator can be run");
        loads.push((name, child));
    }
    loads
}

fn topic_of(broker: &Broker, name: &str) -> TopicId {
    let mut peer = Peer::connect(broker.addr());
    let request = DescribeTopicRequest {
        name: name.to_owned(),
    };
    wait::until_some("the topic is there", || {
        peer.ask(&request).ok().map(|answer| answer.topic.id)
    })
}

fn longest_stall_ms(metrics: &str) -> f64 {
    let lines = metrics.lines();
    let values = lines.filter_map(|line| line.strip_prefix("catena_stall_max_seconds{"));
    let seconds = values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    seconds.fold(0.0, f64::max) * 1e3
}
