//! What the owner of an object does for its other holders.
//!
//! ```text
//!  write -> durable here -> replicated -> every in-sync holder has it -> confirmed: shown and acknowledged
//!
//!  add R:   R has read the register, and every shown revision durably -> noted here -> compare-and-swap -> settled
//!           (R counts as in-sync from the note on)
//!  drop R:  noted here -> compare-and-swap -> settled -> WAIT after the last grant to R, writes are confirmed without it
//!           (R counts until it is settled)
//! ```
//!
//! What counts as in-sync is what this owner noted, never what it heard last: a change that was sent may have landed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use zones::{Epoch, Register, ServerName, State, Tx};

use super::holder::Copy;
use super::permits::{Permits, Pledge};
use super::{GOOD_FOR, RESEND_AFTER, RETRY_AFTER, WAIT};
use crate::clock::BootInstant;
use crate::migration::guard::{self, Guard, stands};
use crate::migration::{ChangeOutcome, FreshTx, Question};
use crate::store::{HolderChange, Keeping};

/// What an owner has others do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Send the object as it is now to a holder, or to one that is to be.
    Replicate {
        /// Whom.
        to: ServerName,
        /// At this revision.
        revision: u64,
        /// The register that one who is to be a holder must have read, and notes.
        tx: Option<Tx>,
    },
    /// Tell a holder that it may serve reads.
    Grant {
        /// Whom.
        to: ServerName,
        /// Its question.
        number: u64,
        /// The revision that is confirmed.
        revision: u64,
        /// For how long from when it sent the question, at most.
        good_for: std::time::Duration,
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
    /// Make durable who holds copies, and which change is open.
    Note(Keeping),
    /// This revision may be shown and acknowledged.
    Confirmed(u64),
    /// The register names another owner, or a higher epoch.
    Lost(Box<Register>),
}

/// Another holder, as far as the owner knows it.
#[derive(Clone, Debug, Default)]
struct Other {
    /// The last revision of this epoch that it confirmed, and under which pledge.
    acked: Option<(u64, Pledge)>,
    /// When it was last granted reads; at first, when this owner began: it may have been granted some before.
    granted_at: Option<BootInstant>,
    sent_at: Option<BootInstant>,
}

/// A change of holders on its way.
#[derive(Clone, Debug)]
struct Change {
    server: ServerName,
    adds: bool,
    stage: Stage,
    /// Whether the librarian has refused it, since it was noted.
    refused: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    /// The register is read before anything else.
    Reading,
    /// The holder to be gets its copy.
    Staging {
        register: Box<Register>,
        sent_at: Option<BootInstant>,
        staged: Option<(u64, Pledge)>,
    },
    Noting {
        old: Box<Register>,
        new: Box<Register>,
    },
    /// One that is added counts, and has not what was written meanwhile: until the row named it, writes did not wait for it. Nothing
    /// was sent.
    Noted {
        old: Box<Register>,
        new: Box<Register>,
    },
    /// May have been sent. The register that it replaces is known by its tx only, after a restart.
    Sent {
        old: Tx,
        new: Tx,
        texts: Option<(Box<Register>, Box<Register>)>,
    },
    /// It is settled that a server holds no copy. Noted when nobody reads under a grant of this owner any more, so that a restart
    /// in between waits anew.
    Quieting {
        until: BootInstant,
    },
    /// It is settled, and being noted.
    Settling,
}

/// An owner of an object that has, or is to have, other holders.
#[derive(Clone, Debug)]
pub struct Owner {
    me: ServerName,
    epoch: Epoch,
    /// Durable here.
    revision: u64,
    /// May be shown; `None` as long as nobody knows what others have shown.
    confirmed: Option<u64>,
    others: BTreeMap<ServerName, Other>,
    change: Option<Change>,
    /// Nothing is confirmed before this: a dropped holder may still read.
    quiet_until: BootInstant,
    /// After a restart the register is read before anything is shown.
    unread: bool,
    /// The register is read, and holders are as it names them: it may be another one than this owner knows.
    compares: bool,
    question: Question,
    /// A question is open, or the next is due then.
    asked_at: Option<BootInstant>,
    ask_again_at: BootInstant,
    fresh: FreshTx,
    lost: bool,
    actions: VecDeque<Action>,
}

