//! How the client takes a mutex.
//!
//! Invariant: no lock of this crate is held across an await or a call to foreign code, and every
//! critical section leaves its state whole at each point where it could panic; a poisoned lock is
//! therefore used on.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
