//! Locks a mutex whose data a panic cannot leave half changed.

use std::sync::{Mutex, MutexGuard};

/// Locks `mutex`, even if a thread panicked while it held the lock. For data that is only changed by
/// single assignments.
pub(in crate::secrets) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
