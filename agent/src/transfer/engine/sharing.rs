//! Copies that stay beside their owner's: the driver of [`crate::copies`].
//!
//! | file | holds |
//! | --- | --- |
//! | `owners` | machines of objects of this server that others hold, or are to hold |
//! | `holders` | machines of objects of other servers that this one holds |
//! | `keeper` | which objects get more copies, or fewer, and which holders take over for an owner that is lost |
//!
//! Machines exist only while there is something to do: what requests may do without one stands in each object's slot
//! ([`crate::objects::Share`]). All are in the order of addresses, so that a run can be repeated.

mod holders;
mod keeper;
pub(super) mod owners;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use zones::{Address, ServerName};

use super::outside::Work;
use super::{Engine, Id, Job, Outside, Said, Side};
use crate::clock::BootInstant;
use crate::copies::ASK_EVERY;
use crate::copies::holder::Copy;
use crate::copies::permits::Pledge;
use crate::copies::wire::{Word, of_the_pair};
use crate::migration::wire::Either;
use crate::store::{Entry, Journal, Refusal};
use crate::transfer::copying::Parts;
use holders::{Arriving, Holding};
use keeper::Keeper;
use owners::{Owned, Sending};

/// Most confirmations that wait for the first promise; the owner asks for others again.
const UNSAID_MAX: usize = 1024;
/// Rows looked at at once after a restart.
const PAGE: usize = 1024;
/// How often every machine is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Copies that stay beside their owner's.
#[derive(Default)]
pub(super) struct Sharing {
    owners: BTreeMap<Address, Owned>,
    holders: BTreeMap<Address, Holding>,
    /// Whose machines are asked for by which id.
    by_id: BTreeMap<Id, Address>,
    /// Copies on their way to holders.
    sending: BTreeMap<Id, Sending>,
    /// Copies that are being written here.
    arriving: BTreeMap<Id, Arriving>,
    /// Owners whose holders change.
    changing: usize,
    /// Since when each peer is asked for its permission.
    asked_since: BTreeMap<ServerName, BootInstant>,
    /// What is refused to a peer once it is promised anew, and what is so since the promise that is under way.
    refusing: BTreeMap<ServerName, Vec<(Address, Refusal)>>,
    pledging: BTreeMap<ServerName, Vec<(Address, Refusal)>>,
    /// What is held for a peer that was promised nothing yet, and is told when it is.
    unsaid: BTreeMap<ServerName, Vec<(Address, Copy)>>,
    /// Objects that a request found not permitted.
    waiting: BTreeSet<Address>,
    ask_at: Option<BootInstant>,
    look_at: Option<BootInstant>,
    keeper: Keeper,
}

impl Sharing {
    /// How long a peer that is asked has not answered. One that is not asked, since it holds nothing any more, is not silent.
    fn silent_for(&self, now: BootInstant, heard: Option<BootInstant>, peer: &ServerName) -> Duration {
        let since = self.asked_since.get(peer).copied();
        since.map_or(Duration::ZERO, |since| {
            now.saturating_since(heard.map_or(since, |heard| heard.max(since)))
        })
    }
}

impl<O: Outside> Engine<O> {
    /// Does what is due for copies that stay beside their owner's.
    pub(super) fn share_out(&mut self) {
        let now = self.outside.now();
        for (address, holders) in self.parts.objects.take_released() {
            self.forget_owner(&address);
            for holder in holders {
                self.say(&holder, &address, Word::Look);
            }
        }
        for address in self.parts.objects.asked_for() {
            self.look_at_asked(now, &address);
        }
        if self.sharing.ask_at.is_none_or(|at| at <= now) {
            self.sharing.ask_at = Some(now + ASK_EVERY);
            self.ask_permits(now);
        }
        if self.sharing.look_at.is_none_or(|at| at <= now) {
            self.sharing.look_at = Some(now + LOOK_EVERY);
            self.look_at_owners(now);
            self.look_at_holders(now);
            for address in self.sharing.waiting.clone() {
                self.consider_soon(&address);
            }
        }
        self.keep_copies(now);
        self.promise();
    }

    fn say(&mut self, peer: &ServerName, address: &Address, word: Word) {
        self.outside.send(peer, address, &Either::Copies(word));
    }

