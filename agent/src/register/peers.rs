//! Where the other servers of the pool are, as DNS says.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use zones::has::Has;
use zones::{Domain, ServerName};

use super::Unreachable;
use super::ask::Asker;
use crate::clock::BootInstant;

/// How long an answer serves: the TTL of a server's records.
const SERVES: Duration = Duration::from_secs(5);
/// Most servers remembered; a pool has far fewer.
const REMEMBERED_MAX: usize = 1024;

/// Where one server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// Its HTTPS port.
    pub https_port: u16,
    /// Its QUIC port.
    pub peer_port: u16,
}

impl Peer {
    /// Where it serves HTTPS.
    pub fn https(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().map(|ip| SocketAddr::new(*ip, self.https_port))
    }

    /// Where it takes QUIC.
    pub fn quic(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().map(|ip| SocketAddr::new(*ip, self.peer_port))
    }
}

/// Why a server cannot be found.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The librarian does not answer.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The librarian knows no such server, or it has not reported for longer than its lease: ask again when it is back.
    #[error("server {server} has no records now: is it running?")]
    Absent {
        /// The server.
        server: ServerName,
    },
}

/// Finds servers, and remembers them as long as their records would live in a cache.
#[derive(Debug)]
pub(crate) struct Peers {
    domain: Domain,
    remembered: Mutex<HashMap<ServerName, (BootInstant, Peer)>>,
}

impl Peers {
    pub(crate) fn new(domain: Domain) -> Peers {
        Peers {
            domain,
            remembered: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) async fn find(&self, asker: &Asker, server: &ServerName) -> Result<Peer, PeerError> {
        if let Some((at, peer)) = self.remembered.lock().get(server)
            && BootInstant::now() - *at < SERVES
        {
            return Ok(peer.clone());
        }
        let name = self.domain.in_pool(server.as_str());
        let (txt, srv, a, aaaa) = tokio::try_join!(
            asker.ask(&name, RecordType::TXT),
            asker.ask(&name, RecordType::SRV),
            asker.ask(&name, RecordType::A),
            asker.ask(&name, RecordType::AAAA),
        )?;
        for answered in [&txt, &srv, &a, &aaaa] {
            match answered.answer.code {
                ResponseCode::NoError | ResponseCode::NXDomain => {}
                code => return Err(asker.refused(code, &answered.answer).into()),
            }
        }
        let absent = || PeerError::Absent { server: server.clone() };
        let has = txt
            .answer
            .txt()
            .find_map(|txt| Has::from_strings(&txt.txt_data).ok())
            .ok_or_else(absent)?;
        let https_port = srv.answer.srv().next().ok_or_else(absent)?.port;
        let addresses: Vec<IpAddr> = a.answer.addresses().chain(aaaa.answer.addresses()).collect();
        if addresses.is_empty() {
            return Err(absent());
        }
        let peer = Peer {
            addresses,
            https_port,
            peer_port: has.peer_port,
        };
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(server.clone(), (txt.asked_at, peer.clone()));
        Ok(peer)
    }

    /// Forgets where a server is: what was remembered did not work.
    pub(crate) fn forget(&self, server: &ServerName) {
        self.remembered.lock().remove(server);
    }
}
