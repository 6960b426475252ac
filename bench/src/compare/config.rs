//! What a comparison is made of: the file, and what the command line takes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::CompareArgs;
use crate::args::{Acks, SystemName};
use crate::limits::{CEILING_BYTES_MIN, COMPARE_RUNS_MAX, QUICK_DURATION, QUICK_WARMUP};
use crate::workload::{Pace, Workload, WorkloadText};

/// A comparison, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) runs: u32,
    /// Cores of the load threads, one thread each.
    pub(crate) load_cores: Vec<usize>,
    pub(crate) systems: Vec<SystemConfig>,
    pub(crate) workloads: Vec<Workload>,
    /// The ceiling to be measured beside each run.
    pub(crate) ceiling: Option<CeilingConfig>,
    pub(crate) guards: Vec<Guard>,
    /// Whether the systems were named on the command line: then all of them must run.
    pub(crate) all_must_run: bool,
    pub(crate) is_quick: bool,
}

/// A system under test.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SystemConfig {
    pub(crate) name: String,
    pub(crate) system: SystemName,
    /// What is asked of it instead of what the workload says.
    pub(crate) acks: Option<Acks>,
    pub(crate) address: String,
    /// Program and arguments; `{dir}` stands for a directory of its own. Without a command the
    /// system is running already.
    #[serde(default)]
    pub(crate) command: Vec<String>,
    /// Files to be made in its directory, by name; `{dir}` stands for it in them, too.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    /// Cores it may run on; all if none is named.
    #[serde(default)]
    pub(crate) cores: Vec<usize>,
    /// Whether its directory stays from turn to turn, so that it uses space again as it does in
    /// production; otherwise each turn begins with an empty one.
    #[serde(default)]
    pub(crate) keep_data: bool,
    /// Catena's admin address, to tell whether segments were recycled.
    pub(crate) admin: Option<String>,
}

/// How the ceiling is measured beside each run, on the first core of the systems and of the load.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CeilingConfig {
    /// Of the test file.
    pub(crate) bytes: u64,
    /// Of each measurement.
    pub(crate) seconds: u64,
}

/// A share of the ceiling that must be kept, as a median over the runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guard {
    pub(crate) workload: String,
    pub(crate) system: String,
    /// Of what: as the report calls it.
    pub(crate) of: String,
    pub(crate) at_least: Option<f64>,
    pub(crate) at_most: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigText {
    runs: u32,
    #[serde(default)]
    load_cores: Vec<usize>,
    systems: Vec<SystemConfig>,
    workloads: Vec<WorkloadText>,
    ceiling: Option<CeilingConfig>,
    #[serde(default)]
    guards: Vec<Guard>,
}

impl Config {
    /// Reads the file that `args` names and takes the part of it that they ask for.
    pub(crate) fn read(args: &CompareArgs) -> Result<Self> {
        let name = args.config.display();
        let text =
            fs::read_to_string(&args.config).with_context(|| format!("cannot read {name}"))?;
        let beside = args.config.parent().unwrap_or(Path::new("."));
        Self::parse(&text, beside, args).with_context(|| name.to_string())
    }

    fn parse(text: &str, beside: &Path, args: &CompareArgs) -> Result<Self> {
        let text: ConfigText = toml::from_str(text)?;
        let runs = args.runs.unwrap_or(text.runs);
        ensure!(
            (1..=COMPARE_RUNS_MAX).contains(&runs),
            "runs must lie between 1 and {COMPARE_RUNS_MAX}, not {runs}"
        );
        let workloads = text
            .workloads
            .into_iter()
            .map(|workload| workload.resolve(beside))
            .collect::<Result<Vec<_>>>()?;
        let guards = text.guards;
        for guard in &guards {
            let knows_system = text.systems.iter().any(|it| it.name == guard.system);
            let knows_workload = workloads.iter().any(|it| it.name == guard.workload);
            ensure!(
                knows_system && knows_workload,
                "a guard is about \"{}\" on \"{}\", which is not in the file",
                guard.workload,
                guard.system
            );
        }
        let mut config = Self {
            runs,
            load_cores: text.load_cores,
            systems: chosen(text.systems, &args.systems, |system| &system.name)?,
            workloads: chosen(workloads, &args.workloads, |workload| &workload.name)?,
            ceiling: text.ceiling,
            guards,
            all_must_run: !args.systems.is_empty(),
            is_quick: args.quick,
        };
        for system in &config.systems {
            system
                .check()
                .with_context(|| format!("system \"{}\"", system.name))?;
        }
        config.check_guards()?;
        if args.quick {
            config.make_quick();
        }
        Ok(config)
    }

