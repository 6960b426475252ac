//! `catena journal verify`: reads every byte, checks every checksum and every link, and names what
//! is wrong: where it lies, and which messages it concerns.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use catena_core::ids::{JournalId, JournalPos};
use catena_core::ledger::{LEDGER_PAGE_BYTES, LedgerSlot};
use catena_core::scan::CorruptRange;
use catena_core::sealed_text::{self, Seal};

use super::accepted::{self, Accepted};
use super::audit::{Gap, Missing};
use super::checkpoints;
use super::examine::{Examined, examine};
use super::files::{self, InUse, JournalFiles, StoreFiles};
use super::metadata::{self, Metadata};
use super::names::Names;
use super::report::{Lost, Problem, Report, StoreReport, Torn, merge};
use super::walk::Segment;
use crate::cli::JournalVerify;
use crate::exit::{Exit, Failure};
use crate::quantity::counted;
use crate::stdout;

pub(crate) fn run(args: &JournalVerify) -> anyhow::Result<()> {
    let report = check(&args.dir)?;
    if args.format.json {
        stdout::print_line(serde_json::to_string(&report)?)?;
    } else {
        stdout::print(&report)?;
    }
    if report.problems == 0 {
        return Ok(());
    }
    let found = counted(report.problems, "problem");
    let next = metadata::hint(&report.lost_metadata)
        .unwrap_or_else(|| "`catena journal repair` lists what can be repaired".to_owned());
    let hint = format!("keep a copy of the directory before anything else touches it; {next}");
    let failure = Failure::new(Exit::Corrupt, format!("{found} in stored data"));
    Err(failure.hint(hint).into())
}

/// Reads and judges a whole store, or one journal.
pub(crate) fn check(dir: &Path) -> anyhow::Result<StoreReport> {
    let store = files::find(dir)?;
    let _guard = files::guard(&store, InUse::Refuse)?;
    let names = Names::read(&store);
    let identity: Vec<Problem> = identity_problem(&store)?.into_iter().collect();
    let mut lost = Vec::new();
    if identity.iter().any(|problem| problem.remedy.is_none()) {
        lost.extend(store.identity.clone());
    }
    let mut journals = Vec::new();
    for journal in &store.journals {
        let examined = examine(journal)?;
        if Metadata::of(journal, &examined).is_some_and(|metadata| metadata.is_lost()) {
            lost.push(journal.dir.clone());
        }
        let mut report = judge(journal, &examined)?;
        report.name_topics(&names);
        journals.push(report);
    }
    Ok(StoreReport::new(identity, journals, lost))
}

/// Whether the file that says who the store is can be trusted.
fn identity_problem(store: &StoreFiles) -> anyhow::Result<Option<Problem>> {
    let Some(path) = &store.identity else {
        return Ok(None);
    };
    let mut bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if sealed_text::check(&bytes) != Seal::Broken {
        return Ok(None);
    }
    let problem = Problem::new(format!("{}: its checksum does not fit", path.display()));
    Ok(Some(match sealed_text::correct(&mut bytes) {
        Some(flip) => problem.remedy(format!("flip back bit {} of byte {}", flip.bit, flip.at)),
        None => problem,
    }))
}

