//! Rules about the shape of a Rust file: width, length, length of functions, header.

use crate::finding::Finding;
use crate::source::Source;

const LINE_CHARS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 100;

pub(crate) fn line_width(source: &Source) -> Vec<Finding> {
    let too_wide = |line: &str| line.chars().count() > LINE_CHARS_MAX && !may_be_wide(line);
    let lines = source.text.lines().enumerate();
    lines
        .filter(|(_, line)| too_wide(line))
        .map(|(index, line)| {
            let what = format!(
                "{} characters, {LINE_CHARS_MAX} allowed",
                line.chars().count()
            );
            Finding::new(&source.path, index + 1, what)
        })
        .collect()
}

/// A link cannot be broken; a hidden line of an example is not shown to anyone.
fn may_be_wide(line: &str) -> bool {
    let line = line.trim_start();
    line.contains("://") || line.starts_with("/// # ") || line.starts_with("//! # ")
}

pub(crate) fn file_length(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    let what = format!("{lines} lines, {FILE_LINES_MAX} allowed: split it by purpose");
    (lines > FILE_LINES_MAX)
        .then(|| Finding::new(&source.path, 0, what))
        .into_iter()
        .collect()
}

pub(crate) fn function_length(source: &Source) -> Vec<Finding> {
    let long = |at: usize| {
        let body = source.block_after(at)?;
        let lines = source.code[body].lines().count();
        let what = format!("function of {lines} lines, {FUNCTION_LINES_MAX} allowed");
        (lines > FUNCTION_LINES_MAX).then(|| Finding::new(&source.path, source.line_of(at), what))
    };
    let named = |at: &usize| {
        let rest = source.code[*at + 2..].trim_start();
        rest.starts_with(|c: char| c == '_' || c.is_alphabetic())
    };
    source.words("fn").filter(named).filter_map(long).collect()
}

pub(crate) fn header(source: &Source) -> Vec<Finding> {
    let first = source.text.lines().next().unwrap_or_default();
    let says = first
        .strip_prefix("//!")
        .is_some_and(|rest| !rest.trim().is_empty());
    let what = "the first line is not a `//!` comment that says what the file is for";
    (!says)
        .then(|| Finding::new(&source.path, 1, what))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("a.rs", text)
    }

    #[test]
    fn a_wide_line_is_found() {
        let wide = format!("//! x\n{}\n", "é".repeat(101));
        assert_eq!(line_width(&source(&wide))[0].line, 2);
        assert!(line_width(&source(&"é".repeat(100))).is_empty());
        let hidden = format!("    /// # {}", "x".repeat(100));
        assert!(line_width(&source(&hidden)).is_empty());
    }

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(file_length(&source(&"x\n".repeat(801))).len(), 1);
        assert!(file_length(&source(&"x\n".repeat(800))).is_empty());
    }

    #[test]
    fn a_long_function_is_found_whatever_stands_in_its_signature() {
        let function = |lines: usize| {
            let body = "    x();\n".repeat(lines - 2);
            format!("type F = fn(u8);\nfn f(a: [u8; 4]) -> bool {{\n{body}}}\n")
        };
        assert_eq!(function_length(&source(&function(101)))[0].line, 2);
        assert!(function_length(&source(&function(100))).is_empty());
        assert!(function_length(&source("trait T { fn f(); }\n")).is_empty());
    }

    #[test]
    fn a_missing_or_empty_header_is_found() {
        assert_eq!(header(&source("use a;\n")).len(), 1);
        assert_eq!(header(&source("//!\nuse a;\n")).len(), 1);
        assert!(header(&source("//! A file.\n")).is_empty());
    }
}
