//! Panics of a simulation are results, not messages: the run that they end reports them.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

thread_local! {
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a simulation whose panics are not printed. Gives its result, and where it panicked first.
pub(crate) fn quietly<T>(run: impl FnOnce() -> T) -> (T, String) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if IS_RUNNING.get() {
                note(panic.location().map(ToString::to_string));
            } else {
                before(panic);
            }
        }));
    });
    IS_RUNNING.set(true);
    let result = run();
    IS_RUNNING.set(false);
    (result, PLACE.with_borrow_mut(std::mem::take))
}

/// The second of two panics in a row is the consequence of the first.
fn note(place: Option<String>) {
    PLACE.with_borrow_mut(|first| {
        if first.is_empty() {
            *first = place.unwrap_or_default();
        }
    });
}
