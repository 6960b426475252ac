//! The text form of the metrics, and what holds for every one of them.

use std::collections::BTreeSet;
use std::mem::{align_of, size_of};

use super::{FAMILIES, Gauge, ShardMetrics, render};
use crate::status::NodeStatus;

/// The part of the text that does not depend on the process.
fn node_part(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.contains("process_"));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn the_text_form_is_what_dashboards_were_built_on() {
    let status = NodeStatus::new(["0", "control"]);
    let shard = status.shards()[0].metrics();
    shard.produce_requests.add(3);
    shard.produce_bytes.add(3_000);
    shard.fetch_bytes.add(1 << 40);
    shard.connections.set(12);
    shard.stall_max_us.set(1_500);
    for requests in [1, 1, 7] {
        shard.group_requests.record(requests);
    }
    shard.flush_us.record(180);
    shard.flush_us.record(u64::from(u32::MAX));
    status.shards()[1].metrics().journal_failed.set(1);
    status.shards()[1].count_stall();

    let text = render(&status).expect("rendering to a string cannot fail");
    let golden = include_str!("golden.txt");
    assert!(
        node_part(&text) == golden,
        "metrics text changed; it is now:\n{text}"
    );
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn names_are_unique_prefixed_and_explained() {
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        assert!(names.insert(family.name), "{} appears twice", family.name);
        assert!(family.name.starts_with("catena_"), "{}", family.name);
        assert!(
            !family.name.ends_with("_total"),
            "{}: the exporter adds _total",
            family.name
        );
        assert!(
            !family.help.ends_with('.') && family.help.is_ascii(),
            "{}",
            family.name
        );
    }
}

#[test]
fn every_metric_is_in_the_operations_page() {
    let page = include_str!("../../../docs/OPERATIONS.md");
    for family in FAMILIES {
        assert!(
            page.contains(family.name),
            "{} is not documented",
            family.name
        );
    }
}

#[test]
fn two_shards_never_share_a_cache_line() {
    assert_eq!(align_of::<ShardMetrics>(), 128);
    assert_eq!(size_of::<ShardMetrics>() % 128, 0);
}

#[test]
fn a_gauge_stops_at_zero_and_keeps_the_larger() {
    let gauge = Gauge::default();
    gauge.add(2);
    gauge.sub(5);
    assert_eq!(gauge.get(), 0);
    gauge.raise_to(7);
    gauge.raise_to(3);
    assert_eq!(gauge.get(), 7);
}