/// What is wrong with a journal.
pub(crate) fn judge(journal: &JournalFiles, examined: &Examined) -> anyhow::Result<Report> {
    let accepted = accepted::read(&journal.dir)?;
    let from = examined.scan_from();
    let mut problems: Vec<Problem> = examined.bad.iter().map(Problem::from).collect();
    problems.extend(examined.segments.iter().filter_map(flipped_header));
    if examined.ledger.damaged {
        problems.push(Problem::new("no page of the flush ledger is readable"));
    }
    problems.extend(checkpoints::problems(&examined.checkpoints).map(Problem::new));
    let snapshots = examined.bad_snapshots.iter();
    problems
        .extend(snapshots.map(|bad| Problem::new(format!("{}: {}", bad.path.display(), bad.why))));
    problems.extend(other_stores(&examined.segments));
    problems.extend(missing_front(&examined.segments, from));
    let (known, damage) = damage(examined, &accepted);
    problems.extend(damage);
    let outcome = &examined.outcome;
    let unlinked = outcome.unlinked.iter().chain(&examined.unstarted);
    let torn = outcome.torn.map(|torn| Torn {
        place: torn.at.into(),
        bytes: torn.bytes,
    });
    Ok(Report {
        journal: journal.id.0,
        segments: journal.segments.len(),
        checkpoints: examined.checkpoints.len(),
        counts: examined.counts,
        bytes_read: examined.bytes_read,
        end: outcome.end.into(),
        torn,
        abandoned: unlinked.map(|segment| segment.0).collect(),
        notes: examined.ledger.note().into_iter().collect(),
        accepted: known,
        problems,
    })
}

fn flipped_header(segment: &Segment) -> Option<Problem> {
    let flip = segment.flipped?;
    let problem = Problem::new("corrupt: one bit of the segment's header is flipped")
        .remedy(format!("flip back bit {} of byte {}", flip.bit, flip.at));
    Some(problem.in_segment(segment.header.segment, None, None))
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
/// Ranges that somebody accepted come apart, in front.
fn damage(examined: &Examined, accepted: &[Accepted]) -> (Vec<Problem>, Vec<Problem>) {
    let corrupt: Vec<&CorruptRange> = examined.corrupt().collect();
    let mut problems: Vec<Problem> = corrupt
        .iter()
        .map(|range| Problem::of_range(range, examined))
        .collect();
    let mut unexplained = Vec::new();
    for gap in &examined.gaps {
        // The damage that lies last before the place where the gap was noticed.
        let cause = corrupt.iter().rposition(|range| before(range, gap.at));
        match (cause, lost(gap)) {
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
                unexplained.push(problem);
            }
        }
    }
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for (range, problem) in corrupt.into_iter().zip(problems) {
        if accepted::is_accepted(accepted, range, &examined.segments) {
            known.push(problem);
        } else {
            unknown.push(problem);
        }
    }
    unknown.extend(unexplained);
    for problem in known.iter_mut().chain(&mut unknown) {
        merge(&mut problem.lost);
    }
    (known, unknown)
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
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pub(crate) newest: Option<LedgerSlot>,
    /// The pages that hold something and cannot be read. One is what a power cut may leave.
    pub(crate) bad_pages: Vec<usize>,
    /// Something was written, and none of it can be read.
    pub(crate) damaged: bool,
}

impl Ledger {
    fn note(&self) -> Option<String> {
        let page = self.bad_pages.first().filter(|_| !self.damaged)?;
        Some(format!(
            "page {page} of the flush ledger is not readable: damaged, or torn by a power cut; {}",
            self.newest.map_or_else(
                || "nothing else was written to it".to_owned(),
                |slot| format!("the other one counts, flushed up to {}", slot.flushed)
            )
        ))
    }
}

pub(crate) fn read_ledger(journal: &JournalFiles) -> anyhow::Result<Ledger> {
    let bytes = match &journal.ledger {
        Some(path) => fs::read(path).with_context(|| format!("read {}", path.display()))?,
        None => Vec::new(),
    };
    Ok(judge_ledger(&bytes, journal.id))
}

fn judge_ledger(bytes: &[u8], journal: JournalId) -> Ledger {
    let newest = LedgerSlot::newest(bytes, journal);
    let is_written = |page: &[u8]| page.iter().any(|byte| *byte != 0);
    let is_good = |page: &[u8]| LedgerSlot::newest(page, journal).is_some();
    let pages = bytes.chunks(LEDGER_PAGE_BYTES).take(2).enumerate();
    let bad_pages: Vec<usize> = pages
        .filter(|(_, page)| is_written(page) && !is_good(page))
        .map(|(number, _)| number)
        .collect();
    let damaged = newest.is_none() && bad_pages.len() > 1;
    Ledger {
        newest,
        bad_pages,
        damaged,
    }
}
