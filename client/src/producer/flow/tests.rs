//! Tables of events, and a random run against a model of the broker's rules.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const LIMITS: FlowLimits = FlowLimits {
    batches: 4,
    bytes: 1 << 20,
};
const TIMEOUT: Duration = Duration::from_secs(30);

fn flow() -> Flow<u32> {
    Flow::new(LIMITS, ProducerId(9), ProducerEpoch(0), 1)
}

/// Pushes batches of ten records.
fn push(flow: &mut Flow<u32>, items: std::ops::Range<u32>, now: Instant) {
    for item in items {
        flow.push(item, 10, 100, now + TIMEOUT);
    }
}

/// Everything the flow transmits now, as (id, item, epoch, sequence).
fn transmit(flow: &mut Flow<u32>, now: Instant) -> Vec<(u64, u32, u16, u32)> {
    let mut sent = Vec::new();
    while let Some(transmit) = flow.poll_transmit(now) {
        let stamp = transmit.stamp;
        sent.push((
            transmit.id.0,
            *transmit.item,
            stamp.epoch.0,
            stamp.sequence.0,
        ));
    }
    sent
}

fn answer(flow: &mut Flow<u32>, now: Instant, id: u64, answer: Answer) -> Vec<Resolved<u32>> {
    let mut out = Vec::new();
    assert!(flow.handle_answer(now, BatchId(id), answer, &mut out));
    out
}

fn written(item: u32, offset: u64) -> Vec<Resolved<u32>> {
    vec![Resolved {
        item,
        outcome: Ok(Some(offset)),
    }]
}

const RETRY: Answer = Answer::Retry {
    code: ErrorCode::ChainStalled,
    pause: true,
    uncertain: false,
};

const fn ok(offset: u64) -> Answer {
    Answer::Written {
        base_offset: Some(offset),
    }
}

fn later(flow: &Flow<u32>, now: Instant) -> Instant {
    flow.pause_until().unwrap_or(now).max(now)
}

#[test]
fn batches_go_out_in_order_up_to_the_limit() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..6, now);
    assert_eq!(
        transmit(&mut flow, now),
        [(0, 0, 0, 0), (1, 1, 0, 10), (2, 2, 0, 20), (3, 3, 0, 30)]
    );
    assert_eq!(flow.ready_at(now), ReadyAt::Never);
    assert_eq!(answer(&mut flow, now, 0, ok(100)), written(0, 100));
    assert_eq!(transmit(&mut flow, now), [(4, 4, 0, 40)]);
    assert_eq!(flow.stamp_forecast().sequence, Sequence(60));
}

#[test]
fn a_retriable_refusal_drains_and_resends_in_order_with_the_same_numbers() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..4, now);
    transmit(&mut flow, now);
    assert_eq!(answer(&mut flow, now, 0, ok(0)), written(0, 0));
    assert!(answer(&mut flow, now, 1, RETRY).is_empty());
    let gap = Answer::OutOfOrder {
        expected: Sequence(10),
    };
    assert!(answer(&mut flow, now, 2, gap).is_empty());
    assert!(transmit(&mut flow, now).is_empty(), "one is outstanding");
    assert!(answer(&mut flow, now, 3, gap).is_empty());
    assert!(transmit(&mut flow, now).is_empty(), "the pause is not over");
    let now = later(&flow, now);
    assert_eq!(
        transmit(&mut flow, now),
        [(1, 1, 0, 10), (2, 2, 0, 20), (3, 3, 0, 30)]
    );
}

#[test]
fn a_lost_ack_is_resolved_by_resending_the_same_sequence() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..2, now);
    transmit(&mut flow, now);
    let mut out = Vec::new();
    flow.handle_lost(now, &mut out);
    assert!(out.is_empty());
    let now = later(&flow, now);
    assert_eq!(transmit(&mut flow, now), [(0, 0, 0, 0), (1, 1, 0, 10)]);
    let unknown = Answer::Written { base_offset: None };
    let resolved = answer(&mut flow, now, 0, unknown);
    assert_eq!(
        resolved,
        vec![Resolved {
            item: 0,
            outcome: Ok(None)
        }]
    );
}

#[test]
fn an_unsent_batch_that_expires_leaves_no_gap() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..5, now);
    assert_eq!(transmit(&mut flow, now).len(), 4);
    let late = now + TIMEOUT;
    flow.push(5, 10, 100, late + TIMEOUT);
    for id in 0..4 {
        answer(&mut flow, now, id, ok(id * 10));
    }
    let mut out = Vec::new();
    flow.handle_time(late, &mut out);
    let failure = Failure::TimedOut {
        refusal: None,
        may_have_been_written: false,
    };
    assert_eq!(
        out,
        vec![Resolved {
            item: 4,
            outcome: Err(failure)
        }]
    );
    assert_eq!(transmit(&mut flow, late), [(5, 5, 0, 40)]);
}

