//! The open-loop schedule: when each call is meant to start. Pure.
//!
//! The schedule never moves. A generator that falls behind starts calls late, and since latency
//! is measured from the intended start the delay counts against the result instead of vanishing
//! from it (coordinated omission).

use crate::limits::LATE_NS;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// A fixed-rate sequence of intended start times.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    first_ns: u64,
    records_per_call: u64,
    records_per_second: u64,
    issued: u64,
}

impl Schedule {
    /// Calls of `records_per_call` records from `first_ns` on, `records_per_second` in all.
    ///
    /// Both must be at least one.
    pub(crate) fn new(first_ns: u64, records_per_call: u64, records_per_second: u64) -> Self {
        assert!(
            records_per_call > 0 && records_per_second > 0,
            "a schedule needs a rate"
        );
        Self {
            first_ns,
            records_per_call,
            records_per_second,
            issued: 0,
        }
    }

    /// When the next call is meant to start. Computed from the call's number, so that rounding
    /// never adds up.
    pub(crate) fn next_ns(&self) -> u64 {
        let after = u128::from(self.issued) * u128::from(self.records_per_call) * NS_PER_SECOND
            / u128::from(self.records_per_second);
        self.first_ns
            .saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// The intended start of the next call if its time has come.
    pub(crate) fn due(&self, now_ns: u64) -> Option<u64> {
        let intended_ns = self.next_ns();
        (intended_ns <= now_ns).then_some(intended_ns)
    }

    /// Goes on to the call after the next one.
    pub(crate) fn advance(&mut self) {
        self.issued += 1;
    }

    /// Takes all calls meant to start before `end_ns`; how many there were.
    pub(crate) fn skip_to(&mut self, end_ns: u64) -> u64 {
        let before = self.issued;
        while self.next_ns() < end_ns {
            self.advance();
        }
        self.issued - before
    }
}

/// The schedule of load thread `index` of `count`: an equal share of the rate (the first threads
/// take the remainder), with starts spread over one interval so that threads do not send in
/// step. `None` when the share is nothing.
pub(crate) fn share_of_schedule(
    start_ns: u64,
    records_per_call: u64,
    records_per_second: u64,
    index: u64,
    count: u64,
) -> Option<Schedule> {
    assert!(index < count, "thread {index} of {count}");
    let rate = records_per_second / count + u64::from(index < records_per_second % count);
    if rate == 0 {
        return None;
    }
    let interval_ns = u128::from(records_per_call) * NS_PER_SECOND / u128::from(rate);
    let phase_ns = interval_ns * u128::from(index) / u128::from(count);
    let phase_ns = u64::try_from(phase_ns).unwrap_or(u64::MAX);
    Some(Schedule::new(
        start_ns.saturating_add(phase_ns),
        records_per_call,
        rate,
    ))
}

/// How far sends fell behind the schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lateness {
    /// Sends that started more than [`LATE_NS`] after their intended time.
    pub(crate) late: u64,
    /// The worst delay of any send, late or not.
    pub(crate) worst_ns: u64,
}

impl Lateness {
    /// Notes a send meant for `intended_ns` that started at `actual_ns`.
    pub(crate) fn record(&mut self, intended_ns: u64, actual_ns: u64) {
        let behind_ns = actual_ns.saturating_sub(intended_ns);
        self.late += u64::from(behind_ns > LATE_NS);
        self.worst_ns = self.worst_ns.max(behind_ns);
    }

    /// Adds what another thread saw.
    pub(crate) fn merge(&mut self, other: Self) {
        self.late += other.late;
        self.worst_ns = self.worst_ns.max(other.worst_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_due(schedule: &mut Schedule, now_ns: u64) -> Option<u64> {
        let due = schedule.due(now_ns);
        if due.is_some() {
            schedule.advance();
        }
        due
    }

    #[test]
    fn intended_times_do_not_drift() {
        let mut schedule = Schedule::new(5, 1, 3);
        let times: Vec<u64> = (0..7)
            .filter_map(|_| take_due(&mut schedule, u64::MAX))
            .collect();
        assert_eq!(
            times,
            [
                5,
                333_333_338,
                666_666_671,
                1_000_000_005,
                1_333_333_338,
                1_666_666_671,
                2_000_000_005
            ]
        );
    }

    #[test]
    fn a_call_is_due_exactly_at_its_time() {
        let mut schedule = Schedule::new(100, 1000, 1_000_000);
        assert_eq!(take_due(&mut schedule, 99), None);
        assert_eq!(take_due(&mut schedule, 100), Some(100));
        assert_eq!(take_due(&mut schedule, 1_000_099), None);
        assert_eq!(take_due(&mut schedule, 1_000_100), Some(1_000_100));
    }

    #[test]
    fn a_stall_keeps_the_intended_times_of_the_calls_it_delayed() {
        let mut schedule = Schedule::new(0, 1, 1000);
        let mut lateness = Lateness::default();
        // The generator sleeps through ten milliseconds and then catches up at once.
        let now_ns = 10_000_000;
        while let Some(intended_ns) = take_due(&mut schedule, now_ns) {
            lateness.record(intended_ns, now_ns);
        }
        assert_eq!(schedule.next_ns(), 11_000_000);
        assert_eq!(
            lateness,
            Lateness {
                late: 10,
                worst_ns: 10_000_000
            }
        );
    }

    #[test]
    fn what_was_never_sent_can_be_counted() {
        let mut schedule = Schedule::new(0, 10, 1000);
        schedule.advance();
        assert_eq!(schedule.skip_to(100_000_000), 9);
        assert_eq!(schedule.skip_to(100_000_000), 0);
        assert_eq!(schedule.skip_to(100_000_001), 1);
    }

    #[test]
    fn sends_within_tolerance_are_not_late_but_show_in_the_worst() {
        let mut lateness = Lateness::default();
        lateness.record(1000, 1000 + LATE_NS);
        lateness.record(1000, 900);
        assert_eq!(
            lateness,
            Lateness {
                late: 0,
                worst_ns: LATE_NS
            }
        );
    }

    #[test]
    fn threads_share_the_whole_rate() {
        let rates: Vec<u64> = (0..3)
            .filter_map(|index| share_of_schedule(0, 1, 10, index, 3))
            .map(|schedule| schedule.records_per_second)
            .collect();
        assert_eq!(rates, [4, 3, 3]);
        assert!(share_of_schedule(0, 1, 2, 2, 3).is_none());
    }

    #[test]
    fn threads_do_not_send_in_step() {
        let starts: Vec<u64> = (0..4)
            .filter_map(|index| share_of_schedule(1000, 1, 4000, index, 4))
            .map(|schedule| schedule.next_ns())
            .collect();
        assert_eq!(starts, [1000, 251_000, 501_000, 751_000]);
    }
}
