//! Calls that wait for their acknowledgement, without a task or an allocation for each.
//!
//! Calls queue in lanes, and only the oldest of each lane is polled. A lane is what the broker
//! completes in order (a chain; several partitions share one), so a call's completion is seen
//! when it happens. Where calls of one lane do overtake each other, the earlier one is seen on
//! time and the later one too late, never too early: the error only makes latency look worse.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A call on its way.
#[derive(Debug)]
pub(crate) struct Call<Ack> {
    pub(crate) ack: Ack,
    pub(crate) intended_ns: u64,
    pub(crate) records: u32,
    /// Payload: keys and values.
    pub(crate) bytes: u64,
    /// The run's number of its first record, where records are numbered.
    pub(crate) first_number: u64,
}

/// The calls in flight of one producer.
#[derive(Debug)]
pub(crate) struct InFlight<Ack> {
    lanes: Vec<VecDeque<Call<Ack>>>,
    calls: usize,
}

impl<Ack: Future + Unpin> InFlight<Ack> {
    /// Nothing in flight; at least one lane.
    pub(crate) fn new(lanes: usize) -> Self {
        assert!(lanes > 0, "calls queue in some lane");
        Self {
            lanes: (0..lanes).map(|_| VecDeque::new()).collect(),
            calls: 0,
        }
    }

    /// Calls without an acknowledgement.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// Records of all calls without an acknowledgement.
    pub(crate) fn records(&self) -> u64 {
        self.lanes
            .iter()
            .flatten()
            .map(|call| u64::from(call.records))
            .sum()
    }

    /// Adds a call to the lane of `partition`; whether it is now the oldest there.
    pub(crate) fn push(&mut self, partition: u32, call: Call<Ack>) -> bool {
        let lane = usize::try_from(partition).map_or(0, |partition| partition % self.lanes.len());
        self.lanes[lane].push_back(call);
        self.calls += 1;
        self.lanes[lane].len() == 1
    }

    /// Hands every completed call to `done` and registers for the completion of the oldest call
    /// of each lane. Ready if any call completed or none is in flight.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut done: impl FnMut(Call<()>, Ack::Output),
    ) -> Poll<()> {
        let before = self.calls;
        for lane in &mut self.lanes {
            while let Some(call) = lane.front_mut() {
                let Poll::Ready(output) = Pin::new(&mut call.ack).poll(context) else {
                    break;
                };
                let Call {
                    intended_ns,
                    records,
                    bytes,
                    first_number,
                    ..
                } = lane.pop_front().expect("its front was polled");
                self.calls -= 1;
                done(
                    Call {
                        ack: (),
                        intended_ns,
                        records,
                        bytes,
                        first_number,
                    },
                    output,
                );
            }
        }
        if self.calls < before || self.calls == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;

    fn call<Ack>(ack: Ack, intended_ns: u64) -> Call<Ack> {
        Call {
            ack,
            intended_ns,
            records: 2,
            bytes: 10,
            first_number: 0,
        }
    }

    #[test]
    fn lanes_complete_independently_and_each_in_order() {
        let mut in_flight = InFlight::new(64);
        let mut context = Context::from_waker(Waker::noop());
        let mut senders = Vec::new();
        for (partition, intended_ns) in [(0, 1), (0, 2), (1, 3), (65, 4)] {
            let (sender, receiver) = oneshot::channel::<()>();
            senders.push(sender);
            in_flight.push(partition, call(receiver, intended_ns));
        }
        let mut senders = senders.into_iter();
        let (first, second) = (senders.next().expect("four"), senders.next().expect("four"));
        let third = senders.next().expect("four");
        second.send(()).expect("still awaited");
        third.send(()).expect("still awaited");
        let mut seen = Vec::new();
        assert!(
            in_flight
                .poll(&mut context, |call, _| seen.push(call.intended_ns))
                .is_ready()
        );
        assert_eq!(seen, [3]);
        first.send(()).expect("still awaited");
        assert!(
            in_flight
                .poll(&mut context, |call, _| seen.push(call.intended_ns))
                .is_ready()
        );
        assert_eq!(seen, [3, 1, 2]);
        assert_eq!((in_flight.calls(), in_flight.records()), (1, 2));
        assert!(in_flight.poll(&mut context, |_, _| ()).is_pending());
    }

    #[test]
    fn nothing_in_flight_is_ready() {
        let mut in_flight = InFlight::<std::future::Ready<()>>::new(1);
        let mut context = Context::from_waker(Waker::noop());
        assert!(in_flight.poll(&mut context, |_, ()| ()).is_ready());
    }
}
