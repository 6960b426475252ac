//! A Rust file split into code, comments and literals.
//!
//! The rules ask about words in code; a plain text search would also find them in comments and
//! strings. The split is a small lexer, exact for comments, strings, raw strings, characters and
//! lifetimes, which is all that rustfmt-formatted code needs.

use std::ops::Range;

/// One Rust file. `code` has the length of `text`, with comments and the contents of literals
/// blanked, so that positions and lines agree between the two.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank(text, &literals_and_comments(text.as_bytes()));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    /// The line of a byte position, counted from 1.
    pub(crate) fn line_of(&self, position: usize) -> usize {
        1 + self.code[..position].matches('\n').count()
    }

    /// Where `word` stands in code as a whole word.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = self.code.as_bytes();
        let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
        self.code
            .match_indices(word)
            .map(|(at, _)| at)
            .filter(move |&at| {
                let before = at.checked_sub(1).map(|before| bytes[before]);
                let after = bytes.get(at + word.len()).copied();
                !before.is_some_and(is_word) && !after.is_some_and(is_word)
            })
    }

    /// The span from a position to the brace that closes the first block opened after it; none if
    /// a semicolon comes first (a declaration without body).
    pub(crate) fn block_after(&self, position: usize) -> Option<Range<usize>> {
        let (mut braces, mut brackets) = (0_usize, 0_usize);
        for (at, byte) in self.code.bytes().enumerate().skip(position) {
            match byte {
                b';' if braces == 0 && brackets == 0 => return None,
                b'(' | b'[' if braces == 0 => brackets += 1,
                b')' | b']' if braces == 0 => brackets = brackets.saturating_sub(1),
                b'{' => braces += 1,
                b'}' if braces <= 1 => return Some(position..at + 1),
                b'}' => braces -= 1,
                _ => {}
            }
        }
        None
    }

    /// Whether the position lies in code that is built for tests only.
    pub(crate) fn is_test(&self, position: usize) -> bool {
        let whole = self.path.split('/').any(|part| {
            matches!(part, "tests" | "benches" | "tests.rs") || part.ends_with("_tests.rs")
        });
        let inside = |mark: &str| {
            let mut blocks = self.code.match_indices(mark).map(|(at, _)| at);
            blocks.any(|at| {
                self.block_after(at + mark.len())
                    .is_some_and(|b| b.contains(&position))
            })
        };
        whole || inside("#[cfg(test)]") || inside("#[test]")
    }
}

fn blank(text: &str, spans: &[Range<usize>]) -> String {
    let mut code = text.as_bytes().to_vec();
    for byte in spans.iter().flat_map(Range::clone) {
        if code[byte] != b'\n' {
            code[byte] = b' ';
        }
    }
    String::from_utf8(code).expect("spans cover whole characters")
}

/// The spans of comments and of the contents of literals, in order.
fn literals_and_comments(text: &[u8]) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let end = match rest {
            [b'/', b'/', ..] => at + position(rest, b"\n").unwrap_or(rest.len()),
            [b'/', b'*', ..] => at + block_comment(rest),
            [b'"', ..] => at + string(rest),
            [b'r', b'"' | b'#', ..] if !continues_word(text, at) => at + raw_string(rest),
            [b'\'', ..] => at + character(rest),
            _ => at,
        };
        if end > at + 1 {
            spans.push(at..end);
        }
        at = end.max(at + 1);
    }
    spans
}

/// Whether the byte at `at` is inside an identifier; `br"` still opens a raw string.
fn continues_word(text: &[u8], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|i| text[i]);
    let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    match before(1) {
        Some(b'b' | b'c') => before(2).is_some_and(is_word),
        Some(byte) => is_word(byte),
        None => false,
    }
}

fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn string(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of a raw string, or 0 for a raw identifier such as `r#type`.
fn raw_string(text: &[u8]) -> usize {
    let hashes = text[1..].iter().take_while(|byte| **byte == b'#').count();
    if text.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let close: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let body = 2 + hashes;
    position(&text[body..], &close).map_or(text.len(), |end| body + end + close.len())
}

/// The length of a character literal, or 0 for a lifetime.
fn character(text: &[u8]) -> usize {
    match text {
        [_, b'\\', _, rest @ ..] => 3 + position(rest, b"'").map_or(0, |end| end + 1),
        [_, first, ..] => {
            let bytes = match first {
                0xF0.. => 4,
                0xE0.. => 3,
                0xC0.. => 2,
                _ => 1,
            };
            if text.get(1 + bytes) == Some(&b'\'') {
                bytes + 2
            } else {
                0
            }
        }
        _ => 0,
    }
}

fn position(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn code(text: &str) -> String {
        Source::new("a.rs", text)
            .code
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(code("a // b\nc /* d /* e */ f */ g"), "a c g");
        assert_eq!(
            code(r#"a("b \" c", 'd', '\'', '\u{1F600}', 'é') f"#),
            "a( , , , , ) f"
        );
        assert_eq!(code("let x = r#\"y \" z\"#; br\"w\""), "let x = ; b");
    }

    #[test]
    fn lifetimes_and_raw_identifiers_are_code() {
        assert_eq!(
            code("fn f<'a>(r#type: &'a T) {}"),
            "fn f<'a>(r#type: &'a T) {}"
        );
    }

    #[test]
    fn words_are_whole() {
        let source = Source::new("a.rs", "unsafe_code unsafe // unsafe\n\"unsafe\"");
        assert_eq!(source.words("unsafe").collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn test_code_is_known_by_place_and_by_attribute() {
        let source = Source::new(
            "a/src/b.rs",
            "fn a() {}\n#[cfg(test)]\nmod tests {\n x }\nfn c() {}",
        );
        assert!(!source.is_test(0));
        assert!(source.is_test(source.text.find('x').expect("x is there")));
        assert!(!source.is_test(source.text.find('c').expect("c is there").max(45)));
        assert!(Source::new("a/tests/b.rs", "x").is_test(0));
        assert!(Source::new("a/src/b/tests.rs", "x").is_test(0));
    }
}
