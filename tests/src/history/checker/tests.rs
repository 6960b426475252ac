//! One handmade history per kind of anomaly, and those that only look like one.

use super::*;
use crate::history::{FinalRead, Fingerprint, Outcome, Poll, Produced, Report};

fn value(number: u64) -> Fingerprint {
    Fingerprint::of(&number.to_le_bytes())
}

/// Three sends of one producer, acknowledged one after the other, polled and read at the end.
fn good() -> History {
    let send = |number| Produced {
        producer: 1,
        partition: 0,
        number,
        value: value(number),
        sent: 10 * number + 1,
        answered: 10 * number + 2,
        outcome: Outcome::Acknowledged(Some(number)),
    };
    let records: Vec<_> = (0..3).map(|offset| (offset, value(offset))).collect();
    let poll = |position, answered, records: &[(u64, Fingerprint)]| Poll {
        consumer: 7,
        partition: 0,
        position,
        asked: answered - 1,
        answered,
        high_watermark: Some(3),
        records: records.to_vec(),
    };
    let read = FinalRead {
        log_start: 0,
        high_watermark: 3,
        records: records.clone(),
        damaged: Vec::new(),
    };
    History {
        produced: (0..3).map(send).collect(),
        polls: vec![
            poll(Some(0), 101, &records[..1]),
            poll(None, 103, &records[1..]),
        ],
        reports: Vec::new(),
        finals: [(0, read)].into(),
        stuck: Vec::new(),
    }
}

fn kinds(change: impl FnOnce(&mut History)) -> Vec<Kind> {
    let mut history = good();
    change(&mut history);
    let mut kinds: Vec<_> = check(&history).iter().map(|found| found.kind).collect();
    kinds.dedup();
    kinds
}

fn last(history: &mut History) -> &mut FinalRead {
    history.finals.get_mut(&0).expect("partition 0")
}

/// Takes the record at the end of the log away, as if it never had been there.
fn cut_last(history: &mut History) {
    last(history).records.pop();
    last(history).high_watermark = 2;
    history.polls[1].records.pop();
    for poll in &mut history.polls {
        poll.high_watermark = Some(2);
    }
}

#[test]
fn a_good_history_is_good() {
    assert_eq!(kinds(|_| {}), []);
}

#[test]
fn an_acknowledged_send_in_the_middle_that_is_gone_is_lost() {
    let found = kinds(|history| {
        history.polls.clear();
        let records = &mut last(history).records;
        records.remove(1);
        records[1].0 = 1;
        last(history).high_watermark = 2;
    });
    assert_eq!(found, [Kind::LostWrite, Kind::InconsistentOffsets]);
}

#[test]
fn an_acknowledged_send_that_was_read_and_is_gone_is_lost() {
    let found = kinds(|history| {
        last(history).records.pop();
        last(history).high_watermark = 2;
        for poll in &mut history.polls {
            poll.high_watermark = None;
        }
    });
    assert_eq!(found, [Kind::LostWrite]);
}

#[test]
fn an_acknowledged_send_behind_the_end_is_unseen() {
    assert_eq!(kinds(cut_last), [Kind::Unseen]);
}

#[test]
fn an_unknown_outcome_may_be_there_or_not() {
    let unknown = |history: &mut History| history.produced[2].outcome = Outcome::Unknown;
    assert_eq!(kinds(unknown), []);
    let gone = |history: &mut History| {
        unknown(history);
        cut_last(history);
    };
    assert_eq!(kinds(gone), []);
}

#[test]
fn a_send_that_is_there_twice_is_a_duplicate() {
    let found = kinds(|history| {
        last(history).records.push((3, value(2)));
        last(history).high_watermark = 4;
    });
    assert_eq!(found, [Kind::Duplicate]);
}

#[test]
fn another_value_than_was_acknowledged_at_an_offset_is_inconsistent() {
    let found = kinds(|history| {
        history.polls.clear();
        last(history).records[1].1 = value(2);
        last(history).records[2].1 = value(1);
    });
    assert!(found.contains(&Kind::InconsistentOffsets), "{found:?}");
}

#[test]
fn a_value_that_nobody_sent_is_a_phantom() {
    let found = kinds(|history| {
        last(history).records.push((3, value(99)));
        last(history).high_watermark = 4;
    });
    assert_eq!(found, [Kind::PhantomValue]);
}

#[test]
fn a_send_that_failed_for_certain_and_is_there_is_a_phantom() {
    let found = kinds(|history| history.produced[1].outcome = Outcome::Failed);
    assert_eq!(found, [Kind::PhantomValue]);
}

