//! Tests of the scales: what is written where, and that no figure is too odd for it.

use super::*;

fn labels(scale: &Scale) -> Vec<&str> {
    scale.marks.iter().map(|mark| mark.1.as_str()).collect()
}

#[test]
fn percentiles_have_a_mark_per_nine() {
    let scale = Axis::Percentile.scale(0.0, 5.2);
    let expected = [
        "0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %",
    ];
    assert_eq!(labels(&scale), expected);
    assert_eq!(scale.label(3.0), "99.9 %");
    assert_eq!(
        labels(&Axis::Percentile.scale(0.0, 0.0)),
        ["0 %", "50 %", "90 %"]
    );
}

#[test]
fn latencies_lie_between_round_figures() {
    // From 130 us to 42 ms.
    let scale = Axis::Latency.scale(130_f64.log10(), 42e3_f64.log10());
    let expected = [
        "100 us", "200 us", "500 us", "1 ms", "2 ms", "5 ms", "10 ms", "20 ms", "50 ms",
    ];
    assert_eq!(labels(&scale), expected);
    let narrow = Axis::Latency.scale(230_f64.log10(), 260_f64.log10());
    assert_eq!(labels(&narrow), ["200 us", "300 us"]);
    let single = Axis::Latency.scale(3.0, 3.0);
    assert_eq!(labels(&single), ["900 us", "1 ms", "2 ms"]);
    let wide = Axis::Latency.scale(-2.0, 7.0);
    assert_eq!(labels(&wide)[..3], ["10 ns", "100 ns", "1 us"]);
    assert_eq!(labels(&wide)[8..], ["1 s", "10 s"]);
}

#[test]
fn rates_start_at_zero_and_end_with_a_mark() {
    let scale = Axis::RecordsPerSecond.scale(900_000.0, 1_130_000.0);
    let expected = ["0", "0.2 M", "0.4 M", "0.6 M", "0.8 M", "1.0 M", "1.2 M"];
    assert_eq!(labels(&scale), expected);
    let small = Axis::MbPerSecond.scale(0.0, 0.034);
    assert_eq!(labels(&small)[..3], ["0", "0.005", "0.010"]);
    let large = Axis::MbPerSecond.scale(0.0, 12_000.0);
    assert_eq!(labels(&large).last(), Some(&"12000"));
}

#[test]
fn times_start_at_zero_unless_all_of_them_are_late() {
    let early = Axis::Seconds.scale(0.25, 60.0);
    assert_eq!(labels(&early)[..2], ["0", "5"]);
    assert!((early.range.end - 60.0).abs() < 1e-9);
    let late = Axis::Seconds.scale(3_612.0, 3_640.0);
    assert_eq!(labels(&late)[0], "3610");
}

#[test]
fn no_figure_that_is_drawn_gives_an_empty_or_crowded_scale() {
    let linear = [-1e15, -3.0, 0.0, 1e-15, 1e-3, 7.0, 1e5 / 3.0, 1e15];
    let logarithmic = [-3.0, -0.1, 0.0, 1.0, 2.0 / 3.0, 6.0, 15.0];
    let cases = [
        (Axis::Seconds, &linear[..]),
        (Axis::RecordsPerSecond, &linear[..]),
        (Axis::MbPerSecond, &linear[..]),
        (Axis::Latency, &logarithmic[..]),
        (Axis::Percentile, &logarithmic[2..]),
    ];
    for (axis, values) in cases {
        for (index, first) in values.iter().enumerate() {
            for last in values[index..].iter().filter(|last| *last >= first) {
                let scale = axis.scale(*first, *last);
                let context = format!("{axis:?} {first} to {last}: {scale:?}");
                let range = &scale.range;
                let within = NEAR * (range.end - range.start).max(1.0);
                assert!(range.start < range.end, "{context}");
                let reaches = range.end >= *last - within;
                let starts = axis == Axis::Percentile || range.start <= *first + within;
                assert!(reaches && starts, "{context}");
                assert!((1..=20).contains(&scale.marks.len()), "{context}");
            }
        }
    }
}
