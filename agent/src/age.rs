//! Whether the index is as new as what this server last reported.
//!
//! An older one, such as a disk that was set back, has lost objects and writes that others were told of: such an agent does not
//! serve. Until the librarian has been asked, the agent serves and reports nothing, so that the older count never takes the
//! place of the one to compare with.
//!
//! Specification: DESIGN.md section 9 (Index).

use std::time::Duration;

use crate::register::{Registers, Unreachable};

/// Time between two questions to a librarian that does not answer.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// An index that is older than what this server reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the index of this server has {found} commits, and it reported {reported} before: it is an old copy; restore the newest \
     one, or join anew with an empty directory"
)]
pub struct OldIndex {
    /// Commits of the index.
    pub found: u64,
    /// Commits that were reported.
    pub reported: u64,
}

/// Asks the librarian once, for an index that was opened with so many commits.
///
/// # Errors
///
/// [`Unreachable`] where it does not answer; then nothing is known.
pub async fn ask(registers: &Registers, found: u64) -> Result<Result<(), OldIndex>, Unreachable> {
    let has = registers.has(registers.me()).await?;
    let reported = has.map_or(0, |has| has.commits);
    Ok(match reported > found {
        true => Err(OldIndex { found, reported }),
        false => Ok(()),
    })
}

/// Asks until the librarian answers.
///
/// # Errors
///
/// [`OldIndex`].
pub async fn ask_until_answered(registers: &Registers, found: u64) -> Result<(), OldIndex> {
    loop {
        if let Ok(answer) = ask(registers, found).await {
            return answer;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::stub::Stub;

    /// A librarian to which s1 reported 3 commits.
    async fn stub() -> Stub {
        let stub = Stub::start().await;
        let mut pool = stub.pool.lock();
        pool.peers.insert("s1".parse().unwrap(), 9101);
        pool.commits = 3;
        drop(pool);
        stub
    }

    #[tokio::test]
    async fn index_older_than_what_was_reported_is_refused() {
        let stub = stub().await;
        let old = OldIndex { found: 2, reported: 3 };
        assert_eq!(ask(&stub.registers(), 2).await.unwrap(), Err(old));
        assert_eq!(ask(&stub.registers(), 3).await.unwrap(), Ok(()));
        assert_eq!(
            ask(&stub.registers_of("s2"), 0).await.unwrap(),
            Ok(()),
            "a new server reported nothing"
        );
    }

    #[tokio::test]
    async fn librarian_that_answers_late_still_refuses_an_old_index() {
        let stub = stub().await;
        stub.pool.lock().silent = true;
        let asked = ask(&stub.registers(), 2).await;
        assert!(asked.is_err(), "nothing is known yet");
        stub.pool.lock().silent = false;
        let answer = ask_until_answered(&stub.registers(), 2).await;
        assert_eq!(answer, Err(OldIndex { found: 2, reported: 3 }));
    }
}