#[test]
fn sends_of_a_producer_in_another_order_are_reordered() {
    let found = kinds(|history| {
        history.polls.clear();
        for send in &mut history.produced {
            send.outcome = Outcome::Unknown;
        }
        last(history).records[1].1 = value(2);
        last(history).records[2].1 = value(1);
    });
    assert_eq!(found, [Kind::ReorderedSends]);
}

#[test]
fn a_send_before_one_that_was_acknowledged_earlier_is_reordered_in_time() {
    let found = kinds(|history| {
        history.produced[0].producer = 2;
        history.produced[0].sent = 15;
        history.produced[0].answered = 16;
    });
    assert_eq!(found, [Kind::ReorderedInTime]);
}

#[test]
fn sends_that_overlap_may_lie_in_any_order() {
    let found = kinds(|history| {
        history.produced[0].producer = 2;
        history.produced[0].sent = 11;
        history.produced[0].answered = 30;
    });
    assert_eq!(found, []);
}

#[test]
fn a_reader_that_was_taken_past_a_record_skipped() {
    let between = kinds(|history| _ = history.polls[1].records.remove(0));
    assert_eq!(between, [Kind::PollSkip]);
    let from_position = kinds(|history| history.polls[0].records.clear());
    assert_eq!(from_position, [Kind::PollSkip]);
}

#[test]
fn a_reader_that_was_told_of_damage_may_go_on_behind_it() {
    let told = |consumer, ranges: &[(u64, u64)]| {
        kinds(|history| {
            history.polls[1].records.drain(..1);
            history.polls[0].records.clear();
            let reports = ranges.iter().map(|&(start, end)| Report {
                consumer,
                partition: 0,
                offsets: start..end,
            });
            history.reports.extend(reports);
        })
    };
    assert_eq!(told(7, &[(1, 2), (0, 1)]), []);
    assert_eq!(told(7, &[(1, 2)]), [Kind::PollSkip], "the first is missing");
    assert_eq!(
        told(7, &[(0, 1)]),
        [Kind::PollSkip],
        "the second is missing"
    );
    assert_eq!(
        told(8, &[(0, 2)]),
        [Kind::PollSkip],
        "it was another reader"
    );
    assert_eq!(told(7, &[(0, 4)]), [Kind::PollSkip], "the log ends at 3");
    assert_eq!(told(7, &[(0, 2), (2, 2)]), [Kind::PollSkip], "of nothing");
}

#[test]
fn a_reader_that_gets_a_record_again_goes_backwards() {
    let found = kinds(|history| history.polls[1].records.insert(0, (0, value(0))));
    assert_eq!(found, [Kind::NonMonotonicPoll]);
    let seek = kinds(|history| {
        history.polls[1].position = Some(0);
        history.polls[1].records.insert(0, (0, value(0)));
    });
    assert_eq!(seek, [], "it asked for that");
}

#[test]
fn an_offset_that_nothing_is_at_is_a_gap() {
    let found = kinds(|history| last(history).high_watermark = 4);
    assert_eq!(found, [Kind::OffsetGap]);
}

#[test]
fn a_record_at_the_high_watermark_was_read_too_early() {
    let found = kinds(|history| history.polls[0].high_watermark = Some(0));
    assert_eq!(found, [Kind::ReadAboveCommit]);
}

#[test]
fn a_record_that_was_read_and_is_gone_was_not_committed() {
    let found = kinds(|history| {
        history.produced[2].outcome = Outcome::Unknown;
        last(history).records.pop();
        last(history).high_watermark = 2;
        for poll in &mut history.polls {
            poll.high_watermark = None;
        }
    });
    assert_eq!(found, [Kind::ReadAboveCommit]);
}

#[test]
fn a_high_watermark_that_goes_back_is_found_unless_the_polls_overlapped() {
    let later = |history: &mut History| {
        history.polls[0].high_watermark = Some(3);
        history.polls[1].high_watermark = Some(2);
        history.polls[1].records.pop();
    };
    assert_eq!(kinds(later), [Kind::HighWatermarkRegression]);
    let overlapping = kinds(|history| {
        later(history);
        history.polls[1].asked = history.polls[0].asked;
    });
    assert_eq!(overlapping, []);
}

#[test]
fn what_has_no_answer_in_the_end_is_stuck() {
    let found = kinds(|history| history.produced[2].outcome = Outcome::Unanswered);
    assert_eq!(found, [Kind::Stuck]);
    let found = kinds(|history| history.stuck.push("the broker".to_owned()));
    assert_eq!(found, [Kind::Stuck]);
}

#[test]
fn what_the_broker_itself_calls_damaged_is_neither_lost_nor_a_gap() {
    let found = kinds(|history| {
        last(history).records.remove(1);
        last(history).damaged.push(1..2);
        history.polls[1].records.remove(0);
    });
    assert_eq!(found, []);
}
