//! Which connection to which agent is used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use tracing::info;
use zones::ServerName;

use super::link::{self, Close, Link};
use super::quic::Identified;
use super::shell::Shell;
use crate::clock::BootInstant;

/// Pause before a peer that was not reached is dialed again.
const DIAL_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The peers and the way to them.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    peers: HashMap<ServerName, Way>,
    links: u64,
}

#[derive(Debug)]
enum Way {
    Up(Link),
    Dialing,
    Down { dial_at: BootInstant },
}

impl Ways {
    /// The connection to a peer.
    pub(crate) fn link(&self, peer: &ServerName) -> Option<&Link> {
        match self.peers.get(peer)? {
            Way::Up(link) => Some(link),
            Way::Dialing | Way::Down { .. } => None,
        }
    }

    /// Whether what comes from this connection still counts.
    pub(crate) fn is_current(&self, peer: &ServerName, id: u64) -> bool {
        self.link(peer).is_some_and(|link| link.id == id)
    }

    pub(crate) fn dial_failed(&mut self, peer: &ServerName) {
        if let Some(way @ Way::Dialing) = self.peers.get_mut(peer) {
            *way = Way::Down {
                dial_at: BootInstant::now() + DIAL_AGAIN_AFTER,
            };
        }
    }

    /// A connection is gone; whether it was the one in use.
    pub(crate) fn lost(&mut self, peer: &ServerName, id: u64) -> bool {
        if !self.is_current(peer, id) {
            return false;
        }
        info!(%peer, "connection lost");
        let dial_at = BootInstant::now();
        self.peers.insert(peer.clone(), Way::Down { dial_at });
        true
    }

    pub(crate) fn close(&mut self) {
        for (_, way) in self.peers.drain() {
            match way {
                Way::Up(link) => link::close(&link.connection, Close::Stopping),
                Way::Dialing | Way::Down { .. } => {}
            }
        }
    }
}

impl Shell {
    /// Dials a peer, unless that is being done or was just tried.
    pub(crate) fn dial(&mut self, peer: &ServerName) {
        match self.ways.peers.get(peer) {
            Some(Way::Up(_) | Way::Dialing) => return,
            Some(Way::Down { dial_at }) if BootInstant::now() < *dial_at => return,
            Some(Way::Down { .. }) | None => {}
        }
        self.ways.peers.insert(peer.clone(), Way::Dialing);
        link::dial(
            self.endpoint.clone(),
            Arc::clone(&self.registers),
            self.domain.clone(),
            peer.clone(),
            Arc::clone(&self.revoked),
            self.events.clone(),
        );
    }

    /// Takes a new connection, and says whose it is. Of two between the same agents both sides keep the one that the lesser
    /// name dialed; of two that the same one dialed, the later, since the former's end has only not been noticed yet.
    pub(crate) fn linked(
        &mut self,
        connection: Connection,
        identified: Identified,
        dialed: bool,
    ) -> Option<ServerName> {
        let peer = identified.name.clone();
        if peer == self.me {
            link::close(&connection, Close::Oneself);
            return None;
        }
        let preferred = dialed == (self.me < peer);
        if let Some(known) = self.ways.link(&peer)
            && known.dialed != dialed
            && !preferred
            && known.connection.close_reason().is_none()
        {
            link::close(&connection, Close::Double);
            return None;
        }
        self.ways.links += 1;
        let id = self.ways.links;
        let link = Link::start(id, dialed, connection, identified, self.events.clone());
        info!(%peer, dialed, "connected");
        let before = self.ways.peers.insert(peer.clone(), Way::Up(link));
        if let Some(Way::Up(before)) = before {
            link::close(&before.connection, Close::Double);
        }
        Some(peer)
    }
}
