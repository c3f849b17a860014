//! What to move, and where: the wants and wishes of the controller, carried out object by object.
//!
//! Level-triggered: as long as the want says draining, whatever is owned here and stable is offered to the targets, in the
//! order of addresses and round again, until nothing is left. What stays for now is tried again after a pause. Without an
//! answer of the librarian nothing is begun; what is open is finished.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tracing::{debug, info};
use zones::{Address, Role, ServerName, Want, Wish};

use super::outgoing::Order;
use super::{Engine, Outside};
use crate::clock::BootInstant;
use crate::control::Wanted;
use crate::migration::source::Why;
use crate::objects::Busy;

/// Candidates fetched at once.
const FETCH: usize = 1024;
/// First pause before an object that stayed is tried again.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Pause before an object that cannot be read here is tried again: a person may have repaired the disk.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// How long a target that had no room, or was silent, gets nothing.
const TARGET_PAUSE: Duration = Duration::from_secs(1);
/// Pause after a round through all objects.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// Objects whose failures are remembered; with more of them the drain pauses as a whole.
const FAILED_MAX: usize = 16 << 10;
/// Pause of the whole drain while more objects fail than are remembered.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// Where the drain stands.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// Objects to try, in the order of addresses.
    queue: VecDeque<(Address, u64)>,
    /// The last one that was fetched; `None` at the start of a round.
    after: Option<Address>,
    /// When the next round may begin.
    next_round: Option<BootInstant>,
    failed: HashMap<Address, Failed>,
    /// Those of them whose copies here cannot be read.
    unreadable: HashSet<Address>,
    targets: HashMap<ServerName, BootInstant>,
    /// Which target was given the last object.
    turn: usize,
    /// The whole drain pauses until then.
    paused_until: Option<BootInstant>,
    draining: bool,
}

#[derive(Debug)]
struct Failed {
    times: u32,
    broken_seals: u32,
    try_at: BootInstant,
}

impl Drain {
    /// An object has gone, or is nobody's to move any more.
    pub(super) fn settled(&mut self, address: &Address) {
        self.failed.remove(address);
        self.unreadable.remove(address);
    }

    /// An object stays for now.
    pub(super) fn failed(&mut self, address: &Address, target: &ServerName, why: Why, now: BootInstant) {
        match why {
            Why::Refused | Why::Silent => {
                self.targets.insert(target.clone(), now + TARGET_PAUSE);
            }
            Why::Register
            | Why::Copy
            | Why::Unreadable
            | Why::Dropped
            | Why::SealBudget
            | Why::Cancelled
            | Why::Restarted
            | Why::Disk => {}
        }
        if self.failed.len() >= FAILED_MAX && !self.failed.contains_key(address) {
            self.paused_until = Some(now + FAILED_PAUSE);
            return;
        }
        let failed = self.failed.entry(address.clone()).or_insert(Failed {
            times: 0,
            broken_seals: 0,
            try_at: now,
        });
        let pause = PAUSE_FIRST * 2u32.pow(failed.times.min(6));
        failed.times += 1;
        failed.broken_seals += u32::from(why == Why::SealBudget);
        if why == Why::Unreadable {
            self.unreadable.insert(address.clone());
            failed.try_at = now + UNREADABLE_PAUSE;
        } else {
            self.unreadable.remove(address);
            failed.try_at = now + pause.min(PAUSE_MAX);
        }
    }

    fn broken_seals(&self, address: &Address) -> u32 {
        self.failed.get(address).map_or(0, |failed| failed.broken_seals)
    }

    fn rests(&self, address: &Address, now: BootInstant) -> bool {
        self.failed.get(address).is_some_and(|failed| failed.try_at > now)
    }

    /// The next target in turn that is not paused.
    fn target(&mut self, targets: &[ServerName], now: BootInstant) -> Option<ServerName> {
        for _ in 0..targets.len() {
            self.turn = (self.turn + 1) % targets.len();
            let target = &targets[self.turn];
            if self.targets.get(target).is_none_or(|until| *until <= now) {
                return Some(target.clone());
            }
        }
        None
    }

