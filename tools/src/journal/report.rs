//! What `catena journal verify` found: the form of the report, in words and in JSON.

use std::fmt;
use std::path::PathBuf;

use catena_core::ids::{JournalPos, SegmentSeq};
use catena_core::scan::{CorruptRange, Damage};
use catena_protocol::ids::TopicId;
use serde::Serialize;

use super::audit::Counts;
use super::examine::Examined;
use super::names::Names;
use super::walk::BadSegment;
use crate::quantity::{Bytes, counted};

/// What is known about one journal after reading all of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub journal: u16,
    pub segments: usize,
    pub checkpoints: usize,
    #[serde(flatten)]
    pub counts: Counts,
    pub bytes_read: u64,
    /// Where the next block would go.
    pub end: Place,
    pub torn: Option<Torn>,
    /// Segments that a crash kept from being started; they hold nothing.
    pub abandoned: Vec<u32>,
    /// What looks odd and is no problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Damage that somebody accepted; no problem any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<Problem>,
    pub problems: Vec<Problem>,
}

/// What is known about a store.
#[derive(Debug, Serialize)]
pub struct StoreReport {
    /// How many things are wrong, all together.
    pub problems: u64,
    /// What is wrong outside of the journals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub store: Vec<Problem>,
    pub journals: Vec<Report>,
    /// Metadata that no repair brings back and that no broker starts without.
    #[serde(skip)]
    pub lost_metadata: Vec<PathBuf>,
}

impl StoreReport {
    pub(crate) fn new(
        store: Vec<Problem>,
        journals: Vec<Report>,
        lost_metadata: Vec<PathBuf>,
    ) -> Self {
        let in_journals = journals.iter().map(|report| report.problems.len());
        let problems = in_journals.sum::<usize>() + store.len();
        Self {
            problems: problems as u64,
            store,
            journals,
            lost_metadata,
        }
    }
}

impl fmt::Display for StoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.iter().try_for_each(|problem| problem.fmt(f))?;
        self.journals.iter().try_for_each(|report| report.fmt(f))?;
        let journals = counted(self.journals.len() as u64, "journal");
        writeln!(f, "{journals}, {}", counted(self.problems, "problem"))
    }
}

/// A position in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
}

/// What a crash left behind the last flush: never acknowledged, cut by the next start.
#[derive(Debug, Serialize)]
pub struct Torn {
    #[serde(flatten)]
    pub place: Place,
    pub bytes: u32,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub struct Problem {
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<u32>,
    /// Bytes in the segment, half open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// How `repair` would undo it, if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Messages that a problem concerns: `[from, to)` of a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Lost {
    pub topic: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub partition: u32,
    pub from: u64,
    pub to: u64,
}

impl From<JournalPos> for Place {
    fn from(pos: JournalPos) -> Self {
        Self {
            segment: pos.segment.0,
            offset: pos.offset,
        }
    }
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            segment: None,
            start: None,
            end: None,
            lost: Vec::new(),
            remedy: None,
        }
    }

    pub(crate) fn remedy(mut self, remedy: String) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// A damaged range, with what is known of what it held.
    pub(crate) fn of_range(range: &CorruptRange, examined: &Examined) -> Self {
        let mut problem = Self::from(range);
        let corrections: Vec<_> = examined.corrections_of(range).collect();
        let held = corrections.iter().flat_map(|it| it.holds.iter().cloned());
        problem.lost.extend(held);
        if examined.is_correctable(range) {
            let flips = corrections
                .iter()
                .map(|it| format!("flip back bit {} of byte {}", it.bit, it.at));
            problem.remedy = Some(flips.collect::<Vec<_>>().join(", "));
        }
        problem
    }

    pub(crate) fn in_segment(
        mut self,
        segment: SegmentSeq,
        start: Option<u32>,
        end: Option<u32>,
    ) -> Self {
        (self.segment, self.start, self.end) = (Some(segment.0), start, end);
        self
    }
}

