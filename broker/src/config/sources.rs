//! Reading settings from the environment and from a TOML file.
//!
//! Both become TOML values for the same deserializer, so a key means the same in both and a key
//! that nothing knows is an error in both.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{ConfigError, Settings};
use crate::limits::TEXT_FILE_BYTES_MAX;

const PREFIX: &str = "CATENA_";

/// Names the config file.
const CONFIG_VARIABLE: &str = "CATENA_CONFIG";

/// Belongs to the command line tool: the broker it talks to.
const FOREIGN_VARIABLES: [&str; 1] = ["CATENA_BROKER"];

/// What the environment says.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) settings: Settings,
    pub(super) config: Option<PathBuf>,
}

pub(super) fn read_environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Environment, ConfigError> {
    let mut environment = Environment::default();
    for (variable, value) in variables {
        // A name that is not UTF-8 cannot be one of ours unless it starts like one.
        let variable = variable.to_string_lossy().into_owned();
        if !variable.starts_with(PREFIX) || FOREIGN_VARIABLES.contains(&variable.as_str()) {
            continue;
        }
        if variable == CONFIG_VARIABLE {
            environment.config = Some(value.into());
            continue;
        }
        let settings = read_variable(&variable, value)?;
        // Names are unique, so the order in which they come does not matter.
        environment.settings = settings.or(environment.settings);
    }
    Ok(environment)
}

fn read_variable(variable: &str, value: OsString) -> Result<Settings, ConfigError> {
    let place = "environment".to_owned();
    let key = variable
        .strip_prefix(PREFIX)
        .unwrap_or(variable)
        .to_lowercase()
        .replace('_', "-");
    // Not lower case: CATENA_listen is somebody's typing error.
    if variable_of(&key) != variable || !Settings::KEYS.contains(&key.as_str()) {
        let nearest = nearest_key(&key).map(variable_of);
        return Err(ConfigError::UnknownKey {
            place,
            key: variable.to_owned(),
            nearest,
        });
    }
    let refused = |reason| ConfigError::Value {
        place,
        key: variable.to_owned(),
        reason,
    };
    let Ok(value) = value.into_string() else {
        return Err(refused("the value is not UTF-8".to_owned()));
    };
    let table = Table::from_iter([(key, Value::String(value))]);
    Settings::deserialize(table).map_err(|error| refused(error.message().to_owned()))
}

fn variable_of(key: impl AsRef<str>) -> String {
    format!("{PREFIX}{}", key.as_ref().to_uppercase().replace('-', "_"))
}

pub(super) fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = read_text(path).map_err(|source| ConfigError::ReadFile {
        path: path.to_owned(),
        source,
    })?;
    parse_file(&text, path)
}

/// What the text of a config file says; `path` is only for messages.
pub(super) fn parse_file(text: &str, path: &Path) -> Result<Settings, ConfigError> {
    let place = format!("config file {}", path.display());
    let table: Table = toml::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })?;
    let mut settings = Settings::default();
    for (key, value) in table {
        if !Settings::KEYS.contains(&key.as_str()) {
            let nearest = nearest_key(&key).map(str::to_owned);
            return Err(ConfigError::UnknownKey {
                place,
                key,
                nearest,
            });
        }
        // One key at a time, so that an error can name it.
        settings = Settings::deserialize(Table::from_iter([(key.clone(), value)]))
            .map_err(|error| {
                let reason = error.message().to_owned();
                ConfigError::Value {
                    place: place.clone(),
                    key,
                    reason,
                }
            })?
            .or(settings);
    }
    Ok(settings)
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?
        .take(TEXT_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > TEXT_FILE_BYTES_MAX) {
        return Err(io::Error::other(format!(
            "larger than {TEXT_FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

/// The known key that `key` was probably meant to be.
fn nearest_key(key: &str) -> Option<&'static str> {
    let key = key.to_lowercase().replace('_', "-");
    let nearest = Settings::KEYS
        .into_iter()
        .min_by_key(|known| edit_distance(&key, known))?;
    (edit_distance(&key, nearest) <= nearest.len() / 3 + 1).then_some(nearest)
}

/// Levenshtein's distance, one row at a time.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, left) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in to.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_edits() {
        let table = [
            ("", "", 0),
            ("abc", "", 3),
            ("", "ab", 2),
            ("lisen", "listen", 1),
        ];
        for (from, to, distance) in table {
            assert_eq!(edit_distance(from, to), distance);
        }
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_near_key_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest_key("data_dir"), Some("data-dir"));
        assert_eq!(nearest_key("log-levl"), Some("log-level"));
        assert_eq!(nearest_key("replication-factor"), None);
    }
}
