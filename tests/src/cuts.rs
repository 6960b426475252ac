//! Power cuts under load, one after the other on the same data.
//!
//! A session starts a machine and clients, cuts the power many times, and checks the history of
//! the whole session in the end. What was lost in any cut shows there. Cut points are chosen by
//! operation of the disk: at random under load, or one after the other from a start on, so that
//! recovery itself is cut, too.

use std::collections::BTreeMap;

use crate::clients::{Clients, Load};
use crate::history::History;
use crate::history::checker::{Anomaly, Kind, check};
use crate::machine::{Boot, Build, Machine};
use crate::powerfs::{Loss, Sectors};
use crate::seeded::Seeded;

/// Where the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Some operations after some sends were acknowledged.
    Random,
    /// At this operation of the first start, at the next one of the second, and so on.
    Enumerated(u64),
}

/// What a session does.
#[derive(Clone, Debug)]
pub struct Session {
    /// The machine; its seed decides the cut points and what is torn, too.
    pub build: Build,
    /// How many cuts.
    pub cuts: u64,
    /// Where.
    pub point: Point,
    /// Sends that are acknowledged after the last cut, at the least.
    pub acknowledged_last: u64,
}

impl Session {
    /// The usual one.
    pub const fn new(build: Build, cuts: u64, point: Point) -> Self {
        Self {
            build,
            cuts,
            point,
            acknowledged_last: BETWEEN_CUTS_MIN,
        }
    }
}

/// What came of sessions.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cuts after which the broker came up again.
    pub survived: u64,
    /// Of these, cuts before the broker was ready.
    pub while_starting: u64,
    /// Unflushed sectors.
    pub sectors: Sectors,
    /// Sends that were acknowledged.
    pub acknowledged: u64,
    /// Records that readers got.
    pub polled: u64,
    /// How often each kind of fault hit, besides the cuts.
    pub injected: BTreeMap<&'static str, u64>,
    /// What is wrong, sorted by kind.
    pub anomalies: Vec<Anomaly>,
}

impl Report {
    /// Adds those of another session.
    pub fn add(&mut self, other: Self) {
        self.survived += other.survived;
        self.while_starting += other.while_starting;
        self.sectors.kept += other.sectors.kept;
        self.sectors.lost += other.sectors.lost;
        self.acknowledged += other.acknowledged;
        self.polled += other.polled;
        for (kind, count) in other.injected {
            *self.injected.entry(kind).or_default() += count;
        }
        self.anomalies.extend(other.anomalies);
    }
}

/// Sends that are acknowledged between two random cuts, at the least and how many more at random.
const BETWEEN_CUTS_MIN: u64 = 10;
const BETWEEN_CUTS_MORE: usize = 60;

/// A random cut comes within so many operations.
const OPERATIONS_MAX: usize = 25;

/// Runs a session.
///
/// # Errors
/// What the host refuses. What the broker does wrong is in the report.
pub async fn run(session: &Session) -> Result<Report, String> {
    let mut machine = Machine::build(&session.build)?;
    let mut report = Report::default();
    if let Err(error) = machine.boot() {
        report.stuck(error);
        return Ok(report);
    }
    let load = Load {
        seed: session.build.seed,
        ..Load::default()
    };
    let clients = match Clients::start(machine.broker().addr(), load).await {
        Ok(clients) => clients,
        Err(error) => {
            report.stuck(machine.failure(&error));
            return Ok(report);
        }
    };
    let mut ended = cut_often(session, &mut machine, &clients, &mut report).await;
    if ended.is_ok() && !clients.until_acknowledged(session.acknowledged_last).await {
        ended = Err(machine.failure("no send is acknowledged after the last cut"));
    }
    if let Err(error) = ended {
        report.stuck(error);
        if clients.recorder().is_hopeless() {
            // It was acknowledged, as was what was sent there.
            report.lost("the topic is gone".to_owned());
        }
        return Ok(report);
    }
    report.acknowledged = clients.recorder().acknowledged();
    let history = clients.finish().await;
    let polled = history.polls.iter().map(|poll| poll.records.len() as u64);
    report.polled = polled.sum();
    let anomalies = judge(&history);
    if !anomalies.is_empty() {
        eprintln!("{}", machine.failure("the history is wrong"));
    }
    report.anomalies.extend(anomalies);
    Ok(report)
}

/// What is wrong with the history of a disk whose reads do not fail: damage that readers are told
/// of, too.
pub(crate) fn judge(history: &History) -> Vec<Anomaly> {
    let mut anomalies = judge_kept(history);
    if let Some(report) = history.reports.first() {
        anomalies.push(Anomaly {
            kind: Kind::LostWrite,
            detail: format!("readers are told of damage where nothing was: {report:?}"),
        });
    }
    anomalies
}

/// What is wrong with the history of a disk that keeps what was flushed: damage in the end, too.
pub(crate) fn judge_kept(history: &History) -> Vec<Anomaly> {
    let mut anomalies = check(history);
    for (partition, read) in &history.finals {
        if !read.damaged.is_empty() {
            anomalies.push(Anomaly {
                kind: Kind::LostWrite,
                detail: format!(
                    "partition {partition}: the broker calls {:?} damaged, and nothing was",
                    read.damaged
                ),
            });
        }
    }
    anomalies
}

async fn cut_often(
    session: &Session,
    machine: &mut Machine,
    clients: &Clients,
    report: &mut Report,
) -> Result<(), String> {
    let mut random = Seeded::new(session.build.seed);
    let mut boot = Boot::Ready;
    for number in 0..session.cuts {
        if boot == Boot::Ready && (number == 0 || session.point == Point::Random) {
            let more = BETWEEN_CUTS_MIN + random.below(BETWEEN_CUTS_MORE) as u64;
            if !clients.until_acknowledged(more).await {
                return Err(machine.failure("no send is acknowledged"));
            }
            let after = 1 + random.below(OPERATIONS_MAX) as u64;
            machine
                .disk()
                .freeze_at(machine.disk().operations() + after);
        }
        machine.until_frozen()?;
        let loss = if number.is_multiple_of(2) {
            Loss::Drop
        } else {
            Loss::Tear
        };
        let sectors = machine.cut(loss, random.next())?;
        if let Point::Enumerated(first) = session.point
            && number + 1 < session.cuts
        {
            let operation = machine.disk().operations() + first + number;
            machine.disk().freeze_at(operation);
        }
        let was_starting = boot == Boot::Frozen;
        boot = machine.boot()?;
        report.survived += 1;
        report.while_starting += u64::from(was_starting);
        report.sectors.kept += sectors.kept;
        report.sectors.lost += sectors.lost;
    }
    Ok(())
}

impl Report {
    fn stuck(&mut self, detail: String) {
        let kind = Kind::Stuck;
        self.anomalies.push(Anomaly { kind, detail });
    }

    fn lost(&mut self, detail: String) {
        let kind = Kind::LostWrite;
        self.anomalies.push(Anomaly { kind, detail });
    }
}
