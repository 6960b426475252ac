//! Rules about any text file: no unfinished work, no paths of a machine, no stray white space, no
//! dead links.

use std::path::{Component, Path, PathBuf};

use crate::files::{Tree, has_extension, is_generated};
use crate::finding::Finding;

/// Written in halves so that this file keeps its own rules.
const MARKS: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];
const MACHINE_PATHS: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

pub(crate) fn unfinished_marks(path: &str, text: &str) -> Vec<Finding> {
    let is_word = |c: char| c == '_' || c.is_alphanumeric();
    let marked = |line: &str| {
        line.split(|c| !is_word(c))
            .any(|word| MARKS.contains(&word))
    };
    let what = "a mark of unfinished work: finish it, or open an issue";
    find_lines(path, text, what, marked)
}

pub(crate) fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    // Only where the path starts: `docs/work/` is a place in the repository.
    let starts_here = |line: &str, at: usize| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-}/~".contains(c))
    };
    let names = |line: &str| {
        MACHINE_PATHS.iter().any(|name| {
            line.match_indices(name)
                .any(|(at, _)| starts_here(line, at))
        })
    };
    find_lines(path, text, "a path that exists on one machine only", names)
}

pub(crate) fn white_space(path: &str, text: &str) -> Vec<Finding> {
    if is_generated(path) {
        return Vec::new();
    }
    let stray = |line: &str| line.ends_with([' ', '\t', '\r']) || line.contains('\t');
    let mut findings = find_lines(path, text, "a tab or trailing white space", stray);
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        findings.push(Finding::new(
            path,
            0,
            "does not end with exactly one newline",
        ));
    }
    findings
}

pub(crate) fn broken_links(tree: &Tree) -> Vec<Finding> {
    let documents = tree.texts().filter(|(path, _)| has_extension(path, "md"));
    documents
        .flat_map(|(path, text)| {
            let broken = move |line: &str| targets(line).any(|to| !leads_somewhere(tree, path, to));
            find_lines(path, text, "a link to a file that is not there", broken)
        })
        .collect()
}

fn find_lines(path: &str, text: &str, what: &str, bad: impl Fn(&str) -> bool) -> Vec<Finding> {
    let lines = text.split_terminator('\n').enumerate();
    lines
        .filter(|(_, line)| bad(line))
        .map(|(index, _)| Finding::new(path, index + 1, what))
        .collect()
}

/// The targets of the links in a line of Markdown.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

fn leads_somewhere(tree: &Tree, from: &str, target: &str) -> bool {
    let file = target.split('#').next().unwrap_or_default();
    if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
        return true;
    }
    let mut place = PathBuf::from(from);
    place.pop();
    for component in Path::new(file).components() {
        match component {
            Component::ParentDir => drop(place.pop()),
            Component::CurDir => {}
            other => place.push(other),
        }
    }
    place.to_str().is_some_and(|place| tree.has(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_unfinished_work_are_found() {
        for mark in MARKS {
            assert_eq!(
                unfinished_marks("a.md", &format!("x\n// {mark}: y\n"))[0].line,
                2
            );
            assert!(
                unfinished_marks("a.md", &format!("{mark}_LIST {}", mark.to_lowercase()))
                    .is_empty()
            );
        }
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for name in MACHINE_PATHS {
            assert_eq!(
                machine_paths("a.rs", &format!("let x = \"{name}y\";\n")).len(),
                1
            );
            assert!(machine_paths("a.rs", &format!("docs{name}y and ..{name}y\n")).is_empty());
        }
    }

    #[test]
    fn stray_white_space_is_found() {
        for bad in ["a \n", "\ta\n", "a\r\n", "a", "a\n\n"] {
            assert_eq!(white_space("a.md", bad).len(), 1, "{bad:?}");
        }
        assert!(white_space("a.md", "a\n\nb\n").is_empty());
        assert!(white_space("src/generated/a.rs", "a \n").is_empty());
    }

    #[test]
    fn dead_links_are_found() {
        let tree = Tree::of(&[
            (
                "README.md",
                "[a](docs/A.md#x) [b](https://b.example)\n[c](docs/C.md)\n",
            ),
            (
                "docs/A.md",
                "[up](../README.md) [here](#x) [dir](adr/)\n[no](B.md)\n",
            ),
            ("docs/adr/1.md", "x\n"),
        ]);
        let found: Vec<_> = broken_links(&tree)
            .into_iter()
            .map(|f| (f.path, f.line))
            .collect();
        assert_eq!(
            found,
            [("README.md".to_owned(), 2), ("docs/A.md".to_owned(), 2)]
        );
    }
}
