//! Sizes, spans of time and positions as people write them on a command line.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A limit that can also be absent: `unlimited` on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

/// How a limit that is absent is written.
pub(crate) const UNLIMITED: &str = "unlimited";

/// Units of bytes, longest suffix first so that `KiB` is not read as `B`.
const UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Parses `10GiB`, `500 MB`, `4096`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let unit = UNITS.iter().find(|(suffix, _)| text.ends_with(suffix));
    let (suffix, factor) = unit.copied().unwrap_or(("", 1));
    let number = text[..text.len() - suffix.len()].trim();
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size; write for example 10GiB or 500MB"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("`{text}` is beyond what 64 bits hold"))
}

/// Parses a size or `unlimited`.
pub(crate) fn parse_bytes_limit(text: &str) -> Result<Limit, String> {
    if text == UNLIMITED {
        return Ok(Limit(None));
    }
    parse_bytes(text).map(|bytes| Limit(Some(bytes)))
}

/// Parses a span of time such as `7d` or `1h 30m`, into milliseconds, or `unlimited`.
pub(crate) fn parse_time_limit(text: &str) -> Result<Limit, String> {
    if text == UNLIMITED {
        return Ok(Limit(None));
    }
    let span = parse_duration(text)?;
    let millis = u64::try_from(span.as_millis()).map_err(|_| format!("`{text}` is too long"))?;
    Ok(Limit(Some(millis)))
}

/// Parses a span of time such as `30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write for example 30s, 12h or 7d"))
}

/// The shortest time limit that the client takes.
const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// Parses a time limit for requests.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    if timeout < TIMEOUT_MIN {
        return Err(format!(
            "at least {}",
            humantime::format_duration(TIMEOUT_MIN)
        ));
    }
    Ok(timeout)
}

/// Where a consumer starts to read a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Earliest,
    Latest,
    Offset(u64),
    /// Milliseconds since 1970 UTC: the first record at or after it.
    Time(i64),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{text}` is none of earliest, latest, offset:N, time:RFC3339 \
                 (for example time:2026-01-31T06:00:00Z)"
            )
        };
        match text.split_once(':') {
            None if text == "earliest" => Ok(Self::Earliest),
            None if text == "latest" => Ok(Self::Latest),
            Some(("offset", n)) => n.parse().map(Self::Offset).map_err(|_| expected()),
            Some(("time", time)) => {
                let time = humantime::parse_rfc3339_weak(time).map_err(|_| expected())?;
                Ok(Self::Time(millis_since_epoch(time)))
            }
            _ => Err(expected()),
        }
    }
}

fn millis_since_epoch(time: SystemTime) -> i64 {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => millis(since),
        Err(before) => -millis(before.duration()),
    }
}

/// Milliseconds since 1970 as a date in UTC; the number itself where it is no sensible date.
pub(crate) fn format_time(millis: i64) -> String {
    let date = u64::try_from(millis)
        .ok()
        .and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)))
        // The formatter refuses years beyond 9999.
        .filter(|_| millis < 253_402_300_800_000);
    date.map_or_else(
        || millis.to_string(),
        |date| humantime::format_rfc3339_millis(date).to_string(),
    )
}

/// Milliseconds as a span of time in words.
pub(crate) fn format_span(millis: u64) -> String {
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

/// A count with its noun: `1 partition`, `2 partitions`, `2 batches`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = match count {
        1 => "",
        _ if noun.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{count} {noun}{plural}")
}

/// Bytes with a unit, three figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        let Some(power) = (1..=units.len()).rev().find(|p| self.0 >> (10 * p) > 0) else {
            return write!(f, "{} B", self.0);
        };
        let shift = 10 * (power - 1);
        // Tenths of the unit, in whole numbers.
        let tenths = u128::from(self.0 >> shift) * 10 / 1024;
        write!(f, "{}.{} {}", tenths / 10, tenths % 10, units[power - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_unit_systems() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10GiB", 10 << 30),
            ("500 MB", 500_000_000),
            ("1TiB", 1 << 40),
            ("7B", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "10 Gib", "99999999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_can_be_absent() {
        assert_eq!(parse_bytes_limit("unlimited"), Ok(Limit(None)));
        assert_eq!(parse_time_limit("unlimited"), Ok(Limit(None)));
        assert_eq!(parse_time_limit("7d"), Ok(Limit(Some(7 * 86_400_000))));
        assert!(parse_time_limit("7 parsecs").is_err());
    }

    #[test]
    fn time_limits_leave_time_for_an_answer() {
        assert_eq!(parse_timeout("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(parse_timeout("0s"), Err("at least 10ms".to_owned()));
        assert_eq!(parse_timeout("9999us"), Err("at least 10ms".to_owned()));
    }

    #[test]
    fn nouns_agree_with_their_counts() {
        assert_eq!(counted(1, "batch"), "1 batch");
        assert_eq!(counted(0, "batch"), "0 batches");
        assert_eq!(counted(1, "segment"), "1 segment");
        assert_eq!(counted(2, "segment"), "2 segments");
    }

    #[test]
    fn starting_points_are_read() {
        assert_eq!("earliest".parse(), Ok(From::Earliest));
        assert_eq!("latest".parse(), Ok(From::Latest));
        assert_eq!("offset:12".parse(), Ok(From::Offset(12)));
        assert_eq!(
            "time:2026-01-31T06:00:00Z".parse(),
            Ok(From::Time(1_769_839_200_000))
        );
        for text in ["", "first", "offset:-1", "offset:", "time:yesterday", "12"] {
            assert!(text.parse::<From>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_and_sizes_are_written_for_people() {
        assert_eq!(format_time(1_769_839_200_000), "2026-01-31T06:00:00.000Z");
        assert_eq!(format_time(-1), "-1");
        assert_eq!(format_time(i64::MAX), i64::MAX.to_string());
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "16777215.9 TiB");
    }
}
