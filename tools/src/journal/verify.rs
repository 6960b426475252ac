//! `catena journal verify`: reads every byte, checks every checksum and every link, and names what
//! is wrong: where it lies, and which messages it concerns.

use std::fs;

use anyhow::Context as _;
use catena_core::ids::{JournalId, JournalPos};
use catena_core::ledger::{LEDGER_PAGE_BYTES, LedgerSlot};
use catena_core::scan::{CorruptRange, Damage, ScanOutcome};
use serde_json::json;

use super::audit::{Audit, Gap, Missing};
use super::checkpoints;
use super::files::{self, InUse, JournalFiles};
use super::names::{self, Names};
use super::report::{Lost, Problem, Report, Torn, merge};
use super::walk::{self, BadSegment, Segment};
use crate::cli::JournalVerify;
use crate::exit::{Exit, Failure};
use crate::quantity::counted;
use crate::stdout;

pub(crate) fn run(args: &JournalVerify) -> anyhow::Result<()> {
    let store = files::find(&args.dir)?;
    let _guard = files::guard(&store, InUse::Refuse)?;
    let names = Names::read(&store);
    let mut reports = Vec::new();
    for journal in &store.journals {
        let mut report = verify(journal)?;
        report.name_topics(&names);
        if !args.format.json {
            stdout::print(&report)?;
        }
        reports.push(report);
    }
    let problems = reports
        .iter()
        .map(|report| report.problems.len())
        .sum::<usize>() as u64;
    let counted_problems = counted(problems, "problem");
    if args.format.json {
        stdout::print_line(json!({ "problems": problems, "journals": reports }))?;
    } else {
        let journals = counted(reports.len() as u64, "journal");
        stdout::print_line(format_args!("{journals}, {counted_problems}"))?;
    }
    if problems == 0 {
        return Ok(());
    }
    Err(
        Failure::new(Exit::Corrupt, format!("{counted_problems} in stored data"))
            .hint("keep a copy of the directory before anything else touches it")
            .into(),
    )
}

fn verify(journal: &JournalFiles) -> anyhow::Result<Report> {
    let ledger = read_ledger(journal)?;
    let checkpoints = checkpoints::read(journal)?;
    let segments = walk::open(journal)?;
    let from = checkpoints::newest_scan_from(&checkpoints);
    let mut audit = Audit::new(from.segment);
    let scanned = walk::scan(
        journal.id,
        &segments.good,
        ledger.newest,
        &mut |location, view| {
            audit.block(&location, view);
        },
    );
    let outcome = &scanned.outcome;

    // A file behind the end of the journal was prepared and never started.
    let (unstarted, bad): (Vec<BadSegment>, Vec<BadSegment>) = segments
        .bad
        .into_iter()
        .partition(|bad| bad.segment > outcome.end.segment);
    let mut problems: Vec<Problem> = bad.iter().map(Problem::from).collect();
    if ledger.damaged {
        problems.push(Problem::new("no page of the flush ledger is readable"));
    }
    problems.extend(checkpoints::problems(&checkpoints).map(Problem::new));
    problems.extend(
        names::snapshot_problems(journal)?
            .into_iter()
            .map(Problem::new),
    );
    problems.extend(other_stores(&segments.good));
    problems.extend(missing_front(&segments.good, from));
    problems.extend(problems_of(outcome, audit.gaps, from));
    let abandoned = outcome
        .unlinked
        .iter()
        .chain(unstarted.iter().map(|bad| &bad.segment));
    let torn = outcome.torn.map(|torn| Torn {
        place: torn.at.into(),
        bytes: torn.bytes,
    });
    Ok(Report {
        journal: journal.id.0,
        segments: journal.segments.len(),
        checkpoints: checkpoints.len(),
        counts: audit.counts,
        bytes_read: scanned.bytes_read,
        end: outcome.end.into(),
        torn,
        abandoned: abandoned.map(|segment| segment.0).collect(),
        problems,
    })
}

/// Segments before the oldest one that recovery would still need.
fn missing_front(segments: &[Segment], from: JournalPos) -> Option<Problem> {
    let previous = segments.first()?.header.previous?;
    let needed = JournalPos::new(previous.segment, previous.end) > from;
    let what = format!(
        "no segment with a valid header, up to segment {}",
        previous.segment
    );
    needed.then(|| Problem::new(what))
}

