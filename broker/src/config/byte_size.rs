//! Sizes as people write them: `16MiB`, `1.5` is refused, `4096` is bytes.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{GIB, KIB, MIB};

/// A number of bytes, written as a whole number with an optional unit.
///
/// ```
/// use catena_broker::config::ByteSize;
///
/// let size: ByteSize = "16MiB".parse()?;
/// assert_eq!(size.0, 16 * 1024 * 1024);
/// assert_eq!(size.to_string(), "16MiB");
/// assert_eq!("2GB".parse::<ByteSize>()?.0, 2_000_000_000);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Largest first within a system, so that display finds the shortest form.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1024 * GIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!("{text:?} is not a size; write a whole number of bytes or one like 16MiB, 4GiB")
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let unit = unit.trim_start();
        let factor = if unit.is_empty() {
            1
        } else {
            let known = UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit));
            known.ok_or_else(refused)?.1
        };
        number
            .checked_mul(factor)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = &UNITS[..4];
        match binary
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
        {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ByteSizeVisitor)
    }
}

struct ByteSizeVisitor;

impl Visitor<'_> for ByteSizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size, as a number of bytes or text like \"16MiB\"")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<ByteSize, E> {
        u64::try_from(value)
            .map(ByteSize)
            .map_err(|_| E::custom("a size cannot be negative"))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let table = [
            ("4096", 4096),
            ("0", 0),
            ("1KiB", 1024),
            ("16MiB", 16 << 20),
            ("16 mib", 16 << 20),
            ("3GiB", 3 << 30),
            ("1TiB", 1 << 40),
            ("5MB", 5_000_000),
            ("7B", 7),
        ];
        for (text, bytes) in table {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "MiB",
            "1.5GiB",
            "-1",
            "16MiBs",
            "16Mi",
            "99999999999999999999",
            "0x10",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(
            "99999999TiB".parse::<ByteSize>(),
            Err("\"99999999TiB\" is too large".to_owned())
        );
    }

    #[test]
    fn display_is_exact_and_reads_back() {
        for bytes in [
            0,
            1,
            1023,
            1024,
            1025,
            16 << 20,
            (16 << 20) + 1024,
            3 << 40,
            u64::MAX,
        ] {
            let size = ByteSize(bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert_eq!(ByteSize(1536 << 20).to_string(), "1536MiB");
    }
}
