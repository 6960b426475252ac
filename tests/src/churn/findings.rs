//! What a churn found, for people, and whether it is good.

use std::fmt;
use std::time::Duration;

use super::schedule::Round;
use crate::growth::{Growth, mib};
use crate::history::checker::Anomaly;
use crate::process::Sample;
use crate::stalls::Stalls;

/// How often each kind of event was survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Power cuts.
    pub cuts: u64,
    /// `kill -9` without a power cut.
    pub kills: u64,
    /// Clean stops.
    pub stops: u64,
    /// Waves of connections.
    pub waves: u64,
    /// Connections in them that the broker took.
    pub connections: u64,
    /// Topics that were made, filled and deleted, besides those of the sessions.
    pub topics: u64,
    /// Spells of slow flushes.
    pub slow_spells: u64,
    /// Spells without space.
    pub full_spells: u64,
    /// What the disk refused in them.
    pub refusals: u64,
}

/// A round that is over.
#[derive(Clone, Debug)]
pub struct Row {
    /// When it ended, since the beginning.
    pub at: Duration,
    /// What it was.
    pub round: Round,
    /// Sends that were acknowledged.
    pub acknowledged: u64,
    /// Records that readers got.
    pub polled: u64,
    /// The broker as its last life began.
    pub ready: Sample,
    /// The broker after the load of that life.
    pub loaded: Sample,
    /// This process in that moment.
    pub harness: Sample,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events: Vec<_> = self.round.events.iter().map(|event| event.name()).collect();
        write!(
            f,
            "{:>5} s  round {:>3}: {} acknowledged, {} polled; broker ready {}, loaded {}; \
             harness {}; {}{}",
            self.at.as_secs(),
            self.round.number,
            self.acknowledged,
            self.polled,
            short(&self.ready),
            short(&self.loaded),
            short(&self.harness),
            if self.round.is_calm { "calm with " } else { "" },
            events.join(" "),
        )
    }
}

/// Resident memory, descriptors, threads.
fn short(sample: &Sample) -> String {
    format!(
        "{:.1} MiB {}d {}t",
        mib(sample.resident_bytes),
        sample.descriptors,
        sample.threads
    )
}

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Its rounds.
    pub rows: Vec<Row>,
    /// What happened in them.
    pub counts: Counts,
    /// Each long life of the broker: looks at it by its age.
    pub lives: Vec<Vec<(Duration, Sample)>>,
    /// Bytes that went through the topic that keeps little.
    pub turned_over_bytes: u64,
    /// Broken promises.
    pub anomalies: Vec<Anomaly>,
    /// Stalls in the broker's log.
    pub stalls: Stalls,
}

impl Findings {
    /// Why the run failed; empty if it did not.
    pub fn wrong(&self) -> Vec<String> {
        let anomalies = self.anomalies.iter().map(ToString::to_string);
        let growths = self.growths().into_iter();
        let growths = growths
            .flat_map(|(whose, growth)| growth.map_or(Vec::new(), |growth| growth.wrong(whose)));
        anomalies
            .chain(self.stalls.wrong.iter().cloned())
            .chain(growths)
            .collect()
    }

