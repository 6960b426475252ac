//! Panics of a simulation are results, not messages: the run that they end reports them.

use std::cell::RefCell;

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics from being printed, and remembers where the last one of each thread was.
pub(crate) fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        // The second of two panics in a row is the consequence of the first.
        PLACE.with_borrow_mut(|last| {
            if last.is_empty() {
                *last = place.unwrap_or_default();
            }
        });
    }));
}

/// Where this thread panicked first since this was last asked.
pub(crate) fn place() -> String {
    PLACE.with_borrow_mut(std::mem::take)
}
