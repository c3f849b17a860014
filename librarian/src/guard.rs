//! The guards of the pool (DESIGN.md section 15), so that a test can take one away.
//!
//! A simulator that finds nothing proves something only if it finds what happens without each of them. In a running
//! librarian every guard stands: without the feature `mutations` the question is a constant.
//!
//! | section 15 | here |
//! | --- | --- |
//! | fresh tx after reconcile | `FreshTxOnOpening` |
//! | one process answers agents | `OneProcess` |
//! | cordon refusal | `CordonRefusal` |
//! | creation refused on servers not serving | `CreationServing` |
//! | plan parent | `PlanParent` |
//! | wants compared | `WantsCompared` |
//! | plan seen | `PlanSeen`; and the agent's `LowerPlan` |
//! | order in empty with the agent's own check | `EmptyOrder`; and the agent's `ClearAtStop` |
//! | secondary in the stop rule | part of `StopRule`; the simulator has no secondaries, so its part is shown by `pool::upgrade_tests::secondaries` |
//!
//! The agents' guards are in `agent::migration::guard`. The others of section 15 are not built.

/// A rule that carries correctness.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Guard {
    /// Before a registry that was reconciled opens, every register gets a fresh tx.
    FreshTxOnOpening,
    /// Only the process that holds the registry's file answers agents.
    ///
    /// A librarian that hands over gives agents and updates no answer any more before it lets go of the file. The simulator has
    /// no such moment in it: there the old process goes on as a whole.
    OneProcess,
    /// From `cordoned` on nothing may newly name a server.
    ///
    /// Without it such a server is judged as a free one: a move may name it, a creation there is still refused.
    CordonRefusal,
    /// A creation is refused on a server that is free or a reserve.
    ///
    /// A creation on a server from `cordoned` on names it newly, so that [`Guard::CordonRefusal`] refuses it as well.
    CreationServing,
    /// A plan becomes current only as the child of the current one.
    ///
    /// A plan's number is one above its parent's, so the rule that numbers rise refuses the same plans. Only with both away
    /// does a plan that was made from an old sight take the current one's place.
    PlanParent,
    /// Wants are written only if those that they were decided from are unchanged.
    ///
    /// Under one plan an old decision is of a lower step for a server that it speaks of, or says what is so already, and the
    /// rule that steps rise refuses it, too. Only with both away is a decision written that was made from old wants.
    WantsCompared,
    /// A plan relies on a server only after that server has said that it knows the plan.
    PlanSeen,
    /// A server is empty only when no register names it in any field and its journal has no open row.
    ///
    /// Without it the count of objects that the server tells is believed alone.
    EmptyOrder,
    /// A server is stopped only when no answer that names it may still be cached.
    StopRule,
}

/// All of them.
pub const GUARDS: [Guard; 9] = [
    Guard::FreshTxOnOpening,
    Guard::OneProcess,
    Guard::CordonRefusal,
    Guard::CreationServing,
    Guard::PlanParent,
    Guard::WantsCompared,
    Guard::PlanSeen,
    Guard::EmptyOrder,
    Guard::StopRule,
];

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
