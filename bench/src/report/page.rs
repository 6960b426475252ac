//! A report as one page of HTML, which needs neither the network nor any other file.
//!
//! The page is complete as it is: charts are drawn here and lie in it as SVG, nothing in it is
//! executed. Every text that comes from outside is escaped. Pure.

mod chart;
mod markup;
mod paint;
mod runs;
mod scale;

use std::fmt::Write as _;

use anyhow::Result;

use markup::{element, escape, inert_json};

/// A report ready to be drawn.
pub(crate) struct Page {
    pub(crate) title: String,
    /// What was run, on what: names and values.
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) sections: Vec<Section>,
    /// The report as JSON, which the page carries for programs to read.
    pub(crate) data: String,
}

/// A part of a page: its text comes first, then its tables, then its charts.
pub(crate) struct Section {
    pub(crate) title: String,
    /// Paragraphs.
    pub(crate) text: Vec<String>,
    pub(crate) tables: Vec<Table>,
    pub(crate) charts: Vec<Chart>,
}

/// Figures in rows; the first column holds labels.
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// Lines over common axes.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// Points in the order in which they are joined; one that has no place on an axis leaves a gap.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What is measured along a side of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Seconds,
    /// Quantiles from 0 to 1, spread out towards 1.
    Percentile,
    /// Microseconds, on a logarithmic scale.
    Latency,
    RecordsPerSecond,
    MbPerSecond,
}

const STYLE: &str = include_str!("page/style.css");

/// Forbids the page to load or to run anything, whatever should get into it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

impl Page {
    /// The whole page. Fails only if a chart cannot be drawn.
    pub(crate) fn render(&self) -> Result<String> {
        let title = escape(&self.title);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <header>\n<h1>{title}</h1>\n"
        );
        self.facts(&mut html);
        html.push_str("</header>\n<main>\n");
        for section in &self.sections {
            section.render(&mut html)?;
        }
        html.push_str("</main>\n");
        self.data(&mut html);
        html.push_str("</body>\n</html>\n");
        Ok(html)
    }

    fn facts(&self, html: &mut String) {
        if self.facts.is_empty() {
            return;
        }
        html.push_str("<dl>\n");
        for (name, value) in &self.facts {
            let (name, value) = (element("dt", name), element("dd", value));
            let _ = writeln!(html, "{name}{value}");
        }
        html.push_str("</dl>\n");
    }

    fn data(&self, html: &mut String) {
        let data = inert_json(&self.data);
        let _ = writeln!(
            html,
            "<footer>All figures are in the source of this page, as JSON: element \
             <code>data</code>.</footer>\n\
             <script type=\"application/json\" id=\"data\">{data}</script>"
        );
    }
}

impl Section {
    fn render(&self, html: &mut String) -> Result<()> {
        let _ = writeln!(html, "<section>\n{}", element("h2", &self.title));
        for paragraph in &self.text {
            let _ = writeln!(html, "{}", element("p", paragraph));
        }
        for table in &self.tables {
            table.render(html);
        }
        for chart in &self.charts {
            chart.render(html)?;
        }
        html.push_str("</section>\n");
        Ok(())
    }
}

impl Table {
    /// A row may be shorter or longer than the head.
    fn render(&self, html: &mut String) {
        html.push_str("<div class=\"wide\">\n<table>\n<thead><tr>");
        for name in &self.head {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(name));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            html.push_str("<tr>");
            if let Some((label, figures)) = row.split_first() {
                let _ = write!(html, "<th scope=\"row\">{}</th>", escape(label));
                for figure in figures {
                    html.push_str(&element("td", figure));
                }
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody>\n</table>\n</div>\n");
    }
}

#[cfg(test)]
mod tests;
