//! When an Iggy server acknowledges, from its configuration.

use anyhow::{Result, ensure};
use iggy::prelude::{SnapshotCompression, SystemClient, SystemSnapshotType, TcpClient};

use crate::args::Acks;

/// The part of the server's configuration that decides when messages are flushed.
const PARTITION_SECTION: &str = "[system.partition]";

/// The server's configuration, which it puts unchanged into an archive; `None` if it does not.
/// Iggy 0.8 has it ready, and so in the archive, only if it chose its own port (port 0).
pub(super) async fn configuration(client: &TcpClient) -> Option<String> {
    let wanted = vec![SystemSnapshotType::ServerConfig];
    let archive = client
        .snapshot(SnapshotCompression::Stored, wanted)
        .await
        .ok()?;
    Some(String::from_utf8_lossy(&archive.0).into_owned())
}

/// A setting in a section of a TOML text.
fn setting<'a>(config: &'a str, section: &str, name: &str) -> Option<&'a str> {
    let section = config
        .lines()
        .skip_while(|line| line.trim() != section)
        .skip(1);
    let mut settings = section.take_while(|line| !line.starts_with('['));
    settings.find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == name).then_some(value.trim())
    })
}

/// When the server acknowledges, and how that is known. Messages are written to disk once there
/// are enough of them, and flushed then if the server is told to.
pub(super) fn durability(
    acks: Acks,
    config: Option<&str>,
) -> Result<(&'static str, Option<&'static str>)> {
    let setting = |name| config.and_then(|config| setting(config, PARTITION_SECTION, name));
    let (Some(fsync), Some(messages)) = (
        setting("enforce_fsync"),
        setting("messages_required_to_save"),
    ) else {
        let words = "whether the server flushes first is its setting, and cannot be asked";
        return Ok((words, None));
    };
    let verified = Some("server configuration in a snapshot: enforce_fsync");
    if fsync == "true" && messages == "1" {
        return Ok(("durable: acknowledged after the server's flush", verified));
    }
    ensure!(
        acks != Acks::Durable,
        "Iggy acknowledges before it flushes: its settings system.partition.enforce_fsync and \
         messages_required_to_save are {fsync} and {messages}; durable acks need true and 1"
    );
    Ok(("received: acknowledged from the server's memory", verified))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fsync: &str, messages: &str) -> String {
        format!(
            "PK..zip\n[message_saver]\nenforce_fsync = true\n[system.partition]\npath = \"p\"\n\
             messages_required_to_save = {messages}\nenforce_fsync = {fsync}\n\n[system.state]\n\
             enforce_fsync = true\n"
        )
    }

    #[test]
    fn only_a_server_that_flushes_every_message_is_durable() {
        let flushed = durability(Acks::Durable, Some(&config("true", "1"))).expect("durable");
        assert!(flushed.0.starts_with("durable") && flushed.1.is_some());
        for unflushed in [config("false", "1"), config("true", "1024")] {
            assert!(durability(Acks::Durable, Some(&unflushed)).is_err());
            let received = durability(Acks::Received, Some(&unflushed)).expect("received");
            assert!(received.0.starts_with("received"));
        }
        for silent in [
            None,
            Some("PK"),
            Some("[system.state]\nenforce_fsync = true\n"),
        ] {
            let unknown = durability(Acks::Durable, silent).expect("nothing speaks against it");
            assert_eq!(unknown.1, None);
        }
    }
}
