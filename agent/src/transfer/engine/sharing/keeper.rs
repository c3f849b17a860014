//! Which objects get more copies, or fewer, and which holders take over for an owner that is lost: towards what the want says
//! ([`zones::Keep`]), object by object.
//!
//! Level-triggered: rounds through all rows, one as soon as the want says something else, and then now and then; what a request
//! waits for, or has just been made, comes first. Few changes are under way at a time, fewer while clients wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;
use zones::{Address, Keep, ServerName, Tx};

use super::super::{Engine, Id, Outside};
use super::holders::HOLDING_MAX;
use super::{Holding, LOOK_EVERY};
use crate::clock::BootInstant;
use crate::copies::RESEND_AFTER;
use crate::migration::destination::{self, Destination};
use crate::migration::pace::WHOLE;
use crate::migration::wire::Request;
use crate::objects::KeptFigures;
use crate::store::{Entry, Journal};

/// A holder that has not answered for so long is dropped from an object that a request waits for: it may not be waited for longer.
const SILENT: Duration = Duration::from_millis(1500);
/// And after so long from every object: it will not be back at once.
const SILENT_LONG: Duration = Duration::from_secs(30);
/// A server that has not taken a copy in this time is passed over for a while.
const STAGING_MAX: Duration = Duration::from_secs(5);
/// How long.
const PASSED_OVER: Duration = Duration::from_secs(10);
/// Rows looked at in one look.
const SCAN: usize = 4096;
/// Changes of holders under way at a time.
const CHANGING_MAX: usize = 1024;
/// However long clients wait, so many go on: a server is to become empty.
const CHANGING_MIN: usize = 64;
/// Machines of owners at a time, above which none is made that no request waits for.
const OWNERS_MAX: usize = 8192;
/// Machines of holders that take over at a time.
const TAKING_OVER_MAX: usize = HOLDING_MAX / 2;
/// Pause between rounds while there is nothing to do, and while there is.
const ROUND_PAUSE: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// Copies of others' objects whose register is read again in a second, for those that were let go of unheard.
const RECHECKED: usize = 16;
/// Rows compared with another registry in one look, and machines above which that waits.
const COMPARED: usize = 1024;
/// Objects that wait to be looked at; with more of them the next round finds them.
const SOON_MAX: usize = 64 << 10;

/// Where keeping stands.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    keep: Keep,
    soon: VecDeque<Address>,
    /// The last row that the round has looked at.
    after: Option<Address>,
    in_round: bool,
    next_round: Option<BootInstant>,
    busy: bool,
    counting: KeptFigures,
    /// Servers that take no copy now.
    passed_over: Vec<(ServerName, BootInstant)>,
    recheck_after: Option<Address>,
    recheck_at: Option<BootInstant>,
    look_at: Option<BootInstant>,
    lost_after: Option<(ServerName, Address)>,
    /// Which registry was known when all rows were compared with it.
    compared_with: Option<u64>,
    /// Where comparing stands, while it goes on.
    comparing: Option<Comparing>,
}

/// Rows that have been compared with another registry: those of this server first, then those that it holds.
#[derive(Clone, Debug)]
enum Comparing {
    Owned(Option<Address>),
    Held(Option<Address>),
}

impl Keeper {
    /// Servers that are lost for good.
    pub(super) fn lost(&self) -> &[ServerName] {
        &self.keep.lost
    }
}

/// What is to become of an object's holders.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Next {
    server: ServerName,
    holds: bool,
}

impl<O: Outside> Engine<O> {
    /// Whether the holders of an object are about to change.
    pub(in super::super) fn are_holders_changing(&self, address: &Address) -> bool {
        self.sharing
            .owners
            .get(address)
            .is_some_and(|owned| owned.machine.is_changing())
    }

    /// An object is looked at before others.
    pub(in super::super) fn consider_soon(&mut self, address: &Address) {
        let soon = &mut self.sharing.keeper.soon;
        if soon.len() < SOON_MAX && soon.back() != Some(address) {
            soon.push_back(address.clone());
        }
    }