/// What an owner begins with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The epoch at which it is owned.
    pub epoch: Epoch,
    /// Its revision, durable here.
    pub revision: u64,
    /// Its holders and the open change, as the row says.
    pub noted: Keeping,
    /// Whether its revision is known to be confirmed: it has no other holder, or was taken over sealed. Not after a restart, nor
    /// by promotion.
    pub confirmed: bool,
    /// Which holders are known to have this revision, and under which pledge; of each of these it is known, too, that nobody reads
    /// under a grant there.
    pub under: Vec<(ServerName, Pledge)>,
}

impl Owner {
    /// An owner that begins now. `seed` is 256 random bits for this machine only.
    #[must_use]
    pub fn new(me: &ServerName, start: Start, now: BootInstant, seed: [u8; 32]) -> Owner {
        let unknown = Other {
            // Whoever granted reads before, this process or another, did so before now.
            granted_at: Some(now),
            ..Other::default()
        };
        let others = start.noted.others.iter();
        let mut owner = Owner {
            me: me.clone(),
            epoch: start.epoch,
            revision: start.revision,
            confirmed: (start.confirmed || !stands(Guard::UnconfirmedAfterRestart)).then_some(start.revision),
            others: others.map(|other| (other.clone(), unknown.clone())).collect(),
            change: start.noted.change.map(|noted| Change {
                server: noted.server,
                adds: noted.adds,
                stage: Stage::Sent {
                    old: noted.old,
                    new: noted.tx,
                    texts: None,
                },
                refused: false,
            }),
            quiet_until: now,
            unread: !start.confirmed && stands(Guard::UnconfirmedAfterRestart),
            compares: !start.confirmed,
            question: Question::default(),
            asked_at: None,
            ask_again_at: now,
            fresh: FreshTx::new(seed),
            lost: false,
            actions: VecDeque::new(),
        };
        for (name, pledge) in start.under {
            if let Some(other) = owner.others.get_mut(&name) {
                other.acked = Some((start.revision, pledge));
                other.granted_at = None;
            }
        }
        if let Some(change) = owner
            .change
            .as_ref()
            .filter(|change| change.adds && change.server != owner.me)
        {
            owner.others.entry(change.server.clone()).or_insert(unknown);
        }
        owner
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether this machine has nothing to do any more: it has no other holder, and no change is open.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.others.is_empty() && self.change.is_none() && self.confirmed == Some(self.revision)
    }

    /// There is a way to a server again: what was sent to it may be lost.
    pub fn renewed(&mut self, server: &ServerName) {
        if let Some(other) = self.others.get_mut(server) {
            other.sent_at = None;
        }
        if let Some(Change {
            server: staged,
            stage: Stage::Staging { sent_at, .. },
            ..
        }) = &mut self.change
            && staged == server
        {
            *sent_at = None;
        }
    }

    /// The epoch at which it is owned.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The revision that is durable here, as far as this machine was told.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What requests may rely on: that the revision that is here is confirmed, and the holders that have to permit what is done with
    /// it, with the pledges under which they have it.
    #[must_use]
    pub fn standing(&self) -> Option<Vec<(ServerName, Pledge)>> {
        let stands = !self.lost && !self.unread && self.confirmed == Some(self.revision);
        let under = |(name, other): (&ServerName, &Other)| other.acked.map(|(_, pledge)| (name.clone(), pledge));
        let all = self.others.iter();
        if !guard::stands(Guard::UnconfirmedAfterRestart) {
            return stands.then(|| all.filter_map(under).collect());
        }
        stands.then(|| all.map(under).collect()).flatten()
    }

    /// Whether this machine can be forgotten without loss: every holder has what is here, and nobody reads under a grant.
    #[must_use]
    pub fn rests(&self, now: BootInstant) -> bool {
        let has = |other: &Other| other.acked.is_some_and(|(revision, _)| revision == self.revision);
        let idle = self.change.is_none() && !self.compares && self.actions.is_empty() && self.asked_at.is_none();
        idle && self.standing().is_some() && self.others.values().all(has) && now >= self.quiet_at()
    }

    /// Whether the register says that another server owns it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Who is to be a holder, while it gets its copy.
    #[must_use]
    pub fn staging(&self) -> Option<&ServerName> {
        let change = self.change.as_ref()?;
        matches!(change.stage, Stage::Staging { .. }).then_some(&change.server)
    }

