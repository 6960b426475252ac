//! The range of an axis and what is written along it. Pure.
//!
//! Positions are those that `runs` gives out: powers of ten on the logarithmic axes.

use std::ops::Range;

use super::Axis;

/// Lets a mark count as inside a range whose end it is, in spite of rounding.
const NEAR: f64 = 1e-9;

/// Powers of ten that can be told apart on an axis, for all figures that are drawn.
const DECADES: Range<i32> = -3..16;

/// Marks on an axis with even steps; there is more room along the bottom than up the side.
const TIME_MARKS_MAX: f64 = 12.0;
const RATE_MARKS_MAX: f64 = 8.0;

/// Rates below are drawn as the nothing that they are.
const RATE_SPAN_MIN: f64 = 1e-3;

/// An axis made to fit what is drawn over it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    /// Never empty.
    pub(super) range: Range<f64>,
    /// Positions with a line across the chart and a text.
    pub(super) marks: Vec<(f64, String)>,
    /// Positions with a faint line and no text.
    pub(super) fine: Vec<f64>,
}

impl Axis {
    /// The unit, or what the marks are.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Percentile => "percentile",
            Self::Latency => "latency",
            Self::RecordsPerSecond => "records/s",
            Self::MbPerSecond => "MB/s",
        }
    }

    /// The scale for positions between `first` and `last`, both included.
    pub(super) fn scale(self, first: f64, last: f64) -> Scale {
        match self {
            Self::Percentile => percentiles(last),
            Self::Latency => latencies(first, last),
            Self::Seconds => times(first, last),
            Self::RecordsPerSecond | Self::MbPerSecond => rates(self, first, last),
        }
    }
}

impl Scale {
    /// What is written at `position`.
    pub(super) fn label(&self, position: f64) -> String {
        let found = self.marks.iter().find(|mark| is_near(mark.0, position));
        found.map(|mark| mark.1.clone()).unwrap_or_default()
    }
}

fn is_near(left: f64, right: f64) -> bool {
    (left - right).abs() <= NEAR * left.abs().max(1.0)
}

/// From 0 % on and to 90 % at least, with a mark for each further nine.
fn percentiles(last: f64) -> Scale {
    let end = last.max(1.0);
    // With more nines than these, the texts would touch each other.
    let step = if end > 9.0 { 2 } else { 1 };
    let nines = (1..DECADES.end)
        .step_by(step)
        .map(|nines| (f64::from(nines), percentile_label(nines)));
    let marks = [(0.0, "0 %".to_owned()), (2_f64.log10(), "50 %".to_owned())];
    Scale {
        range: 0.0..end,
        marks: marks
            .into_iter()
            .chain(nines)
            .filter(|mark| mark.0 <= end + NEAR)
            .collect(),
        fine: Vec::new(),
    }
}

fn percentile_label(nines: i32) -> String {
    let digits = usize::try_from(nines - 2).unwrap_or_default();
    let quantile = 1.0 - 10_f64.powi(-nines);
    format!("{:.digits$} %", quantile * 100.0)
}

/// Between round figures, with texts at as many as there is room for.
fn latencies(first: f64, last: f64) -> Scale {
    let span = last - first;
    let has_text = |digit: i32| {
        if span <= 0.7 {
            true
        } else if span <= 4.0 {
            [1, 2, 5].contains(&digit)
        } else {
            digit == 1
        }
    };
    let grid = DECADES.flat_map(|decade| (1..10).map(move |digit| (decade, digit)));
    let (texts, others): (Vec<_>, Vec<_>) = grid.partition(|place| has_text(place.1));
    let position = |(decade, digit): (i32, i32)| f64::from(decade) + f64::from(digit).log10();
    let mut marks: Vec<(f64, String)> = texts
        .into_iter()
        .map(|place| (position(place), latency_label(place)))
        .collect();

    let before = |mark: &(f64, String)| mark.0 <= first + NEAR;
    let mut start = marks.iter().rposition(before).unwrap_or_default();
    let after = |mark: &(f64, String)| mark.0 >= last - NEAR;
    let mut end = marks.iter().position(after).unwrap_or(marks.len() - 1);
    if start == end {
        // A single latency, on a round figure: it goes into the middle.
        start = start.saturating_sub(1);
        end = (end + 1).min(marks.len() - 1);
    }
    marks.truncate(end + 1);
    marks.drain(..start);
    let range = marks[0].0..marks[marks.len() - 1].0;
    let is_inside = |fine: &f64| span <= 6.0 && range.contains(fine);
    let fine = others.into_iter().map(position).filter(is_inside).collect();
    Scale { range, marks, fine }
}

