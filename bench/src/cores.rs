//! Pinning threads to cores.

use anyhow::{Result, ensure};
use core_affinity::CoreId;

/// Pins the calling thread to `core`, or leaves it where it may run when there is none.
///
/// Fails if the process may not run on that core, since a figure from the wrong core would
/// look like any other.
pub(crate) fn pin(core: Option<usize>) -> Result<()> {
    let Some(id) = core else { return Ok(()) };
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    ensure!(
        allowed.iter().any(|known| known.id == id),
        "this process may not run on core {id}"
    );
    ensure!(
        core_affinity::set_for_current(CoreId { id }),
        "cannot pin a thread to core {id}"
    );
    Ok(())
}

/// The first two cores this process may use, twice the same if there is only one.
pub(crate) fn first_two() -> (usize, usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let first = cores.first().map_or(0, |core| core.id);
    (first, cores.get(1).map_or(first, |core| core.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        assert!(pin(Some(usize::MAX)).is_err());
        pin(None).expect("nothing asked, nothing refused");
    }

    #[test]
    fn the_first_core_can_be_pinned() {
        let (first, _) = first_two();
        std::thread::spawn(move || pin(Some(first)))
            .join()
            .expect("pinning does not panic")
            .expect("the first allowed core is allowed");
    }
}
