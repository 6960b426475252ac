//! What happens in which round of a churn. Pure: a seed gives one plan.

use crate::machine::Layout;
use crate::seeded::Seeded;

/// Something that happens to the broker under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The power fails, and every unflushed byte is gone.
    CutDrop,
    /// The power fails, and some unflushed sectors are kept.
    CutTear,
    /// `kill -9`; the disk keeps what it was given.
    Kill,
    /// A clean stop and a start.
    Stop,
    /// Hundreds of connections come, misbehave and go.
    Wave,
    /// A topic is made, filled and deleted.
    Topic,
    /// Flushes take tens of ms for a while.
    SlowFlushes,
    /// The disk has no space for a while.
    NoSpace,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CutDrop,
        Self::CutTear,
        Self::Kill,
        Self::Stop,
        Self::Wave,
        Self::Topic,
        Self::SlowFlushes,
        Self::NoSpace,
    ];

    /// What may happen in one long life of the broker, on a disk that is well.
    const CALM: [Self; 2] = [Self::Wave, Self::Topic];

    /// In a word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CutDrop => "cut(drop)",
            Self::CutTear => "cut(tear)",
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Wave => "wave",
            Self::Topic => "topic",
            Self::SlowFlushes => "slow flushes",
            Self::NoSpace => "no space",
        }
    }

    /// Whether it can be done to a machine of this layout. The image of a file system has its size
    /// from the beginning.
    pub fn is_possible_on(self, layout: Layout) -> bool {
        self != Self::NoSpace || layout == Layout::Direct
    }
}

/// One round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Counted from 0.
    pub number: u64,
    /// Decides all that is random in it.
    pub seed: u64,
    /// Whether it is one long life of the broker: the events come again and again.
    pub is_calm: bool,
    /// What happens, in this order.
    pub events: Vec<Event>,
}

/// Of so many rounds the last is calm.
pub const CALM_EVERY: u64 = 6;

/// All rounds of a seed.
#[derive(Clone, Debug)]
pub struct Schedule {
    random: Seeded,
    layout: Layout,
    next: u64,
}

impl Schedule {
    /// From the first round on.
    pub const fn new(seed: u64, layout: Layout) -> Self {
        Self {
            random: Seeded::new(seed),
            layout,
            next: 0,
        }
    }

    /// The next round: all events once, in random order, or a calm one.
    pub fn next_round(&mut self) -> Round {
        let is_calm = self.next % CALM_EVERY == CALM_EVERY - 1;
        self.round(is_calm)
    }

    /// The round that ends the run: a calm one.
    pub fn last_round(&mut self) -> Round {
        self.round(true)
    }

    fn round(&mut self, is_calm: bool) -> Round {
        let number = self.next;
        self.next += 1;
        let mut events: Vec<Event> = if is_calm {
            Event::CALM.to_vec()
        } else {
            Event::ALL.to_vec()
        };
        events.retain(|event| event.is_possible_on(self.layout));
        for end in (2..=events.len()).rev() {
            events.swap(end - 1, self.random.below(end));
        }
        Round {
            number,
            seed: self.random.next(),
            is_calm,
            events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(seed: u64, layout: Layout) -> Vec<Round> {
        let mut schedule = Schedule::new(seed, layout);
        (0..30).map(|_| schedule.next_round()).collect()
    }

    #[test]
    fn a_seed_gives_one_plan_and_another_seed_another() {
        let plan = rounds(7, Layout::Direct);
        assert_eq!(plan, rounds(7, Layout::Direct));
        assert_ne!(plan, rounds(8, Layout::Direct));
    }

    #[test]
    fn every_round_has_every_event_once_and_the_order_varies() {
        let stormy = rounds(1, Layout::Direct).into_iter();
        let stormy = stormy.filter(|round| !round.is_calm);
        let mut orders = std::collections::BTreeSet::new();
        for round in stormy {
            let mut events = round.events.clone();
            orders.insert(round.events);
            events.sort_unstable();
            assert_eq!(events, Event::ALL);
        }
        assert_eq!(orders.len(), 25);
    }

    #[test]
    fn a_calm_round_neither_ends_the_broker_nor_touches_the_disk() {
        let plan = rounds(1, Layout::Direct);
        let calm: Vec<_> = plan.iter().filter(|round| round.is_calm).collect();
        assert_eq!(calm.len(), 5);
        for round in calm {
            let mut events = round.events.clone();
            events.sort_unstable();
            assert_eq!(events, [Event::Wave, Event::Topic]);
        }
    }

    #[test]
    fn what_a_layout_cannot_have_is_left_out() {
        for round in rounds(1, Layout::Xfs) {
            assert!(!round.events.contains(&Event::NoSpace));
        }
    }
}
