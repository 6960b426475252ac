//! `catena topic`: create, list, describe, alter and delete topics.

use std::fmt::Write as _;

use catena_client::{Admin, Durability, ErrorCode, TopicChange, TopicConfig};
use catena_protocol::ids::PartitionId;
use catena_protocol::messages::{DescribeTopicResponse, PartitionRange};
use serde_json::{Value, json};

use crate::cli::{Connection, Topic, TopicAlter, TopicCreate, TopicNamed};
use crate::connect::connect;
use crate::exit::Failure;
use crate::quantity::{Bytes, Limit, UNLIMITED, counted, format_span, format_time};
use crate::refusal::of_change;
use crate::stdout;

/// What a topic keeps that is compacted only.
const NEWEST_OF_EACH_KEY: &str = "the newest message of each key";

/// An answer, in both forms.
struct Answer {
    text: String,
    json: Value,
}

pub(crate) async fn run(connection: &Connection, command: Topic) -> anyhow::Result<()> {
    let admin = connect(connection).await?.admin();
    let (answer, format) = match command {
        Topic::Create(args) => (create(&admin, &args).await?, args.format),
        Topic::List(format) => (list(&admin).await?, format),
        Topic::Describe(args) => (describe(&admin, &args).await?, args.format),
        Topic::Delete(args) => (delete(&admin, &args).await?, args.format),
        Topic::Alter(args) => (alter(&admin, &args).await?, args.format),
    };
    if format.json {
        stdout::print_line(answer.json)
    } else {
        stdout::print(answer.text)
    }
}

async fn create(admin: &Admin, args: &TopicCreate) -> Result<Answer, Failure> {
    let TopicCreate {
        name,
        partitions,
        retention_bytes,
        retention_time,
        min_durability,
        cleanup,
        ..
    } = args;
    let config = TopicConfig {
        retention_bytes: retention_bytes.0,
        retention_ms: retention_time.0,
        min_durability: (*min_durability).into(),
        cleanup: *cleanup,
        ..TopicConfig::default()
    };
    match admin.create_topic(name, *partitions, config).await {
        Ok(id) => Ok(Answer {
            text: format!(
                "created topic {name} with {}\n",
                counted((*partitions).into(), "partition")
            ),
            json: json!({ "created": true, "name": name, "id": id.0, "partitions": partitions }),
        }),
        Err(error) if args.if_not_exists && error.code() == Some(ErrorCode::TopicExists) => {
            Ok(Answer {
                text: format!("topic {name} is already there\n"),
                json: json!({ "created": false, "name": name }),
            })
        }
        Err(error) => Err(of_change(error)),
    }
}

async fn list(admin: &Admin) -> Result<Answer, Failure> {
    let topics = admin.list_topics().await?;
    let mut text = String::new();
    for topic in &topics {
        line(
            &mut text,
            &format!(
                "{}  {}",
                topic.name,
                counted(topic.partitions.into(), "partition")
            ),
        );
    }
    let json = topics.iter().map(|topic| {
        json!({
            "name": topic.name,
            "id": topic.id.0,
            "partitions": topic.partitions,
            "config": config_json(&topic.config),
        })
    });
    Ok(Answer {
        text,
        json: json.collect(),
    })
}

async fn describe(admin: &Admin, args: &TopicNamed) -> Result<Answer, Failure> {
    let DescribeTopicResponse {
        topic,
        ranges,
        chains,
        created_ms,
    } = admin.describe_topic(&args.name).await?;
    let mut text = String::new();
    line(
        &mut text,
        &format!("topic {} (id {})", topic.name, topic.id),
    );
    line(&mut text, &format!("created {}", format_time(created_ms)));
    let config = &topic.config;
    line(&mut text, &format!("retention {}", retention(config)));
    line(&mut text, &format!("cleanup {}", config.cleanup));
    line(
        &mut text,
        &format!(
            "class {}, minimum durability {}",
            config.class,
            name_of(config.min_durability)
        ),
    );
    line(&mut text, &counted(topic.partitions.into(), "partition"));
    let mut partitions = Vec::new();
    for partition in 0..topic.partitions {
        let chain = chain_of(&ranges, PartitionId(partition));
        let owner = chain.and_then(|chain| chains.iter().find(|info| info.chain == chain));
        let Some(owner) = owner else { continue };
        let (chain, node, shard) = (owner.chain, owner.node, owner.shard);
        line(
            &mut text,
            &format!("  {partition}  chain {chain}  node {node}  shard {shard}"),
        );
        partitions.push(json!({
            "partition": partition,
            "chain": chain.0,
            "epoch": owner.epoch.0,
            "node": node.0,
            "shard": shard.0,
        }));
    }
    let json = json!({
        "name": topic.name,
        "id": topic.id.0,
        "created_ms": created_ms,
        "config": config_json(config),
        "partitions": partitions,
    });
    Ok(Answer { text, json })
}

