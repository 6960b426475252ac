//! The files of the repository: what git tracks, and what it would track if added.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::source::Source;

/// Every file by its path from the root, with its text where it is text.
pub(crate) struct Tree {
    files: BTreeMap<String, Option<String>>,
}

impl Tree {
    /// Reads the working tree. Files that git ignores are not part of it.
    pub(crate) fn read() -> Self {
        let root = root();
        let listing = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(&root)
            .output()
            .expect("git runs");
        assert!(listing.status.success(), "git ls-files: {listing:?}");
        let listing = String::from_utf8(listing.stdout).expect("paths are UTF-8");
        let files = listing
            .split_terminator('\0')
            .filter_map(|path| {
                // A file deleted but still in the index has no text to check.
                let bytes = std::fs::read(root.join(path)).ok()?;
                Some((path.to_owned(), String::from_utf8(bytes).ok()))
            })
            .collect();
        Self { files }
    }

    /// A tree made of the given files, for the tests of the rules.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), Some((*text).to_owned()));
        Self {
            files: files.iter().map(own).collect(),
        }
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Every text file but the lock file and the licence, which are not ours to shape.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let ours = |path: &str| path != "Cargo.lock" && path != "LICENSE";
        self.files
            .iter()
            .filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
            .filter(move |(path, _)| ours(path))
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// Whether a file or a directory of this name is in the tree.
    pub(crate) fn has(&self, path: &str) -> bool {
        let directory = format!("{}/", path.trim_end_matches('/'));
        self.files.contains_key(path) || self.paths().any(|other| other.starts_with(&directory))
    }

    /// The Rust files written by hand.
    pub(crate) fn rust_sources(&self) -> Vec<Source> {
        self.texts()
            .filter(|(path, _)| is_rust(path) && !is_generated(path))
            .map(|(path, text)| Source::new(path, text))
            .collect()
    }
}

pub(crate) fn root() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR"));
    tools
        .parent()
        .expect("tools/ lies in the root")
        .to_path_buf()
}

pub(crate) fn is_rust(path: &str) -> bool {
    has_extension(path, "rs")
}

pub(crate) fn has_extension(path: &str, expected: &str) -> bool {
    let extension = Path::new(path).extension();
    extension.is_some_and(|extension| extension == expected)
}

/// Whether a program wrote the file: such files keep their program's style.
pub(crate) fn is_generated(path: &str) -> bool {
    path.split('/')
        .any(|part| part == "generated" || part.ends_with("_generated.rs"))
}

#[test]
fn generated_files_are_known_by_their_place() {
    assert!(is_generated("protocol/src/generated/wire.rs"));
    assert!(is_generated("protocol/src/wire_generated.rs"));
    assert!(!is_generated("protocol/src/frame.rs"));
}
