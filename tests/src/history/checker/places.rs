//! Which value was seen at which offset: by acknowledgement, poll and final read.

use std::collections::{BTreeMap, BTreeSet};

use super::{Found, Kind};
use crate::history::{Fingerprint, History, Outcome, Produced};

/// A partition and an offset in it.
type Place = (u32, u64);

/// Everything that was seen anywhere.
pub(super) struct Places<'a> {
    history: &'a History,
    sends: BTreeMap<(u32, Fingerprint), &'a Produced>,
    /// By place: the values, with who saw them.
    seen: BTreeMap<Place, BTreeMap<Fingerprint, &'static str>>,
    polled: BTreeSet<(u32, Fingerprint)>,
    /// Where the final read found each value.
    last: BTreeMap<(u32, Fingerprint), BTreeSet<u64>>,
}

impl<'a> Places<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        let mut places = Self {
            history,
            sends: BTreeMap::new(),
            seen: BTreeMap::new(),
            polled: BTreeSet::new(),
            last: BTreeMap::new(),
        };
        for send in &history.produced {
            places.sends.insert((send.partition, send.value), send);
            if let Outcome::Acknowledged(Some(offset)) = send.outcome {
                places.note((send.partition, offset), send.value, "acknowledged");
            }
        }
        for poll in &history.polls {
            for (offset, value) in &poll.records {
                places.note((poll.partition, *offset), *value, "polled");
                places.polled.insert((poll.partition, *value));
            }
        }
        for (partition, read) in &history.finals {
            for (offset, value) in &read.records {
                places.note((*partition, *offset), *value, "read at the end");
                let offsets = places.last.entry((*partition, *value)).or_default();
                offsets.insert(*offset);
            }
        }
        places
    }

    fn note(&mut self, place: Place, value: Fingerprint, how: &'static str) {
        self.seen.entry(place).or_default().insert(value, how);
    }

    /// The send of a value, if there was one.
    pub(super) fn send(&self, partition: u32, value: Fingerprint) -> Option<&'a Produced> {
        self.sends.get(&(partition, value)).copied()
    }

    /// Where the final read found a send first.
    pub(super) fn last_offset(&self, send: &Produced) -> Option<u64> {
        let offsets = self.last.get(&(send.partition, send.value))?;
        offsets.first().copied()
    }

    /// Whether any reader got it.
    pub(super) fn was_polled(&self, send: &Produced) -> bool {
        self.polled.contains(&(send.partition, send.value))
    }

    /// Looks at places and values by themselves.
    pub(super) fn check(&self, found: &mut Found) {
        for ((partition, offset), values) in &self.seen {
            let place = format!("partition {partition} offset {offset}");
            if values.len() > 1 {
                let words: Vec<String> = values
                    .iter()
                    .map(|(value, how)| format!("{} {how}", self.name(*partition, *value)))
                    .collect();
                found.add(
                    Kind::InconsistentOffsets,
                    format!("{place}: {}", words.join(", ")),
                );
            }
            for (value, how) in values {
                self.check_origin(*partition, *value, &format!("{place}, {how}"), found);
            }
        }
        self.check_elsewhere(found);
        for ((partition, value), offsets) in &self.last {
            if offsets.len() > 1 {
                let name = self.name(*partition, *value);
                found.add(
                    Kind::Duplicate,
                    format!("partition {partition}: {name} at offsets {offsets:?}"),
                );
            }
        }
        self.check_gaps(found);
    }

    fn check_origin(&self, partition: u32, value: Fingerprint, place: &str, found: &mut Found) {
        match self.send(partition, value).map(|send| send.outcome) {
            None => found.add(
                Kind::PhantomValue,
                format!("{place}: a value that nobody sent there"),
            ),
            Some(Outcome::Failed) => {
                let name = self.name(partition, value);
                found.add(
                    Kind::PhantomValue,
                    format!("{place}: {name}, which failed for certain"),
                );
            }
            Some(_) => {}
        }
    }

    /// A value that was seen at one offset and is found at another in the end.
    fn check_elsewhere(&self, found: &mut Found) {
        for ((partition, offset), values) in &self.seen {
            for (value, how) in values {
                let Some(last) = self.last.get(&(*partition, *value)) else {
                    continue;
                };
                if !last.contains(offset) {
                    let name = self.name(*partition, *value);
                    found.add(
                        Kind::InconsistentOffsets,
                        format!("partition {partition}: {name} {how} at {offset}, now at {last:?}"),
                    );
                }
            }
        }
    }

    /// By ranges and not by offsets: what a broker calls damaged may reach far.
    fn check_gaps(&self, found: &mut Found) {
        for (partition, read) in &self.history.finals {
            let records = read.records.iter().map(|(offset, _)| *offset..offset + 1);
            let mut covered: Vec<_> = records.chain(read.damaged.iter().cloned()).collect();
            covered.sort_by_key(|range| range.start);
            covered.push(read.high_watermark..read.high_watermark);
            let mut next = read.log_start;
            let mut missing = Vec::new();
            for range in covered {
                if range.start > next {
                    missing.push(next..range.start);
                }
                next = next.max(range.end);
            }
            if !missing.is_empty() {
                missing.truncate(10);
                let (start, end) = (read.log_start, read.high_watermark);
                found.add(
                    Kind::OffsetGap,
                    format!("partition {partition} [{start}, {end}): nothing at {missing:?}"),
                );
            }
        }
    }

    /// A value in words.
    pub(super) fn name(&self, partition: u32, value: Fingerprint) -> String {
        match self.send(partition, value) {
            Some(send) => format!("send {} of producer {}", send.number, send.producer),
            None => format!("foreign value {:016x}", value.0),
        }
    }
}