    /// The register that it must have read.
    #[must_use]
    pub fn staging_tx(&self) -> Option<Tx> {
        match &self.change.as_ref()?.stage {
            Stage::Staging { register, .. } => Some(register.tx),
            Stage::Reading
            | Stage::Noting { .. }
            | Stage::Noted { .. }
            | Stage::Sent { .. }
            | Stage::Quieting { .. }
            | Stage::Settling => None,
        }
    }

    /// Holders that have not confirmed what is here.
    pub fn lacking(&self) -> impl Iterator<Item = &ServerName> {
        let lacks = |other: &Other| other.acked.is_none_or(|(revision, _)| revision != self.revision);
        self.others
            .iter()
            .filter(move |(_, other)| lacks(other))
            .map(|(name, _)| name)
    }

    /// Those that count as in-sync.
    pub fn others(&self) -> impl Iterator<Item = &ServerName> {
        self.others.keys()
    }

    /// Whether a server is about to become a holder, or to be one no more.
    #[must_use]
    pub fn is_changing_by(&self, server: &ServerName) -> bool {
        self.change.as_ref().is_some_and(|change| change.server == *server)
    }

    /// Whether a change of holders is on its way.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// Until when every in-sync holder permits what this owner does; `None` if one does not. Without others, for ever.
    #[must_use]
    pub fn permitted_until(&self, permits: &Permits) -> Option<Option<BootInstant>> {
        let mut until = None;
        for (name, other) in &self.others {
            let (_, pledge) = other.acked?;
            let one = permits.until(name, pledge)?;
            until = Some(until.map_or(one, |least: BootInstant| least.min(one)));
        }
        Some(until)
    }

    fn permitted(&self, now: BootInstant, permits: &Permits) -> bool {
        if !stands(Guard::Permission) {
            return true;
        }
        match self.permitted_until(permits) {
            Some(until) => until.is_none_or(|until| now < until),
            None => false,
        }
    }

    /// The revision that may be shown now; it is the one that is here.
    #[must_use]
    pub fn shows(&self, now: BootInstant, permits: &Permits) -> Option<u64> {
        let shown = self.confirmed.filter(|confirmed| *confirmed == self.revision)?;
        (!self.lost && !self.unread && self.permitted(now, permits)).then_some(shown)
    }

    /// Whether a write may be applied now: the one before is confirmed.
    #[must_use]
    pub fn may_write(&self, now: BootInstant, permits: &Permits) -> bool {
        self.shows(now, permits).is_some()
    }

    /// A write is durable here.
    pub fn wrote(&mut self, now: BootInstant, revision: u64, permits: &Permits) {
        self.revision = revision;
        self.replicate(now, false);
        self.confirm(now, permits);
    }

    /// A server is to hold a copy, or no longer; taken up if no other change is on its way.
    pub fn wants(&mut self, server: &ServerName, holds: bool) -> bool {
        let idle = self.change.is_none() && !self.lost && !self.unread;
        if !idle || *server == self.me || self.others.contains_key(server) == holds {
            return false;
        }
        self.change = Some(Change {
            server: server.clone(),
            adds: holds,
            stage: Stage::Reading,
            refused: false,
        });
        self.asked_at = None;
        true
    }

    /// Gives up the addition of a server: at once if nothing was sent of it, else by a fresh tx.
    pub fn gives_up(&mut self, server: &ServerName) {
        let adds = |change: &&mut Change| change.adds && change.server == *server && change.server != self.me;
        let Some(change) = self.change.as_mut().filter(adds) else {
            return;
        };
        match &change.stage {
            Stage::Reading | Stage::Staging { .. } => self.change = None,
            Stage::Noted { .. } => {
                self.others.remove(server);
                change.stage = Stage::Settling;
                self.note_settled();
            }
            Stage::Sent { .. } => change.refused = true,
            Stage::Noting { .. } | Stage::Quieting { .. } | Stage::Settling => {}
        }
    }

    /// Who is being added, counts already, and lacks what is here, so that writes wait for it.
    #[must_use]
    pub fn lagging(&self) -> Option<&ServerName> {
        let change = self
            .change
            .as_ref()
            .filter(|change| change.adds && change.server != self.me)?;
        let other = self.others.get(&change.server)?;
        let lacks = other.acked.is_none_or(|(revision, _)| revision != self.revision);
        let counts = matches!(change.stage, Stage::Noted { .. } | Stage::Sent { .. });
        (counts && lacks).then_some(&change.server)
    }

