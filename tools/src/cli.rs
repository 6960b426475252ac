//! The arguments of the `catena` program. Every default and unit is stated in the help text.

use std::path::PathBuf;
use std::time::Duration;

use catena_client::Cleanup;
use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};

use crate::exit::EXIT_CODES;
use crate::quantity::{From, Limit, parse_bytes_limit, parse_time_limit, parse_timeout};

/// Catena's command line: topics, messages, offsets, and the journals on disk.
#[derive(Debug, Parser)]
#[command(name = "catena", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the broker.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connection {
    /// Broker addresses, separated by commas; one that answers is enough.
    #[arg(
        long,
        global = true,
        env = "CATENA_BROKER",
        default_value = "127.0.0.1:9640",
        value_name = "HOST:PORT"
    )]
    pub(crate) broker: String,
    /// How long to wait for the broker to answer a request, or to acknowledge a message.
    #[arg(long, global = true, default_value = "30s", value_parser = parse_timeout)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, list, describe, alter and delete topics.
    #[command(subcommand)]
    Topic(Topic),
    /// Send each line of standard input, or of a file, as one message.
    Produce(Produce),
    /// Write messages to standard output.
    Consume(Consume),
    /// Show the offsets a topic's partitions hold.
    Offsets(Offsets),
    /// Look into the journals of a data directory, without a broker.
    #[command(subcommand, args(without_connection()))]
    Journal(Journal),
}

/// Stands in for the global options of [`Connection`] where there is no broker: a global option
/// does not go down past one of its name that is not global.
fn without_connection() -> [Arg; 2] {
    let unused = |name: &'static str| Arg::new(name).long(name).hide(true);
    // Clap hands values of one name up to the global option: they must be of its type.
    [
        unused("broker"),
        unused("timeout").value_parser(parse_timeout),
    ]
}

#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    /// Create a topic.
    Create(TopicCreate),
    /// List all topics.
    List(Format),
    /// Show a topic's settings and where its partitions live.
    Describe(TopicNamed),
    /// Delete a topic and its messages.
    Delete(TopicNamed),
    /// Change a topic's settings, or add partitions.
    Alter(TopicAlter),
}

#[derive(Debug, Args)]
pub(crate) struct Format {
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopicNamed {
    /// The topic's name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct TopicCreate {
    /// The topic's name: letters, digits, `.`, `_`, `-`.
    pub(crate) name: String,
    /// Number of partitions; can be raised later, never lowered.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: u32,
    /// Bytes kept per partition, for example 10GiB.
    #[arg(long, default_value = "unlimited", value_parser = parse_bytes_limit)]
    pub(crate) retention_bytes: Limit,
    /// How long messages are kept, for example 7d.
    #[arg(long, default_value = "unlimited", value_parser = parse_time_limit)]
    pub(crate) retention_time: Limit,
    /// The weakest durability that producers of this topic may ask for.
    #[arg(long, default_value = "none")]
    pub(crate) min_durability: Acks,
    /// How old messages go: `delete` by the limits above, `compact` by key (the newest message of
    /// each key stays, and every message needs one), or `compact,delete`.
    #[arg(long, default_value_t)]
    pub(crate) cleanup: Cleanup,
    /// Succeed if the topic is already there; its settings stay as they are.
    #[arg(long)]
    pub(crate) if_not_exists: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true,
        args = ["partitions", "retention_bytes", "retention_time", "min_durability", "cleanup"])]
pub(crate) struct TopicAlter {
    /// The topic's name.
    pub(crate) name: String,
    /// The new number of partitions; not below the present one.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,
    /// Bytes kept per partition, for example 10GiB, or `unlimited`.
    #[arg(long, value_parser = parse_bytes_limit)]
    pub(crate) retention_bytes: Option<Limit>,
    /// How long messages are kept, for example 7d, or `unlimited`.
    #[arg(long, value_parser = parse_time_limit)]
    pub(crate) retention_time: Option<Limit>,
    /// The weakest durability that producers of this topic may ask for.
    #[arg(long)]
    pub(crate) min_durability: Option<Acks>,
    /// How old messages go: `delete`, `compact` or `compact,delete`.
    #[arg(long)]
    pub(crate) cleanup: Option<Cleanup>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// When a message counts as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Acks {
    /// Flushed to stable storage.
    Durable,
    /// In the broker's memory; a crash may lose it.
    Received,
    /// Written to the connection; no answer is awaited.
    None,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    None,
    Lz4,
    Zstd,
}

