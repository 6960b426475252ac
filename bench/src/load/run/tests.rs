//! Whole runs on a system in memory, which does what a broker must never do when it is told to.

use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::*;
use crate::limits::STAMP_BYTES;
use crate::load::stamp::Stamp;
use crate::systems::{Consumer, Facts, Message, Prepared, Producer, Received};
use crate::workload::{Sizes, Values, plain};

/// What goes wrong with one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Lost,
    Repeated,
    /// Stored behind the one after it.
    Late,
}

#[derive(Clone)]
struct Memory {
    fault: Fault,
    /// Which of the records that are produced it happens to.
    at: u64,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    stored: Mutex<Stored>,
    changed: Notify,
}

#[derive(Default)]
struct Stored {
    produced: u64,
    held_back: Option<Message>,
    records: Vec<Message>,
}

impl Memory {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            at: 10,
            log: Arc::default(),
        }
    }

    fn store(&self, message: Message) {
        let mut stored = self.log.stored.lock().expect("no test panics with it");
        stored.produced += 1;
        let fault = if stored.produced == self.at {
            self.fault
        } else {
            Fault::None
        };
        match fault {
            Fault::None => {
                let late = stored.held_back.take();
                stored.records.push(message);
                stored.records.extend(late);
            }
            Fault::Lost => {}
            Fault::Repeated => stored.records.extend([message.clone(), message]),
            Fault::Late => stored.held_back = Some(message),
        }
        self.log.changed.notify_waiters();
    }
}

impl System for Memory {
    type Producer = Self;
    type Consumer = Reader;

    async fn prepare(&self, _: &Workload) -> Result<Prepared> {
        Ok(Prepared {
            partitions: 1,
            facts: Facts {
                system: "memory".to_owned(),
                durability: "none".to_owned(),
                verified: None,
                batch: None,
            },
        })
    }

    async fn producer(&self, _: &Workload, _: u32) -> Result<Self> {
        Ok(self.clone())
    }

    async fn consumer(&self, partitions: Vec<u32>, from: StartAt) -> Result<Reader> {
        let stored = self.log.stored.lock().expect("no test panics with it");
        let next = match from {
            StartAt::Earliest => 0,
            StartAt::Latest => stored.records.len(),
        };
        Ok(Reader {
            log: self.log.clone(),
            partitions,
            next,
        })
    }

    async fn remove(&self) -> Result<()> {
        Ok(())
    }
}

impl Producer for Memory {
    type Ack = Ready<Result<(), String>>;

    async fn send_one(&mut self, message: Message) -> Result<Self::Ack, String> {
        self.store(message);
        Ok(ready(Ok(())))
    }

    async fn send_many(
        &mut self,
        messages: impl Iterator<Item = Message>,
    ) -> Result<Self::Ack, String> {
        messages.for_each(|message| self.store(message));
        Ok(ready(Ok(())))
    }
}

struct Reader {
    log: Arc<Log>,
    partitions: Vec<u32>,
    next: usize,
}

impl Reader {
    fn new_records(&mut self) -> Vec<(u32, Bytes)> {
        let stored = self.log.stored.lock().expect("no test panics with it");
        let new = &stored.records[self.next..];
        self.next = stored.records.len();
        let own = |message: &&Message| self.partitions.contains(&message.partition);
        let pair = |message: &Message| (message.partition, message.value.clone());
        new.iter().filter(own).map(pair).collect()
    }
}