/// All segments of a journal carry the uuid of one store.
fn other_stores(segments: &[Segment]) -> Vec<Problem> {
    let Some(first) = segments.first() else {
        return Vec::new();
    };
    let foreign = segments
        .iter()
        .filter(|segment| segment.header.store_uuid != first.header.store_uuid);
    foreign
        .map(|segment| {
            Problem::new(format!(
                "segment of another store than segment {}",
                first.header.segment
            ))
            .in_segment(segment.header.segment, None, None)
        })
        .collect()
}

/// Corrupt ranges first, each with the gaps that it explains; then the gaps without explanation.
fn problems_of(outcome: &ScanOutcome, gaps: Vec<Gap>, from: JournalPos) -> Vec<Problem> {
    let is_problem = |range: &&CorruptRange| !was_freed(range, from);
    let corrupt: Vec<&CorruptRange> = outcome.corrupt.iter().filter(is_problem).collect();
    let mut problems: Vec<Problem> = corrupt.iter().copied().map(Problem::from).collect();
    for gap in gaps {
        // The damage that lies last before the place where the gap was noticed.
        let cause = corrupt.iter().rposition(|range| before(range, gap.at));
        match (cause, lost(&gap)) {
            (Some(cause), Some(lost)) => problems[cause].lost.push(lost),
            // Frames missing behind damage are the same damage seen again.
            (Some(_), None) if matches!(gap.missing, Missing::Frames { .. }) => {}
            (_, lost) => {
                let mut problem = Problem::new(describe(&gap.missing)).in_segment(
                    gap.at.segment,
                    Some(gap.at.offset),
                    None,
                );
                problem.lost.extend(lost);
                problems.push(problem);
            }
        }
    }
    for problem in &mut problems {
        merge(&mut problem.lost);
    }
    problems
}

/// Whether the range is a hole in the sequence of segments that recovery does not need to cross.
fn was_freed(range: &CorruptRange, from: JournalPos) -> bool {
    match range.what {
        Damage::SegmentMissing { through } => JournalPos::new(through, range.end) <= from,
        _ => false,
    }
}

fn before(range: &CorruptRange, at: JournalPos) -> bool {
    JournalPos::new(range.segment, range.start) < at
}

fn lost(gap: &Gap) -> Option<Lost> {
    match gap.missing {
        Missing::Offsets { tp, from, to } => Some(Lost {
            topic: tp.topic.0,
            name: None,
            partition: tp.partition.0,
            from: from.0,
            to: to.0,
        }),
        _ => None,
    }
}

fn describe(missing: &Missing) -> String {
    match missing {
        Missing::Offsets { tp, from, to } => format!("offsets [{from}, {to}) of {tp} are missing"),
        Missing::Frames { chain, from, to } => {
            format!("frames [{from}, {to}) of chain {chain} are missing")
        }
        Missing::Link { chain, lsn } => {
            format!("frame {lsn} of chain {chain} does not follow the frame before it")
        }
        Missing::Overlap { tp, from, to } => {
            format!("offsets [{from}, {to}) of {tp} are there twice")
        }
        Missing::UnknownKind { kind } => {
            format!("an entry of kind {kind}, which this version does not know")
        }
    }
}

/// The flush ledger of a journal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ledger {
    pub(crate) newest: Option<LedgerSlot>,
    /// Something was written, and none of it can be read. One bad page is what a crash leaves.
    pub(crate) damaged: bool,
}

pub(crate) fn read_ledger(journal: &JournalFiles) -> anyhow::Result<Ledger> {
    let Some(path) = &journal.ledger else {
        return Ok(Ledger {
            newest: None,
            damaged: false,
        });
    };
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(judge_ledger(&bytes, journal.id))
}

fn judge_ledger(bytes: &[u8], journal: JournalId) -> Ledger {
    let newest = LedgerSlot::newest(bytes, journal);
    let is_written = |page: &[u8]| page.iter().any(|byte| *byte != 0);
    let written = bytes
        .chunks(LEDGER_PAGE_BYTES)
        .filter(|page| is_written(page))
        .count();
    Ledger {
        newest,
        damaged: newest.is_none() && written > 1,
    }
}
