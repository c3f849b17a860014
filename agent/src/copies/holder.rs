//! What a holder does that is not the owner.
//!
//! ```text
//!  a copy comes -> the register that it read itself names the sender as owner -> written, durable -> said so
//!  a read comes -> under a grant, and only what is confirmed; else the owner is asked
//!
//!  the owner is lost: refuses its epoch, durably -> WAIT -> compare-and-swap to the next epoch -> owner
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use zones::{Epoch, Register, ServerName, State, Tx};

use super::{GOOD_FOR, RETRY_AFTER, WAIT};
use crate::clock::BootInstant;
use crate::migration::guard::{Guard, stands};
use crate::migration::{ChangeOutcome, FreshTx, Question};
use crate::store::Refusal;

/// What a holder has others do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Tell the owner that this copy is durable here.
    Ack {
        /// Whom.
        to: ServerName,
        /// What is here.
        copy: Copy,
    },
    /// Ask the owner whether reads may be served.
    AskGrant {
        /// Whom.
        to: ServerName,
        /// To be given back.
        number: u64,
    },
    /// Ask the librarian for the register.
    Ask(Question),
    /// Change the register by compare-and-swap.
    Change {
        /// The text that it must have.
        old: Box<Register>,
        /// The text that it gets.
        new: Box<Register>,
    },
    /// Make durable which epoch is refused; `None`: none is any more.
    Refuse(Option<Refusal>),
    /// Remove the copy: the register does not name this server.
    Drop,
    /// This server is the owner now, by this register; what others have shown it does not know.
    Own(Box<Register>),
}

/// How long a holder waits after it has refused its owner.
fn wait() -> Duration {
    if stands(Guard::WaitAtPromotion) {
        WAIT
    } else {
        Duration::ZERO
    }
}

/// What a copy on its way is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offer {
    /// Who sends it.
    pub from: ServerName,
    /// The epoch at which it owns the object.
    pub epoch: Epoch,
    /// Client writes in it.
    pub revision: u64,
    /// Where this server is to be a holder: of the register that it must have read.
    pub tx: Option<Tx>,
}

/// What is done with a copy that comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// It is to be written; [`Holder::written`] tells the end.
    Yes,
    /// It is here already, and was said to be.
    Known,
    /// Not now: the register is read first, and the owner sends it again.
    Later,
    /// Not at all: the register says that it is not the sender's to send.
    No,
}

/// What a read may see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shows {
    /// The copy that is here.
    This,
    /// The owner was asked: look again when something changed.
    Wait,
}

/// The copy that is here, durably.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copy {
    /// The owner's epoch under which it came.
    pub epoch: Epoch,
    /// Client writes in it.
    pub revision: u64,
    /// Of the register that was noted with it.
    pub tx: Tx,
}

#[derive(Clone, Debug)]
struct Grant {
    epoch: Epoch,
    until: BootInstant,
}

#[derive(Clone, Debug)]
enum Promotion {
    /// The register is read: whether there is an owner to replace.
    Reading,
    Noting(Box<Register>),
    Waiting {
        old: Box<Register>,
        until: BootInstant,
    },
    /// May have been sent.
    Sent {
        old: Box<Register>,
        new: Box<Register>,
    },
}

/// A holder of one object, or one that is to be.
#[derive(Clone, Debug)]
pub struct Holder {
    me: ServerName,
    copy: Option<Copy>,
    /// The register, read by this process.
    view: Option<Register>,
    /// The revision of the copy's epoch that the owner said was confirmed.
    confirmed: Option<u64>,
    grant: Option<Grant>,
    /// The open question for a grant.
    asked: Option<(u64, BootInstant)>,
    number: u64,
    refusal: Option<Refusal>,
    /// Whether a change under it may have been sent, by this process or the one before.
    sent: bool,
    promotion: Option<Promotion>,
    wants_register: bool,
    question: Question,
    question_open: Option<BootInstant>,
    ask_again_at: BootInstant,
    fresh: FreshTx,
    gone: bool,
    actions: VecDeque<Action>,
}

