//! The metrics of a node as `OpenMetrics` text. Runs on the admin thread; reads, never writes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::as_f64;
use super::{FAMILIES, Family, Reading, Scale, ShardMetrics, process};
use crate::status::NodeStatus;

/// All metrics of `status` and of this process, in `OpenMetrics` text form.
pub fn render(status: &Arc<NodeStatus>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(NodeCollector(Arc::clone(status))));
    registry.register_collector(Box::new(ProcessCollector));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct NodeCollector(Arc<NodeStatus>);

#[derive(Debug)]
struct ProcessCollector;

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in FAMILIES {
            self.encode_family(&mut encoder, family)?;
        }
        self.encode_watchdog(&mut encoder)
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        process::encode(&mut encoder)
    }
}

impl NodeCollector {
    fn encode_family(&self, encoder: &mut DescriptorEncoder<'_>, family: &Family) -> fmt::Result {
        // The type is a property of the field, so any shard's value tells it.
        let Some(first) = self.0.shards().first() else {
            return Ok(());
        };
        let kind = metric_type(&(family.read)(first.metrics()));
        let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
        for shard in self.0.shards() {
            let labels = [("shard", shard.name())];
            encode_reading(&mut metric.encode_family(&labels)?, family, shard.metrics())?;
        }
        Ok(())
    }

    fn encode_watchdog(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "catena_watchdog_stalls",
            "Times the watchdog saw the shard without a heartbeat",
            None,
            MetricType::Counter,
        )?;
        for shard in self.0.shards() {
            let labels = [("shard", shard.name())];
            encode_counter(&mut metric.encode_family(&labels)?, &shard.stalls_seen())?;
        }
        Ok(())
    }
}

fn metric_type(reading: &Reading<'_>) -> MetricType {
    match reading {
        Reading::Counter(_) => MetricType::Counter,
        Reading::Gauge(_) => MetricType::Gauge,
        Reading::Histogram(_) => MetricType::Histogram,
    }
}

fn encode_reading(
    metric: &mut MetricEncoder<'_>,
    family: &Family,
    shard: &ShardMetrics,
) -> fmt::Result {
    match (family.read)(shard) {
        Reading::Counter(counter) => encode_counter(metric, &counter.get()),
        Reading::Gauge(gauge) => match family.scale {
            Scale::Plain => encode_gauge(metric, &gauge.get()),
            Scale::Micros => encode_gauge(metric, &scaled(gauge.get(), Scale::Micros)),
        },
        Reading::Histogram(histogram) => {
            let buckets: Vec<(f64, u64)> = histogram
                .counts()
                .map(|(bound, count)| {
                    // The encoder shows this bound as +Inf.
                    (
                        bound.map_or(f64::MAX, |bound| scaled(bound, family.scale)),
                        count,
                    )
                })
                .collect();
            // Counted from the same reads as the buckets, so the two always agree.
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = scaled(histogram.sum(), family.scale);
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
    }
}

pub(super) fn encode_counter(
    metric: &mut MetricEncoder<'_>,
    value: &impl EncodeCounterValue,
) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, _, u64>(value, None)
}

pub(super) fn encode_gauge(
    metric: &mut MetricEncoder<'_>,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    metric.encode_gauge(value)
}

fn scaled(value: u64, scale: Scale) -> f64 {
    match scale {
        Scale::Plain => as_f64(value),
        Scale::Micros => Duration::from_micros(value).as_secs_f64(),
    }
}