#[derive(Debug, Args)]
pub(crate) struct Produce {
    /// The topic to send to.
    pub(crate) topic: String,
    /// Read this file instead of standard input. Lines are bytes; a last line without a newline
    /// is sent as it is.
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    /// Split each line at the first occurrence: the part before is the key, the rest the value.
    /// A line without it is an error.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) key_separator: Option<String>,
    /// Send everything to this partition; by default keys choose it, and lines without a key are
    /// spread.
    #[arg(long)]
    pub(crate) partition: Option<u32>,
    /// When a message counts as sent.
    #[arg(long, default_value = "durable")]
    pub(crate) acks: Acks,
    /// How batches are compressed.
    #[arg(long, default_value = "none")]
    pub(crate) compression: Compression,
    /// Append `LINE PARTITION OFFSET` to this file for each line once it is acknowledged. LINE
    /// counts from 1; OFFSET is `-` where the broker does not tell it. What stands in the file
    /// was acknowledged, also if this program is killed. Not with `--acks none`, where nothing is.
    #[arg(long, value_name = "PATH")]
    pub(crate) acked: Option<PathBuf>,
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// The value and a newline, byte for byte.
    Lines,
    /// One JSON object for each message, with partition, offset, time, key, headers and value.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Consume {
    /// The topic to read.
    pub(crate) topic: String,
    /// Where to start: earliest, latest, offset:N (needs --partition unless N is right for all),
    /// or time:RFC3339.
    #[arg(long, default_value = "earliest")]
    pub(crate) from: From,
    /// Read this partition only; by default all, in the order in which they answer.
    #[arg(long)]
    pub(crate) partition: Option<u32>,
    /// Stop after this many messages.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Go on with new messages, instead of stopping where the partitions ended at the start.
    #[arg(long)]
    pub(crate) follow: bool,
    /// How messages are written.
    #[arg(long, default_value = "lines")]
    pub(crate) format: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Offsets {
    /// The topic to ask about.
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Journal {
    /// List what the journals hold.
    Dump(JournalDump),
    /// Read every byte, check every checksum, and say what is wrong and where.
    Verify(JournalVerify),
    /// List how what is wrong can be repaired; with --yes, repair it.
    ///
    /// What is changed or removed is copied to DIR/quarantine-TIME/ first. What cannot be repaired
    /// without losing messages is not touched unless --accept-loss says so. Ends with 0 if nothing
    /// is left to repair, with 5 if something is.
    Repair(JournalRepair),
}

#[derive(Debug, Args)]
pub(crate) struct JournalDump {
    /// A data directory, or the directory of one journal.
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) depth: Depth,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// How deep a dump goes. Without any: segments and checkpoints only.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Depth {
    /// List the blocks of each segment.
    #[arg(long)]
    pub(crate) blocks: bool,
    /// List blocks and the frames and records in them.
    #[arg(long)]
    pub(crate) frames: bool,
    /// List blocks, frames, and the batches in them.
    #[arg(long)]
    pub(crate) batches: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JournalVerify {
    /// A data directory, or the directory of one journal.
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct JournalRepair {
    /// The data directory. No broker may be running on it.
    pub(crate) dir: PathBuf,
    /// Do it. Without this nothing is changed.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Also note the damage that cannot be undone as accepted, so that `verify` no longer counts
    /// it as a problem. The messages stay lost either way; readers get an error for exactly them.
    #[arg(long)]
    pub(crate) accept_loss: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_alteration_needs_a_change() {
        assert!(Cli::try_parse_from(["catena", "topic", "alter", "t"]).is_err());
        let args = [
            "catena",
            "topic",
            "alter",
            "t",
            "--retention-time",
            "unlimited",
        ];
        assert!(Cli::try_parse_from(args).is_ok());
    }
}
