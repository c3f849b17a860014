//! The destination after a restart: replay the journal, read the register, do what it says.

use std::collections::VecDeque;

use zones::{Address, Epoch, ServerName, Tx};

use super::super::guard::{Guard, stands};
use super::super::{Backoff, CopyFacts, FreshTx, Question, Settings};
use super::{Action, BootInstant, Destination, Reading, Settling, State, Step};

/// What the journal says of an incoming copy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DestinationJournal {
    /// Space was kept.
    Reserved,
    /// A copy is whole.
    Staged(CopyFacts),
    /// It is what the source has sealed.
    Prepared(CopyFacts),
    /// The commit may have been sent, under this tx.
    CommitSent {
        /// The copy.
        copy: CopyFacts,
        /// What the register gets.
        commit_tx: Tx,
    },
    /// The object is ours; its writes may still have to wait.
    Waiting {
        /// The register's tx.
        tx: Tx,
    },
}

/// What a destination is recovered from.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// This agent.
    pub me: ServerName,
    /// The source.
    pub from: ServerName,
    /// The object.
    pub address: Address,
    /// The source's epoch: one below our own for [`DestinationJournal::Waiting`].
    pub epoch: Epoch,
    /// Names the move; of no meaning for [`DestinationJournal::Waiting`].
    pub tx: Tx,
    /// What the journal says.
    pub journal: DestinationJournal,
    /// 256 random bits for this machine alone.
    pub seed: [u8; 32],
}

impl Destination {
    /// Takes a move up again after a restart.
    ///
    /// An object that is already ours stays closed for reads and writes until the register was read ([`Action::Own`]).
    #[must_use]
    pub fn recover(now: BootInstant, recovered: Recovered, settings: Settings) -> Destination {
        let backoff = Backoff::new(&settings);
        let mut commit_tx = FreshTx::new(recovered.seed).next_tx();
        let checking = |copy, prepared| State::Checking {
            copy: Some(copy),
            prepared,
            reading: Reading::Open,
            backoff,
        };
        let state = match recovered.journal {
            DestinationJournal::Reserved => State::NotingDrop { retry_at: None },
            DestinationJournal::Staged(copy) => checking(copy, false),
            DestinationJournal::Prepared(copy) => checking(copy, true),
            DestinationJournal::CommitSent { copy, commit_tx: sent } => {
                commit_tx = sent;
                State::CommitSent {
                    moving: None,
                    copy,
                    settling: Settling::Reading,
                    backoff,
                }
            }
            DestinationJournal::Waiting { tx } => State::Returning {
                tx,
                since: match stands(Guard::NewWaitAfterRestart) {
                    true => now,
                    false => BootInstant::ZERO,
                },
                reading: Reading::Open,
                backoff,
            },
        };
        let dropping = matches!(state, State::NotingDrop { .. });
        let mut destination = Destination {
            settings,
            me: recovered.me,
            from: recovered.from,
            address: recovered.address,
            epoch: recovered.epoch,
            tx: recovered.tx,
            commit_tx,
            journaled_staging: true,
            journaled: true,
            question: Question::default(),
            state,
            actions: VecDeque::new(),
        };
        if dropping {
            destination.persist(Step::Removed);
        } else {
            destination.read();
        }
        destination
    }

    /// The register still says that the object is ours: show it, and wait anew.
    pub(super) fn own_again(&mut self, now: BootInstant, tx: Tx, since: BootInstant) {
        self.actions.push_back(Action::Own {
            epoch: self.epoch.next(),
            tx,
        });
        self.wait(now, tx, since);
    }
}