    /// A holder has this copy durably. One that is to be a holder keeps it only if it has noted the register that was read here.
    pub fn acked(&mut self, now: BootInstant, from: &ServerName, copy: Copy, pledge: Pledge, permits: &Permits) {
        let Copy { epoch, revision, tx } = copy;
        if epoch != self.epoch || revision > self.revision {
            return;
        }
        if let Some(Change {
            server,
            stage: Stage::Staging { register, staged, .. },
            ..
        }) = &mut self.change
            && server == from
            && register.tx == tx
        {
            *staged = Some((revision, pledge));
        }
        if let Some(other) = self.others.get_mut(from) {
            match other.acked {
                // Under another pledge nothing of what was said before counts.
                Some((known, under)) if under == pledge => other.acked = Some((known.max(revision), pledge)),
                Some(_) | None => other.acked = Some((revision, pledge)),
            }
        } else if self.change.as_ref().is_none_or(|change| change.server != *from) {
            // It was to be added, and that was forgotten: it lets go of its copy once the register that it read is another.
            self.renews();
        }
        self.stages(now);
        self.confirm(now, permits);
        // What is here may have been confirmed before, and an addition wait for this alone.
        self.sends(now);
    }

    /// A holder takes nothing of this epoch any more: it took over, or sent what would. The register says which; a fresh tx keeps
    /// it from landing later.
    pub fn refused(&mut self, from: &ServerName, epoch: Epoch) {
        if epoch == self.epoch && self.others.contains_key(from) {
            self.renews();
        }
    }

    /// Gives the register a fresh tx, and nothing else, unless it is about to change anyway: what was said or sent under the present
    /// one counts no more.
    fn renews(&mut self) {
        if self.change.is_none() && !self.unread && !self.lost {
            self.change = Some(self.fresh_tx());
            self.asked_at = None;
        }
    }

    fn fresh_tx(&self) -> Change {
        Change {
            server: self.me.clone(),
            adds: true,
            stage: Stage::Reading,
            refused: false,
        }
    }

    /// A holder asks whether it may serve reads.
    pub fn asked_grant(&mut self, now: BootInstant, from: &ServerName, number: u64, permits: &Permits) {
        let Some(revision) = self.confirmed.filter(|_| !self.lost && !self.unread) else {
            return;
        };
        // One that is being added or dropped is told when that is settled.
        if self.change.as_ref().is_some_and(|change| change.server == *from) {
            return;
        }
        let Some(Some(until)) = self
            .permitted_until(permits)
            .filter(|until| until.is_none_or(|until| now < until))
        else {
            return;
        };
        if let Some(other) = self.others.get_mut(from) {
            other.granted_at = Some(now);
            self.actions.push_back(Action::Grant {
                to: from.clone(),
                number,
                revision,
                good_for: GOOD_FOR.min(until - now),
            });
        }
    }

    /// From when on nobody reads under a grant of this owner any more.
    #[must_use]
    pub fn quiet_at(&self) -> BootInstant {
        let granted = self.others.values().filter_map(|other| other.granted_at);
        granted.map(|at| at + WAIT).fold(self.quiet_until, BootInstant::max)
    }

    /// The registry is another one, put back or rebuilt: it may name other holders. What is shown meanwhile all of these have,
    /// since the registry was told which ones surely do.
    pub fn compare(&mut self) {
        self.compares = true;
    }

    /// The librarian's answer to a question.
    pub fn register(&mut self, now: BootInstant, question: Question, register: Option<Register>, permits: &Permits) {
        if question != self.question || self.lost {
            return;
        }
        self.asked_at = None;
        self.ask_again_at = now + RETRY_AFTER;
        // Absent or of an epoch below: answered by an old or empty registry, which says nothing.
        let Some(register) = register.filter(|register| register.epoch >= self.epoch) else {
            return;
        };
        let is_ours = register.epoch == self.epoch && register.owner == self.me && register.state != State::Deleted;
        if !is_ours {
            self.lost = true;
            self.actions.push_back(Action::Lost(Box::new(register)));
            return;
        }
        self.unread = false;
        self.judge(now, register);
        self.confirm(now, permits);
    }

