//! Tiers that are programs of their own: the simulator.

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

/// Runs the simulator over seeds; it ends with an error if any of them fails.
pub(super) fn simulate(plan: &Plan, evidence: &mut Evidence) {
    let Some(program) = programs::simulator() else {
        return evidence.left_out("simulation", "there is no program catena-simulate");
    };
    let output = Command::new(program)
        .args(["--seeds", &plan.simulated_seeds.to_string()])
        .args(["--from", &plan.seed.to_string()])
        .output();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            let last = said.lines().last().unwrap_or_default();
            evidence.programs.push(Finding {
                tier: "simulation",
                summary: format!("{} seeds: {last}", plan.simulated_seeds),
            });
            if !output.status.success() {
                let complaint = String::from_utf8_lossy(&output.stderr);
                evidence.wrong(
                    Kind::Stuck,
                    format!("simulation: {last} {}", complaint.trim()),
                );
            }
        }
        Err(error) => evidence.wrong(Kind::Stuck, format!("simulation: {error}")),
    }
}
