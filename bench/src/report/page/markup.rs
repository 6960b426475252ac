//! What keeps texts from outside from being read as HTML. Pure.

/// `text` as HTML shows it, in an element or in an attribute with quotes.
///
/// Control characters, which HTML does not allow, become the mark for an unknown character.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            _ if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// An element that holds nothing but `text`.
pub(super) fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

/// JSON of the same meaning that can neither end nor hide the end of a `script` element.
///
/// No `<` remains, because not only `</script` matters: after `<!--` and `<script` a browser no
/// longer takes the next `</script` for the end. In JSON a `<` stands in strings only, where it
/// may be written as its number.
pub(super) fn inert_json(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_html_would_read_is_left() {
        assert_eq!(
            escape("<a href=\"x\">'&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;"
        );
        assert_eq!(escape("a\0b\u{7}c\td\ne"), "a\u{fffd}b\u{fffd}c\td\ne");
        assert_eq!(element("p", "1 < 2"), "<p>1 &lt; 2</p>");
    }

    #[test]
    fn data_cannot_end_its_element() {
        assert_eq!(
            inert_json(r#"{"a":"</script><!--"}"#),
            r#"{"a":"\u003c/script>\u003c!--"}"#
        );
    }
}
