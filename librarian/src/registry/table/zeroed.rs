//! Arrays that take memory only where something was written.

use std::sync::Arc;

/// An array of zeros.
///
/// # Safety
///
/// Octets that are zero must be a value of `T`.
pub(super) unsafe fn zeroed<T>(len: usize) -> Arc<[T]> {
    // SAFETY: as the caller promises.
    unsafe { Arc::new_zeroed_slice(len).assume_init() }
}
