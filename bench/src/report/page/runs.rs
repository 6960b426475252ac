//! Where the points of a line are drawn, and where the line is broken. Pure.
//!
//! Whatever the figures are, only finite positions of a bounded size leave this file.

use super::{Axis, Line};

/// No time and no rate of a run comes near; larger figures cannot be drawn.
const VALUE_MAX: f64 = 1e15;

/// A nanosecond, the finest that clocks tell. Shorter times have no place on a logarithmic scale.
const LATENCY_US_MIN: f64 = 1e-3;

/// A position on both axes, in their own measure.
pub(super) type Position = (f64, f64);

/// Stretches of positions that are joined to each other.
pub(super) type Runs = Vec<Vec<Position>>;

impl Line {
    /// The positions of the points; a point that has none ends a run.
    pub(super) fn runs(&self, x: Axis, y: Axis) -> Runs {
        let xs = x.positions(self.points.iter().map(|point| point.0));
        let ys = y.positions(self.points.iter().map(|point| point.1));
        let positions: Vec<Option<Position>> = xs.into_iter().zip(ys).map(both).collect();
        positions
            .split(Option::is_none)
            .map(|run| run.iter().copied().flatten().collect())
            .filter(|run: &Vec<Position>| !run.is_empty())
            .collect()
    }
}

fn both((x, y): (Option<f64>, Option<f64>)) -> Option<Position> {
    Some((x?, y?))
}

impl Axis {
    /// The position of each value on this axis; none for a value that cannot be shown.
    fn positions(self, values: impl Iterator<Item = f64>) -> Vec<Option<f64>> {
        match self {
            Self::Percentile => quantile_positions(values),
            Self::Latency => values.map(latency_position).collect(),
            Self::Seconds | Self::RecordsPerSecond | Self::MbPerSecond => {
                values.map(linear_position).collect()
            }
        }
    }
}

fn linear_position(value: f64) -> Option<f64> {
    (value.abs() <= VALUE_MAX).then_some(value)
}

fn latency_position(us: f64) -> Option<f64> {
    (LATENCY_US_MIN..=VALUE_MAX)
        .contains(&us)
        .then(|| us.log10())
}

/// The number of nines, as in the plots of `HdrHistogram`.
///
/// The quantile 1, which would be infinitely far away, gets the line's last position before it:
/// there the longest latency stands above the last one that has a percentile.
fn quantile_positions(quantiles: impl Iterator<Item = f64>) -> Vec<Option<f64>> {
    let mut positions: Vec<Option<f64>> = quantiles
        .map(|quantile| {
            (0.0..=1.0)
                .contains(&quantile)
                .then(|| (1.0 / (1.0 - quantile)).log10())
        })
        .collect();
    let finite = positions.iter().flatten().filter(|nines| nines.is_finite());
    let last = finite.copied().fold(0.0, f64::max);
    for nines in positions.iter_mut().flatten() {
        *nines = nines.min(last);
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: &[f64], right: &[f64]) -> bool {
        let pairs = left.iter().zip(right);
        left.len() == right.len() && pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-9)
    }

    fn positions(axis: Axis, values: &[f64]) -> Vec<Option<f64>> {
        axis.positions(values.iter().copied())
    }

    #[test]
    fn a_percentile_stands_at_its_number_of_nines() {
        let places = positions(Axis::Percentile, &[0.0, 0.5, 0.9, 0.99, 0.9999]);
        let places: Vec<f64> = places.into_iter().flatten().collect();
        assert!(close(&places, &[0.0, 2_f64.log10(), 1.0, 2.0, 4.0]));
    }

    #[test]
    fn the_last_percentile_stands_where_the_one_before_it_stands() {
        let places = positions(Axis::Percentile, &[0.5, 0.999, 1.0, 1.0]);
        let places: Vec<f64> = places.into_iter().flatten().collect();
        assert!(close(&places, &[2_f64.log10(), 3.0, 3.0, 3.0]));
        assert_eq!(positions(Axis::Percentile, &[1.0]), [Some(0.0)]);
    }

    #[test]
    fn what_is_no_number_has_no_place_on_any_axis() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX];
        let axes = [
            Axis::Seconds,
            Axis::Percentile,
            Axis::Latency,
            Axis::RecordsPerSecond,
            Axis::MbPerSecond,
        ];
        for axis in axes {
            assert_eq!(positions(axis, &odd), [None; 4], "{axis:?}");
        }
        assert_eq!(positions(Axis::Percentile, &[-0.1, 1.1]), [None; 2]);
        let tiny = [0.0, -1.0, f64::MIN_POSITIVE];
        assert_eq!(positions(Axis::Latency, &tiny), [None; 3]);
        assert_eq!(positions(Axis::MbPerSecond, &[0.0]), [Some(0.0)]);
    }

    #[test]
    fn a_point_without_a_place_breaks_the_line() {
        let line = Line {
            name: String::new(),
            points: vec![
                (f64::NAN, 1.0),
                (1.0, 1.0),
                (2.0, 2.0),
                (3.0, f64::NAN),
                (4.0, f64::INFINITY),
                (5.0, 5.0),
            ],
        };
        let runs = line.runs(Axis::Seconds, Axis::MbPerSecond);
        assert_eq!(runs, [vec![(1.0, 1.0), (2.0, 2.0)], vec![(5.0, 5.0)]]);
    }
}