    /// Begins what may be begun now.
    pub(super) fn keep_copies(&mut self, now: BootInstant) {
        let wanted = self.outside.wanted();
        if !wanted.may_start(now) || !self.outside.is_trusted() {
            return;
        }
        let keep = wanted.want.map(|want| want.errand.keep).unwrap_or_default();
        let looks = self.sharing.keeper.look_at.is_none_or(|at| at <= now);
        if !looks && keep == self.sharing.keeper.keep && self.sharing.keeper.soon.is_empty() {
            return;
        }
        let keeper = &mut self.sharing.keeper;
        if keep != keeper.keep {
            keeper.keep = keep;
            (keeper.after, keeper.in_round, keeper.next_round) = (None, false, None);
            keeper.lost_after = None;
            keeper.look_at = None;
        }
        keeper.passed_over.retain(|(_, until)| *until > now);
        let share = self.pace.share() as usize;
        let most = (CHANGING_MAX * share / WHOLE as usize).max(CHANGING_MIN);
        let mut room = most.saturating_sub(self.sharing.changing);
        for _ in 0..self.sharing.keeper.soon.len().min(SCAN) {
            let Some(address) = self.sharing.keeper.soon.pop_front() else {
                break;
            };
            if let Some(entry) = self.parts.objects.entry(&address) {
                self.consider(now, &entry, true, &mut room);
            }
        }
        if looks {
            self.sharing.keeper.look_at = Some(now + LOOK_EVERY);
            self.compare(now);
            self.give_up_slow(now);
            self.round(now, &mut room);
            self.give_up_arrivals();
            self.take_over_lost(now);
            self.recheck_some(now);
        }
    }

    /// Goes on with the round through all objects, or begins the next one.
    fn round(&mut self, now: BootInstant, room: &mut usize) {
        let keeper = &mut self.sharing.keeper;
        if !keeper.in_round {
            if keeper.next_round.is_some_and(|at| at > now) {
                return;
            }
            (keeper.in_round, keeper.after, keeper.busy) = (true, None, false);
            keeper.counting = KeptFigures::default();
        }
        let after = keeper.after.clone();
        let rows = self.parts.objects.kept_rows(after.as_ref(), SCAN);
        let ends = rows.len() < SCAN;
        let last = rows.last().map(|(entry, _)| entry.address.clone());
        for (entry, known) in rows {
            let (short, leaving) = self.counts(&entry);
            self.sharing.keeper.counting.short += u64::from(short);
            self.sharing.keeper.counting.leaving += u64::from(leaving);
            let acts = self.consider(now, &entry, known, room);
            self.sharing.keeper.busy |= acts || short || leaving;
        }
        let keeper = &mut self.sharing.keeper;
        keeper.after = last;
        if ends {
            keeper.in_round = false;
            keeper.next_round = Some(now + if keeper.busy { BUSY_PAUSE } else { ROUND_PAUSE });
            self.parts.objects.set_kept(keeper.counting);
        }
    }

    /// Whether an object has fewer copies than it is to have, and whether one is where none is to be.
    fn counts(&self, entry: &Entry) -> (bool, bool) {
        let keep = &self.sharing.keeper.keep;
        let others = entry.others();
        let leaving = others
            .iter()
            .any(|other| keep.leave.contains(other) || keep.lost.contains(other));
        (others.len() + 1 < keep.wanted(&entry.address), leaving)
    }

    /// Begins what is to be done for an object, if something is and may be; whether something is.
    fn consider(&mut self, now: BootInstant, entry: &Arc<Entry>, known: bool, room: &mut usize) -> bool {
        let address = &entry.address;
        let quiet = matches!(&entry.journal, Journal::Active { wait: None })
            && !self.outgoing_by_address.contains_key(address)
            && !self.incoming_by_address.contains_key(address);
        if entry.is_shared() && !known && !self.sharing.owners.contains_key(address) {
            // After a restart: what others have is asked, and a change that may have been sent is settled.
            if self.sharing.owners.len() < OWNERS_MAX {
                self.make_owner(now, entry);
                self.look_at_owner(now, address);
            }
            return true;
        }
        let Some(next) = self.next_holder(now, entry) else {
            return false;
        };
        // A new object is acknowledged when it has its copies.
        let urgent = !next.holds || self.sharing.waiting.contains(address);
        if !quiet || *room == 0 && !urgent {
            return true;
        }
        if !self.sharing.owners.contains_key(address) {
            if self.sharing.owners.len() >= OWNERS_MAX && !urgent {
                return true;
            }
            self.make_owner(now, entry);
        }
        let Some(owned) = self.sharing.owners.get_mut(address) else {
            return true;
        };
        if !next.holds && owned.machine.staging() == Some(&next.server) {
            owned.machine.gives_up(&next.server);
        }
        if owned.machine.wants(&next.server, next.holds) {
            *room = room.saturating_sub(1);
            self.look_at_owner(now, address);
        }
        true
    }

