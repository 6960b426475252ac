//! Pinning threads to cores.

use anyhow::{Context, Result, ensure};
use core_affinity::CoreId;
use rustix::thread::CpuSet;

/// Keeps the calling thread, and every thread that it starts from now on, to `cores`; to all that
/// are allowed if none is named.
///
/// What samples and reports would otherwise run on the broker's core at times.
pub(crate) fn keep_to(cores: &[usize]) -> Result<()> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let mut set = CpuSet::new();
    for &core in cores {
        check_allowed(core, &allowed)?;
        set.set(core);
    }
    if !cores.is_empty() {
        rustix::thread::sched_setaffinity(None, &set).context("cannot keep to the cores named")?;
    }
    Ok(())
}

/// Pins the calling thread to `core`, or leaves it where it may run when there is none.
///
/// Fails if the process may not run on that core, since a figure from the wrong core would
/// look like any other.
pub(crate) fn pin(core: Option<usize>) -> Result<()> {
    let Some(id) = core else { return Ok(()) };
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    check_allowed(id, &allowed)?;
    ensure!(
        core_affinity::set_for_current(CoreId { id }),
        "cannot pin a thread to core {id}"
    );
    Ok(())
}

fn check_allowed(core: usize, allowed: &[CoreId]) -> Result<()> {
    ensure!(
        allowed.iter().any(|known| known.id == core),
        "this process may not run on core {core}"
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
        assert!(keep_to(&[usize::MAX]).is_err());
        keep_to(&[]).expect("nothing asked, nothing refused");
    }

    #[test]
    fn threads_stay_on_the_cores_of_the_thread_that_starts_them() {
        let (first, _) = first_two();
        let cores = std::thread::spawn(move || {
            keep_to(&[first]).expect("the first allowed core is allowed");
            std::thread::spawn(core_affinity::get_core_ids).join()
        });
        let cores = cores.join().expect("no panic").expect("no panic");
        assert_eq!(cores, Some(vec![CoreId { id: first }]));
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
