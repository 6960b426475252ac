//! Tests of whole pages: what is in them, and that nothing gets out of them.

use super::*;

fn line(name: &str, points: &[(f64, f64)]) -> Line {
    Line {
        name: name.to_owned(),
        points: points.to_vec(),
    }
}

fn chart(lines: Vec<Line>) -> Chart {
    Chart {
        title: "latency".to_owned(),
        x: Axis::Percentile,
        y: Axis::Latency,
        lines,
    }
}

fn page(charts: Vec<Chart>) -> Page {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Page {
        title: "a report".to_owned(),
        facts: vec![("command".to_owned(), "produce --max".to_owned())],
        sections: vec![Section {
            title: "all phases".to_owned(),
            text: texts(&["One phase."]),
            tables: vec![Table {
                head: texts(&["phase", "MB/s"]),
                rows: vec![texts(&["first", "5.1"]), texts(&["short"]), Vec::new()],
            }],
            charts,
        }],
        data: r#"{"format":1}"#.to_owned(),
    }
}

fn render(page: &Page) -> String {
    page.render().expect("it can be drawn")
}

#[test]
fn everything_given_is_on_the_page() {
    let html = render(&page(vec![chart(vec![line("A", &[(0.5, 100.0)])])]));
    for part in [
        "<title>a report</title>",
        "<dt>command</dt><dd>produce --max</dd>",
        "<h2>all phases</h2>",
        "<p>One phase.</p>",
        "<tr><th scope=\"col\">phase</th><th scope=\"col\">MB/s</th></tr>",
        "<tr><th scope=\"row\">first</th><td>5.1</td></tr>",
        "<figcaption>latency</figcaption>",
        "<script type=\"application/json\" id=\"data\">{\"format\":1}</script>",
    ] {
        assert!(html.contains(part), "{part:?} is missing in\n{html}");
    }
}

#[test]
fn texts_from_outside_are_never_read_as_html() {
    let evil = "</script><b onclick=\"x\">&'";
    let mut page = page(vec![chart(vec![line(evil, &[(0.5, 100.0), (0.9, 200.0)])])]);
    let own = || evil.to_owned();
    page.title = own();
    page.facts.push((own(), own()));
    page.data = format!("[{evil:?}]");
    let section = &mut page.sections[0];
    section.title = own();
    section.text.push(own());
    section.tables[0].head.push(own());
    section.tables[0].rows.push(vec![own(), own()]);
    section.charts[0].title = own();
    let html = render(&page);
    assert!(!html.contains("<b "), "{html}");
    assert!(!html.contains("onclick=\"x"), "{html}");
    assert_eq!(html.matches("</script").count(), 1);
}

#[test]
fn every_line_is_named_and_drawn_in_a_way_of_its_own() {
    let name = |index: usize| format!("system {index} & its phase");
    let lines = (0..12).map(|index| line(&name(index), &[(0.0, 100.0), (0.5, 200.0)]));
    let html = render(&page(vec![chart(lines.collect())]));
    for index in 0..12 {
        let named = format!("<span>{}</span>", escape(&name(index)));
        assert_eq!(html.matches(&named).count(), 1);
        let class = paint::Paint::line(index);
        let drawn = format!("<polyline fill=\"none\" opacity=\"1\" class=\"{class}\"");
        assert_eq!(html.matches(&drawn).count(), 1, "{html}");
    }
    assert_eq!(html.matches("<svg role=\"img\" aria-label=").count(), 1);
}

#[test]
fn a_chart_without_points_is_a_note() {
    let odd = [(f64::NAN, 1.0), (0.5, 0.0), (0.5, f64::INFINITY)];
    for lines in [vec![], vec![line("A", &[])], vec![line("A", &odd)]] {
        let html = render(&page(vec![chart(lines)]));
        assert!(html.contains("There is nothing to draw."));
        assert!(!html.contains("<svg"));
    }
    let html = render(&page(vec![chart(vec![
        line("A", &[(0.5, 1.0)]),
        line("B", &odd),
    ])]));
    assert!(html.contains("<span>B (no points)</span>"));
}

#[test]
fn a_percentile_stands_where_its_mark_stands() {
    let points = [(0.0, 100.0), (0.9, 200.0), (0.99, 300.0), (1.0, 900.0)];
    let html = render(&page(vec![chart(vec![line("A", &points)])]));
    let path = html
        .split("<polyline")
        .skip(1)
        .find(|tag| tag.contains("class=\"line"));
    let points = path.and_then(|tag| tag.split("points=\"").nth(1));
    let points = points.and_then(|rest| rest.split('"').next());
    let xs: Vec<f64> = points
        .expect("the line was drawn")
        .split_whitespace()
        .filter_map(|point| point.split(',').next()?.parse().ok())
        .collect();
    let [zero, one_nine, two_nines, last] = xs[..] else {
        panic!("{xs:?}");
    };
    assert!((two_nines - one_nine - (one_nine - zero)).abs() <= 2.0);
    assert!((last - two_nines).abs() < 0.5);
    let mark = html
        .split("<text x=\"")
        .find(|tag| tag.contains(">\n99 %\n"));
    let mark = mark.and_then(|tag| tag.split('"').next()?.parse::<f64>().ok());
    assert!((mark.expect("99 % is marked") - two_nines).abs() <= 1.0);
}

#[test]
fn every_kind_of_axis_can_stand_on_either_side() {
    let axes = [
        Axis::Seconds,
        Axis::Percentile,
        Axis::Latency,
        Axis::RecordsPerSecond,
        Axis::MbPerSecond,
    ];
    let values = [0.0, 0.5, 1.0, -2.0, 1e-300, 1e300, 1e15, f64::NAN];
    for x in axes {
        for y in axes {
            let points: Vec<(f64, f64)> = values
                .iter()
                .flat_map(|x| values.iter().map(|y| (*x, *y)))
                .collect();
            let mut chart = chart(vec![line("A", &points)]);
            (chart.x, chart.y) = (x, y);
            let html = render(&page(vec![chart]));
            assert!(html.contains("<svg"), "{x:?}, {y:?}");
            assert!(!html.contains("NaN"), "{x:?}, {y:?}");
        }
    }
}

#[test]
fn the_page_refers_to_nothing_outside() {
    let html = render(&page(vec![chart(vec![line("A", &[(0.5, 1.0)])])]));
    for reference in ["://", "src=", "href=", "url(", "@import"] {
        assert!(!html.contains(reference), "{reference} in\n{html}");
    }
}
