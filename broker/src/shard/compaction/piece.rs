//! Writes a piece of a partition anew. The order of the steps is in the heads of [`super`] and of
//! [`crate::shard::cleaner`]. Runs on the shard's executor.

use std::rc::Rc;

use catena_core::compaction::{Compacted, Judge, JudgeError, Outcome, Pass, Stretch, Verdicts};
use catena_core::index::Extent;
use catena_protocol::batch::{BatchError, BatchHeader, Decompressor, RewriteError};
use tracing::debug;

use super::reading::{self, Found, Tiles, Untiled, batches_of};
use super::{Step, give_up};
use crate::journal::JournalError;
use crate::limits::{CLEANER_JOIN_AGE_DIVISOR, CLEANER_RECORD_BYTES, COMPACTION_RECORDS_PER_SLICE};
use crate::runtime::executor;
use crate::shard::Shard;
use crate::shard::cleaner::Located;

/// Why an extent stays as it is.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error(transparent)]
    Damaged(#[from] BatchError),
    #[error(transparent)]
    Untiled(#[from] Untiled),
    #[error(transparent)]
    Unreadable(#[from] JudgeError),
    #[error(transparent)]
    Unwritable(#[from] RewriteError),
    #[error("it lies in a journal that an earlier number of shards wrote")]
    Foreign,
    #[error("what is left of it does not fit into one block")]
    TooLarge,
}

/// What is being put together in one step.
struct Piece {
    stretch: Stretch,
    compacted: Vec<Compacted>,
    bytes: usize,
    /// What could not be read when keys were noted can be now.
    is_contradicted: bool,
}

impl Shard {
    /// Writes the next piece anew and lets the index name it.
    pub(super) async fn write_piece(
        self: &Rc<Self>,
        pass: &mut Pass,
        decompressor: &mut Decompressor,
    ) -> Result<Step, JournalError> {
        let state = self.log.borrow().partition(pass.tp).cloned();
        let Some(state) = state else {
            return Ok(Step::GivenUp);
        };
        let Some(bytes_max) = self.piece_bytes(&state) else {
            return Ok(Step::Waits);
        };
        let keep_ms = self.keep_ms(pass);
        let join_ms = keep_ms.map_or(u64::MAX, |keep| keep / CLEANER_JOIN_AGE_DIVISOR);
        let mut piece = Piece {
            stretch: Stretch::new(pass.tp, CLEANER_RECORD_BYTES, join_ms),
            compacted: Vec::new(),
            bytes: 0,
            is_contradicted: false,
        };
        let mut is_over = false;
        while piece.bytes < bytes_max && !is_over {
            let found = match self.next_extents(pass, pass.end()).await {
                Ok(found) => found,
                Err(error) => return Ok(give_up(pass, &error)),
            };
            is_over = found.is_empty();
            for run in reading::coalesce(&found, |_| true) {
                if piece.bytes >= bytes_max {
                    break;
                }
                let read = match self.read_along(run).await {
                    Ok(read) => read,
                    Err(error) => return Ok(give_up(pass, &error)),
                };
                for found in &read {
                    self.rewrite(pass, &mut piece, found, decompressor).await;
                }
            }
            // The pass comes as far as what is finished.
            self.finish_stretch(pass, &mut piece);
        }
        let is_contradicted = piece.is_contradicted;
        if !self.take_over(pass, piece, keep_ms).await? || is_contradicted {
            return Ok(Step::GivenUp);
        }
        Ok(if is_over { Step::Over } else { Step::More })
    }

    /// How long the topic keeps records, if its limits count.
    fn keep_ms(&self, pass: &Pass) -> Option<u64> {
        let metadata = self.metadata.borrow();
        let config = &metadata.topic(pass.tp.topic)?.config;
        config.cleanup.deletes().then_some(config.retention_ms)?
    }

    /// Takes an extent into the piece, or leaves it.
    async fn rewrite(
        &self,
        pass: &mut Pass,
        piece: &mut Piece,
        found: &Found,
        decompressor: &mut Decompressor,
    ) {
        let extent = &found.extent;
        piece.bytes += found.bytes.bytes;
        let again;
        let (mut found, mut whole) = (found, self.check_whole(pass, found).await);
        // What is left is remembered for good: one read that went astray is not enough for that.
        if let Err(Left::Damaged(_) | Left::Untiled(_)) = whole
            && let Ok(read) = self.read_along(std::slice::from_ref(extent)).await
            && let Some(second) = read.into_iter().next()
        {
            again = second;
            found = &again;
            whole = self.check_whole(pass, found).await;
        }
        if whole.is_err() || !piece.stretch.takes(extent) {
            self.finish_stretch(pass, piece);
        }
        let rewritten = match whole {
            Ok(()) => {
                piece.stretch.begin_extent(extent);
                let stretch = &mut piece.stretch;
                rewrite_batches(pass, stretch, found, decompressor).await
            }
            Err(left) => {
                self.leave(pass, &[*extent], &left);
                return;
            }
        };
        match rewritten {
            Ok(()) => piece.is_contradicted |= pass.contradicts(extent),
            Err(left) => {
                let from = piece.stretch.abandon();
                self.leave(pass, &from, &left);
            }
        }
    }

    /// Whether an extent may be moved and each of its batches is what its producer sent.
    async fn check_whole(&self, pass: &Pass, found: &Found) -> Result<(), Left> {
        if self.is_foreign(&found.extent) {
            return Err(Left::Foreign);
        }
        let mut tiles = Tiles::of(&found.extent);
        for batch in batches_of(pass.tp, found) {
            tiles.take(&batch?.0)?;
            executor::yield_if_needed().await;
        }
        Ok(tiles.end()?)
    }

    fn leave(&self, pass: &mut Pass, extents: &[Extent], left: &Left) {
        for extent in extents {
            self.note_left(pass, extent, left);
            pass.leave(extent);
            pass.rewritten(extent.end_offset, extent.bytes.into());
        }
    }

    fn finish_stretch(&self, pass: &mut Pass, piece: &mut Piece) {
        match piece.stretch.finish() {
            Outcome::Unchanged(from) => {
                for extent in &from {
                    pass.rewritten(extent.end_offset, extent.bytes.into());
                }
            }
            Outcome::Stuck(from) => self.leave(pass, &from, &Left::TooLarge),
            Outcome::Compacted(compacted) => {
                let end_offset = compacted.moved.extent.end_offset;
                pass.rewritten(end_offset, compacted.bytes_after());
                piece.compacted.push(compacted);
            }
        }
    }

    /// Writes what is left, and lets it take the place of what was there; false if the shard stops
    /// meanwhile and nothing has changed.
    async fn take_over(
        self: &Rc<Self>,
        pass: &Pass,
        piece: Piece,
        keep_ms: Option<u64>,
    ) -> Result<bool, JournalError> {
        let before: u64 = piece.compacted.iter().map(Compacted::bytes_before).sum();
        let after: u64 = piece.compacted.iter().map(Compacted::bytes_after).sum();
        let dropped = piece.compacted.iter().map(|piece| piece.dropped).sum();
        let located: Vec<Located> = piece
            .compacted
            .into_iter()
            .map(|compacted| Located {
                moved: compacted.moved,
                batch_count: compacted.batch_count,
                from: compacted.from,
                keep_ms: keep_ms.unwrap_or(u64::MAX),
            })
            .collect();
        if !self.relocate(located, self.pressure()).await? {
            return Ok(false);
        }
        let mut log = self.log.borrow_mut();
        let mut known = log.compacted(pass.tp).cloned().unwrap_or_default();
        known.saved_bytes = (known.saved_bytes + before).saturating_sub(after);
        log.note_compacted(pass.tp, known);
        self.metrics
            .compaction_bytes_saved
            .add(before.saturating_sub(after));
        self.metrics.compaction_records_dropped.add(dropped);
        debug!(partition = %pass.tp, before, after, dropped, "compacted a piece");
        Ok(true)
    }
}

/// Takes all batches of an extent into a stretch, without the records that go.
async fn rewrite_batches(
    pass: &mut Pass,
    stretch: &mut Stretch,
    found: &Found,
    decompressor: &mut Decompressor,
) -> Result<(), Left> {
    for batch in batches_of(pass.tp, found) {
        let (header, batch) = batch?;
        if Judge::leaves(&header) {
            stretch.copy(&header, batch);
            continue;
        }
        let verdicts = judge(pass, (&header, batch), decompressor).await?;
        if verdicts.has_tombstones {
            pass.note_tombstones();
        }
        if verdicts.dropped == 0 {
            stretch.copy(&header, batch);
        } else {
            write_anew(stretch, (&header, batch), &verdicts, decompressor).await?;
        }
        executor::yield_if_needed().await;
    }
    Ok(())
}

async fn judge(
    pass: &Pass,
    (header, batch): (&BatchHeader, &[u8]),
    decompressor: &mut Decompressor,
) -> Result<Verdicts, JudgeError> {
    let mut records = Judge::open(header, batch, decompressor)?;
    let mut verdicts = Verdicts::default();
    let most = COMPACTION_RECORDS_PER_SLICE;
    executor::yield_if_needed().await;
    while pass.judge.judge(&mut records, most, &mut verdicts)? {
        executor::yield_if_needed().await;
    }
    Ok(verdicts)
}

async fn write_anew(
    stretch: &mut Stretch,
    (header, batch): (&BatchHeader, &[u8]),
    verdicts: &Verdicts,
    decompressor: &mut Decompressor,
) -> Result<(), Left> {
    stretch.begin_batch(header, batch)?;
    let mut records = Judge::open(header, batch, decompressor)?;
    let (most, mut from) = (COMPACTION_RECORDS_PER_SLICE, 0);
    executor::yield_if_needed().await;
    while stretch.keep(&mut records, most, (verdicts, from))? {
        from += most;
        executor::yield_if_needed().await;
    }
    Ok(stretch.end_batch(verdicts)?)
}
