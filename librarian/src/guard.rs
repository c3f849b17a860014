//! The guards of the registry (DESIGN.md section 15), so that a test can take one away; see `agent::migration::guard`.
//!
//! In a running librarian every guard stands: without the feature `mutations` the question is a constant.
//!
//! | section 15 | here |
//! | --- | --- |
//! | fresh tx after reconcile | `FreshTxOnOpening` |
//! | one process answers agents | `OneProcess` |

/// A rule that carries correctness.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Guard {
    /// Before a registry that was reconciled opens, every register gets a fresh tx.
    FreshTxOnOpening,
    /// Only the process that holds the registry's file answers agents.
    ///
    /// A librarian stops all that answers before it lets go of the file, so there is no place in it where this could be taken
    /// away: the simulator lets the old process go on.
    OneProcess,
}

/// All of them.
pub const GUARDS: [Guard; 2] = [Guard::FreshTxOnOpening, Guard::OneProcess];

#[cfg(feature = "mutations")]
thread_local! {
    static REMOVED: std::cell::Cell<Option<Guard>> = const { std::cell::Cell::new(None) };
}

/// Takes one guard away on this thread, or gives it back.
#[cfg(feature = "mutations")]
pub fn remove(guard: Option<Guard>) {
    REMOVED.set(guard);
}

/// Whether a guard stands.
#[cfg(feature = "mutations")]
#[must_use]
pub fn stands(guard: Guard) -> bool {
    REMOVED.get() != Some(guard)
}

/// Whether a guard stands: always.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn stands(_guard: Guard) -> bool {
    true
}
