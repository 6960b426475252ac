//! A consumer of the client library.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catena_client::{ConsumeError, Consumer};

use crate::history::recorder::Recorder;
use crate::history::{Fingerprint, Poll, Report};

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Reads on until it is stopped, as the consumer with this number in the history.
pub(super) async fn run(
    number: u32,
    mut consumer: Consumer,
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
) {
    let mut seen = BTreeSet::new();
    let mut noted = |asked, partition, records| {
        recorder.polled(Poll {
            consumer: number,
            partition,
            // It begins at the start of a new topic.
            position: seen.insert(partition).then_some(0),
            asked,
            answered: recorder.tick(),
            high_watermark: None,
            records,
        });
    };
    while !stop.load(Ordering::Relaxed) {
        let asked = recorder.tick();
        let next = tokio::time::timeout(LOOK_INTERVAL, consumer.next_batch()).await;
        let batch = match next {
            Ok(Ok(batch)) => batch,
            Ok(Err(ConsumeError::DataCorrupt {
                partition,
                offset,
                next_offset,
                ..
            })) => {
                recorder.reported(Report {
                    consumer: number,
                    partition,
                    offsets: offset..next_offset,
                });
                continue;
            }
            Ok(Err(ConsumeError::BatchCorrupt {
                partition,
                offset,
                reason,
                ..
            })) => {
                // Wrong bytes in a whole answer: a value that nobody sent, for the checker.
                let wrong = Fingerprint::of(reason.as_bytes());
                noted(asked, partition, vec![(offset, wrong)]);
                continue;
            }
            // The broker's absence, or nothing for a while: the stream goes on.
            Ok(Err(_)) | Err(_) => continue,
        };
        let records = match batch.records() {
            Ok(records) => records,
            Err(error) => {
                // A value that nobody sent: the checker reports it.
                let nothing = Fingerprint::of(error.to_string().as_bytes());
                noted(
                    asked,
                    batch.partition(),
                    vec![(batch.start_offset(), nothing)],
                );
                continue;
            }
        };
        let records = records.iter().map(|record| {
            let value = record.value.as_deref().unwrap_or_default();
            (record.offset, Fingerprint::of(value))
        });
        noted(asked, batch.partition(), records.collect());
    }
}