    fn judge(&mut self, now: BootInstant, register: Register) {
        // While an object moves, its holders are settled by the move's end.
        let begun = (self.change.as_ref()).is_some_and(|change| !matches!(change.stage, Stage::Reading));
        if self.compares && !begun && register.state == State::Stable {
            self.compares = false;
            let named = register.holders.iter().filter(|holder| **holder != self.me);
            if !named.collect::<BTreeSet<_>>().into_iter().eq(self.others.keys()) {
                self.change = Some(self.fresh_tx());
                return self.settle(now, &register.holders);
            }
        }
        let Some(change) = &mut self.change else { return };
        let holds = register.holders.contains(&change.server);
        match &mut change.stage {
            Stage::Reading if register.state != State::Stable => {}
            Stage::Reading if holds == change.adds && change.server != self.me => self.settle(now, &register.holders),
            Stage::Reading if change.adds && change.server != self.me => {
                change.stage = Stage::Staging {
                    register: Box::new(register),
                    sent_at: None,
                    staged: None,
                };
                self.stages(now);
            }
            Stage::Reading => self.note(register, None),
            // It is no change that may be made now, such as a holder that takes no new copies any more. It was sent, so it is given up
            // only by a fresh tx: then it can land no more.
            Stage::Sent { old, .. } if register.tx == *old && change.refused && change.server != self.me => {
                change.server = self.me.clone();
                change.adds = true;
                change.refused = false;
                self.note(register, None);
            }
            // Not yet. What a restart forgot of the text is made anew, under the same tx.
            Stage::Sent { old, .. } if register.tx == *old => {
                if self.may_send() {
                    self.sends_again(register);
                }
            }
            // Done; or another change came first, of ours or of a person, and the text that was sent can land no more.
            Stage::Sent { .. } => self.settle(now, &register.holders),
            Stage::Staging { .. }
            | Stage::Noting { .. }
            | Stage::Noted { .. }
            | Stage::Quieting { .. }
            | Stage::Settling => {}
        }
    }

    /// The change is over, one way or the other: these hold copies now.
    fn settle(&mut self, now: BootInstant, holders: &[ServerName]) {
        let Some(change) = &mut self.change else { return };
        let mut until = now;
        self.others.retain(|name, other| {
            let stays = holders.contains(name);
            if !stays {
                let granted_at = other.granted_at.filter(|_| stands(Guard::GrantsEnd));
                until = until.max(granted_at.map_or(now, |at| at + WAIT));
            }
            stays
        });
        for holder in holders.iter().filter(|holder| **holder != self.me) {
            self.others.entry(holder.clone()).or_insert_with(|| Other {
                granted_at: Some(now),
                ..Other::default()
            });
        }
        self.quiet_until = self.quiet_until.max(until);
        change.stage = Stage::Quieting { until };
        self.quiets(now);
    }

    /// Notes the end of a change whose grants are over.
    fn quiets(&mut self, now: BootInstant) {
        let Some(change) = &mut self.change else { return };
        match change.stage {
            Stage::Quieting { until } if now >= until => {
                change.stage = Stage::Settling;
                self.note_settled();
            }
            Stage::Reading
            | Stage::Staging { .. }
            | Stage::Noting { .. }
            | Stage::Noted { .. }
            | Stage::Sent { .. }
            | Stage::Quieting { .. }
            | Stage::Settling => {}
        }
    }

    fn note_settled(&mut self) {
        self.actions.push_back(Action::Note(Keeping {
            others: self.others.keys().cloned().collect(),
            change: None,
        }));
    }

    /// Begins what was read to be possible: notes the change before it is sent. `staged` is what one that is added has confirmed.
    fn note(&mut self, register: Register, staged: Option<(u64, Pledge)>) {
        let Some(change) = &mut self.change else { return };
        let server = change.server.clone();
        let mut new = register.clone();
        new.tx = self.fresh.next_tx();
        new.holders.retain(|holder| *holder != server || server == self.me);
        if change.adds && server != self.me {
            new.holders.push(server.clone());
            if stands(Guard::AddedCounts) {
                // From now on it counts.
                let other = self.others.entry(server.clone()).or_default();
                other.acked = staged;
            }
        }
        let noted = HolderChange {
            server,
            adds: change.adds,
            tx: new.tx,
            old: register.tx,
        };
        change.stage = Stage::Noting {
            old: Box::new(register),
            new: Box::new(new),
        };
        self.actions.push_back(Action::Note(Keeping {
            others: self.noted_others(),
            change: Some(noted),
        }));
    }

    /// The others as the register has them; one that is being added is in the open change.
    fn noted_others(&self) -> Vec<ServerName> {
        let adding = self
            .change
            .as_ref()
            .filter(|change| change.adds)
            .map(|change| &change.server);
        self.others
            .keys()
            .filter(|other| Some(*other) != adding)
            .cloned()
            .collect()
    }

