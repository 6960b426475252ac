//! A consumer of the client library.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catena_client::Consumer;

use crate::history::recorder::Recorder;
use crate::history::{Fingerprint, Poll};

/// Its number in histories.
const CONSUMER: u32 = 1;

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Reads on until it is stopped.
pub(super) async fn run(mut consumer: Consumer, recorder: Arc<Recorder>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let asked = recorder.tick();
        let next = tokio::time::timeout(LOOK_INTERVAL, consumer.next_batch()).await;
        // Errors are the broker's absence and damage that it reports: the stream goes on.
        let Ok(Ok(batch)) = next else { continue };
        let records = match batch.records() {
            Ok(records) => records,
            Err(error) => {
                // A value that nobody sent: the checker reports it.
                let nothing = Fingerprint::of(error.to_string().as_bytes());
                note(
                    &recorder,
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
        note(&recorder, asked, batch.partition(), records.collect());
    }
}

fn note(recorder: &Recorder, asked: u64, partition: u32, records: Vec<(u64, Fingerprint)>) {
    recorder.polled(Poll {
        consumer: CONSUMER,
        partition,
        position: None,
        asked,
        answered: recorder.tick(),
        high_watermark: None,
        records,
    });
}