/// `digit` times ten to the `decade` microseconds, in the unit that reads best.
fn latency_label((decade, digit): (i32, i32)) -> String {
    let (unit, decades) = match decade {
        ..0 => ("ns", decade + 3),
        0..3 => ("us", decade),
        3..6 => ("ms", decade - 3),
        6.. => ("s", decade - 6),
    };
    format!("{:.0} {unit}", f64::from(digit) * 10_f64.powi(decades))
}

/// From zero on unless all is far from it; ends with the last point.
fn times(first: f64, last: f64) -> Scale {
    let last = if last > first { last } else { first + 1.0 };
    let start = if first >= 0.0 && first <= last / 2.0 {
        0.0
    } else {
        first
    };
    let step = Step::of(last - start, TIME_MARKS_MAX);
    let range = step.before(start)..last;
    let marks = step.marks(&range, |second| step.number(second));
    Scale {
        range,
        marks,
        fine: Vec::new(),
    }
}

/// Zero is part of it, or else a small change would look like a big one; ends with a mark.
fn rates(axis: Axis, first: f64, last: f64) -> Scale {
    let (start, last) = (first.min(0.0), last.max(0.0));
    let is_nothing = last - start < RATE_SPAN_MIN;
    let last = if is_nothing { 1.0 } else { last };
    let step = Step::of(last - start, RATE_MARKS_MAX);
    let range = step.before(start)..step.after(last);
    let thousands = if axis == Axis::MbPerSecond {
        Thousands::NONE
    } else {
        Thousands::of(last)
    };
    let marks = step.marks(&range, |rate| step.number_in(rate, thousands));
    Scale {
        range,
        marks,
        fine: Vec::new(),
    }
}

/// The distance between two marks: 1, 2 or 5 times a power of ten.
#[derive(Clone, Copy)]
struct Step {
    size: f64,
    decade: i32,
}

impl Step {
    /// The shortest that cuts `span` into no more than `parts_max`.
    fn of(span: f64, parts_max: f64) -> Self {
        let mut steps = DECADES.flat_map(|decade| {
            [1.0, 2.0, 5.0].map(|digit| Self {
                size: digit * 10_f64.powi(decade),
                decade,
            })
        });
        let longest = Self {
            size: 10_f64.powi(DECADES.end),
            decade: DECADES.end,
        };
        steps
            .find(|step| span / step.size <= parts_max)
            .unwrap_or(longest)
    }

    /// The last multiple at or before `value`.
    fn before(self, value: f64) -> f64 {
        (value / self.size + NEAR).floor() * self.size
    }

    /// The first multiple at or after `value`.
    fn after(self, value: f64) -> f64 {
        (value / self.size - NEAR).ceil() * self.size
    }

    /// The multiples within `range`, which starts with one.
    fn marks(self, range: &Range<f64>, text: impl Fn(f64) -> String) -> Vec<(f64, String)> {
        let end = range.end + self.size * NEAR;
        (0..100_u32)
            .map(|index| range.start + f64::from(index) * self.size)
            .take_while(|value| *value <= end)
            .map(|value| (value, text(value)))
            .collect()
    }

    fn number(self, value: f64) -> String {
        self.number_in(value, Thousands::NONE)
    }

    /// `value` with the decimals that tell it from the marks beside it.
    fn number_in(self, value: f64, thousands: Thousands) -> String {
        if value.abs() < self.size / 2.0 {
            return "0".to_owned();
        }
        let decimals = usize::try_from(thousands.decades - self.decade).unwrap_or_default();
        let number = value / 10_f64.powi(thousands.decades);
        format!("{number:.decimals$}{}", thousands.sign)
    }
}

/// What the figures of one axis are given in.
#[derive(Clone, Copy)]
struct Thousands {
    decades: i32,
    sign: &'static str,
}

impl Thousands {
    const NONE: Self = Self {
        decades: 0,
        sign: "",
    };

    /// What suits an axis that goes up to `last`.
    fn of(last: f64) -> Self {
        let (decades, sign) = match last {
            1e9.. => (9, " G"),
            1e6.. => (6, " M"),
            1e4.. => (3, " k"),
            _ => return Self::NONE,
        };
        Self { decades, sign }
    }
}

#[cfg(test)]
mod tests;