    /// What was noted is durable.
    pub fn durable(&mut self, now: BootInstant, permits: &Permits) {
        self.question.raise();
        self.asked_at = None;
        let Some(change) = &mut self.change else { return };
        match &change.stage {
            Stage::Noting { old, new } => {
                change.stage = Stage::Noted {
                    old: old.clone(),
                    new: new.clone(),
                };
                self.confirm(now, permits);
                self.sends(now);
            }
            Stage::Settling => {
                self.change = None;
                self.confirm(now, permits);
            }
            Stage::Reading
            | Stage::Staging { .. }
            | Stage::Noted { .. }
            | Stage::Sent { .. }
            | Stage::Quieting { .. } => {}
        }
    }

    /// Whether the open change may be sent: whoever it adds has all that is shown.
    fn may_send(&self) -> bool {
        let Some(change) = self.change.as_ref().filter(|change| change.adds) else {
            return true;
        };
        let has = |other: &Other| other.acked.is_some_and(|(revision, _)| revision == self.revision);
        let whole = self.confirmed == Some(self.revision) && self.others.get(&change.server).is_some_and(has);
        change.server == self.me || whole || !stands(Guard::AddedCounts)
    }

    /// Sends what is noted.
    fn sends(&mut self, now: BootInstant) {
        if !self.may_send() {
            return;
        }
        let Some(change) = &mut self.change else { return };
        let Stage::Noted { old, new } = &change.stage else {
            return;
        };
        let (old, new) = (old.clone(), new.clone());
        change.stage = Stage::Sent {
            old: old.tx,
            new: new.tx,
            texts: Some((old.clone(), new.clone())),
        };
        // Its answer decides; without one the register is read.
        self.ask_again_at = now + GOOD_FOR;
        self.actions.push_back(Action::Change { old, new });
    }

    /// What became of the change that was sent.
    pub fn changed(&mut self, now: BootInstant, outcome: ChangeOutcome) {
        let Some(Change {
            stage: Stage::Sent { texts, .. },
            refused,
            ..
        }) = &mut self.change
        else {
            return;
        };
        *refused |= outcome == ChangeOutcome::Refused;
        match (outcome, texts) {
            (ChangeOutcome::Done, Some((_, new))) => {
                let holders = new.holders.clone();
                self.settle(now, &holders);
            }
            // An earlier sending may have landed, or may land yet: the register says.
            (ChangeOutcome::Done | ChangeOutcome::Refused | ChangeOutcome::Unknown, _) => {
                self.question.raise();
                self.asked_at = None;
                self.ask_again_at = now + RETRY_AFTER;
            }
        }
    }

    /// The change is not in the register yet: it is sent again.
    fn sends_again(&mut self, register: Register) {
        let Some(Change {
            server,
            adds,
            stage: Stage::Sent { new, texts, .. },
            ..
        }) = &mut self.change
        else {
            return;
        };
        let (old, new) = texts.get_or_insert_with(|| {
            let mut text = register.clone();
            text.tx = *new;
            text.holders.retain(|holder| holder != server || *server == self.me);
            if *adds && *server != self.me {
                text.holders.push(server.clone());
            }
            (Box::new(register), Box::new(text))
        });
        let change = Action::Change {
            old: old.clone(),
            new: new.clone(),
        };
        self.question.raise();
        self.actions.push_back(change);
    }

    /// Sends the object to those that have not confirmed what is here, at once or, `again`, where an answer is overdue.
    fn replicate(&mut self, now: BootInstant, again: bool) {
        for (name, other) in &mut self.others {
            let has = other.acked.is_some_and(|(revision, _)| revision == self.revision);
            let due = other.sent_at.is_none_or(|sent_at| now - sent_at >= RESEND_AFTER);
            if !has && (due || !again) {
                other.sent_at = Some(now);
                self.actions.push_back(Action::Replicate {
                    to: name.clone(),
                    revision: self.revision,
                    tx: None,
                });
            }
        }
    }

