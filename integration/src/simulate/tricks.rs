//! What a script does to have something come when it is rare: in the one moment that a step takes to become durable.
//!
//! What was said between agents is remembered, and comes once more over the same connection; questions of one agent find no
//! answer while its updates do; a connection breaks; a disk has no room for what is to come.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::migration::wire::{Either, Request as MoveRequest, read_frame, take_frame};
use agent::store::Reservation;
use bytes::{Bytes, BytesMut};

use super::clock::{Time, micros};
use super::script::{Deed, Script};
use super::world::{Event, World};

/// The agent whose step a deed follows.
pub(super) const HERE: usize = usize::MAX;

/// Something rare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trick {
    /// What was said to an agent over a connection that still stands comes once more.
    Repeat(usize, Which),
    /// The connection of two agents breaks.
    Break(usize, usize),
    /// No question of an agent about a register gets through for so long; its updates do.
    Mute(usize, Duration),
    /// The disk of an agent has no room for anything that wants to come, until faults end.
    Fill(usize),
}

/// What comes once more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Which {
    /// All of it, in its order.
    All,
    /// One message, by the dice.
    Any,
    /// The messages of one kind.
    Kind(&'static str),
}

/// A message that was sent.
struct Said {
    from: usize,
    to: usize,
    link: u64,
    kind: String,
    octets: Bytes,
}

/// What tricks need to know.
#[derive(Default)]
pub(super) struct Tricks {
    /// Whether the script has any: others remember nothing.
    on: bool,
    said: Vec<Said>,
    muted: BTreeMap<usize, Time>,
    filled: Vec<Reservation>,
}

impl Tricks {
    pub(super) fn of(script: &Script) -> Tricks {
        let tricky = |deed: &Deed| matches!(deed, Deed::Trick(_));
        let on =
            script.after.iter().any(|after| tricky(&after.deed)) || script.deeds.iter().any(|(_, deed)| tricky(deed));
        Tricks {
            on,
            ..Tricks::default()
        }
    }

    /// Whether the script has any.
    pub(super) fn are_on(&self) -> bool {
        self.on
    }

    /// A message is sent.
    pub(super) fn say(&mut self, from: usize, to: usize, link: u64, octets: &Bytes) {
        if self.on {
            self.said.push(Said {
                from,
                to,
                link,
                kind: kind(octets),
                octets: octets.clone(),
            });
        }
    }

    /// Whether no question of this agent gets through.
    pub(super) fn is_muted(&self, agent: usize, now: Time) -> bool {
        self.muted.get(&agent).is_some_and(|until| *until > now)
    }

    /// Everything is as usual again.
    pub(super) fn stop(&mut self) {
        self.muted.clear();
        self.filled.clear();
    }
}

impl World {
    pub(super) fn trick(&mut self, trick: Trick, here: usize) {
        let of = |agent| if agent == HERE { here } else { agent };
        match trick {
            Trick::Repeat(to, which) => self.repeat(of(to), which),
            Trick::Break(one, other) => self.break_link(of(one), of(other)),
            Trick::Mute(agent, pause) => {
                let until = self.now + micros(pause);
                self.tricks.muted.insert(of(agent), until);
            }
            Trick::Fill(agent) => {
                let store = self.machines[of(agent)].process.local.store();
                let free = (0..40).rev().map(|bit| 1u64 << bit);
                let filled: Vec<_> = free
                    .filter_map(|octets| store.reserve(octets, agent::vault::Suite::XChaCha20Poly1305).ok())
                    .collect();
                self.tricks.filled.extend(filled);
            }
        }
    }

    fn repeat(&mut self, to: usize, which: Which) {
        let mut again: Vec<(usize, u64, Bytes)> = Vec::new();
        for said in self.tricks.said.iter().filter(|said| said.to == to) {
            let link = *self.network.link(said.from, to);
            let wanted = match which {
                Which::All | Which::Any => true,
                Which::Kind(kind) => said.kind == kind,
            };
            if wanted && link.up && link.number == said.link {
                again.push((said.from, said.link, said.octets.clone()));
            }
        }
        match which {
            Which::All | Which::Kind(_) => {}
            Which::Any if again.is_empty() => {}
            Which::Any => {
                let dice = usize::try_from(self.faults.roll(170)).unwrap_or(0);
                again = vec![again.swap_remove(dice % again.len())];
            }
        }
        for (at, (from, link, octets)) in again.into_iter().enumerate() {
            self.push(self.now + at as Time, Event::Frames { from, to, link, octets });
        }
    }
}

/// The name of what a frame says.
fn kind(octets: &Bytes) -> String {
    let mut received = BytesMut::from(&octets[..]);
    let Ok(Some(frame)) = take_frame(&mut received) else {
        return String::new();
    };
    let text = match read_frame::<Either>(&frame) {
        Ok((_, Either::Request(MoveRequest::Copy(_)), _)) => return "Copy".to_owned(),
        Ok((_, Either::Request(request), _)) => format!("{request:?}"),
        Ok((_, Either::Reply(reply), _)) => format!("{reply:?}"),
        Ok((_, Either::Copies(word), _)) => format!("{word:?}"),
        Err(_) => return String::new(),
    };
    text.split(' ').next().unwrap_or_default().to_owned()
}
