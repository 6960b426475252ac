//! `catena journal dump`: lists segments, and on request blocks, frames and batches.
//!
//! With `--json` every line is one JSON object, so that large journals can be streamed.

use std::io::{self, BufWriter, Write};

use anyhow::Context as _;
use catena_core::block::BlockView;
use catena_core::entry::EntryView;
use catena_core::ids::{BlockLocation, JournalId};
use catena_core::ledger::LedgerSlot;
use serde_json::json;

use super::describe::{self, Line};
use super::files::{self, InUse, JournalFiles};
use super::walk::{self, BadSegment, Segment};
use super::{checkpoints, verify};
use crate::cli::{Depth, JournalDump};
use crate::quantity::{Bytes, counted, format_time};

/// How deep the listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Segments,
    Blocks,
    Frames,
    Batches,
}

impl From<&Depth> for Level {
    fn from(depth: &Depth) -> Self {
        match depth {
            Depth { batches: true, .. } => Self::Batches,
            Depth { frames: true, .. } => Self::Frames,
            Depth { blocks: true, .. } => Self::Blocks,
            _ => Self::Segments,
        }
    }
}

pub(crate) fn run(args: &JournalDump) -> anyhow::Result<()> {
    let store = files::find(&args.dir)?;
    let _guard = files::guard(&store, InUse::Warn)?;
    let stdout = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut dump = Dump {
        out: stdout,
        json: args.format.json,
        level: Level::from(&args.depth),
    };
    for journal in &store.journals {
        dump.journal(journal)?;
    }
    dump.out.flush().context("write to standard output")
}

struct Dump<W> {
    out: W,
    json: bool,
    level: Level,
}

impl<W: Write> Dump<W> {
    fn journal(&mut self, journal: &JournalFiles) -> anyhow::Result<()> {
        let ledger = verify::read_ledger(journal)?.newest;
        let flushed = ledger.map_or_else(|| "unknown".to_owned(), |slot| slot.flushed.to_string());
        self.line(&Line {
            text: format!(
                "journal {}  {}  {}  flushed {flushed}",
                journal.id,
                counted(journal.segments.len() as u64, "segment"),
                counted(journal.spares as u64, "spare")
            ),
            json: json!({
                "kind": "journal",
                "journal": journal.id.0,
                "segments": journal.segments.len(),
                "spares": journal.spares,
                "flushed_segment": ledger.map(|slot| slot.flushed.segment.0),
                "flushed_offset": ledger.map(|slot| slot.flushed.offset),
            }),
        })?;
        for checkpoint in checkpoints::read(journal)? {
            self.line(&checkpoints::describe(&checkpoint))?;
        }
        let segments = walk::open(journal)?;
        if self.level == Level::Segments {
            let mut good = segments.good.iter();
            good.try_for_each(|segment| self.line(&segment_line(segment)))?;
        } else {
            self.blocks(journal.id, &segments.good, ledger)?;
        }
        segments
            .bad
            .iter()
            .try_for_each(|bad| self.line(&bad_segment_line(bad)))
    }

    /// Lists what a broker that starts would see, and then what it would not.
    fn blocks(
        &mut self,
        journal: JournalId,
        segments: &[Segment],
        ledger: Option<LedgerSlot>,
    ) -> anyhow::Result<()> {
        let mut waiting = segments.iter().peekable();
        let mut written = Ok(());
        let scanned = walk::scan(journal, segments, ledger, &mut |location, view| {
            let mut write = || {
                while let Some(segment) =
                    waiting.next_if(|next| next.header.segment <= location.segment)
                {
                    self.line(&segment_line(segment))?;
                }
                self.block(&location, view)
            };
            if written.is_ok() {
                written = write();
            }
        });
        written?;
        waiting.try_for_each(|segment| self.line(&segment_line(segment)))?;
        let corrupt = scanned.outcome.corrupt.iter();
        corrupt
            .map(describe::corrupt)
            .try_for_each(|line| self.line(&line))?;
        let torn = scanned.outcome.torn.as_ref();
        torn.map(describe::torn)
            .map_or(Ok(()), |line| self.line(&line))
    }

    fn block(&mut self, location: &BlockLocation, view: &BlockView<'_>) -> anyhow::Result<()> {
        self.line(&describe::block(location, view.header()))?;
        if self.level < Level::Frames {
            return Ok(());
        }
        for entry in view.entries() {
            self.line(&describe::entry(&entry))?;
            if let (Level::Batches, EntryView::Batches(_, rows) | EntryView::Relocation(_, rows)) =
                (self.level, &entry)
            {
                for batch in rows.batches() {
                    self.line(&describe::batch(&batch))?;
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        let written = if self.json {
            writeln!(self.out, "{}", line.json)
        } else {
            writeln!(self.out, "{}", line.text)
        };
        written.context("write to standard output")
    }
}

fn segment_line(segment: &Segment) -> Line {
    let header = &segment.header;
    let previous = header.previous.map_or_else(
        || "first".to_owned(),
        |previous| format!("after {}:{}", previous.segment, previous.end),
    );
    Line {
        text: format!(
            "segment {}  {}  created {}  {previous}",
            header.segment,
            Bytes(segment.file_bytes),
            format_time(header.created_ms),
        ),
        json: json!({
            "kind": "segment",
            "segment": header.segment.0,
            "bytes": header.segment_bytes,
            "file_bytes": segment.file_bytes,
            "created_ms": header.created_ms,
            "previous_segment": header.previous.map(|previous| previous.segment.0),
            "previous_end": header.previous.map(|previous| previous.end),
        }),
    }
}

fn bad_segment_line(bad: &BadSegment) -> Line {
    Line {
        text: format!("segment {}  not readable: {}", bad.segment, bad.why),
        json: json!({ "kind": "segment", "segment": bad.segment.0, "error": bad.why }),
    }
}
