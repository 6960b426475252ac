//! Tiers that are programs of their own: the simulator.

use std::path::Path;
use std::process::Command;

use super::{Evidence, Plan};
use crate::history::checker::Kind;
use crate::programs;

/// What a program said.
#[derive(Debug)]
pub struct Finding {
    /// Which tier.
    pub tier: &'static str,
    /// Its own summary.
    pub summary: String,
}

/// Bugs that only the simulator is meant to find, with the trouble that shows them.
const BUGS: [(&str, &str); 5] = [
    ("free-without-lease", "slow-readers"),
    ("skip-ledger", "damage"),
    ("compaction-drops-newest", "crashes"),
    ("free-without-checkpoint", "slow-readers"),
    ("tombstone-leaves-older", "crashes"),
];

/// The first seed that finds a bug ends the search, so this is only a bound. An eighth of them has
/// the trouble that is asked for; `skip-ledger` shows in one of some 2,000 runs with damage.
const BUG_SEEDS: &str = "64000";

/// Runs the simulator over seeds, and against the bugs that are planted for it alone.
pub(super) fn simulate(plan: &Plan, evidence: &mut Evidence) {
    let Some(program) = programs::simulator() else {
        return evidence.left_out("simulation", "there is no program catena-simulate");
    };
    let (seeds, from) = (plan.simulated_seeds.to_string(), plan.seed.to_string());
    let args = ["--threads", "2", "--seeds", &seeds, "--from", &from];
    match run(program, &args) {
        Ok((is_good, said)) => {
            for line in said.lines().take(2) {
                evidence.programs.push(Finding {
                    tier: "simulation",
                    summary: line.to_owned(),
                });
            }
            if !is_good {
                evidence.wrong(Kind::Stuck, format!("simulation: {said}"));
            }
        }
        Err(error) => evidence.wrong(Kind::Stuck, format!("simulation: {error}")),
    }
    for (bug, trouble) in BUGS {
        let search = ["--bug", bug, "--trouble", trouble, "--seeds", BUG_SEEDS];
        let args = [&["--threads", "2"], &search[..]].concat();
        let is_found = matches!(run(program, &args), Ok((true, _)));
        evidence
            .planted
            .insert(bug.to_owned(), is_found.then_some(1));
    }
}

/// Whether it ended well, and what it said.
fn run(program: &Path, args: &[&str]) -> std::io::Result<(bool, String)> {
    let output = Command::new(program).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.success(), said))
}
