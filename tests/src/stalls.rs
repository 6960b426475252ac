//! Stalls of a broker's executors, as its log tells them, and which of them count.
//!
//! A stall does not count if the host kept the core meanwhile (`steal`), or if it overlaps a time
//! in which something that makes executors stand still was done to the broker on purpose.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::steal::Thefts;

/// Longer than this no executor may stand still while the host lets it run.
pub const STALL_MAX: Duration = Duration::from_millis(100);

/// What a line of the broker's log says of a late heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// When it was over.
    pub ended: SystemTime,
    /// How late the heartbeat was.
    pub length: Duration,
}

impl Stall {
    /// `None` if the line says something else.
    pub fn parse(line: &str) -> Option<Self> {
        if !line.contains("stood still") {
            return None;
        }
        let time = line.split_whitespace().next()?;
        let (_, rest) = line.split_once("late_ms=")?;
        let late_ms = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            ended: humantime::parse_rfc3339(time).ok()?,
            length: Duration::from_millis(late_ms),
        })
    }

    fn overlaps(&self, time: &Range<SystemTime>) -> bool {
        self.ended - self.length < time.end && time.start < self.ended
    }
}

/// What a broker's log tells of stalls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// All that were logged.
    pub logged: usize,
    /// Of these, those that overlap an excused time.
    pub excused: usize,
    /// The longest of the others, without what the host kept.
    pub longest: Duration,
    /// The lines of the others, and of tasks that held an executor, with what the host kept.
    pub lines: Vec<String>,
    /// Those that count: each is a reason to fail.
    pub wrong: Vec<String>,
}

impl Stalls {
    /// What is wrong if the broker `counted` more stalls than its log was found to tell of: lines
    /// are lost, or are not understood, and those that would count may be among them.
    pub fn missing(&self, counted: u64) -> Option<String> {
        let logged = u64::try_from(self.logged).expect("a count fits");
        (logged < counted).then(|| format!("the log tells of {logged} of {counted} stalls"))
    }
}

/// Reads a broker's log.
pub fn judge(log: &str, thefts: &Thefts, excused: &[Range<SystemTime>]) -> Stalls {
    let mut stalls = Stalls::default();
    for line in log.lines() {
        if line.contains("held its executor") {
            stalls.lines.push(line.to_owned());
        }
        let Some(stall) = Stall::parse(line) else {
            continue;
        };
        stalls.logged += 1;
        if excused.iter().any(|time| stall.overlaps(time)) {
            stalls.excused += 1;
            continue;
        }
        let stolen = thefts.before(stall.ended, stall.length);
        let own = stall.length.saturating_sub(stolen);
        stalls.longest = stalls.longest.max(own);
        let kept_ms = stolen.as_millis();
        stalls
            .lines
            .push(format!("{line}\n  the host kept {kept_ms} ms of it"));
        if own > STALL_MAX {
            stalls.wrong.push(format!(
                "an executor stood still for {} ms, of which the host kept {kept_ms} ms",
                stall.length.as_millis(),
            ));
        }
    }
    stalls
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-11-22T05:58:11.549067Z  WARN catena_broker::runtime: an executor \
                        stood still; running: a task held it thread=\"catena-0\" late_ms=102 \
                        running_ms=64";

    #[test]
    fn stalls_are_read_from_the_log() {
        let stall = Stall::parse(LINE).expect("a stall");
        assert_eq!(stall.length, Duration::from_millis(102));
        let ended = stall.ended.duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(ended.expect("after 1970").as_millis(), 1_795_327_091_549);
        assert!(Stall::parse("2026-11-22T05:58:11.5Z INFO ready late_ms=102").is_none());
    }

    #[test]
    fn a_stall_counts_unless_it_overlaps_an_excused_time() {
        let ended = Stall::parse(LINE).expect("a stall").ended;
        let ms = Duration::from_millis;
        let counts = |from, until| {
            let stalls = judge(LINE, &Thefts::default(), &[from..until]);
            assert_eq!((stalls.logged, stalls.wrong.len() + stalls.excused), (1, 1));
            stalls.excused == 0
        };
        assert!(counts(ended - ms(500), ended - ms(102)), "over before it");
        assert!(!counts(ended - ms(500), ended - ms(101)));
        assert!(!counts(ended - ms(1), ended + ms(500)));
        assert!(counts(ended, ended + ms(500)), "begun after it");
    }

    #[test]
    fn the_longest_is_told_without_excused_ones() {
        let log = format!("{LINE}\n{}", LINE.replace("late_ms=102", "late_ms=950"));
        let stalls = judge(&log, &Thefts::default(), &[]);
        assert_eq!(stalls.longest, Duration::from_millis(950));
        assert_eq!((stalls.logged, stalls.wrong.len()), (2, 2));
        assert_eq!(judge("", &Thefts::default(), &[]), Stalls::default());
    }

    #[test]
    fn a_stall_that_was_counted_and_is_not_found_in_the_log_is_missed() {
        let log = format!("{LINE}\n{}", LINE.replace("late_ms=", "late_by_ms="));
        let stalls = judge(&log, &Thefts::default(), &[]);
        assert_eq!(stalls.missing(0), None);
        assert_eq!(stalls.missing(1), None);
        let expected = "the log tells of 1 of 2 stalls";
        assert_eq!(stalls.missing(2).as_deref(), Some(expected));
    }
}
