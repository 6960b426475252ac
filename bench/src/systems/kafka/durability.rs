//! When a topic's broker acknowledges, from the topic's settings. Pure.
//!
//! The protocol tells how many replicas must have a record, not whether they have flushed it.
//! Kafka flushes first only with `flush.messages=1`. Redpanda flushes before it acknowledges to
//! all in-sync replicas unless `write.caching` is on (or the server was started to skip flushes,
//! which it does not tell).

use anyhow::{Result, ensure};

use super::cluster::Settings;
use crate::args::Acks;

const FLUSH_MESSAGES: &str = "flush.messages";
const WRITE_CACHING: &str = "write.caching";

/// When a record is acknowledged, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Durability {
    pub(super) words: String,
    pub(super) verified: Option<String>,
}

/// What a produce request asks for.
pub(super) fn required_acks(acks: Acks) -> i16 {
    match acks {
        Acks::Durable => -1,
        Acks::Received => 1,
        Acks::None => 0,
    }
}

/// Settings of a topic that is made for a run of this class.
pub(super) fn settings_for(is_redpanda: bool, acks: Acks) -> Settings {
    let durable = match (acks, is_redpanda) {
        (Acks::Durable, true) => Some((WRITE_CACHING, "false")),
        (Acks::Durable, false) => Some((FLUSH_MESSAGES, "1")),
        (Acks::Received | Acks::None, _) => None,
    };
    durable
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect()
}

/// Fails if records are known to be acknowledged earlier than `acks` asks.
pub(super) fn judge(
    is_redpanda: bool,
    acks: Acks,
    settings: Option<&Settings>,
) -> Result<Durability> {
    let setting = |name| {
        settings
            .and_then(|settings| settings.get(name))
            .map(String::as_str)
    };
    let (words, verified) = match (acks, is_redpanda) {
        (Acks::None, _) => (
            "none: acks=0, done when the client has sent it",
            Some("part of every request"),
        ),
        (Acks::Received, true) => (
            "received: acks=1, acknowledged from the leader's memory",
            Some("part of every request"),
        ),
        (Acks::Received, false) => received(setting(FLUSH_MESSAGES)),
        (Acks::Durable, true) => flushed_by_redpanda(setting(WRITE_CACHING))?,
        (Acks::Durable, false) => flushed_by_kafka(setting(FLUSH_MESSAGES))?,
    };
    Ok(Durability {
        words: words.to_owned(),
        verified: verified.map(str::to_owned),
    })
}

type Words = (&'static str, Option<&'static str>);

fn received(flush_messages: Option<&str>) -> Words {
    let verified = Some("DescribeConfigs flush.messages");
    match flush_messages {
        Some("1") => ("acks=1, acknowledged after the leader's flush", verified),
        Some(_) => (
            "received: acks=1, acknowledged from the leader's memory",
            verified,
        ),
        None => (
            "acks=1; whether the broker flushes first is its setting, and cannot be asked",
            None,
        ),
    }
}

fn flushed_by_kafka(flush_messages: Option<&str>) -> Result<Words> {
    let Some(flush_messages) = flush_messages else {
        return Ok((
            "acks=all; whether the broker flushes first is its setting, and cannot be asked",
            None,
        ));
    };
    ensure!(
        flush_messages == "1",
        "the topic's {FLUSH_MESSAGES} is {flush_messages}: Kafka acknowledges before it flushes. \
         Set it to 1, delete the topic so that it is made anew, or ask for less than durable acks"
    );
    Ok((
        "durable: acks=all, acknowledged after the flush on every in-sync replica",
        Some("DescribeConfigs flush.messages"),
    ))
}

fn flushed_by_redpanda(write_caching: Option<&str>) -> Result<Words> {
    ensure!(
        write_caching != Some("true"),
        "the topic's {WRITE_CACHING} is true: Redpanda acknowledges before it flushes. \
         Set it to false, or ask for less than durable acks"
    );
    Ok((
        "durable: acks=all, acknowledged after the flush on a majority of the replicas",
        write_caching.map(|_| "DescribeConfigs write.caching"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, value: &str) -> Settings {
        Settings::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_topic_that_is_acknowledged_before_its_flush_is_not_durable() {
        let unflushed = settings(FLUSH_MESSAGES, "9223372036854775807");
        let refusal = judge(false, Acks::Durable, Some(&unflushed)).expect_err("refused");
        assert!(refusal.to_string().contains("flush.messages"));
        let cached = settings(WRITE_CACHING, "true");
        let refusal = judge(true, Acks::Durable, Some(&cached)).expect_err("refused");
        assert!(refusal.to_string().contains("write.caching"));
        assert!(judge(false, Acks::Received, Some(&unflushed)).is_ok());
    }

    #[test]
    fn the_settings_a_topic_is_made_with_are_durable() {
        for is_redpanda in [false, true] {
            let made = settings_for(is_redpanda, Acks::Durable);
            let judged = judge(is_redpanda, Acks::Durable, Some(&made)).expect("durable");
            assert!(judged.words.starts_with("durable"));
            assert!(judged.verified.is_some());
        }
    }

    #[test]
    fn what_a_broker_does_not_tell_is_not_called_verified() {
        for acks in [Acks::Durable, Acks::Received] {
            for told in [None, Some(&Settings::new())] {
                let judged = judge(false, acks, told).expect("nothing speaks against it");
                assert_eq!(judged.verified, None);
                assert!(judged.words.ends_with("cannot be asked"));
            }
        }
    }
}
