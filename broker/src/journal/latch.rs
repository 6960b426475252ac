//! The latch of a journal: after a failed write or flush nothing is written any more.
//!
//! What the failed operation covered may be lost, and a later flush that succeeds would not say so.
//! Only a new start finds out, by reading what is there. Shared by the journal and its segments;
//! runs on the executor that owns them.

use std::cell::RefCell;
use std::sync::Arc;

use catena_core::ids::JournalId;
use tracing::error;

use super::JournalError;
use crate::metrics::ShardMetrics;

/// Open until the first failure, then closed for good.
pub(super) struct Latch {
    journal: JournalId,
    reason: RefCell<Option<String>>,
    metrics: Arc<ShardMetrics>,
}

impl Latch {
    pub(super) fn new(journal: JournalId, metrics: Arc<ShardMetrics>) -> Latch {
        Latch {
            journal,
            reason: RefCell::default(),
            metrics,
        }
    }

    /// Whether it is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.reason.borrow().is_some()
    }

    /// Why it is closed, if it is.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Refuses if it is closed.
    pub(super) fn check(&self) -> Result<(), JournalError> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(JournalError::Latched {
                journal: self.journal,
                reason,
            }),
        }
    }

    /// Closes it; the first reason stays.
    pub(super) fn close(&self, reason: String) -> JournalError {
        error!(
            journal = self.journal.get(),
            %reason,
            "journal latched: nothing is written any more"
        );
        self.metrics.journal_failed.set(1);
        self.reason
            .borrow_mut()
            .get_or_insert_with(|| reason.clone());
        JournalError::Latched {
            journal: self.journal,
            reason,
        }
    }
}
