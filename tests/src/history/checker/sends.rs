//! What became of the sends: acknowledged ones must be there, in order.

use std::collections::BTreeMap;

use super::places::Places;
use super::{Found, Kind};
use crate::history::{History, Outcome, Produced};

pub(super) fn check(history: &History, places: &Places<'_>, found: &mut Found) {
    for send in &history.produced {
        match send.outcome {
            Outcome::Acknowledged(offset) => check_kept(history, places, send, offset, found),
            Outcome::Unanswered => found.add(Kind::Stuck, format!("{}: no answer", name(send))),
            Outcome::Failed | Outcome::Unknown => {}
        }
    }
    check_order(history, places, found);
    check_time(history, places, found);
}

fn check_kept(
    history: &History,
    places: &Places<'_>,
    send: &Produced,
    told: Option<u64>,
    found: &mut Found,
) {
    if places.last_offset(send).is_some() {
        return;
    }
    let read = history.finals.get(&send.partition);
    let reached = read.map_or(0, |read| read.high_watermark);
    if let (Some(read), Some(offset)) = (read, told)
        && (read.is_damaged(offset) || offset < read.log_start)
    {
        return;
    }
    let is_passed = told.is_some_and(|offset| offset < reached);
    let kind = if is_passed || places.was_polled(send) {
        Kind::LostWrite
    } else {
        Kind::Unseen
    };
    found.add(
        kind,
        format!(
            "{}: acknowledged at {told:?}, not there; the log ends at {reached}",
            name(send)
        ),
    );
}

/// Sends of one producer lie in the order in which it sent them.
fn check_order(history: &History, places: &Places<'_>, found: &mut Found) {
    let mut last: BTreeMap<(u32, u32), (u64, u64)> = BTreeMap::new();
    let mut sends: Vec<_> = history.produced.iter().collect();
    sends.sort_by_key(|send| (send.partition, send.producer, send.number));
    for send in sends {
        let Some(offset) = places.last_offset(send) else {
            continue;
        };
        let key = (send.partition, send.producer);
        if let Some((number, before)) = last.insert(key, (send.number, offset))
            && before >= offset
        {
            found.add(
                Kind::ReorderedSends,
                format!(
                    "{} at {offset} is not behind send {number} at {before}",
                    name(send)
                ),
            );
        }
    }
}

/// What began after something was acknowledged lies behind it.
fn check_time(history: &History, places: &Places<'_>, found: &mut Found) {
    let mut by_place: BTreeMap<(u32, u64), &Produced> = BTreeMap::new();
    for send in &history.produced {
        if let Some(offset) = places.last_offset(send) {
            by_place.insert((send.partition, offset), send);
        }
    }
    let mut latest: Option<(u32, &Produced)> = None;
    for ((partition, offset), send) in by_place {
        if let Some((before, other)) = latest
            && before == partition
        {
            let is_acknowledged = matches!(send.outcome, Outcome::Acknowledged(_));
            if is_acknowledged && send.answered < other.sent {
                found.add(
                    Kind::ReorderedInTime,
                    format!(
                        "{} at {offset} was acknowledged before {} began, which lies before it",
                        name(send),
                        name(other)
                    ),
                );
            }
            if send.sent < other.sent {
                continue;
            }
        }
        latest = Some((partition, send));
    }
}

fn name(send: &Produced) -> String {
    let Produced {
        producer,
        partition,
        number,
        ..
    } = send;
    format!("partition {partition}: send {number} of producer {producer}")
}