    /// Keeps the guards of what is run.
    fn check_guards(&mut self) -> Result<()> {
        let bytes = self.ceiling.map_or(CEILING_BYTES_MIN, |it| it.bytes);
        ensure!(
            bytes >= CEILING_BYTES_MIN,
            "the ceiling's file has at least {CEILING_BYTES_MIN} bytes"
        );
        let seconds = self.ceiling.map_or(1, |it| it.seconds);
        ensure!(
            (1..=3_600).contains(&seconds),
            "a measurement of the ceiling takes 1 to 3600 seconds"
        );
        ensure!(
            self.guards.is_empty() || self.ceiling.is_some(),
            "guards hold shares of a ceiling: it must be measured"
        );
        for guard in &self.guards {
            ensure!(
                guard.at_least.is_some() != guard.at_most.is_some(),
                "the guard of \"{}\" needs one of at_least and at_most",
                guard.workload
            );
        }
        let (systems, workloads) = (&self.systems, &self.workloads);
        self.guards.retain(|guard| {
            systems.iter().any(|system| system.name == guard.system)
                && workloads.iter().any(|it| it.name == guard.workload)
        });
        Ok(())
    }

    fn make_quick(&mut self) {
        self.runs = 1;
        // A second of anything proves nothing.
        self.guards.clear();
        let phases = self.workloads.iter_mut().flat_map(|each| &mut each.phases);
        // A replay ends when everything is read; cut off, it would call the rest lost.
        for phase in phases.filter(|phase| phase.pace != Pace::Replay) {
            phase.duration = phase.duration.min(QUICK_DURATION);
            phase.warmup = phase.warmup.min(QUICK_WARMUP);
        }
    }

    /// About how long the comparison takes, without starts and stops.
    pub(crate) fn length(&self) -> Duration {
        let turns = self.runs * u32::try_from(self.systems.len()).unwrap_or(u32::MAX);
        let each: Duration = self.workloads.iter().map(Workload::length).sum();
        each.saturating_mul(turns)
    }
}

impl SystemConfig {
    fn check(&self) -> Result<()> {
        ensure!(
            !self.command.is_empty() || (self.files.is_empty() && self.cores.is_empty()),
            "files and cores are for a system that a command starts"
        );
        ensure!(
            is_plain(&self.name),
            "the name of a system is that of its directory: a word without slashes"
        );
        for name in self.files.keys() {
            ensure!(
                is_plain(name),
                "a file is made in the system's directory: \"{name}\" lies elsewhere"
            );
        }
        Ok(())
    }
}

/// Whether `name` is that of something directly in a directory.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let is_normal = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    is_normal && parts.next().is_none()
}