impl Holder {
    /// A holder that begins now, with what its row says. `seed` is 256 random bits for this machine only.
    #[must_use]
    pub fn new(
        me: &ServerName,
        copy: Option<Copy>,
        refusal: Option<Refusal>,
        now: BootInstant,
        seed: [u8; 32],
    ) -> Holder {
        Holder {
            me: me.clone(),
            copy,
            view: None,
            confirmed: None,
            grant: None,
            asked: None,
            // A grant that was asked for by a machine before this one says nothing to it.
            number: u64::from(u32::from_be_bytes([seed[0], seed[1], seed[2], seed[3]])),
            refusal,
            sent: refusal.is_some(),
            promotion: None,
            // A restart in the midst of a promotion: whether it landed, the register says.
            wants_register: refusal.is_some(),
            question: Question::default(),
            question_open: None,
            ask_again_at: now,
            fresh: FreshTx::new(seed),
            gone: false,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Who owns the object, as the register said that was read last.
    #[must_use]
    pub fn owner(&self) -> Option<&ServerName> {
        self.view.as_ref().map(|view| &view.owner)
    }

    /// The copy that is here.
    #[must_use]
    pub fn copy(&self) -> Option<Copy> {
        self.copy
    }

    /// What may be shown, and until when.
    #[must_use]
    pub fn granted(&self) -> Option<(Epoch, u64, BootInstant)> {
        let (copy, grant) = (self.copy?, self.grant.as_ref()?);
        let shown = grant.epoch == copy.epoch && self.confirmed == Some(copy.revision);
        shown.then_some((copy.epoch, copy.revision, grant.until))
    }

    /// Whether this machine can be forgotten without loss.
    #[must_use]
    pub fn rests(&self, now: BootInstant) -> bool {
        let shows = self.grant.as_ref().is_some_and(|grant| now < grant.until);
        self.refusal.is_none() && self.promotion.is_none() && !self.wants_register && !shows && self.actions.is_empty()
    }

    /// Whether it is about to take the object over.
    #[must_use]
    pub fn takes_over(&self) -> bool {
        self.promotion.is_some() || self.refusal.is_some()
    }

    /// Has the register read: it may name this server no more.
    pub fn recheck(&mut self) {
        self.wants_register = true;
    }

    /// The epoch of which nothing is taken any more, and for which nobody is permitted anything: from the moment on at which
    /// that may be durable, until it is durable that it is no more.
    #[must_use]
    pub fn refused(&self) -> Option<Epoch> {
        let noting = match &self.promotion {
            Some(Promotion::Noting(old)) => Some(old.epoch),
            Some(Promotion::Reading | Promotion::Waiting { .. } | Promotion::Sent { .. }) | None => None,
        };
        self.refusal.map(|refusal| refusal.epoch).max(noting)
    }

    /// Whether an owner of this epoch is permitted to go on, as far as this holder knows.
    #[must_use]
    pub fn permits(&self, epoch: Epoch) -> bool {
        let refused = self.refused().is_some_and(|refused| epoch <= refused);
        let superseded = self.view.as_ref().is_some_and(|view| view.epoch > epoch);
        let newer = self.copy.is_some_and(|copy| copy.epoch > epoch);
        !refused && !superseded && !newer
    }

    /// A copy comes.
    pub fn offered(&mut self, offer: &Offer) -> Taken {
        if self.gone || !self.permits(offer.epoch) {
            return Taken::No;
        }
        let believed = self.view.as_ref().is_some_and(|view| {
            let owns = view.epoch == offer.epoch && view.owner == offer.from && view.state != State::Deleted;
            // One that is to be a holder counts for the owner before the register names it: as long as the text that it noted is there.
            let noted = self
                .copy
                .is_some_and(|copy| copy.tx == view.tx && copy.epoch == view.epoch);
            let named = match offer.tx {
                // What named this server before does not count: when it hears of that, it lets the copy go.
                Some(tx) => tx == view.tx,
                None => view.holders.contains(&self.me) || noted,
            };
            owns && named
        });
        if !believed {
            self.wants_register = true;
            return Taken::Later;
        }
        match self.copy {
            Some(copy) if copy.epoch == offer.epoch && copy.revision >= offer.revision && self.is_noted(offer) => {
                self.ack(&offer.from, copy);
                Taken::Known
            }
            // Sent before what is here: it never takes the place of something newer.
            Some(copy) if (copy.epoch, copy.revision) > (offer.epoch, offer.revision) => Taken::Later,
            Some(_) | None => Taken::Yes,
        }
    }

    /// The register that a copy is noted with that is made durable now; `None` if it may not be any more.
    pub fn notes(&mut self, offer: &Offer) -> Option<Tx> {
        match self.offered(offer) {
            Taken::Yes => self.view.as_ref().map(|view| view.tx),
            Taken::Known | Taken::Later | Taken::No => None,
        }
    }

    /// Whether the copy is noted with the register that the offer names, or need not be.
    fn is_noted(&self, offer: &Offer) -> bool {
        offer.tx.is_none_or(|tx| self.copy.is_some_and(|copy| copy.tx == tx))
    }

    fn ack(&mut self, to: &ServerName, copy: Copy) {
        // What is refused meanwhile was promised under a pledge that has ended.
        if !self.permits(copy.epoch) {
            return;
        }
        self.actions.push_back(Action::Ack { to: to.clone(), copy });
    }

    /// A copy that was taken is durable here.
    pub fn written(&mut self, from: &ServerName, copy: Copy) {
        let newer = self
            .copy
            .is_none_or(|known| (known.epoch, known.revision) <= (copy.epoch, copy.revision));
        if !newer {
            return;
        }
        if self.copy.is_none_or(|known| known.epoch != copy.epoch) {
            self.confirmed = None;
            self.grant = None;
        }
        self.copy = Some(copy);
        self.ack(from, copy);
    }

    /// The owner answers a question for a grant.
    pub fn grants(&mut self, from: &ServerName, number: u64, revision: u64, good_for: Duration) {
        let Some((_, sent_at)) = self.asked.take_if(|(asked, _)| *asked == number) else {
            return;
        };
        let Some(view) = self.view.as_ref().filter(|view| view.owner == *from) else {
            return;
        };
        let Some(copy) = self.copy.filter(|copy| copy.epoch == view.epoch) else {
            return;
        };
        self.grant = Some(Grant {
            epoch: copy.epoch,
            until: sent_at + good_for.min(GOOD_FOR),
        });
        self.confirmed = self.confirmed.max(Some(revision));
    }

    /// The owner answers that no reads may be served; whether that was asked now. Who answers may be the owner no more.
    pub fn denied(&mut self, from: &ServerName, number: u64) -> bool {
        let counts = self.owner() == Some(from) && self.asked.take_if(|(asked, _)| *asked == number).is_some();
        self.wants_register |= counts;
        counts
    }

    /// What a read may see now. Asks the owner where it must.
    pub fn shows(&mut self, now: BootInstant) -> Shows {
        let Some(copy) = self.copy else { return Shows::Wait };
        let named = self
            .view
            .as_ref()
            .filter(|view| view.epoch == copy.epoch && view.owner != self.me && view.holders.contains(&self.me));
        let Some(view) = named else {
            self.wants_register = true;
            return Shows::Wait;
        };
        let granted = self
            .grant
            .as_ref()
            .is_some_and(|grant| grant.epoch == copy.epoch && now < grant.until);
        if granted && self.confirmed == Some(copy.revision) {
            return Shows::This;
        }
        let open = self.asked.is_some_and(|(_, sent_at)| now - sent_at < RETRY_AFTER);
        if !open {
            self.number += 1;
            self.asked = Some((self.number, now));
            self.actions.push_back(Action::AskGrant {
                to: view.owner.clone(),
                number: self.number,
            });
        }
        Shows::Wait
    }

    /// The owner is lost for good, as the librarian says.
    pub fn owner_is_lost(&mut self) {
        if self.promotion.is_none() && self.copy.is_some() && !self.gone {
            self.promotion = Some(Promotion::Reading);
            self.wants_register = true;
        }
    }

    /// The librarian's answer to a question.
    pub fn register(
        &mut self,
        now: BootInstant,
        question: Question,
        register: Option<Register>,
        lost: impl Fn(&ServerName) -> bool,
    ) {
        if question != self.question || self.gone {
            return;
        }
        self.question_open = None;
        self.ask_again_at = now + RETRY_AFTER;
        let known = self
            .view
            .as_ref()
            .map(|view| view.epoch)
            .max(self.copy.map(|copy| copy.epoch));
        let Some(register) = register.filter(|register| Some(register.epoch) >= known) else {
            return;
        };
        self.wants_register = false;
        if self.grant.as_ref().is_some_and(|grant| grant.epoch < register.epoch) {
            self.grant = None;
        }
        self.view = Some(register.clone());
        if register.state == State::Deleted {
            return self.leave();
        }
        if register.owner == self.me {
            let took_over = self
                .refusal
                .is_some_and(|refusal| refusal.epoch.next() == register.epoch);
            if self.copy.is_some_and(|copy| copy.epoch < register.epoch) {
                match took_over {
                    true => {
                        self.gone = true;
                        self.actions.push_back(Action::Own(Box::new(register)));
                    }
                    // It came by a move, beside this copy, which may be old.
                    false => self.leave(),
                }
            }
            return;
        }
        let Some(copy) = self.copy else { return };
        let is_named = register.holders.contains(&self.me);
        if !is_named && !self.is_destination(&register) {
            if register.tx != copy.tx {
                return self.leave();
            }
            // It was to be added under this register, and may be yet: only the owner knows, which may have forgotten.
            self.ack(&register.owner, copy);
        }
        self.promote(now, register, copy, lost);
    }

    fn is_destination(&self, register: &Register) -> bool {
        matches!(&register.state, State::Moving { to } if *to == self.me)
    }

    fn leave(&mut self) {
        self.gone = true;
        self.actions.push_back(Action::Drop);
    }

    /// Goes on with becoming the owner, or gives it up, as the register says that was just read.
    fn promote(&mut self, now: BootInstant, register: Register, copy: Copy, lost: impl Fn(&ServerName) -> bool) {
        let is_named = register.holders.contains(&self.me);
        // A copy of an epoch before will do: whoever took the object over at this one has shown nothing yet that is not here.
        let goes_on = is_named && register.epoch >= copy.epoch && lost(&register.owner);
        let landable = self.refusal.is_some_and(|refusal| refusal.tx == register.tx);
        match (&self.promotion, self.refusal) {
            (Some(Promotion::Noting(_)), _) => {}
            // Anew, with this text: what was sent to replace another one lands no more.
            (Some(Promotion::Waiting { .. }), None) if !stands(Guard::RefusalAtPromotion) => {}
            (_, None) if goes_on && !stands(Guard::RefusalAtPromotion) => {
                self.promotion = Some(Promotion::Waiting {
                    old: Box::new(register),
                    until: now + wait(),
                });
            }
            (_, _) if goes_on && !landable => {
                self.actions.push_back(Action::Refuse(Some(Refusal {
                    epoch: register.epoch,
                    tx: register.tx,
                })));
                self.promotion = Some(Promotion::Noting(Box::new(register)));
            }
            (_, Some(_)) if !landable || !goes_on && !self.sent => {
                self.promotion = None;
                self.actions.push_back(Action::Refuse(None));
            }
            // It may land yet: the owner that came back makes that impossible by a fresh tx.
            (_, Some(_)) if !goes_on => self.promotion = None,
            (Some(Promotion::Sent { old, new }), Some(_)) => {
                let (old, new) = (old.clone(), new.clone());
                self.question.raise();
                self.actions.push_back(Action::Change { old, new });
            }
            (Some(Promotion::Waiting { .. }), Some(_)) => {}
            // After a restart the wait is counted anew.
            (Some(Promotion::Reading) | None, Some(_)) => {
                self.promotion = Some(Promotion::Waiting {
                    old: Box::new(register),
                    until: now + wait(),
                });
            }
            (_, None) => self.promotion = None,
        }
    }

    /// What is refused is durable.
    pub fn durable(&mut self, now: BootInstant, noted: Option<Refusal>) {
        self.question.raise();
        self.question_open = None;
        self.refusal = noted;
        self.sent = false;
        if let Some(Promotion::Noting(old)) = &self.promotion {
            self.promotion = Some(Promotion::Waiting {
                old: old.clone(),
                until: now + wait(),
            });
        }
    }

    /// What became of the change that was sent.
    pub fn changed(&mut self, outcome: ChangeOutcome) {
        let Some(Promotion::Sent { new, .. }) = &self.promotion else {
            return;
        };
        match outcome {
            ChangeOutcome::Done => {
                let new = new.clone();
                self.gone = true;
                self.actions.push_back(Action::Own(new));
            }
            // An earlier sending may have landed, or may land yet: the register says.
            ChangeOutcome::Refused | ChangeOutcome::Unknown => self.question.raise(),
        }
        self.question_open = None;
    }

    /// Does what is due.
    pub fn look(&mut self, now: BootInstant) {
        if self.gone {
            return;
        }
        if let Some(Promotion::Waiting { old, until }) = &self.promotion
            && now >= *until
        {
            let mut new = Register::clone(old);
            new.epoch = old.epoch.next();
            new.holders.retain(|holder| *holder != old.owner);
            new.owner = self.me.clone();
            new.state = State::Stable;
            new.tx = self.fresh.next_tx();
            let (old, new) = (old.clone(), Box::new(new));
            self.sent = true;
            self.question.raise();
            self.question_open = None;
            self.ask_again_at = now + GOOD_FOR;
            self.actions.push_back(Action::Change {
                old: old.clone(),
                new: new.clone(),
            });
            self.promotion = Some(Promotion::Sent { old, new });
        }
        let settles = match &self.promotion {
            Some(Promotion::Reading | Promotion::Sent { .. }) => true,
            Some(Promotion::Noting(_) | Promotion::Waiting { .. }) => false,
            None => self.refusal.is_some(),
        };
        let open = self.question_open.is_some_and(|asked_at| now - asked_at < GOOD_FOR);
        if (self.wants_register || settles) && !open && now >= self.ask_again_at {
            self.question.raise();
            self.question_open = Some(now);
            self.actions.push_back(Action::Ask(self.question));
        }
    }
}

#[cfg(test)]
mod tests {
    use zones::Level;

    use super::*;

    fn server(name: &str) -> ServerName {
        name.parse().unwrap()
    }

    fn register(epoch: u64, owner: &str, holders: &[&str], tx: u8) -> Register {
        Register {
            address: "1.2".parse().unwrap(),
            epoch: Epoch(epoch),
            owner: server(owner),
            state: State::Stable,
            tx: Tx([tx; 16]),
            holders: holders.iter().map(|holder| server(holder)).collect(),
            kind: "file".parse().unwrap(),
            schema: 1,
            level: Level(1),
        }
    }

    /// A holder of revision 3 at epoch 1 on s2, which reads this register.
    fn reads(register: Register, lost: &[&str]) -> Vec<Action> {
        let copy = Copy {
            epoch: Epoch(1),
            revision: 3,
            tx: Tx([1; 16]),
        };
        let now = BootInstant::since_boot(Duration::from_secs(100));
        let mut holder = Holder::new(&server("s2"), Some(copy), None, now, [7; 32]);
        holder.recheck();
        holder.look(now);
        let question = match holder.poll() {
            Some(Action::Ask(question)) => question,
            other => panic!("{other:?}"),
        };
        holder.register(now, question, Some(register), |owner| {
            lost.iter().any(|lost| owner.as_str() == *lost)
        });
        std::iter::from_fn(|| holder.poll()).collect()
    }

    #[test]
    fn copy_that_was_let_go_goes_when_the_object_comes_by_a_move() {
        assert_eq!(reads(register(2, "s2", &["s2"], 5), &[]), [Action::Drop]);
    }

    #[test]
    fn copy_that_no_register_names_asks_its_owner_as_long_as_it_may_be_added_and_then_goes() {
        let copy = Copy {
            epoch: Epoch(1),
            revision: 3,
            tx: Tx([1; 16]),
        };
        let ack = Action::Ack { to: server("s1"), copy };
        assert_eq!(reads(register(1, "s1", &["s1", "s3"], 1), &[]), [ack]);
        assert_eq!(reads(register(1, "s1", &["s1", "s3"], 5), &[]), [Action::Drop]);
    }

    #[test]
    fn copy_of_the_epoch_before_takes_over_from_an_owner_that_was_lost_before_it_sent_anything() {
        let refusal = Refusal {
            epoch: Epoch(2),
            tx: Tx([5; 16]),
        };
        let moved = || register(2, "s3", &["s3", "s2"], 5);
        assert_eq!(reads(moved(), &["s3"]), [Action::Refuse(Some(refusal))]);
        assert_eq!(reads(moved(), &[]), []);
    }
}
