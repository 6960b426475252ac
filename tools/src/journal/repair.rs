//! `catena journal repair`: lists how the damage that `verify` finds can be undone, and does it
//! when told to.
//!
//! Invariant: without `--yes` nothing is written. With it, whatever is overwritten or removed is
//! first copied to a quarantine directory and flushed there. Only what a checksum proves, what no
//! reader was ever promised, or what is worthless beside an intact copy is changed; messages are
//! never cut out.

mod apply;
mod plan;

use std::path::Path;

use serde_json::json;

use super::examine::{Examined, examine};
use super::files::{self, JournalFiles, StoreFiles};
use super::metadata;
use super::report::StoreReport;
use super::verify;
use crate::cli::JournalRepair;
use crate::exit::{Exit, Failure};
use crate::quantity::counted;
use crate::stdout;

use plan::Plan;

pub(crate) fn run(args: &JournalRepair) -> anyhow::Result<()> {
    if !args.dir.join("journals").is_dir() {
        let what = format!("{} is not a data directory", args.dir.display());
        return Err(Failure::new(Exit::NotFound, what)
            .hint("name the directory that the broker was given, with journals/ in it")
            .into());
    }
    let guard = files::guard_alone(&args.dir)?;
    let store = files::find(&args.dir)?;
    let plan = plan(&store, args)?;
    let quarantine = if args.yes && !plan.actions.is_empty() {
        Some(apply::apply(&args.dir, &plan.actions)?)
    } else {
        None
    };
    drop(guard);
    let left = verify::check(&args.dir)?;
    report(args, &plan, quarantine.as_deref(), &left)
}

fn plan(store: &StoreFiles, args: &JournalRepair) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    plan.identity(store)?;
    for journal in &store.journals {
        let examined: Examined = examine(journal)?;
        plan.journal(journal, &examined, args.accept_loss)?;
    }
    Ok(plan)
}

/// Says what was or would be done, and what is left.
fn report(
    args: &JournalRepair,
    plan: &Plan,
    quarantine: Option<&Path>,
    left: &StoreReport,
) -> anyhow::Result<()> {
    let count = counted(plan.actions.len() as u64, "repair");
    if args.format.json {
        stdout::print_line(json!({
            "done": quarantine.is_some(),
            "actions": plan.actions,
            "not_repairable": plan.beyond,
            "quarantine": quarantine,
            "problems_left": left.problems,
        }))?;
    } else {
        let verb = if quarantine.is_some() {
            "done"
        } else {
            "would"
        };
        for action in &plan.actions {
            stdout::print_line(format_args!("{verb}: {action}"))?;
        }
        for what in &plan.beyond {
            stdout::print_line(format_args!("cannot be repaired here: {what}"))?;
        }
        if let Some(quarantine) = quarantine {
            stdout::print_line(format_args!(
                "{count} done; what was there before is in {}",
                quarantine.display()
            ))?;
        }
        let problems = counted(left.problems, "problem");
        stdout::print_line(format_args!("{problems} left in stored data"))?;
    }
    let lost_metadata = metadata::hint(&left.lost_metadata);
    let lost_metadata = lost_metadata.map(|hint| hint + "; --accept-loss does not apply");
    let is_waiting = quarantine.is_none() && !plan.actions.is_empty();
    if is_waiting {
        let message = format!("{count} to do, nothing was changed");
        let mut hint = "run it again with --yes".to_owned();
        if let Some(rest) = lost_metadata {
            hint = format!("{hint}; what it cannot mend: {rest}");
        }
        return Err(Failure::new(Exit::Corrupt, message).hint(hint).into());
    }
    if left.problems == 0 {
        return Ok(());
    }
    let message = format!("{} left in stored data", counted(left.problems, "problem"));
    let hint = lost_metadata.unwrap_or_else(|| {
        "a broker starts on damaged messages and answers with an error for exactly them; \
         --accept-loss notes them as known"
            .to_owned()
    });
    Err(Failure::new(Exit::Corrupt, message).hint(hint).into())
}

/// A journal's place in the data directory, for messages.
fn name_of(journal: &JournalFiles) -> String {
    format!("journal {}", journal.id)
}