    /// Whether this server is being drained.
    pub(super) fn is_on(&self) -> bool {
        self.draining
    }

    fn stop(&mut self) {
        *self = Drain::default();
    }
}

impl<O: Outside> Engine<O> {
    /// Opens what may be opened now.
    pub(super) fn drain(&mut self, wanted: Wanted) {
        self.parts.objects.set_unreadable(self.drain.unreadable.len());
        let now = self.outside.now();
        if !wanted.may_start(now) {
            return;
        }
        self.single(&wanted, now);
        match wanted.want {
            Some(want) if want.role == Role::Draining && !want.targets.is_empty() => self.everything(&want, now),
            Some(_) | None => {
                if self.drain.draining {
                    info!("no longer draining");
                    self.drain.stop();
                }
            }
        }
    }

    /// Wishes for single objects.
    fn single(&mut self, wanted: &Wanted, now: BootInstant) {
        let draining = wanted.want.as_ref().filter(|want| want.role == Role::Draining);
        for wish in &wanted.todos {
            let (address, server) = match wish {
                Wish::Move { address, server } => (address, server),
                // Copies beside the owner's are not kept yet.
                Wish::Copy { .. } | Wish::Drop { .. } => continue,
            };
            let Some(entry) = self.parts.objects.entry(address) else {
                continue;
            };
            if *server == self.parts.me || self.drain.rests(address, now) || !self.window.admits(entry.plain_octets()) {
                continue;
            }
            let order = Order {
                how: "wish",
                plan: wanted.plan,
                // The gate of a drain compares what was given with what its target took. What goes elsewhere is none of its business.
                gated: draining.is_some_and(|want| want.targets.contains(server)),
            };
            // A wish stays until the controller takes it away, so one that is under way or done is met often.
            match self.begin(address, server, self.drain.broken_seals(address), order) {
                Ok(()) => info!(object = %address, target = %server, "a wished move begins"),
                Err(Busy::NotOwned | Busy::Moving | Busy::Opening) => {}
            }
        }
    }

    fn everything(&mut self, want: &Want, now: BootInstant) {
        if !self.drain.draining {
            info!(targets = ?want.targets, plan = want.plan, "draining");
            self.drain.draining = true;
        }
        if self.drain.paused_until.is_some_and(|until| until > now) {
            return;
        }
        let targets: Vec<_> = want
            .targets
            .iter()
            .filter(|target| **target != self.parts.me)
            .cloned()
            .collect();
        loop {
            if self.drain.queue.is_empty() && !self.fetch(now) {
                return;
            }
            let Some((address, octets)) = self.drain.queue.front().cloned() else {
                return;
            };
            if self.drain.rests(&address, now) {
                self.drain.queue.pop_front();
                continue;
            }
            if !self.window.admits(octets) {
                return;
            }
            let Some(target) = self.drain.target(&targets, now) else {
                return;
            };
            self.drain.queue.pop_front();
            let order = Order {
                how: "drain",
                plan: want.plan,
                gated: true,
            };
            match self.begin(&address, &target, self.drain.broken_seals(&address), order) {
                Ok(()) => {}
                Err(busy @ (Busy::NotOwned | Busy::Moving | Busy::Opening)) => {
                    debug!(object = %address, %busy, "object is not moved now");
                }
            }
        }
    }

    /// Fetches candidates; false if a round has ended and the next one may not begin yet.
    fn fetch(&mut self, now: BootInstant) -> bool {
        if self.drain.after.is_none() && self.drain.next_round.is_some_and(|at| at > now) {
            return false;
        }
        let found = self.parts.objects.candidates(self.drain.after.as_ref(), FETCH);
        if found.len() < FETCH {
            // The round ends with these.
            self.drain.after = None;
            self.drain.next_round = Some(now + ROUND_PAUSE);
        } else {
            self.drain.after = found.last().map(|(address, _)| address.clone());
        }
        self.drain.queue.extend(found);
        !self.drain.queue.is_empty()
    }
}
