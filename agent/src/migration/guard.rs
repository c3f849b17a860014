//! The guards of moves, creations, deletions and plans (DESIGN.md section 15), so that a test can take one away.
//!
//! A simulator that finds nothing proves something only if it finds what happens without each of them. In a running agent
//! every guard stands: without the feature `mutations` the question is a constant.
//!
//! | section 15 | here |
//! | --- | --- |
//! | fence and its epoch | `StopBeforeAnswer`, `FenceOfSealed`, `FenceEpoch` |
//! | fresh tx on abort and on the next move | `FreshTxOnAbort`, `FreshTxOnMove` |
//! | commit-sent kept; delete-sent and create-sent journaled | `CommitSentKept`, `DeleteSent`, `CreateSent` |
//! | a refusal settles nothing | `RefusedOpening`, `RefusedCommit`, `RefusedReturn`, `RefusedCreation` |
//! | old answers never count | `OldAnswers` |
//! | read rule of S, 2 s counted from the question | `ReadRule`, `CountedFromQuestion` |
//! | read rule of D, new wait after a restart | `WaitForFence`, `NewWaitAfterRestart` |
//! | no onward move inside the wait | `OnwardMove` |
//! | unseal only when shown | `UnsealWhenShown` |
//! | read-back, reclaim by sequence number, write ids handed on | `ReadBack`, `ReclaimByNumber`, `WriteIds` |
//! | plan seen | `LowerPlan`; and the librarian's `PlanSeen` |
//! | order in empty with the agent's own check | `ClearAtStop`; and the librarian's `EmptyOrder` |
//!
//! | in-sync rule, holder being added counts | `InSyncRule`, `AddedCounts` |
//! | read grants and their end, permission | `ReadGrants`, `GrantsEnd`, `Permission` |
//! | refusal and wait at promotion | `RefusalAtPromotion`, `WaitAtPromotion` |
//! | after a restart no revision is known as confirmed (section 14) | `UnconfirmedAfterRestart` |
//!
//! `RetiredUntilGate` is of section 13.
//!
//! `SealDurable` and `SealedRevision` are of section 11. The others of section 15 are the librarian's, or not built.

/// A rule that carries correctness.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Guard {
    /// A sealed source answers reads only for 2 s after a question that was answered "not committed".
    ReadRule,
    /// These 2 s are counted from the sending of the question.
    CountedFromQuestion,
    /// A sealed source opens its gate only when the register shows that the object is its own.
    ///
    /// A row that says "sealed" takes no write in any case, so without this guard it is reads that go on too long.
    UnsealWhenShown,
    /// A refusal of an opening settles nothing.
    RefusedOpening,
    /// A refusal of a commit settles nothing.
    RefusedCommit,
    /// A refusal of the change back to stable settles nothing.
    RefusedReturn,
    /// A refusal of a creation settles nothing.
    RefusedCreation,
    /// An answer to a question that was asked before the last durable step or update counts for nothing.
    ///
    /// The line to the librarian does the same: it forgets a question after its patience, so that a machine hears one answer
    /// to each question, and none while it goes on without it. Only with both away can an old answer do harm.
    OldAnswers,
    /// Only the answer to the fence of this very epoch opens writes.
    FenceEpoch,
    /// Only a source that is sealed for that very peer and epoch believes a fence.
    FenceOfSealed,
    /// A fence is answered when the source has stopped, durably.
    StopBeforeAnswer,
    /// Whoever takes a move back gives the register a fresh tx.
    FreshTxOnAbort,
    /// Every move has a fresh tx.
    FreshTxOnMove,
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
    /// A copy is read back from the disk before it is confirmed.
    ReadBack,
    /// A copy that was given away is removed by its number in the index, never by its address.
    ReclaimByNumber,
    /// A creation is journaled as sent before it is sent.
    CreateSent,
    /// A deletion is journaled as sent before it is sent.
    DeleteSent,
    /// Write ids move with the object.
    WriteIds,
    /// No onward move begins within the wait.
    ///
    /// The engine has one machine of an address at a time, so the one that waits keeps the next from beginning, too.
    OnwardMove,
    /// A want of a lower plan or step than one that was obeyed counts for nothing, nor one of a lower plan than was seen.
    ///
    /// The line to the librarian does the same: it asks one question after the other, and forgets one after its patience.
    /// Only with both away can an old want be heard after a newer one.
    LowerPlan,
    /// A server that is to be stopped for another release looks itself, at the moment of the stop, whether its journal is
    /// settled, its disk holds no copy and nothing is its own.
    ClearAtStop,
    /// While a server is being emptied, the copies that it gave away stay until the gate is through.
    RetiredUntilGate,
    /// A revision is shown or acknowledged only when every in-sync holder has it.
    InSyncRule,
    /// A holder that is being added counts from the note on.
    AddedCounts,
    /// A holder serves reads only under a grant of the owner.
    ReadGrants,
    /// An owner goes on without a holder only after its grants to it have ended.
    GrantsEnd,
    /// An owner acts only while its holders permit it.
    Permission,
    /// Who takes over for a lost owner refuses its epoch first, durably.
    RefusalAtPromotion,
    /// Who has refused an epoch waits before it takes over.
    WaitAtPromotion,
    /// After a restart an owner knows no revision as confirmed.
    UnconfirmedAfterRestart,
}

/// All of them: some run of the simulator shows the absence of each.
pub const GUARDS: [Guard; 35] = [
    Guard::ReadRule,
    Guard::CountedFromQuestion,
    Guard::UnsealWhenShown,
    Guard::RefusedOpening,
    Guard::RefusedCommit,
    Guard::RefusedReturn,
    Guard::RefusedCreation,
    Guard::OldAnswers,
    Guard::FenceEpoch,
    Guard::FenceOfSealed,
    Guard::StopBeforeAnswer,
    Guard::FreshTxOnAbort,
    Guard::FreshTxOnMove,
    Guard::SealDurable,
    Guard::CommitSentKept,
    Guard::WaitForFence,
    Guard::NewWaitAfterRestart,
    Guard::SealedRevision,
    Guard::ReadBack,
    Guard::ReclaimByNumber,
    Guard::CreateSent,
    Guard::DeleteSent,
    Guard::WriteIds,
    Guard::OnwardMove,
    Guard::LowerPlan,
    Guard::ClearAtStop,
    Guard::RetiredUntilGate,
    Guard::InSyncRule,
    Guard::ReadGrants,
    Guard::GrantsEnd,
    Guard::AddedCounts,
    Guard::Permission,
    Guard::RefusalAtPromotion,
    Guard::WaitAtPromotion,
    Guard::UnconfirmedAfterRestart,
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