    /// A request waits for an object, or it has changed.
    fn look_at_asked(&mut self, now: BootInstant, address: &Address) {
        let Some(entry) = self.parts.objects.entry(address) else {
            self.forget_owner(address);
            return;
        };
        match &entry.journal {
            Journal::Active { .. } | Journal::Moving { .. } | Journal::Sealed { .. } | Journal::DeleteSent { .. } => {
                self.sharing.waiting.insert(address.clone());
                self.owner_changed(now, &entry);
                self.consider_soon(address);
            }
            Journal::Held { .. } => self.holder_asked(now, address),
            Journal::CreateSent { .. }
            | Journal::Moved { .. }
            | Journal::Forward { .. }
            | Journal::Tombstone { .. }
            | Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. } => self.forget_owner(address),
        }
    }

    /// Whether a move of an object may begin, or seal it, as far as its other holders are concerned. What it waits for is seen to at
    /// once: a move looks at every turn, so if it asked like a request there would be another turn each time.
    pub(super) fn may_give_away(&mut self, entry: &Entry) -> bool {
        let now = self.outside.now();
        let may = self.parts.objects.permits_now(entry, now);
        if !may {
            self.look_at_asked(now, &entry.address);
        }
        may
    }

    /// Asks every peer that holds copies of this server's objects whether it may go on with them.
    fn ask_permits(&mut self, now: BootInstant) {
        let peers = self.parts.objects.peers();
        self.sharing.asked_since.retain(|peer, _| peers.contains_key(peer));
        for peer in peers.into_keys() {
            self.sharing.asked_since.entry(peer.clone()).or_insert(now);
            let number = self.parts.objects.permits(|permits| permits.ask(&peer, now));
            self.say(&peer, &of_the_pair(), Word::AskPermit { number });
        }
    }

    /// A word of a peer.
    pub(super) fn said(&mut self, peer: &ServerName, address: Address, word: Word, payload: Bytes) {
        let now = self.outside.now();
        match word {
            Word::Keep(copy) => self.keep_arrived(now, peer, address, copy, payload),
            Word::Grant {
                number,
                revision,
                good_for_ms,
            } => self.granted(
                peer,
                &address,
                number,
                revision,
                Duration::from_millis(good_for_ms.into()),
            ),
            Word::NoGrant { number } => self.denied(now, peer, &address, number),
            Word::Look => self.recheck(now, &address),
            Word::AskPermit { number } => {
                if let Some(pledge) = self.pledge(peer) {
                    self.say(peer, &address, Word::Permit { number, pledge });
                }
            }
            Word::Kept {
                epoch,
                revision,
                tx,
                pledge,
            } => self.confirmed(now, peer, &address, Copy { epoch, revision, tx }, pledge),
            Word::Lacks {
                epoch,
                properties,
                body,
            } => self.lacks(peer, &address, epoch, Parts { properties, body }),
            Word::NotKept { epoch } => self.not_kept(now, peer, &address, epoch),
            Word::AskGrant { number } => self.asked_grant(now, peer, &address, number),
            Word::Permit { number, pledge } => {
                self.parts
                    .objects
                    .permits(|permits| permits.answered(peer, number, pledge));
                self.permitted(now, peer);
            }
        }
    }

    /// A peer permits: whatever waited for that goes on.
    fn permitted(&mut self, now: BootInstant, peer: &ServerName) {
        let of_peer = |owned: &Owned| owned.machine.others().any(|other| other == peer);
        let waiting: Vec<Address> = (self.sharing.owners.iter())
            .filter(|(_, owned)| of_peer(owned))
            .map(|(address, _)| address.clone())
            .collect();
        for address in waiting {
            self.look_at_owner(now, &address);
        }
        for address in std::mem::take(&mut self.sharing.waiting) {
            // Who still finds it not permitted asks again.
            self.parts.objects.wake(&address);
        }
    }

    /// Tells an owner that a copy is held; as soon as it was promised something.
    fn say_kept(&mut self, owner: &ServerName, address: &Address, copy: Copy) {
        if let Some(pledge) = self.pledge(owner) {
            let Copy { epoch, revision, tx } = copy;
            let kept = Word::Kept {
                epoch,
                revision,
                tx,
                pledge,
            };
            self.say(owner, address, kept);
            return;
        }
        let unsaid = self.sharing.unsaid.entry(owner.clone()).or_default();
        if unsaid.len() < UNSAID_MAX {
            unsaid.push((address.clone(), copy));
        }
    }

    /// What this server has promised a peer; `None` if that has first to be made durable.
    fn pledge(&mut self, peer: &ServerName) -> Option<Pledge> {
        let pledge = self.parts.objects.store().pledge(peer);
        if pledge.is_none() {
            self.sharing.refusing.entry(peer.clone()).or_default();
        }
        pledge
    }

    /// Promises anew what has to be before something is refused, a peer at a time.
    fn promise(&mut self) {
        for (peer, refusals) in std::mem::take(&mut self.sharing.refusing) {
            if self.sharing.pledging.contains_key(&peer) {
                self.sharing.refusing.insert(peer, refusals);
                continue;
            }
            self.sharing.pledging.insert(peer.clone(), refusals);
            self.outside.job(Job(Work::Pledge(peer)));
        }
    }

    /// A peer was promised anew, or the disk failed.
    pub(super) fn pledged(&mut self, peer: ServerName, done: bool) {
        let refusals = self.sharing.pledging.remove(&peer).unwrap_or_default();
        if !done {
            self.sharing.refusing.entry(peer).or_default().extend(refusals);
            return;
        }
        for (address, refusal) in refusals {
            self.refuse(&address, Some(refusal));
        }
        for (address, copy) in self.sharing.unsaid.remove(&peer).unwrap_or_default() {
            // Nothing is promised of what is refused meanwhile.
            let permits = |held: &Holding| held.machine.permits(copy.epoch);
            if self.sharing.holders.get(&address).is_some_and(permits) {
                self.say_kept(&peer, &address, copy);
            }
        }
    }

    /// The librarian's answer to a machine.
    pub(super) fn share_answered(&mut self, side: Side, id: Id, said: Said) {
        let Some(address) = self.sharing.by_id.get(&id).cloned() else {
            return;
        };
        let now = self.outside.now();
        let (question, register) = match said {
            Said::Register { question, register, .. } => (question, register),
            Said::Nothing { question } => (question, None),
            Said::Changed(outcome) => {
                match side {
                    Side::Owner => self.owner_settled(now, &address, outcome),
                    Side::Holder => self.holder_settled(&address, outcome),
                    Side::Source | Side::Destination => {}
                }
                return;
            }
        };
        match side {
            Side::Owner => self.owner_read(now, &address, question, register),
            Side::Holder => self.holder_read(now, &address, question, register),
            Side::Source | Side::Destination => {}
        }
    }

    /// Takes up what a restart found half done: whether this server has taken an object over, the register says. What its own
    /// objects need is found by the first round.
    pub(super) fn recover_copies(&mut self) {
        let now = self.outside.now();
        let mut after = None;
        loop {
            let rows = self.parts.objects.held_rows(after.as_ref(), PAGE);
            for row in &rows {
                if row.journal.is_open() {
                    self.recheck(now, &row.address);
                }
            }
            after = rows.last().map(|row| row.address.clone());
            if rows.len() < PAGE {
                return;
            }
        }
    }

    /// A way to a peer is there again, or gone: copies that were on their way may be lost.
    pub(super) fn share_renewed(&mut self, peer: &ServerName) {
        let lost: Vec<Id> = (self.sharing.sending.iter())
            .filter(|(_, sending)| sending.to == *peer && !sending.large)
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.sent(id, None);
        }
        let now = self.outside.now();
        let waits =
            |owned: &Owned| owned.machine.staging() == Some(peer) || owned.machine.lacking().any(|name| name == peer);
        let owners = self.sharing.owners.iter_mut().filter(|(_, owned)| waits(owned));
        let waiting: Vec<Address> = owners
            .map(|(address, owned)| {
                owned.machine.renewed(peer);
                address.clone()
            })
            .collect();
        for address in waiting {
            self.look_at_owner(now, &address);
        }
    }
}
