//! What pairs of servers permit each other.
//!
//! An owner whose object has other holders may act only while none of these is about to take it over: a holder waits before it
//! does so only as long as a permission lasts. Objects are many and such takeovers few, so a holder answers for all objects of a
//! peer at once, by its *pledge*: a random number that it draws anew, durably, before it refuses anything to that peer. What the
//! peer was told by holders it was told under their pledge of then. So a pledge that has changed takes back every confirmation
//! before it: the peer sends again what is held there, and is told of each object whether it is still its own.
//!
//! A peer that lost its disk and came back under its name has another pledge, too: it has nothing of what it confirmed.

use std::collections::{HashMap, VecDeque};

use zones::ServerName;

use super::GOOD_FOR;
use crate::clock::BootInstant;

/// Names what a server has promised one peer.
pub type Pledge = u64;

/// The permissions of one server's peers.
#[derive(Clone, Debug, Default)]
pub struct Permits {
    peers: HashMap<ServerName, Peer>,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    /// The questions that are not answered, the oldest first: number and moment.
    asked: VecDeque<(u64, BootInstant)>,
    number: u64,
    permit: Option<Permit>,
}

#[derive(Clone, Copy, Debug)]
struct Permit {
    /// When the question was sent that was answered.
    sent_at: BootInstant,
    pledge: Pledge,
}

/// Questions to one peer that wait for their answers, at most: those of the time that an answer is good for.
const ASKED_MAX: usize = 16;

impl Permits {
    /// A question is sent to a peer now: its number.
    pub fn ask(&mut self, peer: &ServerName, now: BootInstant) -> u64 {
        let peer = self.peers.entry(peer.clone()).or_default();
        peer.number += 1;
        if peer.asked.len() == ASKED_MAX {
            peer.asked.pop_front();
        }
        peer.asked.push_back((peer.number, now));
        peer.number
    }

    /// A peer answers a question. Whether its pledge is another one than before.
    pub fn answered(&mut self, peer: &ServerName, number: u64, pledge: Pledge) -> bool {
        let Some(peer) = self.peers.get_mut(peer) else {
            return false;
        };
        let Some(at) = peer.asked.iter().position(|(asked, _)| *asked == number) else {
            return false;
        };
        // What was asked before has nothing to add.
        let Some((_, sent_at)) = peer.asked.drain(..=at).next_back() else {
            return false;
        };
        let before = peer.permit.replace(Permit { sent_at, pledge });
        before.is_some_and(|before| before.pledge != pledge)
    }

    /// Until when a peer, under this pledge, permits what this server does with objects whose copy it has confirmed; `None` if it
    /// does not.
    #[must_use]
    pub fn until(&self, peer: &ServerName, pledge: Pledge) -> Option<BootInstant> {
        let permit = self.peers.get(peer)?.permit?;
        (permit.pledge == pledge).then(|| permit.sent_at + GOOD_FOR)
    }

    /// The pledge of a peer, as it last said.
    #[must_use]
    pub fn pledge(&self, peer: &ServerName) -> Option<Pledge> {
        Some(self.peers.get(peer)?.permit?.pledge)
    }

    /// When the question was sent that a peer answered last.
    #[must_use]
    pub fn heard(&self, peer: &ServerName) -> Option<BootInstant> {
        Some(self.peers.get(peer)?.permit?.sent_at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::since_boot(Duration::from_secs(100) + Duration::from_millis(ms))
    }

    #[test]
    fn permission_lasts_from_the_sending_of_the_question() {
        let peer = "s2".parse().unwrap();
        let mut permits = Permits::default();
        assert_eq!(permits.until(&peer, 7), None);
        let number = permits.ask(&peer, at(0));
        assert!(!permits.answered(&peer, number, 7));
        assert_eq!(permits.until(&peer, 7), Some(at(2000)));
        // Answers may come late, and out of order.
        let older = permits.ask(&peer, at(100));
        let newer = permits.ask(&peer, at(1000));
        permits.answered(&peer, newer, 7);
        assert_eq!(permits.until(&peer, 7), Some(at(3000)));
        permits.answered(&peer, older, 7);
        permits.answered(&peer, newer, 8);
        assert_eq!(permits.until(&peer, 7), Some(at(3000)));
    }

    #[test]
    fn confirmations_under_another_pledge_permit_nothing() {
        let peer: ServerName = "s2".parse().unwrap();
        let mut permits = Permits::default();
        let number = permits.ask(&peer, at(0));
        permits.answered(&peer, number, 7);
        assert_eq!(permits.until(&peer, 8), None);
        let number = permits.ask(&peer, at(100));
        assert!(permits.answered(&peer, number, 8));
        assert_eq!(permits.until(&peer, 7), None);
        assert_eq!(permits.until(&peer, 8), Some(at(2100)));
    }
}
