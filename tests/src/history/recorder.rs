//! Where the clients of a run write down what they do, from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::{Fingerprint, History, Outcome, Poll, Produced, Report, Tick};

/// A history in the making.
#[derive(Debug, Default)]
pub struct Recorder {
    ticks: AtomicU64,
    acknowledged: AtomicU64,
    history: Mutex<History>,
}

/// A send whose outcome is to be noted.
#[derive(Clone, Copy, Debug)]
pub struct Sent(usize);

impl Recorder {
    /// Now.
    pub fn tick(&self) -> Tick {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes a send before it is handed in.
    pub fn sending(&self, producer: u32, partition: u32, number: u64, value: &[u8]) -> Sent {
        let mut history = self.lock();
        history.produced.push(Produced {
            producer,
            partition,
            number,
            value: Fingerprint::of(value),
            sent: self.tick(),
            answered: Tick::MAX,
            outcome: Outcome::Unanswered,
        });
        Sent(history.produced.len() - 1)
    }

    /// Notes what became of a send.
    pub fn answered(&self, sent: Sent, outcome: Outcome) {
        let mut history = self.lock();
        let send = &mut history.produced[sent.0];
        send.outcome = outcome;
        send.answered = self.tick();
        if matches!(outcome, Outcome::Acknowledged(_)) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes an answer to a reader.
    pub fn polled(&self, poll: Poll) {
        self.lock().polls.push(poll);
    }

    /// Notes that a reader was told of damage instead of given records.
    pub fn reported(&self, report: Report) {
        self.lock().reports.push(report);
    }

    /// Whether a reader was told of damage and then got records from behind it.
    pub fn has_gone_on_behind_damage(&self) -> bool {
        let history = self.lock();
        let is_behind = |report: &Report, poll: &Poll| {
            (poll.consumer, poll.partition) == (report.consumer, report.partition)
                && poll
                    .records
                    .iter()
                    .any(|(offset, _)| *offset >= report.offsets.end)
        };
        let mut reports = history.reports.iter();
        reports.any(|report| history.polls.iter().any(|poll| is_behind(report, poll)))
    }

    /// Notes that something can never go on, in words.
    pub fn hopeless(&self, what: &str) {
        let mut history = self.lock();
        if history.stuck.is_empty() {
            history.stuck.push(what.to_owned());
        }
    }

    /// Whether that was noted.
    pub fn is_hopeless(&self) -> bool {
        !self.lock().stuck.is_empty()
    }

    /// How many sends were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// What became of the sends that began after `tick`, of those that have an outcome.
    pub fn outcomes_after(&self, tick: Tick) -> Vec<Outcome> {
        let history = self.lock();
        let later = history.produced.iter().filter(|send| send.sent > tick);
        later
            .map(|send| send.outcome)
            .filter(|outcome| *outcome != Outcome::Unanswered)
            .collect()
    }

    /// What was noted so far.
    pub fn history(&self) -> History {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        let locked = self.history.lock();
        locked.expect("no thread panics while it notes something")
    }
}
