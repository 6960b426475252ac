//! The command line.

mod load;
pub(crate) mod values;

use clap::{Parser, Subcommand};

use crate::ceiling::CeilingArgs;
use crate::compare::CompareArgs;

pub(crate) use load::{
    Acks, Codec, ConsumeArgs, E2eArgs, KeyMode, ProduceArgs, RunArgs, StartAt, SystemName,
    TargetArgs, WARMUP, WorkloadArgs,
};

/// Load generator for message brokers: open loop, latency from the intended send time.
#[derive(Clone, Debug, Parser)]
#[command(name = "catena-bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Produce records and measure throughput and acknowledgement latency.
    Produce(ProduceArgs),
    /// Consume what a topic holds and measure throughput.
    Consume(ConsumeArgs),
    /// Produce and consume at once; latency from the intended send to the receipt.
    E2e(E2eArgs),
    /// Put the load that a file describes on a broker.
    Workload(WorkloadArgs),
    /// Run the same workloads on several systems, in turns, and compare.
    Compare(CompareArgs),
    /// Measure what this machine's disk and loopback can do, without the broker.
    Ceiling(CeilingArgs),
}

/// The command as it was given, to be printed with the result; arguments with spaces quoted.
pub(crate) fn command_line() -> String {
    let quoted = |argument: String| {
        if argument.contains(char::is_whitespace) {
            format!("'{argument}'")
        } else {
            argument
        }
    };
    let arguments = std::env::args_os()
        .skip(1)
        .map(|a| quoted(a.to_string_lossy().into_owned()));
    std::iter::once("catena-bench".to_owned())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_pace_must_be_chosen_and_only_one() {
        assert!(parse("catena-bench produce").is_err());
        assert!(parse("catena-bench produce --rate 1000 --max").is_err());
        assert!(parse("catena-bench produce --rate 0").is_err());
        assert!(parse("catena-bench produce --max --in-flight 8").is_ok());
        assert!(parse("catena-bench produce --one-in-flight").is_ok());
    }

    #[test]
    fn durations_take_a_unit_or_seconds() {
        let Ok(Cli {
            command: Command::Produce(args),
        }) = parse("catena-bench produce --max --duration 1500ms --warmup 2")
        else {
            panic!("a well-formed command")
        };
        assert_eq!(args.time.duration.as_millis(), 1500);
        assert_eq!(args.time.warmup, Some(std::time::Duration::from_secs(2)));
    }

    #[test]
    fn a_spread_request_carries_one_record_per_partition() {
        let line = "catena-bench produce --max --spread 100 --batch-records 10";
        assert!(parse(line).is_err());
    }
}