    /// Brings the copy of a holder to be up to what is shown; then it is added.
    fn stages(&mut self, now: BootInstant) {
        let Some(Change {
            server,
            stage:
                Stage::Staging {
                    register,
                    sent_at,
                    staged,
                },
            ..
        }) = &mut self.change
        else {
            return;
        };
        let has = staged.is_some_and(|(revision, _)| revision == self.revision);
        if has && self.confirmed == Some(self.revision) {
            let (register, staged) = (Register::clone(register), *staged);
            return self.note(register, staged);
        }
        if !has && sent_at.is_none_or(|sent_at| now - sent_at >= RESEND_AFTER) {
            *sent_at = Some(now);
            self.actions.push_back(Action::Replicate {
                to: server.clone(),
                revision: self.revision,
                tx: Some(register.tx),
            });
        }
    }

    /// Confirms what every in-sync holder has.
    fn confirm(&mut self, now: BootInstant, permits: &Permits) {
        if self.confirmed == Some(self.revision) || self.lost || self.unread {
            return;
        }
        let has = |other: &Other| other.acked.is_some_and(|(revision, _)| revision == self.revision);
        let have = self.others.values().all(has) || !stands(Guard::InSyncRule);
        if have && now >= self.quiet_until && self.permitted(now, permits) {
            self.confirmed = Some(self.revision);
            self.actions.push_back(Action::Confirmed(self.revision));
            self.stages(now);
            self.sends(now);
        }
    }

    /// Whether the register is read for the change that is wanted. A holder that is there is granted no reads any more, and dropped
    /// when its last grant is over: else no write would be confirmed until then. One that is silent is dropped at once.
    fn may_begin(&self, now: BootInstant, permits: &Permits) -> bool {
        let Some(change) = self.change.as_ref().filter(|change| !change.adds) else {
            return true;
        };
        let answers = permits
            .heard(&change.server)
            .is_some_and(|heard| now < heard + GOOD_FOR);
        let granted_at = self.others.get(&change.server).and_then(|other| other.granted_at);
        let granted_at = granted_at.filter(|_| stands(Guard::GrantsEnd));
        !answers || granted_at.is_none_or(|granted_at| now >= granted_at + WAIT)
    }