impl Consumer for Reader {
    async fn receive(&mut self, take: &mut dyn FnMut(Result<Received<'_>, String>)) {
        let log = self.log.clone();
        let changed = log.changed.notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        let mut records = self.new_records();
        if records.is_empty() {
            changed.await;
            records = self.new_records();
        }
        for (partition, value) in &records {
            take(Ok(Received {
                partition: *partition,
                key_bytes: 0,
                value,
            }));
        }
    }
}

fn run_on(memory: &Memory, workload: &Workload, partitions: u32, threads: u16) -> Outcome {
    let args = RunArgs {
        threads,
        ..RunArgs::default()
    };
    let workload = workload.with_verification();
    workload.check().expect("the workload makes sense");
    run(memory, &workload, partitions, &args, Clock::start()).expect("nothing fails")
}

fn rate(milliseconds: u64) -> Phase {
    Phase::new(Pace::Rate(10_000), Duration::from_millis(milliseconds))
}

fn workload(change: impl FnOnce(&mut Workload)) -> Workload {
    let mut workload = Workload {
        values: Values::Random(Sizes::Fixed(64)),
        phases: vec![rate(20)],
        ..plain()
    };
    change(&mut workload);
    workload
}

fn exact(records: u64) -> Delivery {
    Delivery {
        acknowledged: records,
        received: records,
        ..Delivery::default()
    }
}

#[test]
fn what_a_system_keeps_is_received_once_and_read_back_once() {
    let replay = Phase::new(Pace::Replay, Duration::from_secs(60));
    let pause = Phase::new(Pace::Pause, Duration::from_millis(1));
    let tailed_and_replayed = workload(|workload| {
        (workload.consumers, workload.producers) = (2, 3);
        workload.phases = vec![rate(20), pause, rate(10), replay];
    });
    for threads in [1, 3] {
        let outcome = run_on(&Memory::new(Fault::None), &tailed_and_replayed, 4, threads);
        assert_eq!(outcome.delivery, Some(exact(300)));
        assert_eq!(outcome.phases.len(), 4);
        assert_eq!(outcome.phases[0].received.records_done, 200);
        assert_eq!(outcome.phases[1].received.records_done, 0);
        assert_eq!(outcome.phases[3].replayed, Some(exact(300)));
        assert!(outcome.phases[3].window.measured_ns() < 60_000_000_000);
    }
}

#[test]
fn verifying_adds_a_replay_that_finds_what_is_wrong() {
    let verified = workload(|workload| workload.verify = true);
    for (fault, expected) in [
        (Fault::None, exact(200)),
        (
            Fault::Lost,
            Delivery {
                received: 199,
                missing: 1,
                ..exact(200)
            },
        ),
        (
            Fault::Repeated,
            Delivery {
                repeated: 1,
                ..exact(200)
            },
        ),
        (
            Fault::Late,
            Delivery {
                out_of_order: 1,
                ..exact(200)
            },
        ),
    ] {
        let mut verified = verified.with_verification();
        if fault == Fault::Lost {
            // What never comes is awaited until the phase ends, which has one turn at least.
            verified.phases[1].duration = Duration::from_millis(5);
        }
        let outcome = run_on(&Memory::new(fault), &verified, 1, 1);
        assert_eq!(outcome.delivery, None, "nobody tailed");
        assert_eq!(outcome.phases[1].replayed, Some(expected), "{fault:?}");
    }
}

/// A retry writes what was sent last a second time: behind everything that was awaited.
#[test]
fn what_comes_twice_at_the_very_end_is_seen() {
    let memory = Memory {
        at: 200,
        ..Memory::new(Fault::Repeated)
    };
    let verified = workload(|workload| workload.verify = true);
    let replayed = run_on(&memory, &verified, 1, 1).phases[1].replayed;
    assert_eq!(replayed.map(|delivery| delivery.repeated), Some(1));
    let memory = Memory {
        at: 200,
        ..Memory::new(Fault::Repeated)
    };
    let tailed = workload(|workload| workload.consumers = 1);
    let delivery = run_on(&memory, &tailed, 1, 1).delivery;
    assert_eq!(delivery.map(|delivery| delivery.repeated), Some(1));
}

#[tokio::test]
async fn a_consumer_that_catches_up_begins_anew() {
    let (memory, clock) = (Memory::new(Fault::None), Clock::start());
    for number in 0..10 {
        let mut value = [0; STAMP_BYTES];
        let stamp = Stamp {
            run: 5,
            intended_ns: clock.now_ns(),
            number,
            producer: 0,
        };
        stamp.write(&mut value);
        memory.store(Message {
            partition: 0,
            key: None,
            value: Bytes::copy_from_slice(&value),
        });
    }
    let window = Window::new(0, Duration::ZERO, Duration::from_secs(3_600));
    let tally = Rc::new(RefCell::new(Tally::new(window)));
    let reader = CatchUp::new(memory, 5, vec![0]).await;
    let reading = reader.expect("nothing fails");
    let three_times = async {
        while tally.borrow().records_done < 30 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = reading.read(clock, window, tally.clone()) => panic!("the window lasts an hour"),
        () = three_times => {}
    }
}

#[test]
fn order_is_watched_up_to_a_bound() {
    let stamped = workload(|workload| workload.verify = true);
    let pairs = u32::try_from(ORDER_PAIRS_MAX).expect("it fits");
    let result = run(
        &Memory::new(Fault::None),
        &stamped,
        pairs + 1,
        &RunArgs::default(),
        Clock::start(),
    );
    let error = result.expect_err("too many pairs");
    assert!(error.to_string().contains("order is watched"));
}
