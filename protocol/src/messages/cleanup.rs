//! How a topic gets rid of old records. A plain value, any thread.

use std::fmt;
use std::str::FromStr;

use crate::error::DecodeError;

/// How a topic gets rid of old records.
///
/// ```
/// use catena_protocol::messages::Cleanup;
///
/// let cleanup: Cleanup = "compact,delete".parse()?;
/// assert!(cleanup.compacts() && cleanup.deletes());
/// # Ok::<(), catena_protocol::messages::UnknownCleanup>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cleanup {
    /// By the topic's limits of bytes and age.
    #[default]
    Delete = 0,
    /// By key: of each at least the newest record stays. The limits do not count. Every record
    /// needs a key; one without a value deletes its key.
    Compact = 1,
    /// By key and by the limits.
    CompactDelete = 2,
}

impl Cleanup {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Delete, Self::Compact, Self::CompactDelete];

    /// The policy with this number, if this version knows it.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u8 == number)
    }

    /// The number on the wire and on disk.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// The name used in flags and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactDelete => "compact,delete",
        }
    }

    /// Whether older records of a key are dropped.
    pub const fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactDelete)
    }

    /// Whether the limits of bytes and age count.
    pub const fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactDelete)
    }

    pub(super) fn read(number: u8) -> Result<Self, DecodeError> {
        Self::from_wire(number).ok_or(DecodeError::UnknownValue {
            what: "cleanup",
            value: number.into(),
        })
    }
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cleanup {
    type Err = UnknownCleanup;

    fn from_str(name: &str) -> Result<Self, UnknownCleanup> {
        let unknown = || UnknownCleanup {
            name: name.to_owned(),
        };
        match name {
            "delete,compact" => Ok(Self::CompactDelete),
            _ => Self::ALL
                .into_iter()
                .find(|known| known.name() == name)
                .ok_or_else(unknown),
        }
    }
}

/// A name that is none of `delete`, `compact`, `compact,delete`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no way to clean up; there are delete, compact and compact,delete")]
pub struct UnknownCleanup {
    /// What was given.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_back() {
        for cleanup in Cleanup::ALL {
            assert_eq!(cleanup.name().parse(), Ok(cleanup));
            assert_eq!(Cleanup::from_wire(cleanup.to_wire()), Some(cleanup));
        }
        assert_eq!("delete,compact".parse(), Ok(Cleanup::CompactDelete));
        assert_eq!(Cleanup::from_wire(3), None);
        let refused = "compress".parse::<Cleanup>().expect_err("no such policy");
        assert!(refused.to_string().contains("compact,delete"), "{refused}");
    }
}
