//! The arithmetic of reports: rates, shares, medians. Pure.
//!
//! MB is 10^6 bytes and GB is 10^9 bytes everywhere.

/// A count as a floating point number; exact up to 2^53, far beyond any count of a run.
#[allow(
    clippy::cast_precision_loss,
    reason = "reports show at most six digits"
)]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(ns: u64) -> f64 {
    number(ns) / 1e9
}

/// Nanoseconds as microseconds.
pub(crate) fn micros(ns: u64) -> f64 {
    number(ns) / 1e3
}

/// `count` per second over `elapsed_ns`; zero when no time has passed.
pub(crate) fn per_second(count: u64, elapsed_ns: u64) -> f64 {
    if elapsed_ns == 0 {
        0.0
    } else {
        number(count) / seconds(elapsed_ns)
    }
}

/// 10^6 bytes per second; zero when no time has passed.
pub(crate) fn mb_per_second(bytes: u64, elapsed_ns: u64) -> f64 {
    per_second(bytes, elapsed_ns) / 1e6
}

/// Seconds of `spent` per 10^9 bytes moved; `None` when nothing moved.
pub(crate) fn seconds_per_gb(spent_seconds: f64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| spent_seconds / (number(bytes) / 1e9))
}

/// `part` as a share of `whole`; `None` unless the whole is positive.
pub(crate) fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// The median; the mean of the middle two for an even count, zero for none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn rates_are_per_elapsed_time_in_decimal_megabytes() {
        assert!(close(mb_per_second(3_000_000, 1_500_000_000), 2.0));
        assert!(close(per_second(10, 500_000_000), 20.0));
        assert!(close(per_second(10, 0), 0.0));
    }

    #[test]
    fn cost_per_gb_has_no_value_without_bytes() {
        assert_eq!(seconds_per_gb(1.0, 0), None);
        assert!(close(
            seconds_per_gb(1.0, 2_000_000_000).expect("bytes moved"),
            0.5
        ));
    }

    #[test]
    fn a_share_of_nothing_has_no_value() {
        assert_eq!(share(1.0, 0.0), None);
        assert!(close(share(600.0, 1000.0).expect("positive"), 0.6));
    }

    #[test]
    fn the_median_does_not_depend_on_order() {
        assert!(close(median([3.0, 1.0, 2.0]), 2.0));
        assert!(close(median([4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(close(median([]), 0.0));
    }
}
