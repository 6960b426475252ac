//! A producer of the client library.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use catena_client::{ProduceError, Producer, Record};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Load, Target, value};
use crate::history::Outcome;
use crate::history::recorder::Recorder;
use crate::seeded::Seeded;

/// Its number in histories.
const PRODUCER: u32 = 1;

/// Sends to all partitions in turn until it is stopped, then waits for all outcomes.
pub(super) async fn run(
    producer: Producer,
    target: Target,
    load: Load,
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
) {
    let mut random = Seeded::new(load.seed);
    let permits = Arc::new(Semaphore::new(load.in_flight));
    let mut outcomes = JoinSet::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for partition in 0..target.partitions {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let value = value(PRODUCER, partition, number, &mut random);
            let sent = recorder.sending(PRODUCER, partition, number, &value);
            let record = Record::to(target.topic.as_str())
                .partition(partition)
                .value(value);
            let recorder = Arc::clone(&recorder);
            match producer.send(record).await {
                Ok(handle) => {
                    outcomes.spawn(async move {
                        let outcome = match handle.await {
                            Ok(written) => Outcome::Acknowledged(written.offset),
                            Err(error) => outcome_of(&error),
                        };
                        recorder.answered(sent, outcome);
                        drop(permit);
                    });
                }
                Err(error) => recorder.answered(sent, outcome_of(&error)),
            }
        }
        while outcomes.try_join_next().is_some() {}
        if !load.pause.is_zero() {
            tokio::time::sleep(load.pause).await;
        }
    }
    while outcomes.join_next().await.is_some() {}
}

const fn outcome_of(error: &ProduceError) -> Outcome {
    if error.may_have_been_written() {
        Outcome::Unknown
    } else {
        Outcome::Failed
    }
}