    /// How the broker and this process grew: over all stormy rounds, each at the same moment, and
    /// in the longest life of the broker. `None` where there are too few looks.
    fn growths(&self) -> [(&'static str, Option<Growth>); 4] {
        let over_rounds = |look: fn(&Row) -> Sample| {
            let stormy = self.rows.iter().filter(|row| !row.round.is_calm);
            let looks: Vec<_> = stormy.map(|row| (row.at, look(row))).collect();
            Growth::of_warm(&looks)
        };
        let lives = self.lives.iter();
        let longest = lives.max_by_key(|life| life.last().map(|(age, _)| *age));
        [
            ("the broker when ready", over_rounds(|row| row.ready)),
            ("the broker under load", over_rounds(|row| row.loaded)),
            (
                "the broker in its longest life",
                longest.and_then(|life| Growth::of_warm(life)),
            ),
            ("the harness", over_rounds(|row| row.harness)),
        ]
    }

    /// Prints it to standard output; the last line is the verdict.
    pub fn print(&self) {
        let calm = self.rows.iter().filter(|row| row.round.is_calm).count();
        let sum = |number: fn(&Row) -> u64| self.rows.iter().map(number).sum::<u64>();
        let counts = &self.counts;
        let rows = [
            (
                "rounds",
                self.rows.len() as u64,
                format!("{calm} of them calm"),
            ),
            ("power cuts", counts.cuts, String::new()),
            ("kills", counts.kills, String::new()),
            ("clean stops", counts.stops, String::new()),
            (
                "waves",
                counts.waves,
                format!("{} connections", counts.connections),
            ),
            (
                "topics made and deleted",
                counts.topics,
                "and one for each session".to_owned(),
            ),
            ("spells of slow flushes", counts.slow_spells, String::new()),
            (
                "spells without space",
                counts.full_spells,
                format!("{} refusals", counts.refusals),
            ),
            (
                "MiB turned over",
                self.turned_over_bytes >> 20,
                "in a topic that keeps 16".to_owned(),
            ),
            (
                "sends acknowledged",
                sum(|row| row.acknowledged),
                String::new(),
            ),
            ("records polled", sum(|row| row.polled), String::new()),
            (
                "stalls logged",
                self.stalls.logged as u64,
                format!(
                    "{} excused, the longest other {} ms without what the host kept",
                    self.stalls.excused,
                    self.stalls.longest.as_millis()
                ),
            ),
        ];
        for (what, count, details) in rows {
            println!("{what:<28} {count:>9}  {details}");
        }
        for line in &self.stalls.lines {
            println!("{line}");
        }
        for (whose, growth) in self.growths() {
            match growth {
                Some(growth) => println!("{whose}: {growth}"),
                None => println!("{whose}: too few looks to tell growth"),
            }
        }
        let wrong = self.wrong();
        for wrong in &wrong {
            println!("WRONG: {wrong}");
        }
        println!(
            "anomalies {}, reasons to fail {}",
            self.anomalies.len(),
            wrong.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::churn::schedule::Schedule;
    use crate::history::checker::Kind;
    use crate::machine::Layout;

    fn sample(descriptors: u64) -> Sample {
        Sample {
            resident_bytes: 50 << 20,
            descriptors,
            threads: 9,
            cpu_ticks: 0,
        }
    }

    /// Ten minutes of rounds, the sixth of them calm, with these descriptors under load.
    fn rounds(descriptors: impl Fn(&Round) -> u64) -> Findings {
        let mut schedule = Schedule::new(1, Layout::Direct);
        let mut findings = Findings::default();
        for minute in 1..=10 {
            let round = schedule.next_round();
            findings.rows.push(Row {
                at: Duration::from_secs(60 * minute),
                acknowledged: 1,
                polled: 1,
                ready: sample(40),
                loaded: sample(descriptors(&round)),
                harness: sample(40),
                round,
            });
        }
        findings
    }

    #[test]
    fn a_run_in_which_nothing_grows_is_good() {
        assert_eq!(rounds(|round| 40 + round.number % 2).wrong(), [""; 0]);
    }

    #[test]
    fn what_grows_from_round_to_round_is_wrong() {
        let wrong = rounds(|round| 40 + 3 * round.number).wrong();
        let expected = "the broker under load: descriptors rise by 18.0, more than 8";
        assert_eq!(wrong, [expected]);
    }

    #[test]
    fn calm_rounds_are_not_compared_with_stormy_ones() {
        let calm = |round: &Round| if round.is_calm { 900 } else { 40 };
        assert_eq!(rounds(calm).wrong(), [""; 0]);
    }

    #[test]
    fn what_grows_within_the_longest_life_is_wrong() {
        let life = |looks: u64, each: u64| -> Vec<_> {
            let looks = (0..looks).map(|look| (Duration::from_secs(look), sample(each * look)));
            looks.collect()
        };
        let mut findings = rounds(|_| 40);
        findings.lives = vec![life(5, 10), life(31, 0)];
        assert_eq!(findings.wrong(), [""; 0]);
        findings.lives.push(life(61, 1));
        let expected = "the broker in its longest life: descriptors rise by 40.0, more than 8";
        assert_eq!(findings.wrong(), [expected]);
    }

    #[test]
    fn anomalies_and_stalls_are_wrong() {
        let mut findings = rounds(|_| 40);
        findings.anomalies.push(Anomaly {
            kind: Kind::LostWrite,
            detail: "partition 0, offset 7".to_owned(),
        });
        findings
            .stalls
            .wrong
            .push("an executor stood still".to_owned());
        let expected = [
            "LostWrite: partition 0, offset 7",
            "an executor stood still",
        ];
        assert_eq!(findings.wrong(), expected);
    }
}
