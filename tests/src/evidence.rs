//! The evidence that nothing acknowledged is lost: all tiers of fault tests, one after the other.
//!
//! A tier that this host cannot run is left out and named. A tier has to find the bugs that are
//! planted for it, or what it says of the broker without bugs is worth nothing. Figures are of
//! this run; the same seed gives the same plan, not the same timing.

mod planted;
mod programs;
mod state;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cuts::{self, Point, Report, Session};
use crate::disk_faults::{self, Failure};
use crate::flips::{self, FlipConfig, FlipReport};
use crate::history::checker::{Anomaly, Kind};
use crate::machine::{Build, Layout};
use crate::seeded::Seeded;

pub use table::print;

/// How much is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides everything that is random.
    pub seed: u64,
    /// Power cuts on powerfs itself.
    pub cuts: u64,
    /// Power cuts below each file system of the kernel.
    pub block_cuts: u64,
    /// Seeds of the simulator.
    pub simulated_seeds: u64,
    /// Places to flip a bit at, without a broker and with one.
    pub flips: (usize, usize),
    /// Where a long run remembers its cuts, to go on after it was ended.
    pub state: Option<PathBuf>,
}

impl Plan {
    /// The share that every run of CI does.
    pub const fn quick(seed: u64) -> Self {
        Self {
            seed,
            cuts: 120,
            block_cuts: 4,
            simulated_seeds: 2_000,
            flips: (3_000, 40),
            state: None,
        }
    }

    /// The long run.
    pub fn full(seed: u64) -> Self {
        Self {
            seed,
            cuts: 3_000,
            block_cuts: 100,
            simulated_seeds: 100_000,
            flips: (12_000, 300),
            state: Some(PathBuf::from("target/evidence-state.txt")),
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Power cuts, by what the data lay on.
    pub cuts: BTreeMap<&'static str, Report>,
    /// Ways to fail that were tried, and what came of each.
    pub faults: BTreeMap<&'static str, Report>,
    /// Planted bugs, by name: after how many tries they were found.
    pub planted: BTreeMap<String, Option<u32>>,
    /// Flipped bits.
    pub flips: Option<FlipReport>,
    /// What the programs of other tiers say of themselves.
    pub programs: Vec<programs::Finding>,
    /// What was not tried, and why.
    pub left_out: Vec<String>,
    /// What is wrong.
    pub anomalies: Vec<Anomaly>,
    /// How long it took.
    pub wall: Duration,
}

impl Evidence {
    /// Whether nothing is wrong and all planted bugs were found.
    pub fn is_good(&self) -> bool {
        self.anomalies.is_empty() && self.planted.values().all(Option::is_some)
    }

    fn left_out(&mut self, tier: &str, reason: &str) {
        self.left_out.push(format!("{tier}: {reason}"));
    }

    fn wrong(&mut self, kind: Kind, detail: String) {
        self.anomalies.push(Anomaly { kind, detail });
    }
}

/// Cuts of one session: enough for a few segments, few enough to read in the end.
const SESSION_CUTS: u64 = 20;

/// Runs everything.
///
/// # Errors
/// If the state of a long run cannot be read or written.
pub async fn gather(plan: &Plan) -> std::io::Result<Evidence> {
    let began = Instant::now();
    let mut evidence = Evidence::default();
    if let Err(reason) = Layout::Direct.check_supported() {
        evidence.left_out("power cuts, disk faults and their planted bugs", &reason);
    } else {
        cut_plain(plan, &mut evidence).await?;
        for layout in [Layout::Ext4, Layout::Xfs] {
            cut_below(layout, plan, &mut evidence).await;
        }
        fail_disks(plan, &mut evidence).await;
        planted::find(plan.seed, &mut evidence).await;
    }
    flip_bits(plan, &mut evidence).await;
    programs::simulate(plan, &mut evidence);
    evidence.wall = began.elapsed();
    Ok(evidence)
}

/// Half of the sessions are cut at random, half at one operation after the other from the start.
async fn cut_plain(plan: &Plan, evidence: &mut Evidence) -> std::io::Result<()> {
    let mut state = state::State::load(plan)?;
    while state.cuts < plan.cuts {
        let number = state.cuts / SESSION_CUTS;
        let point = if number.is_multiple_of(2) {
            Point::Random
        } else {
            Point::Enumerated(1 + number / 2 * SESSION_CUTS % 200)
        };
        let cuts = SESSION_CUTS.min(plan.cuts - state.cuts);
        let seed = plan.seed.wrapping_add(number);
        let report = session(Layout::Direct, seed, cuts, point).await;
        state.note(cuts, &report)?;
        add_cuts(evidence, Layout::Direct, report);
    }
    let earlier = state.earlier();
    evidence.cuts.entry("powerfs").or_default().add(earlier);
    Ok(())
}

async fn cut_below(layout: Layout, plan: &Plan, evidence: &mut Evidence) {
    if let Err(reason) = layout.check_supported() {
        let tier = format!("power cuts below {}", layout.name());
        return evidence.left_out(&tier, &reason);
    }
    let mut random = Seeded::new(plan.seed);
    let mut done = 0;
    while done < plan.block_cuts {
        let cuts = SESSION_CUTS.min(plan.block_cuts - done);
        let report = session(layout, random.next(), cuts, Point::Random).await;
        add_cuts(evidence, layout, report);
        done += cuts;
    }
}

async fn session(layout: Layout, seed: u64, cuts: u64, point: Point) -> Result<Report, String> {
    let build = Build {
        layout,
        ..Build::new(seed)
    };
    let report = cuts::run(&Session::new(build, cuts, point)).await;
    let of = |report: &Report| (report.survived, report.anomalies.len());
    let name = layout.name();
    eprintln!(
        "{name}, seed {seed}, {cuts} cuts, {point:?}: {:?}",
        report.as_ref().map(of)
    );
    report
}

fn add_cuts(evidence: &mut Evidence, layout: Layout, report: Result<Report, String>) {
    match report {
        Ok(mut report) => {
            evidence.anomalies.append(&mut report.anomalies);
            evidence.cuts.entry(layout.name()).or_default().add(report);
        }
        Err(error) => evidence.wrong(
            Kind::Stuck,
            format!("power cuts on {}: {error}", layout.name()),
        ),
    }
}

async fn flip_bits(plan: &Plan, evidence: &mut Evidence) {
    let (offline, online) = plan.flips;
    let config = FlipConfig {
        seed: plan.seed,
        offline,
        online,
    };
    let report = flips::run(config).await;
    eprintln!("{report}");
    for wrong in &report.wrong {
        evidence.wrong(Kind::PhantomValue, format!("flipped bit: {wrong}"));
    }
    evidence.flips = Some(report);
}

async fn fail_disks(plan: &Plan, evidence: &mut Evidence) {
    for failure in Failure::ALL {
        let report = disk_faults::run(failure, &Build::new(plan.seed)).await;
        add_fault(evidence, failure.name(), report);
    }
    let report = disk_faults::run_rot(&Build::new(plan.seed)).await;
    add_fault(evidence, "rotten bit", report);
}

fn add_fault(evidence: &mut Evidence, name: &'static str, report: Result<Report, String>) {
    eprintln!(
        "{name}: {:?}",
        report.as_ref().map(|report| report.anomalies.len())
    );
    match report {
        Ok(mut report) => {
            evidence.anomalies.append(&mut report.anomalies);
            evidence.faults.insert(name, report);
        }
        Err(error) => evidence.wrong(Kind::Stuck, format!("{name}: {error}")),
    }
}
