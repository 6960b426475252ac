//! What readers saw: everything, once, in order, and nothing that was not committed.

use std::collections::BTreeMap;
use std::ops::Range;

use super::places::Places;
use super::{Found, Kind};
use crate::history::{History, Outcome, Poll, Tick};

pub(super) fn check(history: &History, places: &Places<'_>, found: &mut Found) {
    check_positions(history, found);
    check_reports(history, found);
    check_commit(history, places, found);
    check_high_watermarks(history, found);
}

/// Each reader goes on where it was, one record after the other.
fn check_positions(history: &History, found: &mut Found) {
    let mut positions: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for poll in &history.polls {
        let key = (poll.consumer, poll.partition);
        let mut next = poll.position.or_else(|| positions.get(&key).copied());
        for (offset, _) in &poll.records {
            let expected = next.unwrap_or(*offset);
            let detail = || {
                let (consumer, partition) = key;
                format!("consumer {consumer} partition {partition}: {offset} after {expected}")
            };
            let is_excused = || {
                is_damaged(history, poll.partition, expected)
                    || is_reported(history, poll, expected..*offset)
            };
            if *offset > expected && !is_excused() {
                found.add(Kind::PollSkip, detail());
            }
            if *offset < expected {
                found.add(Kind::NonMonotonicPoll, detail());
            }
            next = Some(offset + 1);
        }
        if let Some(next) = next {
            positions.insert(key, next);
        }
    }
}

/// What a reader is told of lies in the log, and there is something of it.
fn check_reports(history: &History, found: &mut Found) {
    for report in &history.reports {
        let read = history.finals.get(&report.partition);
        let end = read.map_or(u64::MAX, |read| read.high_watermark);
        if report.offsets.is_empty() || report.offsets.end > end {
            let detail = format!("told of what is not there, the log ends at {end}: {report:?}");
            found.add(Kind::PollSkip, detail);
        }
    }
}

/// Whether this reader was told that all of it is damaged.
fn is_reported(history: &History, poll: &Poll, skipped: Range<u64>) -> bool {
    let to_it = history
        .reports
        .iter()
        .filter(|report| report.consumer == poll.consumer && report.partition == poll.partition);
    let mut ranges: Vec<_> = to_it.map(|report| report.offsets.clone()).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut next = skipped.start;
    for range in ranges {
        if range.contains(&next) {
            next = range.end;
        }
    }
    next >= skipped.end
}

fn is_damaged(history: &History, partition: u32, offset: u64) -> bool {
    let read = history.finals.get(&partition);
    read.is_some_and(|read| read.is_damaged(offset) || offset < read.log_start)
}

/// Nobody reads at or above the high watermark, or what is gone later.
fn check_commit(history: &History, places: &Places<'_>, found: &mut Found) {
    for poll in &history.polls {
        let Poll {
            consumer,
            partition,
            ..
        } = poll;
        for (offset, value) in &poll.records {
            if let Some(end) = poll.high_watermark
                && *offset >= end
            {
                found.add(
                    Kind::ReadAboveCommit,
                    format!(
                        "consumer {consumer} partition {partition}: {offset}, committed is {end}"
                    ),
                );
            }
            let Some(send) = places.send(*partition, *value) else {
                continue;
            };
            let is_promised = matches!(send.outcome, Outcome::Acknowledged(_));
            let is_gone = places.last_offset(send).is_none();
            if is_gone && !is_promised && !is_damaged(history, *partition, *offset) {
                let name = places.name(*partition, *value);
                found.add(
                    Kind::ReadAboveCommit,
                    format!(
                        "consumer {consumer} partition {partition}: {name} at {offset}, gone now"
                    ),
                );
            }
        }
    }
}

/// Who asks after somebody was told a high watermark is told at least that.
fn check_high_watermarks(history: &History, found: &mut Found) {
    let mut told: BTreeMap<u32, Vec<(Tick, Tick, u64)>> = BTreeMap::new();
    for poll in &history.polls {
        if let Some(end) = poll.high_watermark {
            let all = told.entry(poll.partition).or_default();
            all.push((poll.asked, poll.answered, end));
        }
    }
    for (partition, read) in &history.finals {
        let all = told.entry(*partition).or_default();
        all.push((Tick::MAX, Tick::MAX, read.high_watermark));
    }
    for (partition, mut by_asked) in told {
        by_asked.sort_unstable();
        let mut by_answered = by_asked.clone();
        by_answered.sort_unstable_by_key(|(_, answered, _)| *answered);
        let mut answered = by_answered.into_iter().peekable();
        let mut highest = 0;
        for (asked, _, end) in by_asked {
            while let Some((_, _, earlier)) = answered.next_if(|(_, at, _)| *at < asked) {
                highest = highest.max(earlier);
            }
            if end < highest {
                found.add(
                    Kind::HighWatermarkRegression,
                    format!("partition {partition}: {end} after {highest}"),
                );
            }
        }
    }
}
