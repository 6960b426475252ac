//! What thousands of idle connections cost: memory each, processor time, and what others notice.
//!
//! Run by hand: `catena-tests idle`.

use std::process::Command;
use std::time::Duration;

use crate::broker::Broker;
use crate::{crowd, process, programs, wait};

const LOOK: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Resident memory of the broker per connection, in bytes.
    pub bytes_each: u64,
    /// Processor time of a broker with nothing to do, in ticks of 10 ms per 5 s, before and with
    /// the connections.
    pub ticks: [u64; 2],
    /// The latency line of a light produce load, before, with, and after them.
    pub latency: [String; 3],
}

/// Connects `count` clients that do nothing, and measures what that does to a light load.
///
/// # Panics
/// If a program cannot be run, or the process may not open so many connections.
pub fn run(count: usize) -> Findings {
    let mut broker = Broker::start();
    latency(&broker);
    let idle_before = ticks(&broker);
    let before = latency(&broker);
    let resident_before = process::sample(broker.pid()).resident_bytes;
    let connections = crowd::idle(broker.addr(), count);
    let resident = process::sample(broker.pid()).resident_bytes;
    let idle_with = ticks(&broker);
    let with = latency(&broker);
    drop(connections);
    let after = latency(&broker);
    broker.stop();
    let count = u64::try_from(count).expect("a count fits");
    Findings {
        bytes_each: resident.saturating_sub(resident_before) / count.max(1),
        ticks: [idle_before, idle_with],
        latency: [before, with, after],
    }
}

fn ticks(broker: &Broker) -> u64 {
    let before = process::sample(broker.pid()).cpu_ticks;
    wait::measure_for(LOOK);
    process::sample(broker.pid()).cpu_ticks - before
}

/// 2,000 messages a second for 5 s, one batch each.
fn latency(broker: &Broker) -> String {
    let output = Command::new(programs::bench())
        .args("produce --topic light --rate 2000 --warmup 1s --duration 5s --core 1".split(' '))
        .args(["--broker", broker.addr()])
        .output()
        .expect("the load generator can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("latency"));
    line.unwrap_or("no latency was measured").to_owned()
}
