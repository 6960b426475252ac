//! Which CPUs: the kernel's list form, `0,2-3`, or `all`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Far above any machine; a bound so that `0-4294967295` is not taken literally.
const CPU_NUMBER_MAX: usize = 8191;

/// The value of `--cores`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreChoice {
    /// Every CPU this process may run on, whatever its CPU quota.
    All,
    /// These CPUs: ascending, each once, at least one.
    List(Vec<usize>),
}

impl FromStr for CoreChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (cpu_number(text, first)?, cpu_number(text, last)?);
            if first > last {
                return Err(format!("{text:?}: the range {part} runs backwards"));
            }
            cpus.extend(first..=last);
        }
        let listed = cpus.len();
        cpus.sort_unstable();
        cpus.dedup();
        if cpus.len() < listed {
            return Err(format!("{text:?} names a CPU twice"));
        }
        Ok(Self::List(cpus))
    }
}

fn cpu_number(text: &str, part: &str) -> Result<usize, String> {
    let number = part
        .trim()
        .parse()
        .ok()
        .filter(|number| *number <= CPU_NUMBER_MAX);
    number.ok_or_else(|| format!("{text:?} is not a list of CPUs; write one like 0,2-3, or all"))
}

impl fmt::Display for CoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::List(cpus) => write_list(f, cpus),
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, cpus: &[usize]) -> fmt::Result {
    for (index, run) in cpus
        .chunk_by(|before, after| before + 1 == *after)
        .enumerate()
    {
        let separator = if index == 0 { "" } else { "," };
        match run {
            [single] => write!(f, "{separator}{single}")?,
            [first, .., last] => write!(f, "{separator}{first}-{last}")?,
            [] => {}
        }
    }
    Ok(())
}

impl Serialize for CoreChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CoreChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CoreChoiceVisitor)
    }
}

struct CoreChoiceVisitor;

impl Visitor<'_> for CoreChoiceVisitor {
    type Value = CoreChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text such as \"0,2-3\" or \"all\"")
    }

    /// Not taken for that CPU: it may be meant as how many.
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<CoreChoice, E> {
        Err(E::custom(format!(
            "{number} is not a list of CPUs; write cores = \"{number}\" for CPU {number}, \
             \"0-3\" for the first four"
        )))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<CoreChoice, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_and_show_in_the_kernels_form() {
        let table: [(&str, &[usize], &str); 4] = [
            ("0", &[0], "0"),
            ("3,1", &[1, 3], "1,3"),
            ("0-2,5, 7-7", &[0, 1, 2, 5, 7], "0-2,5,7"),
            ("4,5,6", &[4, 5, 6], "4-6"),
        ];
        for (text, cpus, shown) in table {
            let choice = text.parse::<CoreChoice>().expect("a good list");
            assert_eq!(choice, CoreChoice::List(cpus.to_vec()));
            assert_eq!(choice.to_string(), shown);
        }
        assert_eq!("all".parse(), Ok(CoreChoice::All));
    }

    #[test]
    fn bad_lists_are_refused() {
        for text in [
            "",
            ",",
            "a",
            "-1",
            "1-",
            "3-1",
            "0,0",
            "0-2,1",
            "0-4294967295",
            "All",
        ] {
            assert!(text.parse::<CoreChoice>().is_err(), "{text}");
        }
    }
}
