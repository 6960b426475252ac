//! Workloads as they are written in files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Deserializer};

use super::phase::ramp;
use super::{Lines, Pace, Phase, Sizes, Values, Workload};
use crate::args::values::duration as parse_duration;
use crate::args::{Acks, Codec, KeyMode};
use crate::limits::{PHASES_MAX, RAMP_STEPS_MAX};

/// A workload as written. Everything but the name and the phases has a default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadText {
    name: String,
    partitions: Option<u32>,
    retention_bytes: Option<u64>,
    record_bytes: Option<BytesText>,
    /// A file of lines, each the value of a record; its place is relative to the workload's file.
    lines: Option<PathBuf>,
    #[serde(default = "none")]
    keys: KeyMode,
    #[serde(default = "one")]
    batch_records: u32,
    spread: Option<u32>,
    #[serde(default)]
    client_batching: bool,
    #[serde(default = "one")]
    producers: u32,
    #[serde(default = "in_flight")]
    in_flight: u32,
    #[serde(default = "durable")]
    acks: Acks,
    #[serde(default = "no_codec")]
    compression: Codec,
    #[serde(default)]
    consumers: u32,
    #[serde(default)]
    catch_up_consumers: u32,
    #[serde(default)]
    verify: bool,
    /// Load before the first phase is measured.
    #[serde(default, deserialize_with = "time")]
    warmup: Duration,
    phases: Vec<PhaseText>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum BytesText {
    Fixed(u32),
    Zipf(ZipfText),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZipfText {
    min: u32,
    max: u32,
    exponent: f64,
}

/// One of `rate`, `ramp` and `pace`, and how long.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PhaseText {
    rate: Option<u64>,
    ramp: Option<RampText>,
    pace: Option<PaceText>,
    /// Of the phase; of each step of a ramp.
    #[serde(deserialize_with = "time")]
    duration: Duration,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PaceText {
    Max,
    OneInFlight,
    Pause,
    Replay,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RampText {
    from: u64,
    to: u64,
    steps: u32,
}

fn one() -> u32 {
    1
}

fn in_flight() -> u32 {
    256
}

fn none() -> KeyMode {
    KeyMode::None
}

fn durable() -> Acks {
    Acks::Durable
}

fn no_codec() -> Codec {
    Codec::None
}

fn time<'de, D: Deserializer<'de>>(text: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(text)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

impl Workload {
    /// Reads the workload that `path` describes.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let text: WorkloadText =
            toml::from_str(&text).with_context(|| format!("{name} is not a workload"))?;
        let beside = path.parent().unwrap_or(Path::new("."));
        text.resolve(beside).with_context(|| name.to_string())
    }
}

impl WorkloadText {
    /// The workload, with files named in it looked for in `beside`.
    pub(crate) fn resolve(self, beside: &Path) -> Result<Workload> {
        let name = self.name.clone();
        self.build(beside)
            .with_context(|| format!("workload \"{name}\""))
    }

    fn build(self, beside: &Path) -> Result<Workload> {
        let workload = Workload {
            values: values(self.record_bytes, self.lines.as_deref(), beside)?,
            phases: phases(self.warmup, &self.phases)?,
            name: self.name,
            partitions: self.partitions,
            retention_bytes: self.retention_bytes,
            keys: self.keys,
            batch_records: self.batch_records,
            spread: self.spread,
            client_batching: self.client_batching,
            producers: self.producers,
            in_flight: self.in_flight,
            acks: self.acks,
            compression: self.compression,
            consumers: self.consumers,
            catch_up_consumers: self.catch_up_consumers,
            verify: self.verify,
        };
        workload.check()?;
        Ok(workload)
    }
}

fn values(bytes: Option<BytesText>, lines: Option<&Path>, beside: &Path) -> Result<Values> {
    match (bytes, lines) {
        (Some(_), Some(_)) => bail!("record_bytes and lines exclude each other"),
        (None, Some(path)) => Lines::read(&beside.join(path)).map(Values::Lines),
        (None, None) => Ok(Values::Random(Sizes::Fixed(1024))),
        (Some(BytesText::Fixed(bytes)), None) => Ok(Values::Random(Sizes::Fixed(bytes))),
        (Some(BytesText::Zipf(ZipfText { min, max, exponent })), None) => {
            Ok(Values::Random(Sizes::Zipf { min, max, exponent }))
        }
    }
}

fn phases(warmup: Duration, texts: &[PhaseText]) -> Result<Vec<Phase>> {
    let mut phases = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let paces = text
            .paces()
            .with_context(|| format!("phase {}", index + 1))?;
        phases.extend(
            paces
                .into_iter()
                .map(|pace| Phase::new(pace, text.duration)),
        );
        ensure!(
            phases.len() <= PHASES_MAX,
            "a run has at most {PHASES_MAX} phases, each step of a ramp counted"
        );
    }
    let first = phases.first_mut().ok_or(anyhow!("there is no phase"))?;
    first.warmup = warmup;
    Ok(phases)
}

impl PhaseText {
    /// One pace, or those of the steps of a ramp.
    fn paces(&self) -> Result<Vec<Pace>> {
        ensure!(!self.duration.is_zero(), "its duration must not be zero");
        match (self.rate, self.ramp, self.pace) {
            (Some(rate), None, None) => Ok(vec![Pace::Rate(rate)]),
            (None, Some(ramp), None) => ramp.paces(),
            (None, None, Some(pace)) => Ok(vec![pace.into()]),
            _ => bail!("it needs one of rate, ramp and pace"),
        }
    }
}

impl From<PaceText> for Pace {
    fn from(text: PaceText) -> Self {
        match text {
            PaceText::Max => Self::Max,
            PaceText::OneInFlight => Self::OneInFlight,
            PaceText::Pause => Self::Pause,
            PaceText::Replay => Self::Replay,
        }
    }
}

impl RampText {
    fn paces(self) -> Result<Vec<Pace>> {
        ensure!(
            (2..=RAMP_STEPS_MAX).contains(&self.steps),
            "a ramp has 2 to {RAMP_STEPS_MAX} steps"
        );
        let rates = ramp(self.from, self.to, self.steps);
        Ok(rates.into_iter().map(Pace::Rate).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Workload> {
        let text: WorkloadText = toml::from_str(text)?;
        text.resolve(Path::new("."))
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", read(text).expect_err("it must be refused"))
    }

    #[test]
    fn a_name_and_a_phase_are_enough() {
        let workload = read("name = \"w\"\nphases = [{ pace = \"max\", duration = \"2s\" }]")
            .expect("well formed");
        assert_eq!(
            workload.phases,
            [Phase::new(Pace::Max, Duration::from_secs(2))]
        );
        assert_eq!(workload.values, Values::Random(Sizes::Fixed(1024)));
        assert_eq!((workload.acks, workload.producers), (Acks::Durable, 1));
    }

    #[test]
    fn phases_follow_each_other_and_a_ramp_is_one_for_each_step() {
        let workload = read(
            "name = \"w\"
             warmup = \"1s\"
             record_bytes = { min = 64, max = 4096, exponent = 1.1 }
             phases = [
               { ramp = { from = 100, to = 300, steps = 3 }, duration = \"2s\" },
               { pace = \"pause\", duration = \"500ms\" },
               { rate = 50, duration = \"1s\" },
             ]",
        )
        .expect("well formed");
        let paces: Vec<_> = workload.phases.iter().map(|phase| phase.pace).collect();
        let rates = [100, 200, 300].map(Pace::Rate);
        assert_eq!(paces[..3], rates);
        assert_eq!(paces[3..], [Pace::Pause, Pace::Rate(50)]);
        let warmups: Vec<_> = workload.phases.iter().map(|phase| phase.warmup).collect();
        assert_eq!((warmups[0].as_secs(), warmups[1].as_secs()), (1, 0));
        assert_eq!(workload.length(), Duration::from_millis(8_500));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (phases, reason) in [
            ("[]", "there is no phase"),
            ("[{ duration = \"1s\" }]", "it needs one of"),
            (
                "[{ pace = \"max\", rate = 1, duration = \"1s\" }]",
                "it needs one of",
            ),
            (
                "[{ pace = \"max\", duration = \"0s\" }]",
                "must not be zero",
            ),
            (
                "[{ pace = \"max\", duration = \"soon\" }]",
                "expected number",
            ),
            ("[{ pace = \"max\", length = \"1s\" }]", "unknown field"),
            ("[{ rate = 0, duration = \"1s\" }]", "a rate of 0"),
            (
                "[{ ramp = { from = 1, to = 2, steps = 1 }, duration = \"1s\" }]",
                "a ramp has",
            ),
        ] {
            let told = refusal(&format!("name = \"w\"\nphases = {phases}"));
            assert!(told.contains(reason), "{phases}: {told}");
        }
    }

    #[test]
    fn more_phases_than_a_run_has_are_refused() {
        let phases = |count: usize| {
            let one = "{ pace = \"max\", duration = \"1s\" }";
            read(&format!(
                "name = \"w\"\nphases = [{}]",
                vec![one; count].join(", ")
            ))
        };
        assert_eq!(
            phases(PHASES_MAX).expect("the most").phases.len(),
            PHASES_MAX
        );
        assert!(phases(PHASES_MAX + 1).is_err());
    }
}
