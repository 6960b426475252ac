//! What a long run of power cuts remembers, so that it can be ended and gone on with.
//!
//! A line per session: seed of the run, cuts, survived, cuts while starting, sectors kept and lost,
//! acknowledged, polled. Sessions with anomalies are not noted: they come again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use super::Plan;
use crate::cuts::Report;
use crate::powerfs::Sectors;

pub(super) struct State {
    /// Cuts that are done.
    pub(super) cuts: u64,
    seed: u64,
    path: Option<PathBuf>,
    earlier: Report,
}

impl State {
    pub(super) fn load(plan: &Plan) -> io::Result<Self> {
        let mut state = Self {
            cuts: 0,
            seed: plan.seed,
            path: plan.state.clone(),
            earlier: Report::default(),
        };
        let text = match &state.path {
            Some(path) if path.exists() => fs::read_to_string(path)?,
            _ => String::new(),
        };
        for line in text.lines() {
            let numbers: Vec<u64> = line
                .split(' ')
                .filter_map(|word| word.parse().ok())
                .collect();
            let [
                seed,
                cuts,
                survived,
                while_starting,
                kept,
                lost,
                acknowledged,
                polled,
            ] = numbers[..]
            else {
                return Err(io::Error::other(format!("not a line of a state: {line:?}")));
            };
            if seed == plan.seed {
                state.cuts += cuts;
                state.earlier.add(Report {
                    survived,
                    while_starting,
                    sectors: Sectors { kept, lost },
                    acknowledged,
                    polled,
                    ..Report::default()
                });
            }
        }
        Ok(state)
    }

    /// What was done before this run.
    pub(super) fn earlier(&mut self) -> Report {
        std::mem::take(&mut self.earlier)
    }

    pub(super) fn note(&mut self, cuts: u64, report: &Result<Report, String>) -> io::Result<()> {
        self.cuts += cuts;
        let (Some(path), Ok(report)) = (&self.path, report) else {
            return Ok(());
        };
        if !report.anomalies.is_empty() {
            return Ok(());
        }
        let mut file = File::options().create(true).append(true).open(path)?;
        let Report {
            survived,
            while_starting,
            sectors,
            acknowledged,
            polled,
            ..
        } = report;
        let (seed, kept, lost) = (self.seed, sectors.kept, sectors.lost);
        writeln!(
            file,
            "{seed} {cuts} {survived} {while_starting} {kept} {lost} {acknowledged} {polled}"
        )
    }
}
