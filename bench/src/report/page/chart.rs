//! A chart as a figure: its title, its legend and the drawing.
//!
//! The legend is text beside the drawing, so that it covers no line and long names can be
//! broken. Nothing but the texts along the axes is written inside of the drawing. Pure.

use std::fmt::Write as _;
use std::ops::Range;

use anyhow::Result;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    ChartBuilder, Circle, IntoDrawingArea, IntoTextStyle, PathElement, SVGBackend, ShapeStyle,
};

use super::Chart;
use super::markup::{element, escape};
use super::paint::Paint;
use super::runs::{Position, Runs};
use super::scale::Scale;

/// The library puts everything on whole pixels; with so many of them to a pixel of the page,
/// curves are smooth.
const PIXELS: u32 = 10;

const SIZE: (u32, u32) = (920 * PIXELS, 400 * PIXELS);

/// 13 pixels of the page; the library divides the size of a font by 1.24.
const TEXT_SIZE: u32 = 13 * PIXELS * 124 / 100;

/// Lines with no more points than these get a dot at each.
const DOTTED_POINTS_MAX: usize = 24;

impl Chart {
    /// The figure; a note in its place if there is nothing to draw.
    pub(super) fn render(&self, html: &mut String) -> Result<()> {
        let caption = element("figcaption", &self.title);
        let _ = writeln!(html, "<figure>\n{caption}");
        let lines: Vec<Runs> = self
            .lines
            .iter()
            .map(|line| line.runs(self.x, self.y))
            .collect();
        match self.scales(&lines) {
            None => html.push_str("<p class=\"note\">There is nothing to draw.</p>\n"),
            Some((x, y)) => {
                self.legend(&lines, html);
                let drawing = self.draw(&x, &y, &lines)?;
                let label = escape(&self.description());
                let (width, height) = SIZE;
                let _ = writeln!(
                    html,
                    "<div class=\"wide\">\n<svg role=\"img\" aria-label=\"{label}\" \
                     viewBox=\"0 0 {width} {height}\">\n{drawing}</div>"
                );
            }
        }
        html.push_str("</figure>\n");
        Ok(())
    }

    /// The axes that hold all lines; none if there is no point.
    fn scales(&self, lines: &[Runs]) -> Option<(Scale, Scale)> {
        let positions = || lines.iter().flatten().flatten();
        let x = bounds(positions().map(|position| position.0))?;
        let y = bounds(positions().map(|position| position.1))?;
        Some((self.x.scale(x.0, x.1), self.y.scale(y.0, y.1)))
    }

    fn legend(&self, lines: &[Runs], html: &mut String) {
        html.push_str("<ul class=\"legend\">\n");
        for (index, (line, runs)) in self.lines.iter().zip(lines).enumerate() {
            let name = escape(&line.name);
            let key = format!("<i class=\"{}\"></i>", Paint::line(index));
            let remark = if runs.is_empty() { " (no points)" } else { "" };
            let _ = writeln!(html, "<li>{key}<span>{name}{remark}</span></li>");
        }
        html.push_str("</ul>\n");
    }

    /// For readers who do not see the drawing.
    fn description(&self) -> String {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        format!(
            "{}. Line chart of {} over {}: {}.",
            self.title,
            self.y.name(),
            self.x.name(),
            names.join(", ")
        )
    }

    /// The content of the `svg` element and its end.
    fn draw(&self, x: &Scale, y: &Scale, lines: &[Runs]) -> Result<String> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let mut plot = ChartBuilder::on(&area)
                .margin_top(12 * PIXELS)
                .margin_left(4 * PIXELS)
                .margin_right(40 * PIXELS)
                .x_label_area_size(46 * PIXELS)
                .y_label_area_size(80 * PIXELS)
                .build_cartesian_2d(x.clone(), y.clone())?;
            plot.configure_mesh()
                .set_all_tick_mark_size(4 * PIXELS)
                .axis_style(stroke(Paint::Frame, PIXELS))
                .bold_line_style(stroke(Paint::Grid, PIXELS))
                .light_line_style(stroke(Paint::FineGrid, PIXELS))
                .label_style(("sans-serif", TEXT_SIZE).with_color(Paint::Text.token()))
                .x_desc(self.x.name())
                .y_desc(self.y.name())
                .draw()?;
            for (index, runs) in lines.iter().enumerate() {
                let style = stroke(Paint::line(index), 2 * PIXELS);
                let paths = runs.iter().filter(|run| run.len() > 1);
                plot.draw_series(paths.map(|run| PathElement::new(run.clone(), style)))?;
                let dot = |position| Circle::new(position, 3 * PIXELS, style.filled());
                plot.draw_series(dots(runs).into_iter().map(dot))?;
            }
            area.present()?;
        }
        Ok(with_classes(&svg, lines.len()))
    }
}

/// The marks of the drawing are those of the scale.
impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range.clone()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            self.fine.clone()
        } else {
            self.marks.iter().map(|mark| mark.0).collect()
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, position: &f64) -> String {
        self.label(*position)
    }
}

/// The least and the greatest; none of nothing.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (least, greatest) = bounds.unwrap_or((value, value));
        Some((value.min(least), value.max(greatest)))
    })
}

/// Where a dot is drawn: at each point of a line that has few, and at points that stand alone.
fn dots(runs: &Runs) -> Vec<Position> {
    let has_few = runs.iter().map(Vec::len).sum::<usize>() <= DOTTED_POINTS_MAX;
    let dotted = runs.iter().filter(|run| has_few || run.len() == 1);
    dotted.flatten().copied().collect()
}

fn stroke(paint: Paint, width: u32) -> ShapeStyle {
    ShapeStyle::from(paint.token()).stroke_width(width)
}

/// The drawing without its first tag, and with classes in the place of colours.
fn with_classes(svg: &str, lines: usize) -> String {
    let content = svg.split_once('>').map_or("", |(_, content)| content);
    let parts = [Paint::Text, Paint::Frame, Paint::Grid, Paint::FineGrid];
    let all = parts.into_iter().chain((0..lines).map(Paint::line));
    all.fold(content.trim_start().to_owned(), |svg, paint| {
        paint.replace_token(&svg)
    })
}