#[test]
fn an_expired_batch_of_unknown_outcome_makes_the_rest_start_the_next_epoch() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..1, now);
    transmit(&mut flow, now);
    flow.handle_lost(now, &mut Vec::new());
    let late = now + TIMEOUT;
    flow.push(1, 10, 100, late + TIMEOUT);
    let mut out = Vec::new();
    flow.handle_time(late, &mut out);
    let failure = Failure::TimedOut {
        refusal: None,
        may_have_been_written: true,
    };
    assert_eq!(
        out,
        vec![Resolved {
            item: 0,
            outcome: Err(failure)
        }]
    );
    assert_eq!(transmit(&mut flow, late), [(1, 1, 1, 0)]);
}

#[test]
fn the_rest_keeps_its_numbers_while_its_own_outcome_is_unknown() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..1, now);
    flow.push(1, 10, 100, now + TIMEOUT * 2);
    flow.push(2, 10, 100, now + TIMEOUT * 2);
    transmit(&mut flow, now);
    flow.handle_lost(now, &mut Vec::new());
    let late = now + TIMEOUT;
    flow.handle_time(late, &mut Vec::new());
    assert_eq!(transmit(&mut flow, late), [(1, 1, 0, 10), (2, 2, 0, 20)]);
    // The first was written after all, so the second is no gap.
    assert_eq!(answer(&mut flow, late, 1, ok(10)), written(1, 10));
    assert_eq!(answer(&mut flow, late, 2, ok(20)), written(2, 20));
    flow.push(3, 10, 100, late + TIMEOUT);
    assert_eq!(transmit(&mut flow, late), [(3, 3, 0, 30)]);
}

#[test]
fn a_gap_behind_an_unknown_outcome_fails_what_could_be_written_twice() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..1, now);
    flow.push(1, 10, 100, now + TIMEOUT * 2);
    transmit(&mut flow, now);
    flow.handle_lost(now, &mut Vec::new());
    flow.push(2, 10, 100, now + TIMEOUT * 2);
    let late = now + TIMEOUT;
    flow.handle_time(late, &mut Vec::new());
    assert_eq!(transmit(&mut flow, late), [(1, 1, 0, 10), (2, 2, 0, 20)]);
    let gap = Answer::OutOfOrder {
        expected: Sequence(0),
    };
    assert!(answer(&mut flow, late, 1, gap).is_empty());
    let resolved = answer(&mut flow, late, 2, gap);
    assert_eq!(
        resolved,
        vec![Resolved {
            item: 1,
            outcome: Err(Failure::OutcomeUnknown)
        }]
    );
    let late = later(&flow, late);
    assert_eq!(transmit(&mut flow, late), [(2, 2, 1, 0)]);
}

#[test]
fn a_rejected_batch_fails_alone_and_the_rest_is_renumbered() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..3, now);
    transmit(&mut flow, now);
    answer(&mut flow, now, 0, ok(0));
    let resolved = answer(&mut flow, now, 1, Answer::Rejected(ErrorCode::InvalidBatch));
    let failure = Failure::Rejected {
        code: ErrorCode::InvalidBatch,
        may_have_been_written: false,
    };
    assert_eq!(
        resolved,
        vec![Resolved {
            item: 1,
            outcome: Err(failure)
        }]
    );
    let gap = Answer::OutOfOrder {
        expected: Sequence(10),
    };
    answer(&mut flow, now, 2, gap);
    let now = later(&flow, now);
    assert_eq!(transmit(&mut flow, now), [(2, 2, 1, 0)]);
}

/// How the only batch of a flow leaves it.
type Leave<'a> = &'a dyn Fn(&mut Flow<u32>, Instant);

#[test]
fn a_gap_that_is_known_is_not_tried_out() {
    let expire = |flow: &mut Flow<u32>, now| flow.handle_time(now, &mut Vec::new());
    let rejected = Answer::Rejected(ErrorCode::InvalidBatch);
    let lose = |flow: &mut Flow<u32>, now| flow.handle_lost(now, &mut Vec::new());
    let cases: [(&str, Leave<'_>); 4] = [
        ("rejected", &|flow, now| {
            drop(answer(flow, now, 0, rejected));
        }),
        ("expired, then rejected", &|flow, now| {
            expire(flow, now);
            answer(flow, now, 0, rejected);
        }),
        ("expired, then refused", &|flow, now| {
            expire(flow, now);
            answer(flow, now, 0, RETRY);
        }),
        ("expired, then lost", &|flow, now| {
            expire(flow, now);
            lose(flow, now);
        }),
    ];
    for (name, leave) in cases {
        let (mut flow, now) = (flow(), Instant::now());
        push(&mut flow, 0..1, now);
        transmit(&mut flow, now);
        let late = now + TIMEOUT;
        leave(&mut flow, late);
        flow.push(1, 10, 100, late + TIMEOUT);
        let late = later(&flow, late);
        assert_eq!(transmit(&mut flow, late), [(1, 1, 1, 0)], "{name}");
    }
}

#[test]
fn a_producer_the_broker_forgot_starts_the_next_epoch() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..2, now);
    transmit(&mut flow, now);
    assert!(answer(&mut flow, now, 0, Answer::UnknownProducer).is_empty());
    assert!(answer(&mut flow, now, 1, Answer::UnknownProducer).is_empty());
    let now = later(&flow, now);
    assert_eq!(transmit(&mut flow, now), [(0, 0, 1, 0), (1, 1, 1, 10)]);
}