/// Those of `all` that are `wanted`, in the order of the file; all if none is named. Every name is
/// unique, and every one wanted must be there.
fn chosen<T>(all: Vec<T>, wanted: &[String], name: impl Fn(&T) -> &String) -> Result<Vec<T>> {
    let mut names = BTreeSet::new();
    for each in &all {
        let is_new = names.insert(name(each).clone());
        ensure!(is_new, "there are two called \"{}\"", name(each));
    }
    for wanted in wanted {
        if !names.contains(wanted) {
            let there: Vec<_> = names.iter().map(String::as_str).collect();
            bail!("there is no \"{wanted}\", only {}", there.join(", "));
        }
    }
    ensure!(!all.is_empty(), "there is nothing to compare");
    let mut all = all;
    all.retain(|each| wanted.is_empty() || wanted.contains(name(each)));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    const TEXT: &str = r#"
        runs = 3
        load_cores = [1]
        [[systems]]
        name = "one"
        system = "catena"
        address = "127.0.0.1:1"
        command = ["catena-broker", "--data-dir", "{dir}"]
        [[systems]]
        name = "two"
        system = "catena"
        acks = "received"
        address = "127.0.0.1:2"
        [[workloads]]
        name = "w"
        warmup = "2s"
        phases = [{ pace = "max", duration = "10s" }]
    "#;

    fn parse(text: &str, options: &str) -> Result<Config> {
        let line = format!("catena-bench compare --config x {options}");
        let cli = Cli::try_parse_from(line.split_whitespace())?;
        let Command::Compare(args) = cli.command else {
            panic!("a compare command")
        };
        Config::parse(text, Path::new("."), &args)
    }

    fn refusal(text: &str, options: &str) -> String {
        format!(
            "{:#}",
            parse(text, options).expect_err("it must be refused")
        )
    }

    #[test]
    fn the_command_line_takes_a_part_of_the_file() {
        let all = parse(TEXT, "").expect("well formed");
        assert_eq!(
            (all.runs, all.systems.len(), all.all_must_run),
            (3, 2, false)
        );
        assert_eq!(all.length(), Duration::from_secs(72));
        let part = parse(TEXT, "--systems two --runs 1").expect("well formed");
        assert_eq!(
            (part.runs, part.systems.len(), part.all_must_run),
            (1, 1, true)
        );
        assert_eq!(part.systems[0].acks, Some(Acks::Received));
    }

    #[test]
    fn quick_is_one_short_run() {
        let quick = parse(TEXT, "--quick").expect("well formed");
        assert_eq!(quick.length(), 2 * (QUICK_DURATION + QUICK_WARMUP));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refusal(TEXT, "--systems three").contains("only one, two"));
        assert!(refusal(&TEXT.replace("\"two\"", "\"one\""), "").contains("two called"));
        assert!(refusal(&TEXT.replace("runs = 3", "runs = 100"), "").contains("runs must lie"));
        for name in ["", "..", "/tmp/x", "a/b", "a/"] {
            let named = TEXT.replace("\"one\"", &format!("\"{name}\""));
            assert!(refusal(&named, "").contains("without slashes"), "{name}");
        }
        let outside = TEXT.replace("acks = \"received\"", "files = { \"../x\" = \"\" }");
        assert!(refusal(&outside, "").contains("files and cores"));
        let outside = TEXT.replacen("address", "files = { \"../x\" = \"\" }\naddress", 1);
        assert!(refusal(&outside, "").contains("lies elsewhere"));
    }

    const CEILING: &str = "[ceiling]\nbytes = 1_000_000_000\nseconds = 1";

    #[test]
    fn a_guard_has_one_bound_and_a_ceiling() {
        let guarded = |bounds: &str, ceiling: &str| {
            format!(
                "{TEXT}\n{ceiling}\n[[guards]]\nworkload = \"w\"\nsystem = \"one\"\n\
                 of = \"the lower ceiling\"\n{bounds}"
            )
        };
        let config = parse(&guarded("at_least = 0.5", CEILING), "").expect("well formed");
        assert_eq!(config.guards.len(), 1);
        let other = parse(&guarded("at_least = 0.5", CEILING), "--systems two");
        assert!(other.expect("well formed").guards.is_empty());
        assert!(refusal(&guarded("at_least = 0.5", ""), "").contains("must be measured"));
        let both = guarded("at_least = 0.5\nat_most = 1.0", CEILING);
        assert!(refusal(&both, "").contains("one of at_least"));
        let misspelt =
            guarded("at_least = 0.5", CEILING).replace("= \"w\"\nsystem", "= \"v\"\nsystem");
        assert!(refusal(&misspelt, "").contains("not in the file"));
        let small = CEILING.replace("1_000_000_000", "1_000");
        assert!(refusal(&guarded("at_least = 0.5", &small), "").contains("at least"));
    }

    #[test]
    fn the_files_that_ship_are_well_formed() {
        let config = parse(include_str!("../../compare.toml"), "");
        let config = config.expect("it is shipped to be run");
        assert!(config.systems.len() > 1 && config.workloads.len() > 1);
        let guard = parse(include_str!("../../guard.toml"), "");
        assert!(!guard.expect("it is shipped to be run").guards.is_empty());
    }
}
