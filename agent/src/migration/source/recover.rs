//! The source after a restart: replay the journal, read the register, do what it says.

use std::collections::VecDeque;

use zones::{Address, Epoch, Register, ServerName, Tx};

use super::super::{Backoff, FreshTx, Question, Settings, Verdict, judge};
use super::{Action, Asking, BootInstant, Offer, Outcome, ReadGate, Reading, Source, State, Why};

/// What the journal says of a copy whose move was open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceJournal {
    /// The move was noted; its opening may have been sent, the seal was not.
    Moving,
    /// It was sealed; the seal message may have been sent.
    Sealed,
    /// Another agent owns the object; the copy is not removed yet.
    Moved {
        /// The owner.
        owner: ServerName,
        /// Its epoch.
        epoch: Epoch,
    },
}

/// What a source is recovered from.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// This agent.
    pub me: ServerName,
    /// The destination; the owner for [`SourceJournal::Moved`].
    pub to: ServerName,
    /// The object.
    pub address: Address,
    /// The epoch of the copy.
    pub epoch: Epoch,
    /// Names the move.
    pub tx: Tx,
    /// What the copy is.
    pub offer: Offer,
    /// What the journal says.
    pub journal: SourceJournal,
    /// 256 random bits for this machine alone, never those of the machine before the restart.
    pub seed: [u8; 32],
}

impl Source {
    /// Takes a move up again after a restart.
    ///
    /// Reads and writes of the object stay held until the register was read ([`Action::Unseal`]); a moved copy is served
    /// by nobody anyway.
    #[must_use]
    pub fn recover(now: BootInstant, recovered: Recovered, settings: Settings) -> Source {
        let backoff = Backoff::new(&settings);
        let state = match recovered.journal {
            journal @ (SourceJournal::Moving | SourceJournal::Sealed) => State::Recovering {
                journal,
                reading: Reading::Open,
                backoff,
            },
            SourceJournal::Moved { owner, epoch } => State::Moved {
                owner,
                epoch,
                reading: Reading::At(now + settings.grace),
                backoff,
            },
        };
        let reads = matches!(state, State::Recovering { .. });
        let mut source = Source {
            settings,
            me: recovered.me,
            to: recovered.to,
            address: recovered.address,
            epoch: recovered.epoch,
            tx: recovered.tx,
            fresh: FreshTx::new(recovered.seed),
            offer: recovered.offer,
            question: Question::default(),
            closings: 0,
            state,
            actions: VecDeque::new(),
        };
        if reads {
            source.actions.push_back(Action::Reads(ReadGate::Held));
            source.read();
        }
        source
    }

    /// The first reading after a restart.
    pub(super) fn recovered(
        &mut self,
        now: BootInstant,
        journal: SourceJournal,
        mut backoff: Backoff,
        asked_at: BootInstant,
        register: Option<Register>,
    ) {
        let verdict = judge(register.as_ref(), self.epoch, &self.me, &self.to, self.tx);
        let Some(register) = register.filter(|_| verdict != Verdict::Older) else {
            let reading = Reading::At(now + backoff.pause());
            self.state = State::Recovering {
                journal,
                reading,
                backoff,
            };
            return;
        };
        match (journal, verdict) {
            (SourceJournal::Moving, Verdict::Open) => {
                self.actions.push_back(Action::Unseal);
                self.opened(now, register, None);
            }
            // The opening may still be on its way: only a fresh text ends it.
            (SourceJournal::Moving, Verdict::Stable) => {
                self.actions.push_back(Action::Unseal);
                self.abort_from(now, register, false, None, Why::Restarted);
            }
            (SourceJournal::Moving, Verdict::OtherMove) => {
                self.actions.push_back(Action::Unseal);
                self.abort_from(now, register, true, None, Why::Restarted);
            }
            (SourceJournal::Sealed, Verdict::Open) => {
                let mut asking = Asking::new(now, None);
                self.allow_reads(&mut asking, asked_at);
                self.abort_from(now, register, true, Some(asking), Why::Restarted);
            }
            (SourceJournal::Sealed, Verdict::OtherMove) => {
                self.abort_from(now, register, true, Some(Asking::new(now, None)), Why::Restarted);
            }
            (SourceJournal::Sealed, Verdict::Stable) => self.stay(register.tx, Why::Restarted),
            (SourceJournal::Moving | SourceJournal::Sealed, Verdict::Committed | Verdict::Elsewhere) => {
                self.lose(register.owner, register.epoch, None);
            }
            (SourceJournal::Moving, Verdict::Deleted) => self.deleted(register.epoch, register.tx),
            (SourceJournal::Sealed, Verdict::Deleted) => self.deleted_under_seal(register.epoch, register.tx),
            (SourceJournal::Moving | SourceJournal::Sealed, Verdict::Older) => {
                unreachable!("an older answer was dropped above")
            }
            // A moved copy is recovered in its own state and never gets here.
            (
                SourceJournal::Moved { .. },
                Verdict::Older
                | Verdict::Open
                | Verdict::Stable
                | Verdict::OtherMove
                | Verdict::Committed
                | Verdict::Elsewhere
                | Verdict::Deleted,
            ) => self.end(Outcome::Moved),
        }
    }
}
