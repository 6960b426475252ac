//! How the parts of a chart look: each has a class, and `style.css` says what becomes of it.
//!
//! So one chart suits light and dark screens and paper. The library that draws knows colours but
//! no classes; it is given a colour of no meaning for each class, which is then replaced. Pure.

use std::fmt;

use plotters::style::RGBColor;

/// Told apart also by readers who confuse colours; `style.css` has as many.
const COLOURS: u8 = 8;

/// Unbroken, dashed, dotted.
const PATTERNS: u8 = 3;

/// A part of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Text,
    Frame,
    Grid,
    FineGrid,
    /// Below `COLOURS * PATTERNS`; see [`Paint::line`].
    Line(u8),
}

impl Paint {
    /// How the line at `index` looks. The first lines differ by colour, those after them by
    /// pattern too; after very many lines the looks repeat.
    pub(super) fn line(index: usize) -> Self {
        let look = index % usize::from(COLOURS * PATTERNS);
        Self::Line(u8::try_from(look).expect("there are fewer looks than 256"))
    }

    /// The colour that stands for the class while the chart is drawn.
    pub(super) fn token(self) -> RGBColor {
        match self {
            Self::Text => RGBColor(1, 0, 0),
            Self::Frame => RGBColor(2, 0, 0),
            Self::Grid => RGBColor(3, 0, 0),
            Self::FineGrid => RGBColor(4, 0, 0),
            Self::Line(look) => RGBColor(5, 0, look),
        }
    }

    /// Puts the class in the place of its token everywhere in `svg`.
    ///
    /// That finds attributes only: in texts, quotation marks are escaped.
    pub(super) fn replace_token(self, svg: &str) -> String {
        let RGBColor(red, green, blue) = self.token();
        let token = format!("\"#{red:02X}{green:02X}{blue:02X}\"");
        let class = format!("class=\"{self}\"");
        svg.replace(
            &format!("stroke={token}"),
            &format!("{class} stroke=\"currentColor\""),
        )
        .replace(
            &format!("fill={token}"),
            &format!("{class} fill=\"currentColor\""),
        )
    }
}

/// The class, or classes.
impl fmt::Display for Paint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => write!(f, "text"),
            Self::Frame => write!(f, "frame"),
            Self::Grid => write!(f, "grid"),
            Self::FineGrid => write!(f, "fine-grid"),
            Self::Line(look) => {
                let (colour, pattern) = (look % COLOURS, look / COLOURS);
                write!(f, "line colour-{colour} pattern-{pattern}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const STYLE: &str = include_str!("style.css");

    #[test]
    fn twenty_four_lines_look_different() {
        let looks = (0..24).map(|index| Paint::line(index).to_string());
        assert_eq!(looks.collect::<BTreeSet<_>>().len(), 24);
        assert_eq!(Paint::line(24), Paint::line(0));
    }

    #[test]
    fn every_class_has_a_style() {
        let others = [Paint::Text, Paint::Frame, Paint::Grid, Paint::FineGrid];
        for paint in (0..24).map(Paint::line).chain(others) {
            for class in paint.to_string().split(' ') {
                let rule = format!(".{class} {{");
                // An unbroken line needs no rule.
                let styled = class == "pattern-0" || STYLE.contains(&rule);
                assert!(styled, "no rule for {rule:?}");
            }
        }
    }

    #[test]
    fn tokens_become_classes_in_attributes_only() {
        let svg = r##"<g stroke="#050001"/><g fill="#050001"/>&quot;#050001&quot;"##;
        assert_eq!(
            Paint::Line(1).replace_token(svg),
            "<g class=\"line colour-1 pattern-0\" stroke=\"currentColor\"/>\
             <g class=\"line colour-1 pattern-0\" fill=\"currentColor\"/>\
             &quot;#050001&quot;"
        );
    }
}
