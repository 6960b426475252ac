//! What `catena journal verify` found: the form of the report, in words and in JSON.

use std::fmt;

use catena_core::ids::{JournalPos, SegmentSeq};
use catena_core::scan::{CorruptRange, Damage};
use catena_protocol::ids::TopicId;
use serde::Serialize;

use super::audit::Counts;
use super::names::Names;
use super::walk::BadSegment;
use crate::quantity::Bytes;

/// What is known about one journal after reading all of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) journal: u16,
    pub(crate) segments: usize,
    pub(crate) checkpoints: usize,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) bytes_read: u64,
    /// Where the next block would go.
    pub(crate) end: Place,
    pub(crate) torn: Option<Torn>,
    /// Segments that a crash kept from being started; they hold nothing.
    pub(crate) abandoned: Vec<u32>,
    pub(crate) problems: Vec<Problem>,
}

/// A position in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

/// What a crash left behind the last flush: never acknowledged, cut by the next start.
#[derive(Debug, Serialize)]
pub(crate) struct Torn {
    #[serde(flatten)]
    pub(crate) place: Place,
    pub(crate) bytes: u32,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    pub(crate) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) segment: Option<u32>,
    /// Bytes in the segment, half open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) lost: Vec<Lost>,
}

/// Messages that a problem concerns: `[from, to)` of a partition.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Lost {
    pub(crate) topic: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) partition: u32,
    pub(crate) from: u64,
    pub(crate) to: u64,
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
        }
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
            "journal {}: {} segments, {} checkpoints, {} read",
            self.journal,
            self.segments,
            self.checkpoints,
            Bytes(self.bytes_read)
        )?;
        writeln!(
            f,
            "  {blocks} blocks, {frames} frames, {records} records, {batches} batches with \
             {messages} messages in {}",
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
        self.problems.iter().try_for_each(|problem| problem.fmt(f))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("  PROBLEM")?;
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