    /// Does what is due.
    pub fn look(&mut self, now: BootInstant, permits: &Permits) {
        if self.lost {
            return;
        }
        let asks = self.unread
            || self.compares && self.change.is_none()
            || match self.change.as_ref().map(|change| &change.stage) {
                Some(Stage::Reading) => self.may_begin(now, permits),
                Some(Stage::Sent { .. }) => true,
                Some(
                    Stage::Staging { .. }
                    | Stage::Noting { .. }
                    | Stage::Noted { .. }
                    | Stage::Quieting { .. }
                    | Stage::Settling,
                )
                | None => false,
            };
        let open = self.asked_at.is_some_and(|asked_at| now - asked_at < GOOD_FOR);
        if asks && !open && now >= self.ask_again_at {
            self.question.raise();
            self.asked_at = Some(now);
            self.actions.push_back(Action::Ask(self.question));
        }
        for (name, other) in &mut self.others {
            // It lost its disk, or takes over something: it says anew what it has of this.
            let pledge = permits.pledge(name);
            let void = other
                .acked
                .take_if(|(_, under)| pledge.is_some_and(|pledge| pledge != *under));
            // Where it cannot be sent again, the register alone says whose it is.
            self.compares |= void.is_some();
        }
        self.quiets(now);
        self.replicate(now, true);
        self.stages(now);
        self.confirm(now, permits);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zones::Level;

    use super::*;

    fn server(name: &str) -> ServerName {
        name.parse().unwrap()
    }

    fn register(state: State, holders: &[&str]) -> Register {
        Register {
            address: "1.2".parse().unwrap(),
            epoch: Epoch(1),
            owner: server("s1"),
            state,
            tx: Tx([9; 16]),
            holders: holders.iter().map(|holder| server(holder)).collect(),
            kind: "file".parse().unwrap(),
            schema: 1,
            level: Level(1),
        }
    }

    /// What an owner with the holders s2 and s3 does that compares itself with this register.
    fn compared(register: Register) -> Vec<Action> {
        let start = Start {
            epoch: Epoch(1),
            revision: 3,
            noted: Keeping {
                others: vec![server("s2"), server("s3")],
                change: None,
            },
            confirmed: true,
            under: Vec::new(),
        };
        let now = BootInstant::since_boot(Duration::from_secs(100));
        let (mut owner, permits) = (Owner::new(&server("s1"), start, now, [7; 32]), Permits::default());
        owner.compare();
        owner.look(now, &permits);
        let asked = std::iter::from_fn(|| owner.poll()).find_map(|action| match action {
            Action::Ask(question) => Some(question),
            _ => None,
        });
        owner.register(now, asked.expect("it reads the register"), Some(register), &permits);
        owner.look(now + WAIT, &permits);
        std::iter::from_fn(|| owner.poll())
            .filter(|action| matches!(action, Action::Note(_)))
            .collect()
    }

    fn actions(owner: &mut Owner) -> Vec<Action> {
        std::iter::from_fn(|| owner.poll()).collect()
    }

    #[test]
    fn addition_is_sent_once_the_holder_has_the_copy_under_its_newest_pledge() {
        let start = Start {
            epoch: Epoch(1),
            revision: 3,
            noted: Keeping::default(),
            confirmed: true,
            under: Vec::new(),
        };
        let now = BootInstant::since_boot(Duration::from_secs(100));
        let (mut owner, mut permits) = (Owner::new(&server("s1"), start, now, [7; 32]), Permits::default());
        let register = register(State::Stable, &["s1"]);
        let copy = Copy {
            epoch: Epoch(1),
            revision: 3,
            tx: register.tx,
        };
        assert!(owner.wants(&server("s2"), true));
        owner.look(now, &permits);
        let Some(Action::Ask(question)) = actions(&mut owner).pop() else {
            panic!("it reads the register");
        };
        owner.register(now, question, Some(register), &permits);
        owner.acked(now, &server("s2"), copy, 5, &permits);
        assert!(matches!(actions(&mut owner).pop(), Some(Action::Note(_))));
        // An answer that was given before it was promised anew comes late, while the row is being written.
        let number = permits.ask(&server("s2"), now);
        permits.answered(&server("s2"), number, 4);
        owner.look(now, &permits);
        owner.durable(now, &permits);
        let sent = |actions: Vec<Action>| actions.iter().any(|action| matches!(action, Action::Change { .. }));
        assert!(!sent(actions(&mut owner)), "nobody knows whether it has what is here");
        let number = permits.ask(&server("s2"), now);
        permits.answered(&server("s2"), number, 5);
        owner.acked(now, &server("s2"), copy, 5, &permits);
        assert!(sent(actions(&mut owner)));
    }

    #[test]
    fn forgotten_addition_ends_with_a_fresh_tx() {
        let start = Start {
            epoch: Epoch(1),
            revision: 3,
            noted: Keeping {
                others: vec![server("s3")],
                change: None,
            },
            confirmed: true,
            under: vec![(server("s3"), 6)],
        };
        let now = BootInstant::since_boot(Duration::from_secs(100));
        let (mut owner, permits) = (Owner::new(&server("s1"), start, now, [7; 32]), Permits::default());
        let register = register(State::Stable, &["s1", "s3"]);
        let copy = Copy {
            epoch: Epoch(1),
            revision: 2,
            tx: register.tx,
        };
        owner.acked(now, &server("s3"), copy, 6, &permits);
        assert!(!owner.is_changing(), "it is a holder");
        owner.acked(now, &server("s2"), copy, 5, &permits);
        owner.look(now, &permits);
        let Some(Action::Ask(question)) = actions(&mut owner).pop() else {
            panic!("it reads the register");
        };
        owner.register(now, question, Some(register.clone()), &permits);
        let Some(Action::Note(Keeping {
            others,
            change: Some(change),
        })) = actions(&mut owner).pop()
        else {
            panic!("it notes the change");
        };
        assert_eq!((others, &change.server), (vec![server("s3")], &server("s1")));
        assert!(change.tx != register.tx && change.old == register.tx, "{change:?}");
    }

    #[test]
    fn holders_are_as_another_registry_names_them_once_nobody_reads_under_a_grant() {
        let noted = |others: &[&str]| {
            let others = others.iter().map(|other| server(other)).collect();
            vec![Action::Note(Keeping { others, change: None })]
        };
        let named = |holders| compared(register(State::Stable, holders));
        assert_eq!(named(&["s1", "s2", "s3"]), []);
        assert_eq!(named(&["s1", "s3", "s2"]), [], "the order says nothing");
        assert_eq!(named(&["s1", "s2"]), noted(&["s2"]));
        assert_eq!(named(&["s1", "s4", "s2"]), noted(&["s2", "s4"]));
        let moving = State::Moving { to: server("s4") };
        assert_eq!(compared(register(moving, &["s1"])), [], "the end of the move decides");
    }
}