impl From<&BadSegment> for Problem {
    fn from(bad: &BadSegment) -> Self {
        let what = format!("{}: {}", bad.path.display(), bad.why);
        Self::new(what).in_segment(bad.segment, None, None)
    }
}

impl From<&CorruptRange> for Problem {
    fn from(range: &CorruptRange) -> Self {
        let problem = Self::new(format!("corrupt: {}", range.what));
        match &range.what {
            // The bytes of the range are those of the first segment and of the last.
            Damage::SegmentMissing { .. } => problem.in_segment(range.segment, None, None),
            Damage::Body(body) => {
                let mut problem =
                    problem.in_segment(range.segment, Some(range.start), Some(range.end));
                problem.lost.push(Lost {
                    topic: body.tp.topic.0,
                    name: None,
                    partition: body.tp.partition.0,
                    from: body.base_offset.0,
                    to: body.end_offset.0,
                });
                problem
            }
            Damage::Head(_) | Damage::Read => {
                problem.in_segment(range.segment, Some(range.start), Some(range.end))
            }
        }
    }
}

impl Report {
    pub(crate) fn name_topics(&mut self, names: &Names) {
        for lost in self
            .problems
            .iter_mut()
            .chain(&mut self.accepted)
            .flat_map(|problem| &mut problem.lost)
        {
            lost.name = names.get(TopicId(lost.topic)).map(str::to_owned);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            blocks,
            frames,
            records,
            batches,
            messages,
            batch_bytes,
        } = self.counts;
        writeln!(
            f,
            "journal {}: {}, {}, {} read",
            self.journal,
            counted(self.segments as u64, "segment"),
            counted(self.checkpoints as u64, "checkpoint"),
            Bytes(self.bytes_read)
        )?;
        writeln!(
            f,
            "  {}, {}, {}, {} with {} in {}",
            counted(blocks, "block"),
            counted(frames, "frame"),
            counted(records, "record"),
            counted(batches, "batch"),
            counted(messages, "message"),
            Bytes(batch_bytes)
        )?;
        writeln!(f, "  ends at {}:{}", self.end.segment, self.end.offset)?;
        if let Some(Torn {
            place: Place { segment, offset },
            bytes,
        }) = self.torn
        {
            writeln!(
                f,
                "  torn tail of {bytes} bytes at {segment}:{offset}: never acknowledged, cut by \
                 the next start"
            )?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        for known in &self.accepted {
            f.write_str("  accepted")?;
            known.write_rest(f)?;
        }
        self.problems.iter().try_for_each(|problem| problem.fmt(f))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("  PROBLEM")?;
        self.write_rest(f)
    }
}

impl Problem {
    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.segment, self.start, self.end) {
            (Some(segment), Some(start), Some(end)) => {
                write!(f, " segment {segment} [{start}, {end})")?;
            }
            (Some(segment), Some(start), None) => write!(f, " segment {segment} at {start}")?,
            (Some(segment), ..) => write!(f, " segment {segment}")?,
            _ => {}
        }
        writeln!(f, ": {}", self.what)?;
        for Lost {
            topic,
            name,
            partition,
            from,
            to,
        } in &self.lost
        {
            let name = name
                .as_deref()
                .map_or_else(String::new, |name| format!(" ({name})"));
            writeln!(
                f,
                "    lost: topic {topic}{name} partition {partition} offsets [{from}, {to})"
            )?;
        }
        if let Some(remedy) = &self.remedy {
            writeln!(f, "    can be repaired: {remedy}")?;
        }
        Ok(())
    }
}

/// Sorts ranges and joins those that touch.
pub(crate) fn merge(lost: &mut Vec<Lost>) {
    lost.sort_unstable();
    lost.dedup_by(|next, kept| {
        let touches =
            (kept.topic, kept.partition) == (next.topic, next.partition) && next.from <= kept.to;
        if touches {
            kept.to = kept.to.max(next.to);
        }
        touches
    });
}