    /// Who is to become a holder of an object, or is to be one no more.
    fn next_holder(&self, now: BootInstant, entry: &Entry) -> Option<Next> {
        let (keep, address) = (&self.sharing.keeper.keep, &entry.address);
        let others = entry.others();
        let drop = |server: &ServerName| Next {
            server: server.clone(),
            holds: false,
        };
        let awaited = self.sharing.waiting.contains(address)
            || self.sharing.owners.get(address).is_some_and(|owned| {
                owned
                    .lacking_since
                    .is_some_and(|since| now.saturating_since(since) >= RESEND_AFTER)
            });
        let gone = |other: &&ServerName| {
            let silent = self.silence(now, other);
            keep.lost.contains(other) || silent > SILENT_LONG || awaited && silent > SILENT
        };
        if let Some(gone) = others.iter().find(gone) {
            return Some(drop(gone));
        }
        if let Some(useless) = self.sharing.owners.get(address).and_then(|owned| owned.useless(now)) {
            return Some(drop(useless));
        }
        let hot = keep.hot_on(address);
        let stays = |other: &&ServerName| !keep.leave.contains(other);
        let staying = others.iter().filter(stays).count();
        let wanted = keep.wanted(address);
        if staying + 1 < wanted {
            let add = self.add_one(now, address, others);
            if add.is_some() {
                return add;
            }
        }
        if let Some(leaving) = others.iter().find(|other| !stays(other)) {
            // Only when there are enough without it, or no other place is left for it.
            let enough = staying + 1 >= wanted || self.places(others).next().is_none();
            return enough.then(|| drop(leaving));
        }
        let missing = hot
            .iter()
            .find(|server| **server != self.parts.me && !others.contains(server) && !self.is_passed_over(now, server));
        if let Some(missing) = missing {
            let server = missing.clone();
            return Some(Next { server, holds: true });
        }
        let surplus = others.iter().filter(|other| !hot.contains(other));
        let (count, last) = (
            surplus.clone().count(),
            surplus.min_by(|a, b| self.order(address, a, b)),
        );
        last.filter(|_| count + 1 > wanted).map(drop)
    }

    /// Servers that may be given one copy more, whether they take it now or not.
    fn places<'a>(&'a self, others: &'a [ServerName]) -> impl Iterator<Item = &'a ServerName> {
        let keep = &self.sharing.keeper.keep;
        keep.spread.iter().map(|(server, _)| server).filter(|server| {
            **server != self.parts.me
                && !others.contains(server)
                && !keep.leave.contains(server)
                && !keep.lost.contains(server)
        })
    }

    /// A server for one copy more, by weight, the same one for the same object as long as weights stand.
    fn add_one(&self, now: BootInstant, address: &Address, others: &[ServerName]) -> Option<Next> {
        let servers = self.places(others).filter(|server| !self.is_passed_over(now, server));
        let server = servers.max_by(|a, b| self.order(address, a, b))?.clone();
        Some(Next { server, holds: true })
    }

