//! Values from a file of lines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::limits::{LINES_BYTES_MAX, RECORD_BYTES_MAX};

/// The lines of a file, each the value of a record; empty ones are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    path: PathBuf,
    text: Bytes,
    /// Where each line begins and ends in the text.
    spans: std::sync::Arc<[(usize, usize)]>,
}

impl Lines {
    /// Reads `path` whole.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let bytes = fs::metadata(path)
            .with_context(|| format!("cannot read {name}"))?
            .len();
        ensure!(
            bytes <= LINES_BYTES_MAX,
            "{name} has {bytes} bytes; lines are taken from files of at most {LINES_BYTES_MAX}"
        );
        let text = fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let lines = Self::of(path, text);
        ensure!(lines.len() > 0, "{name} holds no line that is not empty");
        ensure!(
            lines.bytes_max() <= RECORD_BYTES_MAX,
            "{name} has a line of {} bytes; a record has at most {RECORD_BYTES_MAX}",
            lines.bytes_max()
        );
        Ok(lines)
    }

    /// The lines of `text`, said to be from `path`.
    pub(crate) fn of(path: &Path, text: Vec<u8>) -> Self {
        let mut spans = Vec::new();
        let mut start = 0;
        for line in text.split(|byte| *byte == b'\n') {
            let bytes = line.strip_suffix(b"\r").unwrap_or(line).len();
            if bytes > 0 {
                spans.push((start, start + bytes));
            }
            start += line.len() + 1;
        }
        Self {
            path: path.to_owned(),
            text: Bytes::from(text),
            spans: spans.into(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Line `index`, which must be below [`Lines::len`].
    pub(crate) fn get(&self, index: usize) -> Bytes {
        let (start, end) = self.spans[index];
        self.text.slice(start..end)
    }

    /// Bytes of the longest.
    pub(crate) fn bytes_max(&self) -> u32 {
        let longest = self.spans.iter().map(|(start, end)| end - start).max();
        u32::try_from(longest.unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Bytes of one on average.
    #[cfg(feature = "peers")]
    pub(crate) fn bytes_mean(&self) -> u64 {
        let all: usize = self.spans.iter().map(|(start, end)| end - start).sum();
        u64::try_from(all / self.len().max(1)).unwrap_or(u64::MAX)
    }
}

impl Serialize for Lines {
    /// As the path of the file.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.path.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_either_way_and_empty_ones_are_left_out() {
        let lines = Lines::of(Path::new("x"), b"one\r\n\n\nthree\nlast".to_vec());
        let all: Vec<_> = (0..lines.len()).map(|index| lines.get(index)).collect();
        assert_eq!(all, ["one", "three", "last"]);
        assert_eq!(lines.bytes_max(), 5);
        #[cfg(feature = "peers")]
        assert_eq!(lines.bytes_mean(), 4);
    }

    #[test]
    fn a_file_that_cannot_serve_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("lines");
        assert!(Lines::read(&file).is_err(), "it is not there");
        for (text, refused) in [
            (vec![b'\n'; 10], true),
            (vec![b'x'; 1_000_000], false),
            (vec![b'x'; 1_000_001], true),
        ] {
            fs::write(&file, text).expect("the directory takes a file");
            assert_eq!(Lines::read(&file).is_err(), refused);
        }
    }
}
