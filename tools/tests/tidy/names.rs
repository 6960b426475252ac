//! Rules about names and places: what files may be called, and which words stand where.

use std::collections::BTreeSet;

use crate::files::{Tree, is_rust};
use crate::finding::Finding;
use crate::source::Source;

/// The only place that may name the runtime and hold unsafe code.
const RUNTIME: &str = "broker/src/runtime";

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "misc", "helper", "helpers"];

/// What may stand at the top of the repository.
const TOP_LEVEL: [&str; 22] = [
    ".ci",
    ".config",
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "broker",
    "check.sh",
    "client",
    "clippy.toml",
    "docs",
    "fuzz",
    "protocol",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
    "tools",
];

/// What may be missing from the top of the repository.
const TOP_LEVEL_OPTIONAL: [&str; 2] = ["fuzz", "rust-toolchain.toml"];

/// The crate roots that promise to hold no unsafe code.
const SAFE_CRATES: [&str; 5] = [
    "broker/core/src/lib.rs",
    "client/src/lib.rs",
    "bench/src/main.rs",
    "tools/src/main.rs",
    "tests/src/lib.rs",
];

pub(crate) fn file_names<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    let judge = |path: &str| {
        let is_rust = is_rust(path);
        let empty = path
            .trim_end_matches(".rs")
            .split('/')
            .find(|part| EMPTY_NAMES.contains(part));
        if is_rust && (path.ends_with("/mod.rs") || path == "mod.rs") {
            Some(Finding::new(
                path,
                0,
                "write `name.rs` beside `name/`, not `mod.rs`",
            ))
        } else {
            let name = empty.filter(|_| is_rust)?;
            Some(Finding::new(
                path,
                0,
                format!("`{name}` does not say what is inside"),
            ))
        }
    };
    paths.filter_map(judge).collect()
}

pub(crate) fn top_level<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    let present: BTreeSet<&str> = paths.filter_map(|path| path.split('/').next()).collect();
    let extra = present.iter().filter(|name| !TOP_LEVEL.contains(name));
    let missing = TOP_LEVEL
        .iter()
        .filter(|name| !present.contains(*name) && !TOP_LEVEL_OPTIONAL.contains(name));
    extra
        .map(|name| Finding::new(name, 0, "not one of the documented top-level entries"))
        .chain(missing.map(|name| Finding::new(name, 0, "missing from the top level")))
        .collect()
}

pub(crate) fn executor_outside_runtime(source: &Source) -> Vec<Finding> {
    outside_runtime(
        source,
        "async_task",
        "only the runtime knows what its tasks are made of",
    )
}

pub(crate) fn unsafe_outside_runtime(source: &Source) -> Vec<Finding> {
    outside_runtime(
        source,
        "unsafe",
        "unsafe code belongs into broker/src/runtime/",
    )
}

fn outside_runtime(source: &Source, word: &str, what: &str) -> Vec<Finding> {
    let rest = source.path.strip_prefix(RUNTIME);
    if rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/')) {
        return Vec::new();
    }
    let finding = |at| Finding::new(&source.path, source.line_of(at), what);
    source.words(word).map(finding).collect()
}

pub(crate) fn forbid_unsafe(tree: &Tree) -> Vec<Finding> {
    let forbids = |path: &&str| {
        let text = tree.text(path).unwrap_or_default();
        Source::new(path, text)
            .code
            .contains("#![forbid(unsafe_code)]")
    };
    let finding = |path: &str| Finding::new(path, 0, "no `#![forbid(unsafe_code)]`");
    SAFE_CRATES
        .into_iter()
        .filter(|path| !forbids(path))
        .map(finding)
        .collect()
}

pub(crate) fn unwraps(source: &Source) -> Vec<Finding> {
    let what = "`unwrap()` outside tests: `expect` the invariant or return the error";
    let unwraps = source.code.match_indices(".unwrap()").map(|(at, _)| at);
    unwraps
        .filter(|at| !source.is_test(*at))
        .map(|at| Finding::new(&source.path, source.line_of(at), what))
        .collect()
}

/// A sleep in a test is either too short on a loaded machine or too long everywhere else.
pub(crate) fn sleeps_and_ignores(source: &Source) -> Vec<Finding> {
    let ignored = source
        .code
        .match_indices("#[ignore")
        .map(|(at, _)| (at, "ignored test"));
    let sleeps = source
        .code
        .match_indices("thread::sleep(")
        .map(|(at, _)| (at, "a test that sleeps: wait for a condition"))
        .filter(|(at, _)| source.is_test(*at));
    ignored
        .chain(sleeps)
        .map(|(at, what)| Finding::new(&source.path, source.line_of(at), what))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(findings: &[Finding]) -> Vec<usize> {
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        let bad = ["a/mod.rs", "a/src/utils.rs", "a/src/common/x.rs"];
        let good = ["a/src/model.rs", "a/src/record.rs", "docs/common.md"];
        assert_eq!(file_names(bad.into_iter()).len(), 3);
        assert!(file_names(good.into_iter()).is_empty());
    }

    #[test]
    fn strange_and_missing_top_level_entries_are_found() {
        let all = TOP_LEVEL.into_iter();
        assert!(top_level(all.clone()).is_empty());
        assert_eq!(top_level(all.clone().chain(["notes.txt"])).len(), 1);
        assert_eq!(top_level(all.filter(|name| *name != "LICENSE")).len(), 1);
    }

    #[test]
    fn the_runtime_is_found_in_code_outside_of_it_only() {
        let text = "// async_task\nuse async_task::Task;\nunsafe { x() }\n";
        let outside = Source::new("broker/src/shard.rs", text);
        assert_eq!(lines(&executor_outside_runtime(&outside)), [2]);
        assert_eq!(lines(&unsafe_outside_runtime(&outside)), [3]);
        for path in ["broker/src/runtime.rs", "broker/src/runtime/file.rs"] {
            assert!(executor_outside_runtime(&Source::new(path, text)).is_empty());
            assert!(unsafe_outside_runtime(&Source::new(path, text)).is_empty());
        }
        let neighbour = Source::new("broker/src/runtime_limits.rs", text);
        assert_eq!(lines(&unsafe_outside_runtime(&neighbour)), [3]);
    }

    #[test]
    fn a_crate_that_does_not_forbid_unsafe_is_found() {
        let forbidding: Vec<_> = SAFE_CRATES
            .iter()
            .map(|path| (*path, "#![forbid(unsafe_code)]"))
            .collect();
        assert!(forbid_unsafe(&Tree::of(&forbidding)).is_empty());
        let mut one_lax = forbidding;
        one_lax[2].1 = "// #![forbid(unsafe_code)]";
        assert_eq!(forbid_unsafe(&Tree::of(&one_lax)).len(), 1);
    }

    #[test]
    fn unwraps_are_found_outside_tests_only() {
        let text = "fn f() { a.unwrap(); }\n#[cfg(test)]\nmod tests { fn g() { a.unwrap(); } }\n";
        assert_eq!(lines(&unwraps(&Source::new("a/src/b.rs", text))), [1]);
        assert!(unwraps(&Source::new("a/tests/b.rs", text)).is_empty());
    }

    #[test]
    fn sleeping_and_ignored_tests_are_found() {
        let text = "fn f() { thread::sleep(x); }\n#[ignore = \"slow\"]\nfn g() {}\n";
        assert_eq!(
            lines(&sleeps_and_ignores(&Source::new("a/src/b.rs", text))),
            [2]
        );
        assert_eq!(
            lines(&sleeps_and_ignores(&Source::new("a/tests/b.rs", text))),
            [2, 1]
        );
    }
}
