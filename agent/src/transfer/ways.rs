//! Which connection to which agent is used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use tracing::info;
use zones::{Address, ServerName};

use super::{Engine, Side};
use crate::clock::BootInstant;
use crate::migration::wire::Either;
use crate::migration::{destination, source};
use crate::transfer::link::{self, Close, Link};
use crate::transfer::quic::Identified;

/// Pause before a peer that was not reached is dialed again.
const DIAL_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The peers and the way to them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: HashMap<ServerName, Way>,
    links: u64,
}

#[derive(Debug)]
enum Way {
    Up(Link),
    Dialing,
    Down { dial_at: BootInstant },
}

impl Peers {
    /// The connection to a peer.
    pub(super) fn link(&self, peer: &ServerName) -> Option<&Link> {
        match self.peers.get(peer)? {
            Way::Up(link) => Some(link),
            Way::Dialing | Way::Down { .. } => None,
        }
    }

    /// Whether what comes from this connection still counts.
    pub(super) fn is_current(&self, peer: &ServerName, id: u64) -> bool {
        self.link(peer).is_some_and(|link| link.id == id)
    }

    pub(super) fn dial_failed(&mut self, peer: &ServerName) {
        if let Some(way @ Way::Dialing) = self.peers.get_mut(peer) {
            *way = Way::Down {
                dial_at: BootInstant::now() + DIAL_AGAIN_AFTER,
            };
        }
    }

    pub(super) fn close(&mut self) {
        for (_, way) in self.peers.drain() {
            match way {
                Way::Up(link) => link::close(&link.connection, Close::Stopping),
                Way::Dialing | Way::Down { .. } => {}
            }
        }
    }
}

impl Engine {
    /// Sends a message, dialing the peer if there is no connection; a message that finds none is lost, as on a network.
    pub(super) fn tell(&mut self, peer: &ServerName, address: &Address, message: &Either) {
        if let Some(link) = self.peers.link(peer) {
            link.send(address, message, &[]);
        } else {
            self.dial(peer);
        }
    }

    pub(super) fn dial(&mut self, peer: &ServerName) {
        match self.peers.peers.get(peer) {
            Some(Way::Up(_) | Way::Dialing) => return,
            Some(Way::Down { dial_at }) if BootInstant::now() < *dial_at => return,
            Some(Way::Down { .. }) | None => {}
        }
        self.peers.peers.insert(peer.clone(), Way::Dialing);
        link::dial(
            self.parts.endpoint.clone(),
            Arc::clone(&self.parts.registers),
            self.parts.domain.clone(),
            peer.clone(),
            self.parts.events.clone(),
        );
    }

    /// Takes a new connection. Of two between the same agents both sides keep the one that the lesser name dialed; of two
    /// that the same one dialed, the later, since the former's end has only not been noticed yet.
    pub(super) fn linked(&mut self, connection: Connection, identified: Identified, dialed: bool) {
        let peer = identified.name.clone();
        if peer == self.parts.me {
            link::close(&connection, Close::Stranger);
            return;
        }
        let preferred = dialed == (self.parts.me < peer);
        if let Some(known) = self.peers.link(&peer)
            && known.dialed != dialed
            && !preferred
            && known.connection.close_reason().is_none()
        {
            link::close(&connection, Close::Double);
            return;
        }
        self.peers.links += 1;
        let id = self.peers.links;
        let link = Link::start(id, dialed, connection, identified, self.parts.events.clone());
        info!(%peer, dialed, "connected");
        let before = self.peers.peers.insert(peer.clone(), Way::Up(link));
        if let Some(Way::Up(before)) = before {
            link::close(&before.connection, Close::Double);
        }
        // What was sent before, or could not be, is sent again.
        self.renew(&peer);
    }

    pub(super) fn link_lost(&mut self, peer: &ServerName, id: u64) {
        if !self.peers.is_current(peer, id) {
            return;
        }
        info!(%peer, "connection lost");
        let dial_at = BootInstant::now();
        self.peers.peers.insert(peer.clone(), Way::Down { dial_at });
        self.renew(peer);
    }

    /// Tells every machine of a peer that what was under way may be lost.
    fn renew(&mut self, peer: &ServerName) {
        let of_source = self
            .outgoing
            .iter()
            .filter(|(_, outgoing)| outgoing.machine.destination() == peer);
        let sources: Vec<_> = of_source.map(|(id, _)| (Side::Source, *id)).collect();
        let of_destination = self
            .incoming
            .iter()
            .filter(|(_, incoming)| incoming.machine.source() == peer);
        let destinations: Vec<_> = of_destination.map(|(id, _)| (Side::Destination, *id)).collect();
        for (side, id) in sources.into_iter().chain(destinations) {
            match side {
                Side::Source => self.feed_source(id, source::Input::PeerLost),
                // A large copy that breaks off is told by its own stream, a small one never began.
                Side::Destination => self.feed_destination(id, destination::Input::PeerLost),
            }
        }
    }
}