#[test]
fn a_sequence_reset_counts_what_was_lost_and_goes_on_in_the_next_epoch() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..4, now);
    transmit(&mut flow, now);
    for id in 0..3 {
        answer(&mut flow, now, id, Answer::Written { base_offset: None });
    }
    answer(
        &mut flow,
        now,
        3,
        Answer::SequenceReset { last: Sequence(9) },
    );
    assert_eq!(flow.take_records_lost(), 20);
    assert_eq!(flow.take_records_lost(), 0);
    let now = later(&flow, now);
    assert_eq!(transmit(&mut flow, now), [(3, 3, 1, 0)]);
}

#[test]
fn sequences_wrap() {
    let (mut flow, now) = (flow(), Instant::now());
    flow.next.sequence = Sequence(u32::MAX - 4);
    push(&mut flow, 0..2, now);
    let sent = transmit(&mut flow, now);
    assert_eq!(sent, [(0, 0, 0, u32::MAX - 4), (1, 1, 0, 5)]);
}

#[test]
fn without_idempotence_there_are_no_sequences() {
    let now = Instant::now();
    let mut flow = Flow::new(LIMITS, ProducerId(0), ProducerEpoch(0), 1);
    push(&mut flow, 0..2, now);
    assert_eq!(transmit(&mut flow, now), [(0, 0, 0, 0), (1, 1, 0, 0)]);
}

#[test]
fn an_answer_to_nothing_changes_nothing() {
    let (mut flow, now) = (flow(), Instant::now());
    push(&mut flow, 0..1, now);
    assert!(!flow.handle_answer(now, BatchId(0), ok(0), &mut Vec::new()));
    assert!(!flow.handle_answer(now, BatchId(7), ok(0), &mut Vec::new()));
    assert_eq!(flow.unresolved(), 1);
}

#[test]
fn one_drain_makes_one_pause() {
    let now = Instant::now();
    let limits = FlowLimits {
        batches: 100,
        bytes: 1 << 20,
    };
    let mut flow = Flow::new(limits, ProducerId(9), ProducerEpoch(0), 1);
    push(&mut flow, 0..100, now);
    transmit(&mut flow, now);
    for id in 0..100 {
        answer(&mut flow, now, id, RETRY);
    }
    assert!(later(&flow, now) <= now + crate::limits::BACKOFF_MIN);
}

/// What the broker keeps: one partition's log and one producer's state.
#[derive(Default)]
struct ModelBroker {
    log: Vec<u32>,
    state: Option<(ProducerEpoch, Sequence)>,
}