    /// Rendezvous hashing with weights: each server draws for each object, and a heavier one draws higher.
    fn order(&self, address: &Address, a: &ServerName, b: &ServerName) -> std::cmp::Ordering {
        let weight = |server: &ServerName| {
            let spread = &self.sharing.keeper.keep.spread;
            let weight = spread.iter().find(|(name, _)| name == server);
            weight.map_or(1.0, |(_, weight)| f64::from(*weight))
        };
        let draw = |server: &ServerName| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(address.as_str().as_bytes());
            hasher.update(b" ");
            hasher.update(server.as_str().as_bytes());
            let mut first = [0; 4];
            first.copy_from_slice(&hasher.finalize().as_bytes()[..4]);
            let uniform = (f64::from(u32::from_be_bytes(first)) + 0.5) / 2_f64.powi(32);
            -weight(server) / uniform.ln()
        };
        draw(a).total_cmp(&draw(b))
    }

    fn silence(&self, now: BootInstant, peer: &ServerName) -> Duration {
        let heard = self.parts.objects.permits(|permits| permits.heard(peer));
        self.sharing.silent_for(now, heard, peer)
    }

    fn is_passed_over(&self, now: BootInstant, server: &ServerName) -> bool {
        let passed = self.sharing.keeper.passed_over.iter().any(|(name, _)| name == server);
        passed || self.silence(now, server) > SILENT
    }

    /// Gives up additions that get nowhere, so that another server is tried.
    fn give_up_slow(&mut self, now: BootInstant) {
        let mut slow = Vec::new();
        for (address, owned) in &self.sharing.owners {
            // Writes wait for one that counts already: not longer than for a holder.
            let (lagging, staging) = (owned.machine.lagging(), owned.machine.staging());
            let Some(server) = lagging.or(staging) else { continue };
            let silent = lagging.is_some() && self.silence(now, server) > SILENT;
            let long = owned
                .changing_since
                .is_some_and(|since| now.saturating_since(since) > STAGING_MAX);
            if silent || long && !owned.sends_to(server) {
                slow.push((address.clone(), server.clone()));
            }
        }
        for (address, server) in slow {
            if let Some(owned) = self.sharing.owners.get_mut(&address) {
                owned.machine.gives_up(&server);
                self.run_owner(&address);
            }
            self.pass_over(now, server);
        }
    }

    /// A server takes no copy now, or may not: others are tried for a while.
    pub(super) fn pass_over(&mut self, now: BootInstant, server: ServerName) {
        let passed_over = &mut self.sharing.keeper.passed_over;
        if !passed_over.iter().any(|(name, _)| *name == server) {
            info!(%server, "a server takes no copy now: others are tried");
            passed_over.push((server, now + PASSED_OVER));
        }
    }

    /// Gives up what lost servers had begun to move here: nobody sends the rest of it any more.
    fn give_up_arrivals(&mut self) {
        let lost = &self.sharing.keeper.keep.lost;
        if lost.is_empty() {
            return;
        }
        let from_lost = |machine: &Destination| machine.takes_copy() && lost.contains(machine.source());
        let incoming = self
            .incoming
            .iter()
            .filter(|(_, incoming)| from_lost(&incoming.machine));
        let vain: Vec<(Id, Tx)> = incoming.map(|(id, incoming)| (*id, incoming.machine.tx())).collect();
        for (id, tx) in vain {
            self.feed_destination(id, destination::Input::Peer(Request::Abort { tx }));
        }
    }

    /// Takes over what lost servers own, as many objects at a time as there is room for.
    fn take_over_lost(&mut self, now: BootInstant) {
        for server in self.sharing.keeper.keep.lost.clone() {
            let taking = self
                .sharing
                .holders
                .values()
                .filter(|held| held.machine.takes_over())
                .count();
            let after = match &self.sharing.keeper.lost_after {
                Some((of, after)) if *of == server => Some(after.clone()),
                Some(_) | None => None,
            };
            let room = TAKING_OVER_MAX.saturating_sub(taking).min(SCAN);
            if room == 0 {
                return;
            }
            let rows = self.parts.objects.held_by(&server, after.as_ref(), room);
            let last = (rows.len() == room)
                .then(|| rows.last().map(|row| row.address.clone()))
                .flatten();
            self.sharing.keeper.lost_after = last.map(|last| (server.clone(), last));
            for row in rows {
                let takes_over = |held: &Holding| held.machine.takes_over();
                if !self.sharing.holders.get(&row.address).is_some_and(takes_over) {
                    self.owner_is_lost(now, &row.address);
                }
            }
            if self.sharing.keeper.lost_after.is_some() {
                return;
            }
        }
    }

    /// Reads all registers of copies when the registry was put back or rebuilt: it may name other holders than rows do.
    fn compare(&mut self, now: BootInstant) {
        let generation = self.outside.generation();
        let keeper = &mut self.sharing.keeper;
        if keeper
            .compared_with
            .replace(generation)
            .is_some_and(|known| known != generation)
        {
            keeper.comparing = Some(Comparing::Owned(None));
        }
        let Some(comparing) = keeper.comparing.clone() else {
            return;
        };
        let (owners, holders) = (self.sharing.owners.len(), self.sharing.holders.len());
        let last = |rows: &[Arc<Entry>]| (rows.len() == COMPARED).then(|| rows[COMPARED - 1].address.clone());
        self.sharing.keeper.comparing = match comparing {
            Comparing::Owned(_) if owners + COMPARED > OWNERS_MAX => return,
            Comparing::Held(_) if holders + COMPARED > HOLDING_MAX => return,
            Comparing::Owned(after) => {
                let rows = self.parts.objects.kept_rows(after.as_ref(), COMPARED);
                let rows: Vec<Arc<Entry>> = rows.into_iter().map(|(entry, _)| entry).collect();
                for entry in rows.iter().filter(|entry| entry.is_shared()) {
                    self.compare_owned(now, entry);
                }
                let last = last(&rows);
                Some(last.map_or(Comparing::Held(None), |last| Comparing::Owned(Some(last))))
            }
            Comparing::Held(after) => {
                let rows = self.parts.objects.held_rows(after.as_ref(), COMPARED);
                for row in &rows {
                    self.recheck(now, &row.address);
                }
                last(&rows).map(|last| Comparing::Held(Some(last)))
            }
        };
    }

    /// Looks whether some of the copies here are still named: who was let go of may not have heard of it.
    fn recheck_some(&mut self, now: BootInstant) {
        if self.sharing.keeper.recheck_at.is_some_and(|at| at > now) {
            return;
        }
        self.sharing.keeper.recheck_at = Some(now + Duration::from_secs(1));
        let rows = self
            .parts
            .objects
            .held_rows(self.sharing.keeper.recheck_after.as_ref(), RECHECKED);
        self.sharing.keeper.recheck_after = match rows.len() {
            RECHECKED => rows.last().map(|row| row.address.clone()),
            _ => None,
        };
        for row in rows {
            self.recheck(now, &row.address);
        }
    }
}
