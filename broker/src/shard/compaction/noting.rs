//! Notes the keys of what is new in a partition. Runs on the shard's executor.

use std::rc::Rc;

use catena_core::compaction::{Judge, JudgeError, NotedTo, Pass};
use catena_protocol::batch::{BatchHeader, Decompressor};
use catena_protocol::ids::Offset;

use super::reading::{self, Found, batches_of};
use super::{Step, give_up};
use crate::limits::{COMPACTION_RECORDS_PER_SLICE, COMPACTION_STEP_BYTES};
use crate::runtime::executor;
use crate::shard::Shard;

impl Shard {
    /// Notes the keys of a piece of what is new.
    pub(super) async fn note_keys(
        self: &Rc<Self>,
        pass: &mut Pass,
        decompressor: &mut Decompressor,
    ) -> Step {
        let mut step_bytes = 0;
        while step_bytes < COMPACTION_STEP_BYTES {
            let found = match self.next_extents(pass, Offset::new(u64::MAX)).await {
                Ok(found) => found,
                Err(error) => return give_up(pass, &error),
            };
            for read in reading::coalesce(&found, |extent| self.is_below_floor(extent)) {
                let read = match self.read_along(read).await {
                    Ok(read) => read,
                    Err(error) => return give_up(pass, &error),
                };
                for found in &read {
                    step_bytes += found.bytes.bytes;
                    if !self.note_extent(pass, found, decompressor).await {
                        return after_noting(pass);
                    }
                }
            }
            // What lies above the floor ends the pass, like the end of the partition.
            let is_cut = !found.iter().all(|extent| self.is_below_floor(extent));
            if is_cut || found.is_empty() {
                pass.end_noting(None);
                return match after_noting(pass) {
                    Step::GivenUp if is_cut => Step::AboveFloor,
                    step => step,
                };
            }
        }
        Step::More
    }

    /// Notes the keys of an extent; false if noting is over.
    async fn note_extent(
        &self,
        pass: &mut Pass,
        found: &Found,
        decompressor: &mut Decompressor,
    ) -> bool {
        for batch in batches_of(pass.tp, found) {
            let noted = match batch {
                Ok((header, _)) if header.append_time_ms > pass.appended_before_ms => {
                    pass.end_noting(Some(header.base_offset));
                    return false;
                }
                Ok((header, batch)) => {
                    let batch = (&header, batch);
                    note_batch(pass, batch, decompressor).await
                }
                // Damage hides nothing older, and nothing older is dropped for it.
                Err(damaged) => Err(damaged.into()),
            };
            match noted {
                Ok(Ok(())) => {}
                Ok(Err(NotedTo { at })) => {
                    pass.end_noting(Some(at));
                    return false;
                }
                Err(_) if pass.pass_over(&found.extent) => {}
                Err(_) => {
                    pass.end_noting(None);
                    return false;
                }
            }
        }
        pass.noted(&found.extent);
        true
    }
}

async fn note_batch(
    pass: &mut Pass,
    (header, batch): (&BatchHeader, &[u8]),
    decompressor: &mut Decompressor,
) -> Result<Result<(), NotedTo>, JudgeError> {
    if Judge::leaves(header) {
        return Ok(Ok(()));
    }
    let mut records = Judge::open(header, batch, decompressor)?;
    executor::yield_if_needed().await;
    loop {
        match pass.note(&mut records, COMPACTION_RECORDS_PER_SLICE)? {
            Ok(true) => executor::yield_if_needed().await,
            Ok(false) => return Ok(Ok(())),
            Err(full) => return Ok(Err(full)),
        }
    }
}

fn after_noting(pass: &Pass) -> Step {
    if pass.is_of_use() {
        Step::More
    } else {
        Step::GivenUp
    }
}
