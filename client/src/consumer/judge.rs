//! Whether a piece of a fetch answer continues what was read before.
//!
//! A change of position overtakes answers that are under way, and a broker may apply it to
//! requests that wait already or only to those after it. So it is offsets that decide, not the
//! order of requests alone. Invariant: what is taken covers the position, so records are neither
//! repeated (the consumer skips those below its position) nor left out. Plain values.

/// What to do with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Take,
    /// It is from before a change of position.
    Ignore,
    /// The broker reads somewhere else than it was told: tell it again.
    Restart,
}

/// Judges batches that reach from `fetch_offset` (or below) to `next_offset`; `is_current` if the
/// answered request was sent with or after the last change of position.
pub(crate) fn batches(
    position: u64,
    is_current: bool,
    fetch_offset: u64,
    next_offset: Option<u64>,
) -> Verdict {
    match next_offset {
        None => Verdict::Restart,
        Some(next) if next <= position => Verdict::Ignore,
        Some(_) if fetch_offset <= position => Verdict::Take,
        Some(_) if is_current => Verdict::Restart,
        Some(_) => Verdict::Ignore,
    }
}

/// Judges an error; it is taken if it is about the position.
pub(crate) fn error(position: u64, is_current: bool, fetch_offset: u64) -> Verdict {
    if is_current || fetch_offset == position {
        Verdict::Take
    } else {
        Verdict::Ignore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_covers_the_position_is_taken() {
        // Position, current, fetch offset, next offset.
        let cases = [
            ("continues", (10, true, 10, Some(20)), Verdict::Take),
            (
                "applied to a request that waited",
                (10, false, 10, Some(20)),
                Verdict::Take,
            ),
            (
                "overlaps what was taken early",
                (15, true, 10, Some(20)),
                Verdict::Take,
            ),
            (
                "repeats what was taken early",
                (20, true, 10, Some(20)),
                Verdict::Ignore,
            ),
            (
                "from before a seek back",
                (10, false, 50, Some(60)),
                Verdict::Ignore,
            ),
            (
                "from before a seek ahead",
                (50, false, 10, Some(20)),
                Verdict::Ignore,
            ),
            (
                "leaves something out",
                (10, true, 50, Some(60)),
                Verdict::Restart,
            ),
            ("no whole batches", (10, true, 10, None), Verdict::Restart),
        ];
        for (name, (position, is_current, fetch_offset, next), expected) in cases {
            assert_eq!(
                batches(position, is_current, fetch_offset, next),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn an_error_about_another_position_is_from_before_a_seek() {
        assert_eq!(error(10, true, 10), Verdict::Take);
        assert_eq!(error(10, false, 10), Verdict::Take);
        assert_eq!(error(10, false, 50), Verdict::Ignore);
    }
}
