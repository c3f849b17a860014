//! The guards of moves, creations and deletions (DESIGN.md section 15), so that a test can take one away.
//!
//! A simulator that finds nothing proves something only if it finds what happens without each of them. In a running agent
//! every guard stands: without the feature `mutations` the question is a constant.

/// A rule that carries correctness.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Guard {
    /// A sealed source answers reads only for 2 s after a question that was answered "not committed".
    ReadRule,
    /// These 2 s are counted from the sending of the question.
    CountedFromQuestion,
    /// A sealed source opens its gate only when the register shows that the object is its own.
    UnsealWhenShown,
    /// A refusal of an opening settles nothing.
    RefusedOpening,
    /// A refusal of a commit settles nothing.
    RefusedCommit,
    /// An answer to a question that was asked before the last durable step or update counts for nothing.
    OldAnswers,
    /// Only the answer to the fence of this very epoch opens writes.
    FenceEpoch,
    /// Only a source that is sealed for that very peer and epoch believes a fence.
    FenceOfSealed,
    /// Whoever takes a move back gives the register a fresh tx.
    FreshTxOnAbort,
    /// The seal is durable before its message leaves.
    SealDurable,
    /// From commit-sent on a destination keeps its copy until the register settles it.
    CommitSentKept,
    /// A new owner holds writes until the fence was answered, or 2.2 s.
    WaitForFence,
    /// After a restart these are counted anew.
    NewWaitAfterRestart,
    /// What is prepared is what the source has sealed.
    SealedRevision,
    /// A creation is journaled as sent before it is sent.
    CreateSent,
    /// A deletion is journaled as sent before it is sent.
    DeleteSent,
    /// Write ids move with the object.
    WriteIds,
    /// No onward move begins within the wait.
    OnwardMove,
}

/// All of them.
pub const GUARDS: [Guard; 18] = [
    Guard::ReadRule,
    Guard::CountedFromQuestion,
    Guard::UnsealWhenShown,
    Guard::RefusedOpening,
    Guard::RefusedCommit,
    Guard::OldAnswers,
    Guard::FenceEpoch,
    Guard::FenceOfSealed,
    Guard::FreshTxOnAbort,
    Guard::SealDurable,
    Guard::CommitSentKept,
    Guard::WaitForFence,
    Guard::NewWaitAfterRestart,
    Guard::SealedRevision,
    Guard::CreateSent,
    Guard::DeleteSent,
    Guard::WriteIds,
    Guard::OnwardMove,
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
pub(crate) fn stands(guard: Guard) -> bool {
    REMOVED.get() != Some(guard)
}

/// Whether a guard stands: always.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub(crate) const fn stands(_guard: Guard) -> bool {
    true
}