impl ModelBroker {
    fn append(&mut self, stamp: Stamp, item: u32) -> Answer {
        let expected = match self.state {
            Some((epoch, _)) if stamp.epoch < epoch => {
                return Answer::Rejected(ErrorCode::FencedProducer);
            }
            Some((epoch, next)) if stamp.epoch == epoch => next,
            _ if stamp.sequence != Sequence(0) => return Answer::UnknownProducer,
            _ => Sequence(0),
        };
        if stamp.sequence.precedes(expected) {
            return Answer::Written { base_offset: None };
        }
        if stamp.sequence != expected {
            return Answer::OutOfOrder { expected };
        }
        self.log.push(item);
        self.state = Some((stamp.epoch, stamp.sequence.wrapping_add(10)));
        Answer::Written {
            base_offset: Some(self.log.len() as u64 - 1),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Push,
    Transmit,
    /// The broker handles the next batch of the live connection; its answer may be a refusal.
    Handle,
    Refuse,
    RefuseUncertain,
    /// As for a journal that fails after the write.
    WriteAndRefuse,
    Reject,
    /// The client reads the next answer.
    Read,
    Lose,
    /// The broker handles a batch that was still under way on a connection that was lost.
    HandleStray,
    Forget,
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => Just(Event::Push),
        6 => Just(Event::Transmit),
        8 => Just(Event::Handle),
        1 => Just(Event::Refuse),
        1 => Just(Event::RefuseUncertain),
        1 => Just(Event::WriteAndRefuse),
        1 => Just(Event::Reject),
        8 => Just(Event::Read),
        1 => Just(Event::Lose),
        3 => Just(Event::HandleStray),
        1 => Just(Event::Forget),
        3 => (1..15_000_u64).prop_map(Event::Pass),
    ];
    proptest::collection::vec(event, 1..400)
}

type Sent = (BatchId, Stamp, u32);

/// A flow, a broker, and the connection between them.
struct World {
    now: Instant,
    flow: Flow<u32>,
    broker: ModelBroker,
    pushed: u32,
    wire: VecDeque<Sent>,
    answers: VecDeque<(BatchId, Answer)>,
    strays: VecDeque<Sent>,
    resolved: Vec<Resolved<u32>>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            flow: flow(),
            broker: ModelBroker::default(),
            pushed: 0,
            wire: VecDeque::new(),
            answers: VecDeque::new(),
            strays: VecDeque::new(),
            resolved: Vec::new(),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Push => {
                self.flow.push(self.pushed, 10, 100, self.now + TIMEOUT);
                self.pushed += 1;
            }
            Event::Transmit => {
                while let Some(sent) = self.flow.poll_transmit(self.now) {
                    self.wire.push_back((sent.id, sent.stamp, *sent.item));
                }
            }
            Event::Handle => {
                if let Some((id, stamp, item)) = self.wire.pop_front() {
                    self.answers
                        .push_back((id, self.broker.append(stamp, item)));
                }
            }
            Event::Refuse => self.answer_next(RETRY),
            Event::Reject => self.answer_next(Answer::Rejected(ErrorCode::InvalidBatch)),
            Event::RefuseUncertain | Event::WriteAndRefuse => {
                if matches!(event, Event::WriteAndRefuse)
                    && let Some((_, stamp, item)) = self.wire.front()
                {
                    self.broker.append(*stamp, *item);
                }
                self.answer_next(Answer::Retry {
                    code: ErrorCode::StoreFailed,
                    pause: true,
                    uncertain: true,
                });
            }
            Event::Read => {
                if let Some((id, answer)) = self.answers.pop_front() {
                    assert!(
                        self.flow
                            .handle_answer(self.now, id, answer, &mut self.resolved)
                    );
                }
            }
            Event::Lose => {
                self.strays.append(&mut self.wire);
                self.answers.clear();
                self.flow.handle_lost(self.now, &mut self.resolved);
            }
            Event::HandleStray => {
                if let Some((_, stamp, item)) = self.strays.pop_front() {
                    self.broker.append(stamp, item);
                }
            }
            Event::Forget => self.forget(),
            Event::Pass(ms) => {
                self.now += Duration::from_millis(ms);
                self.flow.handle_time(self.now, &mut self.resolved);
            }
        }
    }

    /// A batch of open outcome when its producer's state expires is beyond what sequences protect
    /// from; the state lives for a day.
    fn forget(&mut self) {
        let is_open = self
            .flow
            .entries
            .iter()
            .any(|entry| entry.uncertain || entry.outstanding);
        if self.strays.is_empty() && !is_open {
            self.broker.state = None;
        }
    }

    fn answer_next(&mut self, answer: Answer) {
        if let Some((id, _, _)) = self.wire.pop_front() {
            self.answers.push_back((id, answer));
        }
    }

    /// No more faults: everything must be resolved before its deadline.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.flow.unresolved() == 0 && self.answers.is_empty() && self.wire.is_empty() {
                return;
            }
            for event in [Event::Transmit, Event::Handle, Event::Read, Event::Pass(1)] {
                self.step(event);
            }
        }
        panic!(
            "{} batches are stuck: {:?}",
            self.flow.unresolved(),
            self.flow
        );
    }

    fn check(&self) {
        let log = &self.broker.log;
        assert!(
            log.windows(2).all(|pair| pair[0] < pair[1]),
            "order or duplicate: {log:?}"
        );
        assert_eq!(self.resolved.len(), self.pushed as usize);
        for Resolved { item, outcome } in &self.resolved {
            let is_written = log.contains(item);
            match outcome {
                Ok(Some(offset)) => {
                    let offset = usize::try_from(*offset).expect("small");
                    assert_eq!(log.get(offset), Some(item));
                }
                Ok(None) => assert!(is_written, "{item} is not in {log:?}"),
                Err(
                    Failure::TimedOut {
                        may_have_been_written: false,
                        ..
                    }
                    | Failure::Rejected {
                        may_have_been_written: false,
                        ..
                    },
                ) => assert!(!is_written, "{item} is in {log:?}"),
                Err(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn order_is_kept_and_nothing_is_written_twice(events in events()) {
        let mut world = World::new();
        for event in events {
            world.step(event);
        }
        world.finish();
        while !world.strays.is_empty() {
            world.step(Event::HandleStray);
        }
        world.check();
    }
}
