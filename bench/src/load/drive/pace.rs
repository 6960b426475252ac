//! When to send: by the schedule, or as soon as there is room.
//!
//! Both let the runtime see to its sockets at least every few sends.

use tokio::task::yield_now;
use tokio::time::timeout_at;

use super::Sender;
use super::flight::Line;
use super::timer::Timer;
use crate::clock::Clock;
use crate::limits::{BYTES_PER_TURN_MAX, SENDS_PER_TURN_MAX};
use crate::schedule::Schedule;

/// Sends by the schedule, the lines in turn, until it passes `end_ns`.
pub(super) async fn open<S: Sender>(
    lines: &mut [Line<S>],
    schedule: &mut Schedule,
    clock: Clock,
    end_ns: u64,
) {
    let timer = Timer::new();
    let mut turn = Turn::default();
    let mut next = 0;
    while schedule.next_ns() < end_ns {
        let now_ns = clock.now_ns();
        let Some(intended_ns) = schedule.due(now_ns) else {
            timer.pause(schedule.next_ns() - now_ns).await;
            turn = Turn::default();
            continue;
        };
        let bytes = lines[next].send(intended_ns, now_ns).await;
        // Only now, so that a call the client never took is among those left in the schedule.
        schedule.advance();
        next = (next + 1) % lines.len();
        turn.sent(bytes).await;
    }
}

/// Sends whenever fewer than `calls_max` calls are in flight, until `end_ns`; gives the line back.
pub(super) async fn closed<S: Sender>(
    mut line: Line<S>,
    calls_max: usize,
    clock: Clock,
    end_ns: u64,
) -> Line<S> {
    let end = clock.instant(end_ns).into();
    let mut turn = Turn::default();
    while timeout_at(end, line.flight.room(calls_max)).await.is_ok() {
        let now_ns = clock.now_ns();
        if now_ns >= end_ns {
            break;
        }
        let bytes = line.send(now_ns, now_ns).await;
        turn.sent(bytes).await;
    }
    line
}

/// Sends since the runtime last had its turn.
#[derive(Default)]
struct Turn {
    sends: u32,
    bytes: u64,
}

impl Turn {
    async fn sent(&mut self, bytes: u64) {
        self.sends += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.sends >= SENDS_PER_TURN_MAX || self.bytes >= BYTES_PER_TURN_MAX {
            *self = Self::default();
            yield_now().await;
        }
    }
}