/// What keeps records from being dropped. Limits that do not count are named as such: they count
/// again once the topic's cleanup says so.
fn retention(config: &TopicConfig) -> String {
    let bytes = config
        .retention_bytes
        .map_or_else(|| UNLIMITED.to_owned(), |bytes| Bytes(bytes).to_string());
    let time = config
        .retention_ms
        .map_or_else(|| UNLIMITED.to_owned(), format_span);
    let limits = format!("{bytes} per partition, {time}");
    let is_limited = config.retention_bytes.is_some() || config.retention_ms.is_some();
    match (config.cleanup.deletes(), is_limited) {
        (true, _) => limits,
        (false, false) => NEWEST_OF_EACH_KEY.to_owned(),
        (false, true) => format!("{NEWEST_OF_EACH_KEY}; limits do not count: {limits}"),
    }
}

async fn delete(admin: &Admin, args: &TopicNamed) -> Result<Answer, Failure> {
    let deleted = admin.delete_topic(&args.name).await;
    deleted.map_err(of_change)?;
    Ok(Answer {
        text: format!("deleted topic {}\n", args.name),
        json: json!({ "deleted": true, "name": args.name }),
    })
}

async fn alter(admin: &Admin, args: &TopicAlter) -> Result<Answer, Failure> {
    let limit = |limit: Option<Limit>| limit.map(|limit| limit.0);
    let change = TopicChange {
        partitions: args.partitions,
        retention_bytes: limit(args.retention_bytes),
        retention_ms: limit(args.retention_time),
        min_durability: args.min_durability.map(Durability::from),
        cleanup: args.cleanup,
    };
    let altered = admin.alter_topic(&args.name, change).await;
    altered.map_err(of_change)?;
    Ok(Answer {
        text: format!("altered topic {}\n", args.name),
        json: json!({ "altered": true, "name": args.name }),
    })
}

fn chain_of(
    ranges: &[PartitionRange],
    partition: PartitionId,
) -> Option<catena_protocol::ids::ChainId> {
    ranges.iter().find_map(|range| range.chain_of(partition))
}

fn config_json(config: &TopicConfig) -> Value {
    json!({
        "retention_bytes": config.retention_bytes,
        "retention_ms": config.retention_ms,
        "class": config.class,
        "min_durability": name_of(config.min_durability),
        "cleanup": config.cleanup.name(),
    })
}

const fn name_of(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "durable",
        Durability::Received => "received",
        Durability::None => "none",
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a string succeeds");
}

#[cfg(test)]
mod tests {
    use catena_client::Cleanup;

    use super::*;

    #[test]
    fn retention_is_told_as_it_applies() {
        let (none, some) = (None, Some(1 << 30));
        let limited = "1.0 GiB per partition, unlimited";
        let not_counting = "the newest message of each key; limits do not count: \
                            1.0 GiB per partition, unlimited";
        let cases = [
            (Cleanup::Delete, some, limited),
            (Cleanup::CompactDelete, some, limited),
            (Cleanup::Compact, some, not_counting),
            (Cleanup::Compact, none, "the newest message of each key"),
            (Cleanup::Delete, none, "unlimited per partition, unlimited"),
        ];
        for (cleanup, retention_bytes, expected) in cases {
            let config = TopicConfig {
                retention_bytes,
                cleanup,
                ..TopicConfig::default()
            };
            assert_eq!(retention(&config), expected, "{cleanup}");
        }
    }
}
